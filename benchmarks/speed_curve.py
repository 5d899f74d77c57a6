"""Seconds by depth, of several contenders -> a picture of their curves as SVG text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

Curve = Sequence[tuple[int, float]]
"""Layers and seconds, in order of layers."""

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 340, 56, 120, 40, 46
COLOURS = ("#59626d", "#2f6fb0", "#d1495b", "#2f9e77")
TICKS = 4


def picture(title: str, curves: Mapping[str, Curve]) -> str:
    """One line for each curve, their names beside them; both axes begin at 0."""
    points = [point for curve in curves.values() for point in curve]
    most = max(layers for layers, _ in points), max(seconds for _, seconds in points)
    lines = [[_at(point, most) for point in curve] for curve in curves.values()]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="22" font-weight="bold">{escape(title)}</text>',
        *_axes(most, sorted({layers for layers, _ in points})),
        *(
            part
            for place, (name, line) in enumerate(zip(curves, lines, strict=True))
            for part in _line(place, name, line)
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _at(point: tuple[int, float], most: tuple[int, float]) -> tuple[float, float]:
    x = LEFT + (WIDTH - LEFT - RIGHT) * point[0] / most[0]
    return x, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * point[1] / most[1]


def _axes(most: tuple[int, float], depths: Sequence[int]) -> Iterator[str]:
    for tick in range(TICKS + 1):
        seconds = most[1] * tick / TICKS
        _, y = _at((0, seconds), most)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dde1e6"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{seconds:.2f}</text>'
    for layers in depths:
        x, y = _at((layers, 0), most)
        yield f'<text x="{x:.1f}" y="{y + 16:.0f}" text-anchor="middle">{layers}</text>'
    yield f'<text x="{LEFT}" y="{HEIGHT - 8}">seconds of the processor by number of layers</text>'


def _line(place: int, name: str, corners: Sequence[tuple[float, float]]) -> Iterator[str]:
    points, colour = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners), COLOURS[place % len(COLOURS)]
    yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
    yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in corners)
    yield f'<text x="{WIDTH - RIGHT + 12}" y="{TOP + 4 + 18 * place}" fill="{colour}">{escape(name)}</text>'
