"""Several `Report`s -> a picture: the bytes that each needs, beside what its device has, and its step time.

Where one number was varied, such as a batch size, they become *lines* over it, one for each device and each setting of
everything else; whatever else is side by side becomes *bars*. What a device has is dashed, the interval of a time is
shaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from .axis import binary_step, decimal_step
from .format import bytes_text, exact_bytes_text, seconds_text
from .json import portable
from .layout import tail
from .page_data import shortened

if TYPE_CHECKING:
    from .result import Report

WIDTH, LEFT, RIGHT, TOP = 820, 84, 24, 34
PANEL, GAP, KEY = 200, 64, 20
ROW, NAME, BAR, BETWEEN = 30, 250, 170, 110
MOST_NAME = 38
MOST_KEY = 90
COLOURS = ("#1f6feb", "#d1495b", "#2f9e77", "#b7791f", "#7c4dbd", "#0f8b8d", "#8a5a44", "#59626d")
MARK = "#c6262e"
DASHES = ("", "10 6", "3 4", "12 4 3 4")
"""So that lines which lie over each other are all seen."""
TICK_ROOM = 44


@dataclass(frozen=True, slots=True)
class Measure:
    """What a panel shows of a report: a value, the interval around it, and what there is at the most."""

    title: str
    text: Callable[[float], str]
    value: Callable[[Report], float]
    interval: Callable[[Report], tuple[float, float]]
    limit: Callable[[Report], float | None]
    step: Callable[[float], float]
    """The distance of the lines of the axis, for what it goes to."""
    colour: str


MEASURES = (
    Measure(
        "memory that the step needs",
        lambda count: bytes_text(round(count)),
        lambda report: report.needed_bytes,
        lambda report: (report.needed_bytes, report.needed_bytes),
        lambda report: None if report.fits is None else report.available_bytes,
        binary_step,
        "#1f6feb",
    ),
    Measure(
        "step time",
        seconds_text,
        lambda report: report.time.step_seconds,
        lambda report: (report.time.low_seconds, report.time.high_seconds),
        lambda report: None,
        decimal_step,
        "#2f9e77",
    ),
)


def sweep_svg(reports: Sequence[Report]) -> str:
    """The picture as text that ends in a newline."""
    varied = swept(reports)
    parts, height = _lines(reports, varied) if varied else _bars(reports)
    inside = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="memory and step time side by side" font-family="system-ui, sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>\n{inside}\n</svg>\n'
    )


def swept(reports: Sequence[Report]) -> str | None:
    """The one argument that was varied and is a number everywhere; None where there is no such one."""
    arguments = [report.trace.facts.arguments for report in reports]
    names = dict.fromkeys(name for given in arguments for name in given)
    varying = [name for name in names if len({str(given.get(name)) for given in arguments}) > 1]
    numbers = [name for name in varying if all(_is_number(given.get(name)) for given in arguments)]
    targets = {report.trace.facts.target for report in reports}
    return numbers[0] if len(numbers) == 1 and len(targets) == 1 else None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# --- lines ---


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a panel lies, and what its edges stand for."""

    top: float
    first: float
    last: float
    most: float

    def x(self, value: float) -> float:
        """Of a value of the size."""
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.first) / (self.last - self.first)

    def y(self, value: float) -> float:
        """Of what is measured."""
        return self.top + PANEL * (1 - value / self.most)


def _lines(reports: Sequence[Report], name: str) -> tuple[list[str], int]:
    series = _series(reports, name)
    bottom = TOP + len(MEASURES) * (PANEL + GAP)
    parts = [
        part
        for place, measure in enumerate(MEASURES)
        for part in _panel(series, name, measure, TOP + place * (PANEL + GAP))
    ]
    for place, (words, _) in enumerate(series.items()):
        y = bottom + place * KEY
        parts.append(f'<rect x="{LEFT}" y="{y - 9}" width="14" height="4" fill="{_colour(place)}"/>')
        parts.append(f'<text x="{LEFT + 22}" y="{y - 3}" fill="#1b1f24">{escape(words)}</text>')
    return parts, bottom + len(series) * KEY + 8


def _series(reports: Sequence[Report], name: str) -> dict[str, list[tuple[float, Report]]]:
    """What belongs to one line, by its words: the device, and the arguments beside the varied one."""
    found: dict[str, list[tuple[float, Report]]] = {}
    for report in reports:
        given = report.trace.facts.arguments
        others = " ".join(f"{key}={value}" for key, value in given.items() if key != name)
        words = _short(f"{report.profile.full_name} {others}".strip(), MOST_KEY)
        found.setdefault(words, []).append((float(str(given[name])), report))
    return {words: sorted(points, key=lambda point: point[0]) for words, points in found.items()}


def _panel(series: dict[str, list[tuple[float, Report]]], name: str, measure: Measure, top: float) -> Iterator[str]:
    reports = [report for points in series.values() for _, report in points]
    limits = [limit for report in reports if (limit := measure.limit(report)) is not None]
    most = max([*(measure.interval(report)[1] for report in reports), *limits, 0.0]) * 1.06 or 1.0
    values = sorted({value for points in series.values() for value, _ in points})
    frame = Frame(top, min(0.0, values[0]), values[-1] or 1.0, most)
    heading = f"{measure.title} by {_short(name)}"
    yield f'<text x="{LEFT}" y="{top - 10}" font-size="13" font-weight="600">{escape(heading)}</text>'
    yield from _axes(measure, values, frame)
    for place, points in enumerate(series.values()):
        yield from _curve(measure, points, place, frame)
    for limit in sorted(set(limits)):
        yield f'<path d="M{LEFT} {frame.y(limit):.1f}H{WIDTH - RIGHT}" stroke="{MARK}" data-limit="{limit}"/>'
    for words, limit in {measure.text(limit): limit for limit in sorted(limits)}.items():
        yield f'<text x="{LEFT + 4}" y="{frame.y(limit) - 4:.1f}" fill="{MARK}">{words} there</text>'


def _axes(measure: Measure, values: Sequence[float], frame: Frame) -> Iterator[str]:
    step = measure.step(frame.most)
    for place in range(int(frame.most / step) + 1):
        y, words = frame.y(place * step), measure.text(place * step)
        yield f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#dde1e6"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#59626d">{words}</text>'
    last = -1e9
    for value in values:
        if frame.x(value) - last >= TICK_ROOM:
            last = frame.x(value)
            y = frame.top + PANEL + 18
            yield f'<text x="{last:.1f}" y="{y}" text-anchor="middle" fill="#59626d">{value:,g}</text>'


def _curve(measure: Measure, points: Sequence[tuple[float, Report]], place: int, frame: Frame) -> Iterator[str]:
    colour, dash = _colour(place), DASHES[place % len(DASHES)]
    low = [f"{frame.x(value):.1f},{frame.y(measure.interval(report)[0]):.1f}" for value, report in points]
    high = [f"{frame.x(value):.1f},{frame.y(measure.interval(report)[1]):.1f}" for value, report in points]
    if low != high:
        yield f'<polygon points="{" ".join([*low, *reversed(high)])}" fill="{colour}" fill-opacity="0.12"/>'
    line = " ".join(f"{frame.x(value):.1f},{frame.y(measure.value(report)):.1f}" for value, report in points)
    yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
    for value, report in points:
        yield (
            f'<circle cx="{frame.x(value):.1f}" cy="{frame.y(measure.value(report)):.1f}" r="3.5" fill="{colour}" '
            f'data-value="{measure.value(report)!r}"><title>{value:,g}: {_exactly(measure, report)}</title></circle>'
        )


# --- bars ---


def _bars(reports: Sequence[Report]) -> tuple[list[str], int]:
    parts = []
    for place, measure in enumerate(MEASURES):
        left = NAME + place * (BAR + BETWEEN)
        parts.append(f'<text x="{left}" y="20" font-size="13" font-weight="600">{measure.title}</text>')
        most = max(max(measure.interval(report)[1], measure.limit(report) or 0.0) for report in reports) or 1.0
        for row, report in enumerate(reports):
            parts += _bar(measure, report, most, left, TOP + row * ROW)
    for row, report in enumerate(reports):
        y = TOP + row * ROW
        parts.append(f'<text x="8" y="{y + 9}">{escape(_short(_step(report)))}</text>')
        parts.append(f'<text x="8" y="{y + 22}" font-size="10" fill="#59626d">{escape(report.profile.name)}</text>')
    return parts, TOP + len(reports) * ROW + 8


def _step(report: Report) -> str:
    facts = report.trace.facts
    name = portable(facts.target).rpartition("/")[2] or "a training step"
    return " ".join((name, *(f"{key}={value}" for key, value in facts.arguments.items())))


def _bar(measure: Measure, report: Report, most: float, left: float, y: float) -> Iterator[str]:
    value, limit = measure.value(report), measure.limit(report)
    low, high = measure.interval(report)
    width = BAR * value / most
    words = measure.text(value) + ("" if limit is None or report.fits else ": no")
    colour = MARK if limit is not None and not report.fits else measure.colour
    yield (
        f'<rect x="{left}" y="{y}" width="{width:.1f}" height="16" fill="{colour}" '
        f'fill-opacity="0.8" data-value="{value!r}"><title>{_exactly(measure, report)}</title></rect>'
    )
    if low < high:
        ends = (left + BAR * low / most, left + BAR * high / most)
        yield f'<path d="M{ends[0]:.1f} {y + 8}H{ends[1]:.1f}" stroke="#1b1f24" stroke-width="1.2"/>'
    if limit is not None:
        x = left + BAR * limit / most
        yield f'<path d="M{x:.1f} {y - 3}v22" stroke="{MARK}" stroke-dasharray="3 2" data-limit="{limit}"/>'
    end = left + BAR * max(high, limit or 0.0) / most
    yield f'<text x="{end + 6:.1f}" y="{y + 12}">{words}</text>'


# --- words ---


def _exactly(measure: Measure, report: Report) -> str:
    value = measure.value(report)
    return exact_bytes_text(value) if isinstance(value, int) else measure.text(value)


def _short(words: str, most: int = MOST_NAME) -> str:
    """A name on one line of the picture, its end kept; what XML cannot hold is gone."""
    printable = "".join(letter if letter.isprintable() else " " for letter in shortened(words))
    return tail(" ".join(printable.split()), most)


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]
