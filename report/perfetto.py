"""`Report` -> a trace for Perfetto and ``chrome://tracing``: kernels, the modules around them, and the memory.

The kernels of a step stand one after the other, with the time that each is predicted to take; where the device waits
for the host is not shown. A module's span lasts from its first kernel to its last, and the spans nest. The counter
``memory`` has a series for each category; at a kernel's start it shows the most that is alive during it, at its end
what it leaves. An arrow leads from the kernel that made a tensor saved for backward to the first one of backward that
reads it.

The format is that of the Trace Event Format document of Chromium
(https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU): times are in microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from ..costmodels.areas import Areas, areas
from ..graph import Category, Op, Phase
from .json import portable
from .words import phase_text, short

if TYPE_CHECKING:
    from .result import Report

PROCESS = 1
KERNELS = 1
MODULES = 2
Event = dict[str, object]


def to_perfetto(report: Report) -> str:
    """The trace as JSON text."""
    clock = _Clock(report)
    events = [*_names(report), *_kernels(report, clock), *_modules(report, clock)]
    events += [*_memory(report, clock), *_arrows(report, clock)]
    return json.dumps({"displayTimeUnit": "ms", "traceEvents": events}, separators=(",", ":"), allow_nan=False) + "\n"


class _Clock:
    """When each op begins and ends, in whole nanoseconds: so spans that touch do so exactly."""

    def __init__(self, report: Report) -> None:
        ends = accumulate((time.seconds for time in report.time.ops), initial=0.0)
        self._ticks = [round(seconds * 1e9) for seconds in ends]

    def start(self, op: int) -> int:
        return self._ticks[max(op, 0)]

    def end(self, op: int) -> int:
        return self._ticks[op + 1]

    def runs(self, op: int) -> bool:
        return self.end(op) > self.start(op)


def _at(nanoseconds: int) -> float:
    return nanoseconds / 1000


def _span(thread: int, name: str, start: int, end: int, about: Event) -> Event:
    times = {"ts": _at(start), "dur": _at(end - start)}
    return {"ph": "X", "pid": PROCESS, "tid": thread, "name": name, **times, "args": about}


def _names(report: Report) -> Iterator[Event]:
    title = f"predicted: {report.profile.name}, {portable(report.trace.facts.target) or 'a training step'}"
    for kind, thread, name in (
        ("process_name", 0, title),
        ("thread_name", KERNELS, "kernels"),
        ("thread_name", MODULES, "modules"),
    ):
        yield {"ph": "M", "pid": PROCESS, "tid": thread, "name": kind, "args": {"name": name}}


def _kernels(report: Report, clock: _Clock) -> Iterator[Event]:
    for op, priced, time in zip(report.trace.ops, report.priced, report.time.ops, strict=True):
        if clock.runs(op.id):
            about: Event = {
                "id": op.id,
                "op": op.name,
                "phase": phase_text(op.phase),
                "module": op.module,
                "line": str(op.source or ""),
                "flops": priced.work.flops,
                "bytes": priced.work.bytes,
                "bound": time.bound,
                "priced": str(priced.kind),
            }
            yield _span(KERNELS, short(op.packet), clock.start(op.id), clock.end(op.id), about)


def _path(op: Op) -> list[str]:
    """The phase and the modules around an op, from the outermost, each by its own name."""
    return [phase_text(op.phase), *(op.module.split(".") if op.module else ())]


def _modules(report: Report, clock: _Clock) -> Iterator[Event]:
    open_spans: list[tuple[str, int]] = []
    until = 0

    def close(depth: int) -> Iterator[Event]:
        while len(open_spans) > depth:
            path = [name for name, _ in open_spans]
            name, start = open_spans.pop()
            about: Event = {"module": ".".join(path[1:])}
            yield _span(MODULES, name, start, until, about)

    for op in report.trace.ops:
        if not clock.runs(op.id):
            continue
        path = _path(op)
        yield from close(_shared([name for name, _ in open_spans], path))
        open_spans += [(name, clock.start(op.id)) for name in path[len(open_spans) :]]
        until = clock.end(op.id)
    yield from close(0)


def _shared(one: list[str], other: list[str]) -> int:
    """How many names both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _memory(report: Report, clock: _Clock) -> Iterator[Event]:
    """The start; then for each op with events the highest place among them, and the last one."""
    held, live = areas(report.trace), report.memory.live_bytes
    yield _counter(held, 0, 0)
    for op, places in _by_op(report):
        highest = max(places, key=live.__getitem__)
        yield _counter(held, highest + 1, clock.start(op))
        yield _counter(held, places[-1] + 1, clock.end(op) if op >= 0 else 0)


def _by_op(report: Report) -> Iterator[tuple[int, range]]:
    """Each op with the places of its events, which follow one another."""
    events = report.trace.events
    first = 0
    for place in range(1, len(events) + 1):
        if place == len(events) or events[place].op != events[first].op:
            yield events[first].op, range(first, place)
            first = place


def _counter(held: Areas, place: int, nanoseconds: int) -> Event:
    series = {phase_text(category): int(held[category][place]) for category in Category}
    return {"ph": "C", "pid": PROCESS, "name": "memory", "ts": _at(nanoseconds), "args": series}


def _arrows(report: Report, clock: _Clock) -> Iterator[Event]:
    readers = _first_readers(report.trace.ops)
    for storage in report.trace.storages:
        maker, reader = storage.born, readers.get(storage.id)
        if storage.category is not Category.SAVED or maker is None or maker < 0 or reader is None:
            continue
        if clock.runs(maker) and clock.runs(reader):
            link: Event = {"pid": PROCESS, "tid": KERNELS, "cat": "saved", "name": "saved for backward"}
            yield {**link, "ph": "s", "id": storage.id, "ts": _at(clock.start(maker))}
            yield {**link, "ph": "f", "bp": "e", "id": storage.id, "ts": _at(clock.start(reader))}


def _first_readers(ops: Iterable[Op]) -> dict[int, int]:
    found: dict[int, int] = {}
    for op in ops:
        if op.phase is Phase.BACKWARD and not op.is_view:
            for tensor in op.inputs:
                found.setdefault(tensor.storage, op.id)
    return found
