"""A step graph -> the same step with the *workspaces* of its ops: what a kernel takes and gives back before it returns.

A workspace is a storage of its own category, born after its op's results and freed before the next op begins.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace

from .step_graph import Span, StepGraph
from .storage import Category, Event, Storage


def with_workspaces(graph: StepGraph, bytes_by_op: Mapping[int, int], device: str) -> StepGraph:
    """`graph` with one workspace of so many bytes on `device` in each of these ops, by id."""
    storages, events, spans = list(graph.storages), list[Event](), list[Span]()
    for span in graph.spans:
        first = len(events)
        done = span.first_event
        for op in range(span.first_op, span.end_op):
            if bytes_by_op.get(op, 0):
                end = _end_of_births(graph.events, op, done, span.end_event)
                events += graph.events[done:end]
                done = end
                taken = Storage(len(storages), bytes_by_op[op], device, Category.WORKSPACE, born=op, died=op)
                storages.append(taken)
                events += (Event(op, taken.id, taken.bytes), Event(op, taken.id, -taken.bytes))
        events += graph.events[done : span.end_event]
        spans.append(replace(span, first_event=first, end_event=len(events)))
    return replace(graph, storages=tuple(storages), events=tuple(events), spans=tuple(spans))


def _end_of_births(events: tuple[Event, ...], op: int, first: int, end: int) -> int:
    """The place after the last birth of `op` between two places."""
    place = bisect_left(events, op, first, end, key=lambda event: event.op)
    births = range(place, bisect_left(events, op + 1, place, end, key=lambda event: event.op))
    return max((i + 1 for i in births if events[i].bytes > 0), default=place)
