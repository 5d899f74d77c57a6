"""``foretrace measure TARGET``: run a small step for real on the CPU, and print predicted beside measured."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from . import options as shared

if TYPE_CHECKING:
    from ..graph import Measured, Outcomes, StepGraph

DIFFERS = 1
"""The exit code where live bytes differ at the end of a phase."""


def add(commands: shared.Commands[argparse.ArgumentParser]) -> None:
    """The parser of the command."""
    measure = commands.add_parser(
        "measure",
        help="run a small step for real on the CPU, and print predicted beside measured",
        description="Trace one training step for the CPU, then run it there for real, and print the predicted live "
        "bytes beside those of the allocator. The exit code is 1 where they differ at the end of a phase. Where the "
        "trace has to assume, the step runs once more, and is traced again with what data decided in that run.",
        epilog="example: foretrace measure train.py:make_step -p batch=2",
    )
    measure.add_argument("target", metavar="TARGET", help="path.py:callable or package.module:callable")
    measure.add_argument("--format", choices=("table", "json"), default="table", help="what to print (%(default)s)")
    measure.add_argument(
        "--save-outcomes", metavar="FILE", help="write what data decided in the real run, for --outcomes of a trace"
    )
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
    truth = _measured(options)
    comparison = compare(graph, truth)
    assumed = bool(graph.facts.assumptions) and not options.outcomes
    outcomes = _observed(options) if assumed or options.save_outcomes else None
    if options.save_outcomes and outcomes is not None:
        outcomes.save(options.save_outcomes)
    as_run = compare(_as_run(options, outcomes), truth) if assumed and outcomes is not None else None
    text = measured_json(comparison, as_run) if options.format == "json" else measured_table(comparison, as_run)
    print(text, end="")
    return 0 if comparison.agrees else DIFFERS


def _measured(options: argparse.Namespace) -> Measured:
    """The real run of what was traced."""
    from ..tracer import measure

    with shared.prints_aside():
        return measure(options.target, shared.parameters(options), **_how(options))  # type: ignore[arg-type]


def _observed(options: argparse.Namespace) -> Outcomes:
    """What data decided in a real run of what was traced."""
    from ..tracer import observe

    with shared.prints_aside():
        return observe(options.target, shared.parameters(options), **_how(options))  # type: ignore[arg-type]


def _as_run(options: argparse.Namespace, outcomes: Outcomes) -> StepGraph:
    """The trace in which data decides what it did in the real run, and no setting does."""
    from ..tracer import trace_target

    how: dict[str, Any] = shared.given(options)
    how["assume"] = {kind: told for kind, told in how.get("assume", {}).items() if kind == "unknown"}
    with shared.prints_aside():
        return trace_target(options.target, shared.parameters(options), **{**how, "outcomes": outcomes})


def _how(options: argparse.Namespace) -> dict[str, object]:
    """What a real run is told of how to trace."""
    given = shared.given(options)
    return {name: given[name] for name in ("inputs", "optimizer", "autocast", "warmup") if name in given}
