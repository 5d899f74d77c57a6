"""``foretrace plan TARGET --steps N --global-batch B``: days, GPU-hours, FLOPs and money of a training run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import options as shared

if TYPE_CHECKING:
    from ..graph import StepGraph
    from ..hardware.plan import Run, Way
    from ..report import Report


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
    plan.add_argument(
        "--micro-batch", metavar="B", type=int, help="samples of the traced step (its inputs' first size)"
    )
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
    from ..report.plan import plan_json, plan_table

    _check(options)
    profile = load_profile(options.on or shared.profile_of(options.target))
    graph = shared.graph_of(options, profile.capability)
    report = price(graph, on=profile)
    run = run_of(
        steps=options.steps,
        global_batch=options.global_batch,
        micro_batch=options.micro_batch or _batch(graph),
        gpus=options.gpus,
    )
    ways = _ways(run, report, options.mfu)
    show = plan_json if options.format == "json" else plan_table
    print(show(run, report, ways, options.price_per_hour), end="")
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
            "the inputs of the traced step do not share their first size",
            "Say how many samples it has: --micro-batch B",
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
