"""`Report` -> what a notebook shows: a small table, a data frame of its ops, and a picture of its memory.

pandas and matplotlib are asked for when they are used: ``pip install 'foretrace[notebook]'`` brings them.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from importlib import import_module
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from ..costmodels.timeline import counts
from ..graph import ForetraceError
from .format import bytes_text, count_text, doubt_text, seconds_text, share_text
from .json import portable
from .page_data import STACK, shortened
from .words import line_text, phase_text, short

if TYPE_CHECKING:
    from .result import Report

MOST_HOLDERS = 6

COLOURS = ("#2f6fb0", "#8d99a8", "#7fb2e0", "#c9b14a", "#2f9e77", "#e69f3c", "#b072b8", "#d1495b")
"""Of the categories in the order of `STACK`; the page has the same."""


def report_html(report: Report) -> str:
    """The answer and who holds the peak, as a table without styles or scripts of its own."""
    rows = "".join(_row(label, value) for label, value in _answers(report))
    held = "".join(
        _row(
            f"{row.module} {short(row.packet)}".strip(),
            f"{bytes_text(row.bytes)}, {line_text(row.source)}".rstrip(", "),
        )
        for row in report.holders[:MOST_HOLDERS]
    )
    title = escape(shortened(portable(report.trace.facts.target) or "a training step"))
    return (
        f"<table><caption>{title}</caption><tbody>{rows}</tbody>"
        f"<tbody><tr><th colspan=2>who holds the peak</th></tr>{held}</tbody></table>"
    )


def _answers(report: Report) -> Iterable[tuple[str, str]]:
    fits = report.fits
    share = share_text(report.needed_bytes, report.available_bytes)
    needed = f"{bytes_text(report.needed_bytes)} of {bytes_text(report.available_bytes)}, {share}"
    yield "on", report.profile.full_name
    yield "fits", "not asked" if fits is None else f"{'yes' if fits else 'no'}: {needed}"
    op = report.peak_op
    where = f", in {phase_text(op.phase)}, {op.module} {short(op.packet)} {line_text(op.source)}" if op else ""
    yield "peak memory", f"{bytes_text(report.memory.peak_bytes)}{where}"
    time = report.time
    doubt = doubt_text(time.low_seconds, time.step_seconds, time.high_seconds)
    yield "step time", f"~ {seconds_text(time.step_seconds)}  {doubt}"
    yield "compute", count_text(report.flops.total, "FLOP")
    yield "parameters", f"{report.parameters.total:,}"


def _row(label: str, value: str) -> str:
    return f"<tr><th style='text-align:left'>{escape(shortened(label))}</th><td>{escape(shortened(value))}</td></tr>"


def to_pandas(report: Report) -> Any:
    """The rows of the report, one for each op, as a ``pandas.DataFrame`` with the op's id as its index."""
    return _needed("pandas").DataFrame(report.rows()).set_index("id")


def plot(report: Report, axes: Any = None) -> Any:
    """Draw live bytes by category over the events of the step, the peak marked; returns the matplotlib axes.

    `axes` are those to draw on; left out, new ones are made.
    """
    pyplot = _needed("matplotlib.pyplot")
    axes = pyplot.subplots(figsize=(9, 4))[1] if axes is None else axes
    columns = stacked(report)
    shown = [place for place, column in enumerate(columns) if any(column)]
    gibibytes = [[count / 2**30 for count in columns[place]] for place in shown]
    events = range(-1, len(report.trace.events))
    names = [str(STACK[place]).replace("_", " ") for place in shown]
    axes.stackplot(events, gibibytes, labels=names, colors=[COLOURS[place] for place in shown], step="post")
    axes.axhline(report.memory.peak_bytes / 2**30, color="black", linewidth=0.8, linestyle=":")
    axes.annotate(
        f"peak {bytes_text(report.memory.peak_bytes)}",
        (1, report.memory.peak_bytes / 2**30),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
    )
    for span in report.trace.spans[1:]:
        axes.axvline(span.first_event - 0.5, color="grey", linewidth=0.6)
    axes.set(xlabel="event of the step", ylabel="live GiB", title=portable(report.trace.facts.target), ylim=(0, None))
    axes.margins(x=0)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return axes


def stacked(report: Report) -> list[list[int]]:
    """Live bytes of each category of `STACK`, before the first event and after each."""
    trace = report.trace
    changes = {category: [0] * len(trace.events) for category in STACK}
    starts = dict.fromkeys(STACK, 0)
    for storage in trace.at_start:
        if counts(trace, storage):
            starts[storage.category] += storage.bytes
    for place, event in enumerate(trace.events):
        storage = trace.storages[event.storage]
        if counts(trace, storage):
            changes[storage.category][place] = event.bytes
    return [list(accumulate(changes[category], initial=starts[category])) for category in STACK]


def _needed(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        library = name.partition(".")[0]
        raise ForetraceError(f"{library} is not installed", f"pip install {library}, or foretrace[notebook]") from error
