"""``foretrace run TARGET``: trace a step, price it, and print the report."""

from __future__ import annotations

import argparse

from . import options as shared


def add(commands: shared.Commands[argparse.ArgumentParser]) -> None:
    """The parser of the command."""
    run = commands.add_parser(
        "run",
        help="trace a step, price it, and print the report",
        description="Trace one training step, price it on a hardware profile, and print the report.",
        epilog="example: foretrace run train.py:make_step -p batch=8 --on a100-sxm4-80gb",
    )
    run.add_argument("target", metavar="TARGET", help="path.py:callable, package.module:callable, or a saved trace")
    shared.add_profile(run)
    run.add_argument("--format", choices=("table", "json"), default="table", help="what to print (%(default)s)")
    run.add_argument("--save", metavar="FILE", help="also write the trace, to be given as TARGET later")
    shared.add_tracing(run)
    run.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..hardware.profile import load as load_profile
    from ..report import price, to_json, to_table

    profile = load_profile(options.on)
    graph = shared.graph_of(options, profile.capability)
    if options.save:
        from ..graph import save

        save(graph, options.save)
    report = price(graph, on=profile)
    print(to_json(report) if options.format == "json" else to_table(report), end="")
    return 0
