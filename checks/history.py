"""The snapshots of a target at several commits -> its *history*: a table, a picture, and numbers for chart actions.

A commit at which the target could not be traced is a gap, said in the table and left out of the lines of the picture.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from tabulate import tabulate

from .quantity import FACTS, change_text, text
from .snapshot import Snapshot

DRAWN = ("peak", "time", "flops")


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit of the history, by its full id and the first line of its message."""

    id: str
    subject: str

    @property
    def short(self) -> str:
        """Enough of the id for a person."""
        return self.id[:9]


@dataclass(frozen=True, slots=True)
class Point:
    """What a target cost at a commit, or why that is not known."""

    commit: Commit
    snapshot: Snapshot | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class History:
    """One target over the commits, the oldest first."""

    target: str
    points: tuple[Point, ...]

    def values(self, fact: str) -> list[int | None]:
        """A fact over the commits; None where it is not known."""
        return [point.snapshot.facts.get(fact) if point.snapshot else None for point in self.points]


def to_table(histories: Sequence[History]) -> str:
    """One table a target, the oldest commit first, with what each commit changed."""
    return "\n".join(f"{history.target}\n{_table(history)}\n" for history in histories)


def _table(history: History) -> str:
    rows: list[tuple[str, ...]] = []
    before: Snapshot | None = None
    for point in history.points:
        rows.append((point.commit.short, *_cells(point, before), point.commit.subject[:60]))
        before = point.snapshot or before
    heads = ("commit", "peak", "change", "time", "change", "FLOPs", "change", "subject")
    align = ("left", *("right",) * 6, "left")
    return tabulate(rows, heads, tablefmt="simple", colalign=align, disable_numparse=True)


def _cells(point: Point, before: Snapshot | None) -> list[str]:
    if point.snapshot is None:
        return ["not traced", *[""] * 5]
    cells = []
    for fact in DRAWN:
        now = point.snapshot.facts[fact]
        change = change_text(fact, before.facts[fact], now) if before else ""
        cells += [text(fact, now), change if change != "0" else "."]
    return cells


def to_benchmark_json(histories: Sequence[History]) -> str:
    """The newest commit's facts as the ``customSmallerIsBetter`` list of github-action-benchmark.

    https://github.com/benchmark-action/github-action-benchmark#examples
    """
    found = []
    for history in histories:
        known = [point for point in history.points if point.snapshot]
        if known and (last := known[-1].snapshot):
            found += [
                {"name": f"{history.target}: {fact}", "unit": _unit(fact), "value": last.facts[fact]} for fact in DRAWN
            ]
    return json.dumps(found, indent=2, sort_keys=True) + "\n"


def to_json(histories: Sequence[History]) -> str:
    """Every fact at every commit."""
    found = [
        {
            "target": history.target,
            "points": [
                {
                    "commit": point.commit.id,
                    "subject": point.commit.subject,
                    "facts": dict(point.snapshot.facts) if point.snapshot else None,
                    "error": point.error or None,
                }
                for point in history.points
            ],
        }
        for history in histories
    ]
    return json.dumps({"schema_version": 1, "histories": found}, indent=2, sort_keys=True) + "\n"


def _unit(fact: str) -> str:
    return {"time": "ns", "flops": "FLOP"}.get(fact, "bytes")


# --- the picture ---

WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 900, 150, 90, 30, 34, 46
COLOURS = ("#1f6fb2", "#c2571a", "#2e8540", "#7a4fb5", "#a8323e", "#5d6b75")


def to_svg(histories: Sequence[History]) -> str:
    """A panel for each of peak, time and FLOPs, each from zero, with a line for each target over the commits."""
    height = TOP + len(DRAWN) * (PANEL + GAP) + 20 * len(histories)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for place, fact in enumerate(DRAWN):
        parts += _panel(histories, fact, TOP + place * (PANEL + GAP))
    below = TOP + len(DRAWN) * (PANEL + GAP)
    for place, history in enumerate(histories):
        parts.append(f'<rect x="{LEFT}" y="{below + 20 * place}" width="10" height="10" fill="{_colour(place)}"/>')
        parts.append(f'<text x="{LEFT + 16}" y="{below + 20 * place + 9}">{escape(history.target)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(histories: Sequence[History], fact: str, top: int) -> list[str]:
    most = max((value for history in histories for value in history.values(fact) if value), default=1)
    parts = [f'<text x="{LEFT}" y="{top - 8}" font-weight="bold">{escape(FACTS[fact].words)}</text>']
    for share in (0, 0.5, 1):
        y = top + PANEL - PANEL * share
        parts.append(f'<line x1="{LEFT}" y1="{y:g}" x2="{WIDTH - RIGHT}" y2="{y:g}" stroke="#ddd"/>')
        label = escape(text(fact, round(most * share)))
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:g}" text-anchor="end">{label}</text>')
    for place, history in enumerate(histories):
        parts += _line(history, fact, top, most, _colour(place))
    return [*parts, *_ends(histories, top)]


def _line(history: History, fact: str, top: int, most: int, colour: str) -> list[str]:
    """A line through the known points and a dot on each, which says its commit when pointed at."""
    values = history.values(fact)
    dots = [
        (_x(place, len(values)), top + PANEL - PANEL * value / most, place, value)
        for place, value in enumerate(values)
        if value is not None
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, *_ in dots)
    parts = [f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for x, y, place, value in dots:
        commit = history.points[place].commit
        said = escape(f"{commit.short} {commit.subject}: {text(fact, value)}")
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"><title>{said}</title></circle>')
    return parts


def _ends(histories: Sequence[History], top: int) -> list[str]:
    """The first and the last commit below the panel."""
    points = histories[0].points if histories else ()
    if not points:
        return []
    y = top + PANEL + 16
    first = f'<text x="{LEFT}" y="{y}" fill="#666">{points[0].commit.short}</text>'
    last = f'<text x="{WIDTH - RIGHT}" y="{y}" fill="#666" text-anchor="end">{points[-1].commit.short}</text>'
    return [first, last] if len(points) > 1 else [first]


def _x(place: int, count: int) -> float:
    return LEFT + (WIDTH - RIGHT - LEFT) * (place / (count - 1) if count > 1 else 0.5)


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]
