"""``foretrace plan TARGET --steps N --global-batch B``: days, GPU-hours, FLOPs and money of a training run."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from . import options as shared

if TYPE_CHECKING:
    from ..graph import StepGraph
    from ..hardware.plan import Run, Way
    from ..report import Report

NAMES = {
    "modelled": "modelled",
    "assumed": "traced FLOPs at that MFU",
    "textbook": "6 FLOPs a parameter and token",
}


def add(commands: shared.Commands[argparse.ArgumentParser]) -> None:
    """The parser of the command."""
    plan = commands.add_parser(
        "plan",
        help="days, GPU-hours, FLOPs and money of a training run",
        description="Say how long a training run takes: as modelled, and at an assumed MFU, side by side.",
        epilog="example: foretrace plan train.py:make_step -p batch=8 --steps 400000 --global-batch 1024 "
        "--on a100-sxm4-80gb --gpus 8 --price-per-hour 2",
    )
    plan.add_argument("target", metavar="TARGET", help="path.py:callable, package.module:callable, or a saved trace")
    plan.add_argument("--steps", metavar="N", type=int, required=True, help="optimizer steps of the run")
    plan.add_argument("--global-batch", metavar="B", type=int, required=True, help="samples of one optimizer step")
    plan.add_argument("--micro-batch", metavar="B", type=int, help="samples of the traced step (its inputs' first size)")
    plan.add_argument("--mfu", metavar="SHARE", type=float, default=0.5, help="assumed share of the peak (%(default)s)")
    plan.add_argument("--gpus", metavar="N", type=int, default=1, help="GPUs that share a batch (%(default)s)")
    plan.add_argument("--price-per-hour", metavar="X", type=float, help="of one GPU; the answer is in the same money")
    plan.add_argument("--format", choices=("table", "json"), default="table", help="what to print (%(default)s)")
    shared.add_profile(plan)
    shared.add_tracing(plan)
    plan.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..hardware.plan import run_of
    from ..hardware.profile import load as load_profile
    from ..report import price

    _check(options)
    profile = load_profile(options.on)
    graph = shared.graph_of(options)
    report = price(graph, on=profile)
    run = run_of(
        steps=options.steps,
        global_batch=options.global_batch,
        micro_batch=options.micro_batch or _batch(graph),
        gpus=options.gpus,
    )
    ways = _ways(run, report, options.mfu)
    text = _json(run, report, ways, options) if options.format == "json" else _table(run, report, ways, options)
    print(text, end="")
    return 0


def _check(options: argparse.Namespace) -> None:
    """What can be refused before a trace is made."""
    from ..graph import ForetraceError

    if options.price_per_hour is not None and not 0 <= options.price_per_hour < float("inf"):
        raise ForetraceError(f"--price-per-hour is {options.price_per_hour:g}", "Give what one GPU costs in an hour")
    if not 0 < options.mfu <= 1:
        raise ForetraceError(f"--mfu is {options.mfu:g}", "Give a share of the peak between 0 and 1, such as 0.5")
    if options.micro_batch is not None and options.micro_batch < 1:
        raise ForetraceError(f"--micro-batch is {options.micro_batch}", "Give a whole number of at least 1")


def _batch(graph: StepGraph) -> int:
    from ..graph import ForetraceError
    from ..hardware.plan import batch_of

    found = batch_of(graph)
    if found is None:
        raise ForetraceError(
            "the inputs of the traced step do not share their first size", "Say how many samples it has: --micro-batch B"
        )
    return found


def _ways(run: Run, report: Report, mfu: float) -> list[Way]:
    from ..hardware.plan import assumed, modelled, textbook, tokens_of

    work, peak = report.work.work, report.time.peak_flops_per_second
    ways = [modelled(run, report.time, work), assumed(run, work, peak, mfu)]
    tokens = tokens_of(report.trace)
    if tokens is not None:
        ways.append(textbook(run, report.parameters.total, tokens // run.micro_batch, peak, mfu))
    return ways


def _table(run: Run, report: Report, ways: list[Way], options: argparse.Namespace) -> str:
    from tabulate import tabulate

    from ..report.format import count_text, share_text

    gpus = f"{run.gpus:,} x " if run.gpus > 1 else ""
    unit = report.time.peak_unit
    lines = [
        report.trace.facts.target or "a training step",
        f"  {run.steps:,} steps of {run.global_batch:,} samples on {gpus}{report.profile.full_name}",
        f"  {run.accumulated:,} micro-batch{'es' if run.accumulated > 1 else ''} of {run.micro_batch:,} a step"
        + (" on each GPU" if run.gpus > 1 else ""),
        f"  peak {count_text(report.time.peak_flops_per_second, 'FLOP/s')} ({unit}); assumed MFU {share_text(options.mfu, 1)}",
        "",
    ]
    head = ["", "MFU", "FLOP", "days", "GPU-hours"] + (["cost"] if options.price_per_hour is not None else [])
    rows = []
    for way in ways:
        cells = [NAMES[way.name], share_text(way.mfu, 1), f"{way.flops:.3g}", f"{way.days:,.4g}", f"{way.gpu_hours:,.0f}"]
        rows.append(cells + ([f"{way.cost(options.price_per_hour):,.0f}"] if options.price_per_hour is not None else []))
    align = ("left",) + ("right",) * (len(head) - 1)
    lines += tabulate(rows, head, tablefmt="plain", colalign=align, disable_numparse=True).splitlines()
    low, high = ways[0].low_seconds, ways[0].high_seconds
    if low is not None and high is not None:
        lines += ["", f"modelled interval: {low / 86400:,.4g} to {high / 86400:,.4g} days"]
    lines.append("not modelled: the exchange of gradients, data loading, evaluation, checkpoints, restarts")
    if report.fits is False:
        lines.append("this step does not fit in the device's memory: see foretrace run")
    return "\n".join(lines) + "\n"


def _json(run: Run, report: Report, ways: list[Way], options: argparse.Namespace) -> str:
    price = options.price_per_hour
    document = {
        "target": report.trace.facts.target,
        "hardware": report.profile.name,
        "steps": run.steps,
        "global_batch": run.global_batch,
        "micro_batch": run.micro_batch,
        "gpus": run.gpus,
        "peak_flops_per_second": report.time.peak_flops_per_second,
        "ways": [
            {
                "name": way.name,
                "mfu": way.mfu,
                "flops": way.flops,
                "seconds": way.seconds,
                "days": way.days,
                "gpu_hours": way.gpu_hours,
                "low_seconds": way.low_seconds,
                "high_seconds": way.high_seconds,
                "cost": None if price is None else way.cost(price),
            }
            for way in ways
        ],
    }
    return json.dumps(document, indent=2, sort_keys=True) + "\n"
