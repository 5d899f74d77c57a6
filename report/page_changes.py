"""Two `Report`s -> the part of an HTML page that says what changed: the figures of both, and what moved them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .changes import Amount, Change, holder_changes, taker_changes
from .format import bytes_text, count_text, exact_bytes_text, seconds_text
from .page_figures import bytes_cell, seconds_cell, text

if TYPE_CHECKING:
    from .result import Report

MOST_CHANGES = 14


def verdicts(before: Report, after: Report) -> str:
    """The figures of both, and their difference."""
    rows = [
        ("Peak memory", *_delta(before.memory.peak_bytes, after.memory.peak_bytes)),
        ("Saved for backward", *_delta(before.memory.saved_for_backward_bytes, after.memory.saved_for_backward_bytes)),
        ("At the start", *_delta(before.memory.start_bytes, after.memory.start_bytes)),
        ("Step time", *_time_delta(before.time.step_seconds, after.time.step_seconds)),
        ("Compute", *_flop_delta(before.flops.total, after.flops.total)),
        (
            "Ops",
            f"{len(before.trace.ops):,}",
            f"{len(after.trace.ops):,}",
            f"{len(after.trace.ops) - len(before.trace.ops):+,}",
            0,
        ),
        ("Fits", _yes(before), _yes(after), "", 0),
    ]
    body = "".join(
        f"<tr><th scope=row>{name}</th><td>{was}</td><td>{now}</td><td class='{_direction(sign)}'>{change}</td></tr>"
        for name, was, now, change, sign in rows
    )
    head = "<tr><th></th><th scope=col>before</th><th scope=col>after</th><th scope=col>change</th></tr>"
    return f"<table class=verdicts><thead>{head}</thead><tbody>{body}</tbody></table>"


def _yes(report: Report) -> str:
    return "not asked" if report.fits is None else "yes" if report.fits else "no"


def _direction(sign: float) -> str:
    return "more" if sign > 0 else "less" if sign < 0 else ""


def _percent(was: float, now: float) -> str:
    return f" ({100 * (now - was) / was:+.1f} %)" if was and was != now else ""


def _signed_bytes(change: int) -> str:
    """A difference: what rounding would hide is written out, as in ``+12 B``."""
    sign = "+" if change > 0 else "-" if change < 0 else ""
    return (
        f"<data value='{change}' title='{exact_bytes_text(change, signed=True)}'>{sign}{bytes_text(abs(change))}</data>"
    )


def _delta(was: int, now: int) -> tuple[str, str, str, int]:
    return bytes_cell(was), bytes_cell(now), _signed_bytes(now - was) + _percent(was, now), now - was


def _time_delta(was: float, now: float) -> tuple[str, str, str, float]:
    sign = "+" if now > was else "-" if now < was else ""
    return seconds_cell(was), seconds_cell(now), f"{sign}{seconds_text(abs(now - was))}{_percent(was, now)}", now - was


def _flop_delta(was: int, now: int) -> tuple[str, str, str, int]:
    sign = "+" if now > was else "-" if now < was else ""
    texts = [f"<data value='{count}'>{count_text(count, 'FLOP')}</data>" for count in (was, now)]
    return texts[0], texts[1], f"{sign}{count_text(abs(now - was), 'FLOP')}{_percent(was, now)}", now - was


def changes(before: Report, after: Report) -> str:
    """What took more or less, of the peak and of the time."""
    memory = _change_table("At the peak", holder_changes(before, after), bytes_cell, _signed_bytes)
    time = _change_table("In the time", taker_changes(before, after), seconds_cell, _signed_seconds)
    opening = "<section id=changes aria-labelledby=h-changes>"
    return f"{opening}<h2 id=h-changes>What changed</h2><div class=two>{memory}{time}</div></section>"


def _signed_seconds(change: float) -> str:
    return f"{'+' if change > 0 else '-'}{seconds_text(abs(change))}"


def _change_table(
    title: str, rows: Sequence[Change[Amount]], cell: Callable[[Amount], str], signed: Callable[[Amount], str]
) -> str:
    if not rows:
        return f"<div><h3>{title}</h3><p>nothing</p></div>"
    body = "".join(
        f"<tr><th scope=row>{text(row.what)}</th><td>{cell(row.before)}</td><td>{cell(row.after)}</td>"
        f"<td class='{_direction(row.change)}'>{signed(row.change)}</td></tr>"
        for row in rows[:MOST_CHANGES]
    )
    more = f"<p>and {len(rows) - MOST_CHANGES:,} smaller ones</p>" if len(rows) > MOST_CHANGES else ""
    head = "<tr><th></th><th scope=col>before</th><th scope=col>after</th><th scope=col>change</th></tr>"
    return f"<div class=scroll><h3>{title}</h3><table><thead>{head}</thead><tbody>{body}</tbody></table>{more}</div>"
