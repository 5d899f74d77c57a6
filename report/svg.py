"""`Report` -> a picture of its memory over the step: the categories stacked, the phases shaded, the peak marked.

The horizontal axis counts events, the births and deaths of storages; of those that fall into one column of the picture
it shows the one with the most bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from ..costmodels.areas import areas, columns
from ..graph import Category
from .format import bytes_text
from .json import portable
from .words import phase_text

if TYPE_CHECKING:
    from .result import Report

WIDTH, HEIGHT = 960, 420
LEFT, RIGHT, TOP, BOTTOM = 76, 18, 64, 58
COLUMNS = WIDTH - LEFT - RIGHT
MOST_TITLE = 100

COLOURS = {
    Category.PARAMETER: "#2f6fb0",
    Category.BUFFER: "#8d99a8",
    Category.OPTIMIZER_STATE: "#7fb2e0",
    Category.INPUT: "#c9b14a",
    Category.GRADIENT: "#2f9e77",
    Category.SAVED: "#e69f3c",
    Category.WORKSPACE: "#b072b8",
    Category.TEMPORARY: "#d1495b",
}
"""From the bottom: what lasts, then what comes and goes."""


def to_svg(report: Report) -> str:
    """The picture as SVG text."""
    places = columns(report.memory, COLUMNS)
    title = portable(report.trace.facts.target) or "a training step"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="12" role="img">',
        f"<title>{_text(title)}: memory over the step</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="24" font-size="16" font-weight="bold">{_text(title)}</text>',
        *_phases(report, places),
        *_stack(report, places),
        *_axis(report),
        *_legend(report),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _text(text: str) -> str:
    """Anybody's text: what XML cannot hold is gone, and it is no longer than a line."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return escape(printable if len(printable) <= MOST_TITLE else f"{printable[:MOST_TITLE]}…")


def _x(place: float, count: int) -> float:
    return LEFT + COLUMNS * place / max(count - 1, 1)


def _y(count: float, most: int) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * count / (most or 1)


def _phases(report: Report, places: Sequence[int]) -> Iterator[str]:
    for number, span in enumerate(report.trace.spans):
        inside = [column for column, place in enumerate(places) if span.first_event < place <= span.end_event]
        if not inside:
            continue
        left, right = _x(max(inside[0] - 1, 0), len(places)), _x(inside[-1], len(places))
        if number % 2 == 0:
            yield (
                f'<rect x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{HEIGHT - TOP - BOTTOM}" '
                'fill="#eef1f5"/>'
            )
        if right - left > 50:
            yield f'<text x="{left + 3:.1f}" y="{TOP - 6}" fill="#59626d">{phase_text(span.phase)}</text>'


def _stack(report: Report, places: Sequence[int]) -> Iterator[str]:
    held, most = areas(report.trace), report.memory.peak_bytes
    below = [0] * len(places)
    for category, colour in COLOURS.items():
        above = [base + int(held[category][place]) for base, place in zip(below, places, strict=True)]
        if above != below:
            corners = [*_steps(above, most), *reversed(_steps(below, most))]
            yield f'<polygon fill="{colour}" points="{" ".join(corners)}"/>'
        below = above


def _steps(heights: Sequence[int], most: int) -> list[str]:
    """The corners of a line that keeps each height until the next."""
    count, found = len(heights), []
    for column, height in enumerate(heights):
        before = heights[max(column - 1, 0)]
        x = f"{_x(column, count):.1f}"
        found += [f"{x},{_y(h, most):.1f}" for h in ((before, height) if before != height else (height,))]
    return found


def _axis(report: Report) -> Iterator[str]:
    peak = report.memory.peak_bytes
    for quarter in range(5):
        y = _y(peak * quarter / 4, peak)
        words = f"peak {bytes_text(peak)}" if quarter == 4 else bytes_text(peak * quarter // 4)
        dash = ' stroke-dasharray="3 3" stroke="#1b1f24"' if quarter == 4 else ' stroke="#dde1e6" stroke-opacity="0.6"'
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"{dash}/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{words if quarter < 4 else "peak"}</text>'
        if quarter == 4:
            yield (
                f'<text x="{WIDTH - RIGHT}" y="24" text-anchor="end" data-bytes="{peak}">{words} '
                f"({peak:,} bytes)</text>"
            )


def _legend(report: Report) -> Iterator[str]:
    x = float(LEFT)
    for category, colour in COLOURS.items():
        held = report.memory.at_peak.get(category, 0)
        if held:
            words = f"{phase_text(category)} {bytes_text(held)}"
            yield f'<rect x="{x:.0f}" y="{HEIGHT - 34}" width="11" height="11" fill="{colour}"/>'
            yield f'<text x="{x + 15:.0f}" y="{HEIGHT - 24}" data-bytes="{held}">{words}</text>'
            x += 30 + 6.2 * len(words)
