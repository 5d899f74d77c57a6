"""A step whose every name tries to break out of the view that shows it."""

from __future__ import annotations

from dataclasses import replace

from foretrace.graph import Source, StepGraph
from handmade import perceptron

HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>\n<!--{data}--><!--\u2028"


def hostile(text: str = HOSTILE) -> StepGraph:
    graph = perceptron()
    source = Source(text, 3, text)
    ops = tuple(
        replace(op, name=f"my::{text}.default" if op.id == 1 else op.name, module=text, source=source)
        for op in graph.ops
    )
    storages = tuple(replace(s, name=text) if s.name else s for s in graph.storages)
    facts = replace(
        graph.facts,
        target=text,
        arguments={text: text},
        notes=(text,),
        assumptions=({"op": text, "assumed": text, "at": text},),
    )
    return replace(graph, ops=ops, storages=storages, facts=facts)
