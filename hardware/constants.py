"""``kernels.toml`` -> `Constants`: the numbers of the time model that all devices share, each with its source."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

FILE = Path(__file__).parent / "kernels.toml"


class Constants:
    """Numbers by dotted name. Two are the same only if they are one object, so it may be part of a key."""

    def __init__(self, values: dict[str, float], sources: dict[str, str]) -> None:
        self._values, self.sources = values, sources

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def having(self, **changed: float) -> Constants:
        """The same with other values; ``__`` stands for the dot in a name."""
        values = {name.replace("__", "."): value for name, value in changed.items()}
        unknown = values.keys() - self._values.keys()
        if unknown:
            raise KeyError(f"no constant is called {sorted(unknown)}")
        return Constants({**self._values, **values}, self.sources)


@cache
def constants() -> Constants:
    """The numbers of the file that comes with foretrace."""
    return read(FILE)


def read(path: Path) -> Constants:
    """The numbers of a file: every table with a ``value`` and a ``source`` is one."""
    values: dict[str, float] = {}
    sources: dict[str, str] = {}

    def walk(prefix: str, table: dict[str, object]) -> None:
        for key, item in table.items():
            if isinstance(item, dict) and "value" in item:
                values[prefix + key], sources[prefix + key] = float(item["value"]), str(item["source"])
            elif isinstance(item, dict):
                walk(f"{prefix}{key}.", item)

    walk("", tomllib.loads(path.read_text(encoding="utf-8")))
    return Constants(values, sources)
