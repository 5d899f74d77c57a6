"""A workspace is born after its op's results, and gone before the next op."""

from __future__ import annotations

from foretrace.costmodels import timeline
from foretrace.graph import Category, StepGraph
from foretrace.graph.laws import check
from foretrace.graph.workspaces import with_workspaces
from handmade import perceptron


def test_every_op_that_computes_may_have_one_and_the_graph_stays_legal() -> None:
    graph = perceptron()
    busy = [op for op in graph.ops if not op.is_view]
    found = with_workspaces(graph, {op.id: 100 + op.id for op in busy}, "cpu")
    check(found)
    taken = found.storages[len(graph.storages) :]
    assert [(s.bytes, s.born, s.died) for s in taken] == [(100 + op.id, op.id, op.id) for op in busy]
    assert {s.category for s in taken} == {Category.WORKSPACE}


def test_without_them_the_events_are_those_of_before() -> None:
    graph = perceptron()
    found = with_workspaces(graph, {3: 64, 5: 0}, "cpu")
    assert tuple(e for e in found.events if e.storage < len(graph.storages)) == graph.events
    assert len(found.storages) == len(graph.storages) + 1
    assert with_workspaces(graph, {}, "cpu") == graph


def test_the_results_of_the_op_are_live_beside_it() -> None:
    graph: StepGraph = perceptron()
    born = next(s for s in graph.storages if s.born is not None)
    assert born.born is not None
    found = with_workspaces(graph, {born.born: 10**9}, born.device)
    peak = timeline(found)
    assert born.id in {s.id for s in peak.peak_storages}
    assert peak.at_peak[Category.WORKSPACE] == 10**9
