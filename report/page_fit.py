"""`Fit` -> its part of an HTML page: a card with the largest size that fits, and a slider over the curve of the peak.

A *stop* of the slider is a value of the size at which the curve is exact: every value where there are few, else evenly
spaced ones, and always those at which the answer turns. Between the largest by reserved and by allocated bytes the
tensors fit, but not what the caching allocator holds for them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from html import escape
from typing import TYPE_CHECKING

from ..costmodels.formula import written
from .format import bytes_text, screen
from .layout import LABEL, WIDTH, Labelled
from .page_figures import card, exact_cell, text

if TYPE_CHECKING:
    from ..hardware.fit import Fit, Piece
    from .result import Report

BATCH = ("batch", "batch_size", "bs")
"""What the number of samples is called."""
MOST_STOPS = 240
ROUND_UP_TO = 8
"""The slider goes at least so far."""


def fit_data(found: Fit, now: int | None) -> dict[str, object]:
    """What the slider knows: for each stop the peak in bytes and where in the step it is; `now` is the page's value."""
    levels = [_level(found, value) for value in stops(found, now)]
    points = list(dict.fromkeys(point for _, _, point in levels))
    return {
        "name": found.name,
        "now": now,
        "limit_bytes": found.limit_bytes,
        "largest": found.largest,
        "largest_with_headroom": found.largest_with_headroom,
        "largest_reserved": found.largest_reserved,
        "value": [value for value, _, _ in levels],
        "peak_bytes": [peak for _, peak, _ in levels],
        "point": [points.index(point) for _, _, point in levels],
        "points": points,
    }


def size_now(report: Report, name: str) -> int | None:
    """The value that the step of a report was traced at; None where the trace does not tell."""
    given = report.trace.facts.arguments.get(name, report.batch if name in BATCH else None)
    return given if isinstance(given, int) else None


def stops(found: Fit, now: int | None = None) -> list[int]:
    """The values of the slider in order, from the smallest that is known to about twice the largest that fits."""
    turning = {found.largest, found.largest + found.unit, found.largest_with_headroom, found.largest_reserved, now}
    known = {value for value in turning if value and is_exact(found, value)} | set(found.apart_bytes)
    if not found.pieces:
        return sorted(known)
    first, most = found.pieces[0].first, max(2 * found.largest, now or 0, ROUND_UP_TO)
    step = max(-(-(most - first) // MOST_STOPS), 1)
    for piece, end in zip(found.pieces, [*(piece.first for piece in found.pieces[1:]), most + 1], strict=True):
        known |= set(range(piece.first, end, -(-step // piece.modulus) * piece.modulus))
    return sorted(value for value in known if value <= max(most, found.largest + found.unit))


def is_exact(found: Fit, value: int) -> bool:
    """Whether the curve is known there: by a trace, or by a formula that holds for the value itself."""
    piece = _piece(found, value)
    return value in found.apart_bytes or (piece is not None and (value - piece.first) % piece.modulus == 0)


def _piece(found: Fit, value: int) -> Piece | None:
    return next((piece for piece in reversed(found.pieces) if piece.first <= value), None)


def _level(found: Fit, value: int) -> tuple[int, int, str]:
    piece = _piece(found, value)
    if value in found.apart_bytes or piece is None:
        return value, found.apart_bytes[value], ""
    return value, int(found.peak(value)), str(piece.formula.peak.winner(**{found.name: value}).point)


def best(found: Fit) -> int:
    """The answer: by what the caching allocator reserves, where that was asked."""
    return found.largest if found.largest_reserved is None else found.largest_reserved


def fit_card(found: Fit) -> str:
    """The card of the strip."""
    rows = [
        ("by allocated bytes", f"<data value='{found.largest}'>{found.largest:,}</data>"),
        (f"with {found.headroom:.0%} of it left free", f"{found.largest_with_headroom:,}"),
    ]
    if found.largest_reserved is not None:
        rows.append(("by reserved bytes", f"{found.largest_reserved:,}"))
    if found.largest:
        rows.append(("peak at the first", exact_cell(found.confirmed_bytes)))
    rows += [("limit", exact_cell(found.limit_bytes)), ("instances traced", f"{found.traces:,}")]
    one_more = f"{found.largest + found.unit:,}"
    rows.append((f"{one_more} {'cannot be traced' if found.refused else 'breaks in'}", text(_why_no_more(found))))
    more = "as the allocator reserves" if found.largest != best(found) else "by live bytes"
    ends = f"{one_more} cannot be traced" if found.refused and more == "by live bytes" else ""
    about = f"{ends or f'{best(found) + 1:,} does not fit, {more}'}; <a href='#fit'>slide it</a>"
    answer = f"<data value='{best(found)}'>{best(found):,}</data>"
    return card(f"Largest {found.name}", answer, about, rows, "good" if best(found) else "bad")


def _why_no_more(found: Fit) -> str:
    return found.why_refused or found.breaks


def fit_section(found: Fit) -> str:
    """The slider, its chart, and the formulas of the curve."""
    name = text(found.name)
    return (
        "<section id=fit aria-labelledby=h-fit>"
        f"<h2 id=h-fit>What if {name} were another?</h2>"
        "<p class=hint>The peak at other sizes, exact to the byte, from formulas of the step's storages that a trace "
        f"confirmed at {found.largest:,}. The limit is what the device has for tensors; what the caching allocator "
        "reserves for them is a little more.</p>"
        f"<div class=slide><label for=size>{name}</label><input id=size type=range min=0 value=0 step=1>"
        "<output id=size-value for=size></output></div>"
        "<p id=size-says aria-live=polite></p>"
        "<div id=curve role=img aria-label='peak over the size'></div>"
        f"{_formulas(found)}</section>"
    )


def _formulas(found: Fit) -> str:
    if not found.pieces:
        why = text(found.why_no_pieces)
        return f"<p class=hint>No formula holds, so that only what was traced is shown: {why}.</p>"
    items = "".join(_formula(piece, points) for piece, points in zip(found.pieces, _winning(found), strict=True))
    return f"<details><summary>the formulas</summary><dl class=formulas>{items}</dl></details>"


def _formula(piece: Piece, points: Collection[str]) -> str:
    formula = piece.formula
    lines = "".join(
        f"<dd><code>{escape(written(c.polynomial, formula.letters))}</code> bytes, {text(str(c.point))}</dd>"
        for c in formula.peak.candidates
        if str(c.point) in points
    )
    where = "".join(f"<dd>where {text(str(c))}: {text(c.why)}</dd>" for c in formula.conditions)
    return f"<dt>from {piece.first:,} on, the largest of</dt>{lines}{where}"


def _winning(found: Fit) -> Iterable[set[str]]:
    """For each piece the points that have the peak at one of its stops."""
    levels = [_level(found, value) for value in stops(found)]
    ends = [*(piece.first for piece in found.pieces[1:]), None]
    for piece, end in zip(found.pieces, ends, strict=True):
        yield {point for value, _, point in levels if piece.first <= value and (end is None or value < end)}


def fit_table(found: Fit, width: int = WIDTH) -> str:
    """The answer for a screen, as text that ends in a newline."""
    label, answer = f"largest {found.name}", f"{best(found):,}"
    words = [answer] if len(label) < LABEL else [f"{found.name} {answer}"]
    if found.largest != best(found):
        words.append(f"by allocated bytes alone {found.largest:,}")
    if found.largest:
        words.append(f"peak {bytes_text(found.confirmed_bytes)} at {found.largest:,}")
    one_more = found.largest + found.unit
    if found.refused:
        words.append(f"{one_more:,} cannot be traced: {_why_no_more(found)}")
    else:
        words += [f"{one_more:,} takes {bytes_text(int(found.peak(one_more)))}"] if is_exact(found, one_more) else []
        words.append(f"{one_more:,} breaks in {found.breaks}")
    return screen([Labelled(label if len(label) < LABEL else "largest", words).lines(width)])
