"""A recorded steady step -> the first step of the same run, as far as memory goes.

In the first step nothing is left over from the one before it, and there is no optimizer state until the optimizer
runs: it makes the state of all parameters, in their order, before it updates the first (of several optimizers, the one
that runs first makes all). What else a first step may do otherwise is not known from another one; a trace with
``warmup=0`` tells.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

from ..graph import Category, Event, Phase, Span, StepGraph

LEFT_OVER = frozenset((Category.GRADIENT, Category.SAVED, Category.TEMPORARY))
"""Categories of what a step frees on behalf of the one before it."""


def first_step(graph: StepGraph) -> StepGraph:
    """The step without what is left over from before, and with its optimizer state born in the optimizer.

    The graph itself where it is a first step already, or has no optimizer phase. Its ops stay as they are.
    """
    span = next((span for span in graph.spans if span.phase is Phase.OPTIMIZER), None)
    if graph.facts.warmup == 0 or span is None:
        return graph
    born = [s.id for s in graph.at_start if s.category is Category.OPTIMIZER_STATE and graph.on_device[s.id]]
    gone = {s.id for s in graph.at_start if s.category in LEFT_OVER and s.died is not None}
    changed = {id: replace(graph.storages[id], born=span.first_op) for id in born}
    # What is left over loses its bytes, which keeps the ids of all others.
    changed |= {id: replace(graph.storages[id], bytes=0) for id in gone}
    storages = tuple(changed.get(s.id, s) for s in graph.storages)
    births = [Event(span.first_op, id, graph.storages[id].bytes) for id in born]
    kept = [event.storage not in gone for event in graph.events]
    events = [event for event, stays in zip(graph.events, kept, strict=True) if stays]
    place_of = list(accumulate(kept, initial=0))
    place = place_of[span.first_event]
    events[place:place] = births

    def moved(index: int) -> int:
        return place_of[index] + (len(births) if index > span.first_event else 0)

    spans = tuple(_moved(s, moved(s.first_event), moved(s.end_event)) for s in graph.spans)
    facts = replace(graph.facts, warmup=0)
    return StepGraph(graph.ops, storages, tuple(events), spans, facts)


def _moved(span: Span, first_event: int, end_event: int) -> Span:
    return replace(span, first_event=first_event, end_event=end_event)
