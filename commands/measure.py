"""``foretrace measure TARGET``: run a small step for real on the CPU, and print predicted beside measured."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import options as shared

if TYPE_CHECKING:
    from ..graph import Measured

DIFFERS = 1
"""The exit code where live bytes differ at the end of a phase."""


def add(commands: shared.Commands[argparse.ArgumentParser]) -> None:
    """The parser of the command."""
    measure = commands.add_parser(
        "measure",
        help="run a small step for real on the CPU, and print predicted beside measured",
        description="Trace one training step for the CPU, then run it there for real, and print the predicted live "
        "bytes beside those of the allocator. The exit code is 1 where they differ at the end of a phase.",
        epilog="example: foretrace measure train.py:make_step -p batch=2",
    )
    measure.add_argument("target", metavar="TARGET", help="path.py:callable or package.module:callable")
    measure.add_argument("--format", choices=("table", "json"), default="table", help="what to print (%(default)s)")
    shared.add_tracing(measure, on_cpu=True)
    measure.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..costmodels import compare
    from ..graph import ForetraceError
    from ..hardware import check_room
    from ..report import measured_json, measured_table

    if shared.is_saved(options.target):
        raise ForetraceError(f"{options.target} is no target to run", "Write path/to/file.py:callable.")
    graph = shared.traced(options)
    check_room(graph)
    comparison = compare(graph, _really(options))
    print(measured_json(comparison) if options.format == "json" else measured_table(comparison), end="")
    return 0 if comparison.agrees else DIFFERS


def _really(options: argparse.Namespace) -> Measured:
    """The real run of what was traced."""
    from ..tracer import measure

    how = shared.given(options)
    kept = {name: how[name] for name in ("inputs", "optimizer", "autocast", "warmup") if name in how}
    return measure(options.target, shared.parameters(options), **kept)  # type: ignore[arg-type]
