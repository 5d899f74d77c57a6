"""The command line -> a call of the library, something printed, and an exit code.

Exit codes: 0 done, 1 done and something was found, 2 could not do it. Standard output carries the result and nothing
else; progress and errors go to standard error. Each command is a file in ``commands``.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import TextIO

from . import __version__
from .commands import calibrate, check, diff, explain, export, fit, formula, history, measure, plan, run, sweep

COMMANDS = (run, sweep, fit, formula, plan, measure, check, diff, history, export, calibrate, explain)
"""In the order of the help."""

COULD_NOT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        _print_anything(stream)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return COULD_NOT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return COULD_NOT
    except Exception as error:
        return _failed(error)
    return code


def _print_anything(stream: TextIO) -> None:
    """A file name that the terminal cannot show is no reason to stop."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _failed(error: Exception) -> int:
    from .graph import ForetraceError

    if isinstance(error, ForetraceError):
        said = [f"error: {error.message}", *([f"mend: {error.mend}"] if error.mend else [])]
        print(*map(_harmless, said), sep="\n", file=sys.stderr)
    else:
        traceback.print_exception(error)
        print("This is a fault of foretrace's. Please report it with the lines above.", file=sys.stderr)
    return COULD_NOT


def _harmless(text: str) -> str:
    """Names in a file are untrusted: nothing in them reaches the terminal but letters and line breaks."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="foretrace", description="Know what a training step costs before you run it, without a GPU."
    )
    parser.add_argument("--version", action="version", version=f"foretrace {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return parser
