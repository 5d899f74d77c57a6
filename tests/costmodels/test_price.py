"""Pricing a whole step: every op once, totals that add up, and what was assumed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from opbuilder import call, new

from foretrace.costmodels import Assumed, Kind, Priced, Work, override, price_op, price_ops, totals
from foretrace.costmodels.rules import BUILT_IN
from foretrace.costmodels.work import total
from foretrace.graph import Op, Phase, StepGraph
from handmade import perceptron


def small() -> StepGraph:
    return perceptron(layers=2, batch=4, width=8)


def with_ops(*ops: Op) -> StepGraph:
    return StepGraph(tuple(replace(op, id=i) for i, op in enumerate(ops)), (), (), ())


def test_every_op_is_priced_in_order():
    graph = small()
    assert tuple(p.op for p in price_ops(graph)) == graph.ops


def test_the_products_of_a_perceptron():
    found = totals(price_ops(small()))
    product = 2 * 4 * 8 * 8
    assert found.phase(Phase.FORWARD).tensor_flops == 2 * product
    # a gradient for each weight, and one for the second layer's input
    assert found.phase(Phase.BACKWARD).tensor_flops == 3 * product
    # lerp 3, addcmul 3, sqrt 1, addcdiv 3
    assert found.phase(Phase.OPTIMIZER) == Work(
        vector_flops=10 * 2 * 64, read_bytes=4 * 2 * 64 * (2 + 2 + 1 + 3), written_bytes=4 * 2 * 64 * 4
    )
    assert found.phase(Phase.ZERO_GRAD) == Work()


def test_phases_and_kinds_add_up():
    graph = small()
    priced = price_ops(graph)
    found = totals(priced)
    assert found.work == total(p.work for p in priced) == total(found.phases.values())
    assert sum(found.kinds.values()) == len(graph.ops)
    assert found.kinds[Kind.FREE] == sum(op.packet in ("aten.t", "aten.expand") for op in graph.ops)
    assert found.assumed == ()


def test_assumed_ops_are_counted_by_name_the_heaviest_first():
    light = call("lib.light.default", new(2), x=new(2))
    heavy = call("lib.heavy.default", new(100), x=new(100))
    found = totals(price_ops(with_ops(light, heavy, light)))
    assert found.assumed == (
        Assumed("lib.heavy.default", 1, 100, 800),
        Assumed("lib.light.default", 2, 4, 32),
    )
    assert found.kinds == {Kind.RULE: 0, Kind.FREE: 0, Kind.ASSUMED: 3}


def test_overrides_as_an_argument_may_look_at_the_module():
    op = call("aten.mm.default", new(2, 2), self=new(2, 2), mat2=new(2, 2))

    def only_here(op: Op) -> Work:
        return Work(vector_flops=1 if op.module == "here" else 2)

    graph = with_ops(replace(op, module="here"), replace(op, module="there"))
    assert [p.work.flops for p in price_ops(graph, {"aten.mm": only_here})] == [1, 2]
    assert [p.work.flops for p in price_ops(graph)] == [16, 16]


def test_ops_alike_are_priced_once_and_as_each_by_itself():
    graph = perceptron(layers=5)
    priced = price_ops(graph)
    assert priced == tuple(map(price_op, graph.ops))
    first: dict[int, Priced] = {}
    assert all(p.work is first.setdefault(kind, p).work for p, kind in zip(priced, graph.kinds, strict=True))
    assert len(first) < len(graph.ops)


def test_a_rule_from_elsewhere_that_was_registered_for_good_is_asked_every_time():
    op = call("mine.counted.default", new(2, 2), self=new(2, 2))
    asked = []

    def counting(op: Op) -> Work:
        asked.append(op.module)
        return Work(vector_flops=len(asked))

    BUILT_IN.rule("mine.counted")(counting)
    try:
        priced = price_ops(with_ops(replace(op, module="a"), replace(op, module="b")))
    finally:
        del BUILT_IN.answers["mine.counted"]
    assert (asked, [p.work.flops for p in priced]) == (["a", "b"], [1, 2])


def test_a_rule_that_fails_says_for_which_op():
    with pytest.raises(TypeError) as caught:
        price_ops(with_ops(call("aten.mm.default", new(2, 2))))
    assert any("op 0, aten.mm.default, by costmodels/matmul.py:" in note for note in caught.value.__notes__)


def test_a_rule_must_give_work():
    graph = with_ops(call("aten.mm.default", new(2, 2)))
    with override({"aten.mm": lambda op: 3}), pytest.raises(TypeError, match="gave 3, not Work"):  # type: ignore[dict-item]
        price_ops(graph)


def test_a_rule_for_dense_tensors_leaves_sparse_ones_to_the_assumption():
    pair = (new(2, 3, dtype="int64"), new(3))
    priced = price_op(call("aten.bmm.default", new(1, 4, 5), self=new(1, 4, 6), mat2=pair))
    assert priced.kind is Kind.ASSUMED
    assert priced.work.read_bytes == 4 * 24 + 8 * 6 + 4 * 3
