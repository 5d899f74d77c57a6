"""``foretrace run TARGET``: trace a step, price it, and print the report."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import options as shared

if TYPE_CHECKING:
    from ..graph import StepGraph
    from ..hardware import Profile
    from ..hardware.fit import Fit
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
        nargs="+",
        help="path.py:callable, package.module:callable, a configured name, or a saved trace; several, or "
        "-p batch=1,2,4, or --on PROFILE,PROFILE, are shown side by side",
    )
    shared.add_device(run)
    run.add_argument("--format", choices=("table", "json", "csv"), default="table", help="what to print (%(default)s)")
    run.add_argument("--save", metavar="FILE", help="also write the trace, to be given as TARGET later")
    run.add_argument("--html", metavar="FILE", help="also write the report as one page for a browser")
    run.add_argument("--svg", metavar="FILE", help="also draw memory over the step, or several steps side by side")
    run.add_argument("--against", metavar="TRACE", help="with --html: a saved trace to show the differences from")
    run.add_argument("--tree", action="store_true", help="also print what each module takes, repeated ones in one row")
    run.add_argument(
        "--fit",
        metavar="NAME",
        help="also find the largest value of a size, such as batch, that fits; with --html a slider",
    )
    run.add_argument(
        "--what-if",
        action="store_true",
        help="also say, on the screen and the page, what changes of the step would save; traces it several times",
    )
    shared.add_tracing(run)
    run.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    cases = shared.cases(options)
    if len(cases) > 1 or "," in cases[0].on or options.format == "csv":
        return _several(cases)
    return _one(cases[0])


def _several(cases: list[argparse.Namespace]) -> int:
    """One row for each case on each profile; a step is traced once for all devices of one compute capability."""
    from ..graph import ForetraceError
    from ..graph.serde import write_whole
    from ..report.layout import terminal_width
    from ..report.side_by_side import side_by_side, side_by_side_csv, side_by_side_json
    from ..report.sweep_svg import sweep_svg

    first = cases[0]
    for flag in ("html", "save", "what_if", "tree", "fit"):
        if getattr(first, flag):
            raise ForetraceError(
                f"--{flag.replace('_', '-')} is of one step",
                "Give one target, size and profile; several are drawn by --svg.",
            )
    devices = {
        on: [shared.device(first, name) for name in on.split(",")] for on in dict.fromkeys(case.on for case in cases)
    }
    reports = [report for case in cases for report in _on_each(case, devices[case.on])]
    if first.svg:
        write_whole(first.svg, sweep_svg(reports).encode("utf-8", "backslashreplace"))
    if first.format == "table":
        print(side_by_side(reports, terminal_width()), end="")
    else:
        print({"csv": side_by_side_csv, "json": side_by_side_json}[first.format](reports), end="")
    return 0


def _on_each(case: argparse.Namespace, devices: list[Profile]) -> Iterator[Report]:
    traced: dict[str | None, StepGraph] = {}
    for device in devices:
        if device.capability not in traced:
            traced[device.capability] = shared.graph_of(case, device.capability)
        yield _priced(traced[device.capability], device, case)


def _priced(graph: StepGraph, profile: Profile, options: argparse.Namespace) -> Report:
    from ..report import price

    shared.of_cuda(options, graph.facts.device)
    return price(graph, on=profile, conf=options.conf)


def _one(options: argparse.Namespace) -> int:
    from ..graph import ForetraceError, save

    if options.against and not options.html:
        raise ForetraceError("--against means nothing without --html", "Add --html FILE.")
    if options.tree and options.format == "json":
        raise ForetraceError("--tree is text", "Leave out --format json.")
    profile = shared.device(options, options.on)
    graph = shared.graph_of(options, profile.capability)
    if options.save:
        save(graph, options.save)
    report = _priced(graph, profile, options)
    fit = _fit(options, report) if options.fit else None
    found = _what_if(options, report) if options.what_if else None
    _write(options, report, fit, found)
    _print(options, report, fit, found)
    return 0


def _write(options: argparse.Namespace, report: Report, fit: Fit | None, found: WhatIf | None) -> None:
    """The files that were asked for."""
    from ..graph import load
    from ..graph.serde import write_whole
    from ..report import save_html
    from ..report.svg import to_svg

    if options.svg:
        write_whole(options.svg, to_svg(report).encode("utf-8", "backslashreplace"))
    if options.html:
        before = _priced(load(options.against), report.profile, options) if options.against else None
        command = shared.command_line("run", options) + (f" --fit {fit.name}" if fit else "")
        command += " --what-if" if found else ""
        save_html(options.html, report, before, command=command, fit=fit, what_if=found)


def _print(options: argparse.Namespace, report: Report, fit: Fit | None, found: WhatIf | None) -> None:
    from ..report import to_json, to_table
    from ..report.layout import terminal_width
    from ..report.page_fit import BATCH, best, fit_table
    from ..report.tree import tree_table
    from ..report.what_if import what_if_document, what_if_table

    if options.format == "json":
        more: dict[str, object] = {"what_if": what_if_document(found)} if found else {}
        more |= {"max_batch": best(fit)} if fit and fit.name in BATCH else {}
        print(to_json(report, **more), end="")
        return
    width = terminal_width()
    tables = [fit_table(fit, width)] if fit else []
    tables += [tree_table(report, width=width)] if options.tree else []
    tables += [what_if_table(found)] if found else []
    print(to_table(report, width), *tables, sep="\n", end="")


def _fit(options: argparse.Namespace, report: Report) -> Fit:
    from .fit import fit_step
    from .formula import Counter

    with shared.at_home(options.target), Counter() as counter:
        return fit_step(report.trace, report.profile, options.fit, conf=options.conf, progress=counter)


def _what_if(options: argparse.Namespace, report: Report) -> WhatIf:
    """What changes would save; of a saved trace only what it tells by itself."""
    from ..report.what_if import what_if

    if os.path.isfile(options.target):
        return what_if(report)

    def again(**changed: str) -> StepGraph:
        return shared.graph_of(argparse.Namespace(**{**vars(options), **changed}), report.profile.capability)

    return what_if(report, again)
