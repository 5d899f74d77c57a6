"""``python -m foretrace`` is the command ``foretrace``."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
