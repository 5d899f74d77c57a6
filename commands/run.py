"""``foretrace run TARGET``: trace a step, price it, and print the report."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import options as shared

if TYPE_CHECKING:
    from ..report import Report
    from ..report.what_if import WhatIf


def add(commands: shared.Commands[argparse.ArgumentParser]) -> None:
    """The parser of the command."""
    run = commands.add_parser(
        "run",
        help="trace a step, price it, and print the report",
        description="Trace one training step, price it on a hardware profile, and print the report.",
        epilog="example: foretrace run train.py:make_step -p batch=8 --on a100-sxm4-80gb",
    )
    run.add_argument(
        "target",
        metavar="TARGET",
        help="path.py:callable, package.module:callable, a configured name, or a saved trace",
    )
    shared.add_device(run)
    run.add_argument("--format", choices=("table", "json"), default="table", help="what to print (%(default)s)")
    run.add_argument("--save", metavar="FILE", help="also write the trace, to be given as TARGET later")
    run.add_argument(
        "--what-if", action="store_true", help="also say what changes of the step would save; traces it several times"
    )
    shared.add_tracing(run)
    run.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..hardware.profile import load as load_profile
    from ..report import price, to_json, to_table
    from ..report.what_if import what_if_document, what_if_table

    profile = load_profile(options.on)
    memory = shared.size(options.memory) if options.memory else None
    graph = shared.graph_of(options)
    if options.save:
        from ..graph import save

        save(graph, options.save)
    report = price(graph, on=profile, conf=options.conf, memory_bytes=memory)
    found = _what_if(options, report) if options.what_if else None
    if options.format == "json":
        print(to_json(report, **({"what_if": what_if_document(found)} if found else {})), end="")
    else:
        print(to_table(report), *([what_if_table(found)] if found else []), sep="\n" if found else "", end="")
    return 0


def _what_if(options: argparse.Namespace, report: Report) -> WhatIf:
    """What changes would save; of a saved trace only what it tells by itself."""
    from ..report.what_if import what_if

    if shared.is_saved(options.target):
        return what_if(report)
    return what_if(report, lambda **changed: shared.traced(argparse.Namespace(**{**vars(options), **changed})))
