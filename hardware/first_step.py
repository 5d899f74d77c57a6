"""A recorded steady step -> the first step of the same run, as far as memory goes.

In the first step nothing is left over from the one before it, and there is no optimizer state until the optimizer
runs: it makes the state of all parameters, in their order, before it updates the first (of several optimizers, the one
that runs first makes all). State that dies before the optimizer's first op, as a gradient that was kept, is left over,
too. What else a first step may do otherwise is not known from another one; a trace with ``warmup=0`` tells.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

from ..graph import Category, Event, Phase, Span, StepGraph, Storage

LEFT_OVER = frozenset((Category.GRADIENT, Category.SAVED, Category.TEMPORARY))
"""Categories of what a step frees on behalf of the one before it."""


def first_step(graph: StepGraph) -> StepGraph:
    """The step without what is left over from before, and with its optimizer state born in the optimizer.

    The graph itself where it is a first step already, or has no optimizer phase. Its ops stay as they are.
    """
    span = next((span for span in graph.spans if span.phase is Phase.OPTIMIZER), None)
    if graph.facts.warmup == 0 or span is None:
        return graph
    storages = list(graph.storages)
    births, gone = [], set()
    for s in graph.at_start:
        left_over = s.died is not None and (s.category in LEFT_OVER or s.died < span.first_op)
        is_state = s.category is Category.OPTIMIZER_STATE
        if is_state and graph.on_device[s.id] and not left_over:
            storages[s.id] = Storage(s.id, s.bytes, s.device, s.category, span.first_op, s.died, s.name)
            births.append(Event(span.first_op, s.id, s.bytes))
        elif left_over and (is_state or s.category in LEFT_OVER):
            # What is left over loses its bytes, which keeps the ids of all others.
            storages[s.id] = Storage(s.id, 0, s.device, s.category, s.born, s.died, s.name)
            gone.add(s.id)
    lost = [place for place, event in enumerate(graph.events) if event.storage in gone]
    events = [event for event in graph.events if event.storage not in gone]
    place = span.first_event - bisect_left(lost, span.first_event)
    events[place:place] = births

    def moved(index: int) -> int:
        return index - bisect_left(lost, index) + (len(births) if index > span.first_event else 0)

    spans = tuple(_moved(s, moved(s.first_event), moved(s.end_event)) for s in graph.spans)
    facts = replace(graph.facts, warmup=0)
    return StepGraph(graph.ops, tuple(storages), tuple(events), spans, facts)


def _moved(span: Span, first_event: int, end_event: int) -> Span:
    return replace(span, first_event=first_event, end_event=end_event)
