"""A `Run` and the ways to say how long it takes -> a table of days, GPU-hours and money, or the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from tabulate import tabulate

from ..hardware.plan import SECONDS_A_DAY, Run, Way
from .format import count_text, share_text
from .json import portable

if TYPE_CHECKING:
    from .result import Report

NAMES = {
    "modelled": "modelled",
    "assumed": "traced FLOPs at that MFU",
    "textbook": "6 FLOPs a parameter and token",
}
NOT_MODELLED = "not modelled: the exchange of gradients, data loading, evaluation, checkpoints, restarts"


def plan_table(run: Run, report: Report, ways: Sequence[Way], price_per_hour: float | None = None) -> str:
    """The ways side by side, as text of 80 columns that ends in a newline; the modelled one comes first."""
    lines = [*_header(run, report, ways), "", *_rows(ways, price_per_hour), ""]
    low, high = ways[0].low_seconds, ways[0].high_seconds
    if low is not None and high is not None:
        lines.append(f"modelled interval: {low / SECONDS_A_DAY:,.4g} to {high / SECONDS_A_DAY:,.4g} days")
    lines += wrap(NOT_MODELLED, 80, subsequent_indent="  ")
    if report.fits is False:
        lines.append("the step does not fit in the device's memory: see foretrace run")
    return "\n".join(lines) + "\n"


def _header(run: Run, report: Report, ways: Sequence[Way]) -> list[str]:
    several = run.gpus > 1
    peak = count_text(report.time.peak_flops_per_second, "FLOP/s")
    return [
        portable(report.trace.facts.target) or "a training step",
        f"  {run.steps:,} steps of {run.global_batch:,} samples"
        f" on {f'{run.gpus:,} x ' if several else ''}{report.profile.full_name}",
        f"  {run.accumulated:,} micro-batch{'es' if run.accumulated > 1 else ''} of {run.micro_batch:,} a step"
        f"{' on each GPU' if several else ''}",
        f"  peak {peak} ({report.time.peak_unit}); assumed MFU {share_text(ways[-1].mfu, 1)}",
    ]


def _rows(ways: Sequence[Way], price_per_hour: float | None) -> list[str]:
    head, rows = ["", "MFU", "FLOP", "days", "GPU-hours"], []
    for way in ways:
        figures = (f"{way.flops:.3g}", f"{way.days:,.4g}", f"{way.gpu_hours:,.0f}")
        rows.append([NAMES[way.name], share_text(way.mfu, 1), *figures])
        if price_per_hour is not None:
            rows[-1].append(f"{way.cost(price_per_hour):,.0f}")
    if price_per_hour is not None:
        head.append("cost")
    align = ("left",) + ("right",) * (len(head) - 1)
    return tabulate(rows, head, tablefmt="plain", colalign=align, disable_numparse=True).splitlines()


def plan_json(run: Run, report: Report, ways: Sequence[Way], price_per_hour: float | None = None) -> str:
    """The same as JSON: seconds and FLOPs of the whole run; cost is null without a price."""
    document = {
        "target": portable(report.trace.facts.target),
        "hardware": report.profile.name,
        "steps": run.steps,
        "global_batch": run.global_batch,
        "micro_batch": run.micro_batch,
        "gpus": run.gpus,
        "peak_flops_per_second": report.time.peak_flops_per_second,
        "ways": [_way(way, price_per_hour) for way in ways],
    }
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def _way(way: Way, price_per_hour: float | None) -> dict[str, object]:
    return {
        "name": way.name,
        "mfu": way.mfu,
        "flops": way.flops,
        "seconds": way.seconds,
        "days": way.days,
        "gpu_hours": way.gpu_hours,
        "low_seconds": way.low_seconds,
        "high_seconds": way.high_seconds,
        "cost": None if price_per_hour is None else way.cost(price_per_hour),
    }
