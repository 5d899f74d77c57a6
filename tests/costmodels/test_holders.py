"""Who holds the peak: groups that roll up repeated modules and add up to it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from foretrace.costmodels import holders, roll, saved_by_module, saved_by_op, timeline
from foretrace.costmodels.holders import UNATTRIBUTED, Holder
from foretrace.graph import Category, Source, StepGraph
from handmade import perceptron

WEIGHT = 4 * 8 * 8


def small() -> StepGraph:
    return perceptron(layers=3, batch=4, width=8)


@pytest.mark.parametrize(
    ("path", "rolled"),
    [
        ("h.3.attn", "h.*.attn"),
        ("transformer.h.11.mlp.0", "transformer.h.*.mlp.*"),
        ("layer1.0.conv2", "layer1.*.conv2"),
        ("0", "*"),
        ("", ""),
    ],
)
def test_roll(path: str, rolled: str):
    assert roll(path) == rolled
    assert roll(rolled) == rolled


def test_rows_of_a_perceptron():
    graph = small()
    rows = holders(graph, timeline(graph))
    gradients = Holder("h.*", Category.GRADIENT, WEIGHT, "aten.mm", Source("model.py", 11, "forward"), 3)
    roots = Holder("", Category.TEMPORARY, WEIGHT, "aten._foreach_sqrt", Source("train.py", 22, "step"), 3)
    assert rows[0] == Holder("h.*", Category.OPTIMIZER_STATE, WEIGHT, "", None, 6)
    assert {gradients, roots, Holder("h.*", Category.PARAMETER, WEIGHT, "", None, 3)} < set(rows)
    assert gradients.bytes == 3 * WEIGHT
    assert [row.bytes for row in rows] == sorted((row.bytes for row in rows), reverse=True)


def test_rows_add_up_to_the_peak_by_category():
    graph = small()
    found = timeline(graph)
    rows = holders(graph, found)
    for category, share in found.at_peak.items():
        assert sum(row.bytes for row in rows if row.category is category) == share
    assert sum(row.bytes for row in rows) == found.peak_bytes


def test_what_has_neither_name_nor_op_is_the_last_row():
    graph = small()
    nameless = replace(graph.storages[0], name="")
    found = replace(graph, storages=(nameless, *graph.storages[1:]))
    rows = holders(found, timeline(found))
    assert rows[-1] == Holder(UNATTRIBUTED, None, WEIGHT, "", None, 1)
    assert sum(row.bytes for row in rows) == timeline(found).peak_bytes


def test_different_sizes_and_lines_are_different_rows():
    graph = small()
    larger = replace(graph.storages[1], bytes=2 * WEIGHT)
    found = replace(graph, storages=(graph.storages[0], larger, *graph.storages[2:]))
    parameters = [row for row in holders(found, timeline(found)) if row.category is Category.PARAMETER]
    assert {(row.bytes_each, row.count) for row in parameters} == {(WEIGHT, 2), (2 * WEIGHT, 1)}


def test_saved_bytes_by_op_and_by_module():
    graph = small()
    by_op = saved_by_op(graph)
    activation = 4 * 4 * 8
    assert [graph.ops[born].name for born in by_op] == ["aten.relu.default"] * 3
    assert set(by_op.values()) == {activation}
    assert saved_by_module(graph) == {"h.0": activation, "h.1": activation, "h.2": activation}
    assert saved_by_module(graph, rolled=True) == {"h.*": 3 * activation}
    assert sum(by_op.values()) == timeline(graph).saved_for_backward_bytes
