"""What a script asks of a graph: the ops and the storages that fit a description."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrace.graph import Category, ForetraceError, Phase, StepGraph
from handmade import perceptron

GRAPH = perceptron(layers=3)


def names(graph: StepGraph, *args: str, **how: object) -> list[str]:
    return [op.packet.removeprefix("aten.") for op in graph.select(*args, **how)]  # type: ignore[arg-type]


def test_ops_by_module_name_and_phase() -> None:
    assert names(GRAPH, "h.1") == ["t", "mm", "relu", "threshold_backward", "t", "mm", "mm"]
    assert names(GRAPH, "h.*", name="aten.mm", phase="forward") == ["mm"] * 3
    lists = ["_foreach_lerp_", "_foreach_addcmul_", "_foreach_sqrt", "_foreach_addcdiv_"]
    assert names(GRAPH, name="aten._foreach_*") == lists
    assert names(GRAPH, name="aten.mm.default") == names(GRAPH, name="aten.mm") == ["mm"] * 8
    assert GRAPH.select(phase=["optimizer", Phase.ZERO_GRAD]) == GRAPH.select(phase=Phase.OPTIMIZER)
    assert GRAPH.select() == GRAPH.ops
    assert GRAPH.select("h") == ()


def test_storages_by_category_name_and_who_allocated_them() -> None:
    weights = GRAPH.select_storages(category="parameter")
    assert [s.name for s in weights] == ["h.0.weight", "h.1.weight", "h.2.weight"]
    assert GRAPH.select_storages(name="h.*.weight/exp_avg*", category=Category.OPTIMIZER_STATE) == tuple(
        s for s in GRAPH.storages if s.category is Category.OPTIMIZER_STATE
    )
    assert {s.category for s in GRAPH.select_storages(phase="optimizer")} == {Category.TEMPORARY}
    inside = GRAPH.select_storages("h.1", phase=["forward", "backward"])
    assert inside and all(GRAPH.ops[s.born].module == "h.1" for s in inside if s.born is not None)
    assert GRAPH.select_storages("h.1", phase="zero_grad") == ()


@given(st.sampled_from(list(Phase)), st.sampled_from([None, "h.*", "h.0", "*"]))
def test_phases_part_a_selection(phase: Phase, module: str | None) -> None:
    chosen = GRAPH.select(module, phase=phase)
    others = GRAPH.select(module, phase=[one for one in Phase if one is not phase])
    assert sorted(op.id for op in (*chosen, *others)) == [op.id for op in GRAPH.select(module)]


def test_a_phase_and_a_category_that_there_are_not() -> None:
    with pytest.raises(ForetraceError) as error:
        GRAPH.select(phase="foreward")
    assert str(error.value) == "there is no phase 'foreward'. Give forward, backward, optimizer, zero_grad."
    with pytest.raises(ForetraceError, match="there is no category 'activation'"):
        GRAPH.select_storages(category="activation")
