"""What fits -> a screen, JSON, and a picture (SVG) of the curve or of the frontier between two sizes."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from html import escape

from ..costmodels.formula import written
from ..hardware.fit import Fit, Frontier
from .axis import decimal_step

WIDTH = 80
GB = 10**9
LEFT, TOP, ACROSS, DOWN = 70, 30, 560, 300
"""The picture's margins and the size of its plot."""


def fit_text(found: Fit | Frontier, target: str = "") -> str:
    """The answer on a screen."""
    lines = _fit(found, target) if isinstance(found, Fit) else _frontier(found, target)
    return "\n".join(row for line in lines for row in _wrapped(line)) + "\n"


def _wrapped(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    return textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False) or [""]


def _size(count: int) -> str:
    return f"{count:,} bytes ({count / 2**30:.2f} GiB, {count / GB:.2f} GB)"


def _fit(found: Fit, target: str) -> list[str]:
    lines = [target or "what fits", f"  limit {_size(found.limit_bytes)}", ""]
    lines.append(f"largest {found.name} by allocated bytes: {found.largest:,}")
    lines.append(f"  with {found.headroom:.0%} headroom: {found.largest_with_headroom:,}")
    reserved = "not asked" if found.largest_reserved is None else f"{found.largest_reserved:,}"
    lines.append(f"  by reserved bytes: {reserved}")
    if found.largest:
        lines.append(f"  peak there {_size(found.confirmed_bytes)}, confirmed by a trace")
    more = f"{found.largest + found.unit:,}" if found.unit > 1 else "one more"
    if found.refused:
        lines.append(f"  {more} cannot be traced: {found.why_refused}")
    else:
        lines.append(
            f"  {more} takes {_size(int(found.peak(found.largest + found.unit)))}" if _knows_more(found) else ""
        )
        lines.append(f"  and breaks at {found.breaks}")
    regimes = found.regimes() if found.pieces and found.largest >= found.pieces[0].first else []
    if not found.pieces:
        lines += ["", f"no formula, so that every value asked about was traced: {found.why_no_pieces}"]
    for piece in found.pieces:
        lines += ["", f"from {found.name} = {piece.first} on, the largest of"]
        lines += [
            f"  {written(c.polynomial, piece.formula.letters)}  ({c.point})"
            for c in piece.formula.peak.candidates
            if not regimes or str(c.point) in {point for _, _, point in regimes}
        ]
        lines += [f"  where {condition}: {condition.why}" for condition in piece.formula.conditions]
        if piece.modulus > 1:
            lines.append("  between these values the largest that fits was found by traces")
    if regimes:
        lines += ["", "who has the peak"]
        lines += [f"  {found.name} {first:,} to {last:,}: {point}" for first, last, point in regimes]
    return lines


def _knows_more(found: Fit) -> bool:
    more = found.largest + found.unit
    return more in found.apart_bytes or bool(found.pieces and more >= found.pieces[0].first)


def _frontier(found: Frontier, target: str) -> list[str]:
    lines = [
        target or "what fits",
        f"  limit {_size(found.limit_bytes)}",
        "",
        f"{found.other:>10}  largest {found.name}",
    ]
    lines += [f"{value:>10,}  {most:,}" for value, most in found.points]
    if found.confirmed[1]:
        lines += ["", f"confirmed by a trace at {found.other}={found.confirmed[0]} {found.name}={found.confirmed[1]}"]
    return lines


def fit_json(found: Fit | Frontier) -> str:
    """The answer as JSON."""
    if isinstance(found, Frontier):
        content: dict[str, object] = {
            "schema_version": 1,
            "vary": [found.name, found.other],
            "limit_bytes": found.limit_bytes,
            "points": [{found.other: value, found.name: most} for value, most in found.points],
            "confirmed": {found.other: found.confirmed[0], found.name: found.confirmed[1]},
        }
    else:
        content = {
            "schema_version": 1,
            "vary": found.name,
            "limit_bytes": found.limit_bytes,
            "headroom": found.headroom,
            "unit": found.unit,
            "largest": found.largest,
            "largest_with_headroom": found.largest_with_headroom,
            "largest_reserved": found.largest_reserved,
            "confirmed_bytes": found.confirmed_bytes,
            "breaks": found.breaks,
            "refused": found.refused,
            "pieces": [
                {
                    "first": piece.first,
                    "candidates": [
                        {"point": str(c.point), "bytes": str(c.polynomial)} for c in piece.formula.peak.candidates
                    ],
                    "conditions": [str(condition) for condition in piece.formula.conditions],
                }
                for piece in found.pieces
            ],
        }
    return json.dumps(content, indent=1) + "\n"


def picture(found: Fit | Frontier) -> str:
    """The peak over the size with the limit, or the largest of one size over the other, as SVG."""
    if isinstance(found, Frontier):
        points = [(float(value), float(most)) for value, most in found.points]
        return _svg(points, None, f"largest {found.name} by {found.other}", found.other, found.name)
    values = _drawn(found)
    points = [(float(v), int(found.peak(v)) / GB) for v in values]
    return _svg(points, found.limit_bytes / GB, f"peak by {found.name}", found.name, "GB")


def _drawn(found: Fit) -> list[int]:
    """Values for the curve: evenly spaced over the pieces, or those traced."""
    if not found.pieces:
        most = found.largest + found.unit
        return sorted(value for value in found.apart_bytes if value <= most) or sorted(found.apart_bytes)[:1]
    first, last = found.pieces[0].first, max(found.largest + found.unit, found.pieces[0].first + 1)
    return sorted({first + (last - first) * i // 64 for i in range(65)})


def _marks(most: float) -> list[float]:
    """The numbers along an axis."""
    step = decimal_step(most)
    return [step * count for count in range(1, int(most / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def _svg(points: Sequence[tuple[float, float]], limit: float | None, title: str, across: str, up: str) -> str:
    most_x, most_y = max(x for x, _ in points), max([y for _, y in points] + ([limit] if limit else [])) or 1.0
    place = [(LEFT + ACROSS * x / most_x, TOP + DOWN * (1 - y / most_y)) for x, y in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in place)
    body = [
        f'<text x="{LEFT}" y="18" font-size="14">{escape(title)}</text>',
        f'<path d="M{LEFT} {TOP}V{TOP + DOWN}H{LEFT + ACROSS}" fill="none" stroke="#444"/>',
        f'<polyline points="{line}" fill="none" stroke="#1f6feb" stroke-width="2"/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="#1f6feb"/>' for x, y in place if len(place) < 20),
        f'<text x="{LEFT + ACROSS}" y="{TOP + DOWN + 32}" text-anchor="end">{escape(across)}</text>',
        f'<text x="{LEFT - 8}" y="{TOP - 8}" text-anchor="end">{escape(up)}</text>',
    ]
    for value in _marks(most_x):
        place_x, place_y = LEFT + ACROSS * value / most_x, TOP + DOWN + 16
        body.append(f'<text x="{place_x:.1f}" y="{place_y}" text-anchor="middle">{_number(value)}</text>')
    for value in _marks(most_y):
        height = TOP + DOWN * (1 - value / most_y) + 4
        body.append(f'<text x="{LEFT - 8}" y="{height:.0f}" text-anchor="end">{_number(value)}</text>')
    if limit is not None:
        height = TOP + DOWN * (1 - limit / most_y)
        body.append(f'<path d="M{LEFT} {height:.1f}h{ACROSS}" stroke="#d1242f" stroke-dasharray="6 4"/>')
    inside = "\n".join(body)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + ACROSS + 30} {TOP + DOWN + 45}" '
        f'font-family="sans-serif" font-size="11">\n{inside}\n</svg>\n'
    )
