"""Several `Report`s -> one table with a row for each: steps, sizes or devices side by side, for eyes or as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tabulate import tabulate

from .format import bytes_text, doubt_text, seconds_text, share_text, visible
from .json import document, portable
from .layout import WIDTH
from .page_data import shortened

if TYPE_CHECKING:
    from .result import Report

HEADS = ("step", "on", "fits", "peak", "time", "doubt")
LEAST_NAME = 12


def side_by_side(reports: Sequence[Report], width: int = WIDTH) -> str:
    """A row of `width` columns for each report, as text that ends in a newline; of a name that is too long the end."""
    rows = [_row(report) for report in reports]
    padded = [f"{head}  " for head in HEADS]  # as tabulate makes room for a heading
    others = sum(2 + max(map(len, column)) for column in list(zip(padded, *rows, strict=True))[1:])
    room = max(width - others, LEAST_NAME)
    cut = [(step if len(step) <= room else f"..{step[2 - room :]}", *cells) for step, *cells in rows]
    aligned = ("left", "left", "left", "right", "right", "right")
    return tabulate(cut, HEADS, tablefmt="plain", colalign=aligned, disable_numparse=True) + "\n"


def _row(report: Report) -> tuple[str, ...]:
    time = report.time
    share = share_text(report.needed_bytes, report.available_bytes)
    return (
        visible(" ".join(shortened(name(report)).split())),
        report.profile.name,
        "-" if report.fits is None else f"{'yes' if report.fits else 'no'} {share}",
        bytes_text(report.memory.peak_bytes),
        f"~ {seconds_text(time.step_seconds)}",
        doubt_text(time.low_seconds, time.step_seconds, time.high_seconds),
    )


def name(report: Report) -> str:
    """The target, and what it was called with."""
    facts = report.trace.facts
    return " ".join((portable(facts.target) or "a training step", *(f"{k}={v}" for k, v in facts.arguments.items())))


def side_by_side_csv(reports: Sequence[Report]) -> str:
    """The same as CSV, in exact bytes, FLOPs and seconds. What a spreadsheet would take for a formula is quoted."""
    written = io.StringIO()
    rows = [_plain(report) for report in reports]
    table = csv.DictWriter(written, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return written.getvalue()


def side_by_side_json(reports: Sequence[Report]) -> str:
    """The whole reports as a JSON list, each as `to_json` gives it."""
    return json.dumps([document(report) for report in reports], indent=2, sort_keys=True, allow_nan=False) + "\n"


def _plain(report: Report) -> dict[str, object]:
    memory, time = report.memory, report.time
    return {
        "step": _harmless(name(report)),
        "hardware": report.profile.name,
        "fits": "" if report.fits is None else report.fits,
        "needed_bytes": report.needed_bytes,
        "available_bytes": report.available_bytes,
        "peak_bytes": memory.peak_bytes,
        "saved_for_backward_bytes": memory.saved_for_backward_bytes,
        "step_seconds": time.step_seconds,
        "low_seconds": time.low_seconds,
        "high_seconds": time.high_seconds,
        "flops": report.flops.total,
    }


def _harmless(text: str) -> str:
    return f"'{text}" if text[:1] in "=+-@\t\r" else text
