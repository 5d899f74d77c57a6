"""`Report` -> the numbers that the HTML page draws, small enough to lie inside it.

Everything is exact: a *point* of the timeline is an event of the trace, a *change* is what one category gained or lost
between two points, so that the bytes at any point are sums of whole numbers. Where a step has more events than
`MOST_POINTS`, the points are the extremes of equal stretches, the ends of phases and the peak; where it has more
storages or ops than may be listed, the largest are, and the page says what the others add up to.

Text, amounts and works repeat, as layers do: each stands once in a table, and the columns hold its index.
"""

from __future__ import annotations

import os
import sys
import tokenize
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar

from ..costmodels import roll
from ..costmodels.timeline import counts
from ..graph import Category, Op, Source
from .json import document

if TYPE_CHECKING:
    from .result import Report

MOST_POINTS = 12_000
MOST_STORAGES = 15_000
MOST_OPS = 12_000
MOST_TEXT = 300
"""Letters of a name that the page shows; a longer one is cut in its middle."""
LINES_AROUND = 4
MOST_SOURCE_LINES = 4_000
MOST_LINE = 200

STACK = (
    Category.PARAMETER,
    Category.BUFFER,
    Category.OPTIMIZER_STATE,
    Category.INPUT,
    Category.GRADIENT,
    Category.SAVED,
    Category.WORKSPACE,
    Category.TEMPORARY,
)
"""From the bottom: what lasts, then what comes and goes."""

Item = TypeVar("Item")


@dataclass
class Indexed:
    """Distinct items in the order of their first use, and the index of each."""

    items: list[object] = field(default_factory=list)
    places: dict[object, int] = field(default_factory=dict)

    def __call__(self, item: object) -> int:
        """The place of `item`, which is new at the end where it was not there."""
        place = self.places.setdefault(item, len(self.items))
        if place == len(self.items):
            self.items.append(item)
        return place


def page_data(report: Report) -> dict[str, object]:
    """All that the page knows of one report, as plain lists, dicts, strings and numbers."""
    tables = _Tables()
    points = _points(report)
    return {
        "totals": _totals(report),
        "phases": _phases(report),
        "timeline": _timeline(report, points, tables),
        "storages": _storages(report, tables),
        "ops": _ops(report, tables),
        "groups": _groups(report, tables),
        "roofs": _roofs(report),
        "sources": _sources(tables.sites.items, _folders(report.trace.facts.target)),
        "texts": tables.texts.items,
        "amounts": tables.amounts.items,
        "sites": [
            [tables.texts(shortened(site.file)), site.line, tables.texts(shortened(site.function))]
            for site in tables.sites.items
            if isinstance(site, Source)
        ],
        "origins": tables.origins.items,
        "works": tables.works.items,
    }


def _totals(report: Report) -> dict[str, object]:
    """The figures of the JSON report, without its lists of names."""
    whole = document(report)
    kept = {"memory": ("peak",), "flops": (), "time": ("takers",)}
    return {
        part: {key: value for key, value in values.items() if key not in left_out}
        for part, left_out in kept.items()
        if isinstance(values := whole[part], dict)
    } | {"name": shortened(str(whole["target"])), "hardware": report.profile.full_name}


class _Tables:
    """What repeats."""

    def __init__(self) -> None:
        self.texts, self.amounts, self.sites = Indexed(), Indexed(), Indexed()
        self.origins, self.works = Indexed(), Indexed()

    def text(self, text: str) -> int:
        return self.texts(shortened(text))

    def site(self, source: Source | None) -> int:
        """The index of a line of code; -1 for none."""
        return self.sites(source) if source else -1

    def origin(self, op: Op) -> int:
        """Which kind of op, in which module, on which line."""
        return self.origins((self.text(op.packet), self.text(op.module), self.site(op.source)))


def shortened(text: str) -> str:
    """A name of reasonable length: the beginning and the end of one that is longer."""
    half = MOST_TEXT // 2
    return text if len(text) <= MOST_TEXT else f"{text[:half]}…{text[-half:]}"


# --- the timeline ---


def _phases(report: Report) -> list[dict[str, object]]:
    return [
        {"name": str(s.phase), "first_event": s.first_event, "end_event": s.end_event, "end_op": s.end_op}
        for s in report.trace.spans
    ]


def _points(report: Report) -> list[int]:
    """The indices of the events to draw, in order; -1, the start of the step, is always the first."""
    live = report.memory.live_bytes
    if len(live) <= MOST_POINTS:
        return [-1, *range(len(live))]
    stretch = -(-2 * len(live) // MOST_POINTS)
    kept = {-1, len(live) - 1, report.memory.peak_event}
    kept.update(edge - 1 for span in report.trace.spans for edge in (span.first_event, span.end_event))
    for first in range(0, len(live), stretch):
        places = range(first, min(first + stretch, len(live)))
        kept.update((min(places, key=live.__getitem__), max(places, key=live.__getitem__)))
    return sorted(kept)


def _timeline(report: Report, points: Sequence[int], tables: _Tables) -> dict[str, object]:
    trace, started = report.trace, dict.fromkeys(STACK, 0)
    for storage in trace.at_start:
        if counts(trace, storage):
            started[storage.category] += storage.bytes
    place_of = {event: place for place, event in enumerate(points)}
    changes: list[tuple[int, int, int]] = []
    gained = dict.fromkeys(STACK, 0)
    for number, event in enumerate(trace.events):
        storage = trace.storages[event.storage]
        if counts(trace, storage):
            gained[storage.category] += event.bytes
        if number in place_of:
            changes += [
                (place_of[number], place, tables.amounts(gained[category]))
                for place, category in enumerate(STACK)
                if gained[category]
            ]
            gained = dict.fromkeys(STACK, 0)
    ops = [trace.events[event].op if event >= 0 else -1 for event in points]
    elapsed = [0.0, *accumulate(time.seconds for time in report.time.ops)]
    return {
        "event": _steps(points),
        "op": _steps(ops),
        "seconds": [float(f"{elapsed[op + 1]:.6g}") for op in ops],
        "start": [started[category] for category in STACK],
        "change_point": _steps([change[0] for change in changes]),
        "change_category": [change[1] for change in changes],
        "change_amount": [change[2] for change in changes],
        "peak_event": report.memory.peak_event,
        "thinned": len(points) <= len(trace.events),
        "origin": [tables.origin(trace.ops[op]) if op >= 0 else -1 for op in ops],
    }


def _steps(numbers: Iterable[int]) -> list[int]:
    """Each number as its distance from the one before, which is shorter to write."""
    last, steps = 0, []
    for number in numbers:
        steps.append(number - last)
        last = number
    return steps


# --- what is alive ---


def _storages(report: Report, tables: _Tables) -> dict[str, object]:
    """The storages that the page can list, with the events between which they live."""
    trace = report.trace
    counted = [s for s in trace.storages if counts(trace, s)]
    listed = counted
    if len(counted) > MOST_STORAGES:
        at_peak = {s.id for s in report.memory.peak_storages}
        listed = sorted(counted, key=lambda s: (s.id not in at_peak, -s.bytes, s.id))[:MOST_STORAGES]
        listed.sort(key=lambda s: s.id)
    births: dict[int, int] = {}
    deaths: dict[int, int] = {}
    for number, event in enumerate(trace.events):
        (births if event.bytes > 0 else deaths)[event.storage] = number
    return {
        "amount": [tables.amounts(s.bytes) for s in listed],
        "category": [STACK.index(s.category) for s in listed],
        "born": [births.get(s.id, -1) for s in listed],
        "died": [deaths.get(s.id, -1) for s in listed],
        "origin": [tables.origin(trace.ops[s.born]) if s.born is not None and s.born >= 0 else -1 for s in listed],
        "name": [tables.text(s.name) if s.name else -1 for s in listed],
        "left_out": len(counted) - len(listed),
    }


# --- ops ---


def _work(report: Report, place: int, tables: _Tables) -> int:
    """The index of an op's numbers: FLOPs by unit, bytes, seconds, what they are spent on, how it was priced."""
    priced, time = report.priced[place], report.time.ops[place]
    work = priced.work
    return tables.works(
        (
            work.tensor_flops,
            work.vector_flops,
            work.read_bytes,
            work.written_bytes,
            float(f"{time.seconds:.6g}"),
            tables.text(time.bound),
            tables.text(str(priced.kind)),
            tables.text(" ".join(f"{t.dtype}{list(t.shape)}" for t in report.trace.ops[place].outputs[:4])),
        )
    )


def _ops(report: Report, tables: _Tables) -> dict[str, object]:
    trace, times = report.trace, report.time.ops
    places: Sequence[int] = range(len(trace.ops))
    if len(trace.ops) > MOST_OPS:
        places = sorted(sorted(places, key=lambda place: -times[place].seconds)[:MOST_OPS])
    phases = {span.phase: number for number, span in enumerate(trace.spans)}
    return {
        "id": _steps(trace.ops[place].id for place in places),
        "origin": [tables.origin(trace.ops[place]) for place in places],
        "phase": [phases.get(trace.ops[place].phase, -1) for place in places],
        "work": [_work(report, place, tables) for place in places],
        "left_out": len(trace.ops) - len(places),
        "left_out_seconds": sum(time.seconds for time in times) - sum(times[place].seconds for place in places),
    }


def _groups(report: Report, tables: _Tables) -> list[list[object]]:
    """Ops of one kind, phase, line and kind of module, over all ops: where they are, and their sums."""
    found: dict[tuple[str, str, str, Source | None, str, str], list[int]] = {}
    for place, op in enumerate(report.trace.ops):
        priced, time = report.priced[place], report.time.ops[place]
        key = (op.packet, roll(op.module), str(op.phase), op.source, time.bound, str(priced.kind))
        found.setdefault(key, []).append(place)
    rows: list[list[object]] = []
    for (packet, module, phase, site, bound, kind), places in found.items():
        works = [report.priced[place].work for place in places]
        rows.append(
            [
                tables.text(packet),
                tables.text(module),
                tables.text(phase),
                tables.site(site),
                tables.text(bound),
                tables.text(kind),
                len(places),
                sum(work.tensor_flops for work in works),
                sum(work.vector_flops for work in works),
                sum(work.read_bytes for work in works),
                sum(work.written_bytes for work in works),
                sum(report.time.ops[place].seconds for place in places),
                sum(work.skippable_flops for work in works),
            ]
        )
    return rows


def _roofs(report: Report) -> dict[str, object]:
    """The limits of the device: bytes per second, and FLOPs per second of each unit that the step uses."""
    profile = report.profile
    units = {time.unit for time in report.time.ops if time.unit}
    vector = [("CUDA cores, float32", profile.vector_flops_per_second["float32"])]
    return {
        "bytes_per_second": profile.memory_bandwidth_bytes_per_second,
        "flops_per_second": sorted({(str(unit), unit.peak(profile)) for unit in units} | set(vector)),
    }


# --- the code ---


def _folders(target: str) -> list[str]:
    """Where a file of a trace may lie: here, beside the target, or where Python finds its packages."""
    return list(dict.fromkeys(("", os.path.dirname(target.rpartition(":")[0]), *sys.path)))


def _sources(sites: Collection[object], folders: Sequence[str] = ("",)) -> dict[str, dict[int, str]]:
    """The lines around each line of code that is named, by file; nothing for a file that cannot be read here."""
    places = {file: _place(file, folders) for file in {site.file for site in sites if isinstance(site, Source)}}
    wanted: dict[str, set[int]] = {}
    for site in sites:
        if isinstance(site, Source) and places[site.file]:
            around = range(max(1, site.line - LINES_AROUND), site.line + LINES_AROUND + 1)
            wanted.setdefault(site.file, set()).update(around)
    found: dict[str, dict[int, str]] = {}
    left = MOST_SOURCE_LINES
    for file in sorted(wanted, key=lambda file: (len(wanted[file]), file)):
        lines = _lines(places[file]) if left > 0 else []
        kept = {
            number: lines[number - 1].rstrip()[:MOST_LINE] for number in sorted(wanted[file]) if number <= len(lines)
        }
        left -= len(kept)
        if kept:
            found[shortened(file)] = kept
    return found


def _place(file: str, folders: Sequence[str]) -> str:
    """Where the file is, or nothing. A trace may come from anybody: it is read only if it is a Python file, and what
    climbs out of a folder is not looked for in the others."""
    if not file.endswith(".py"):
        return ""
    tried = folders if not os.path.isabs(file) and ".." not in file.split("/") else folders[:1]
    return next((path for folder in tried if os.path.isfile(path := os.path.join(folder, file))), "")


def _lines(file: str) -> list[str]:
    try:
        with tokenize.open(file) as opened:
            return opened.read().splitlines()
    except (OSError, SyntaxError, UnicodeDecodeError):
        return []
