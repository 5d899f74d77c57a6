"""A rewritten graph is a legal one, and its bytes, work and time follow from it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import foretrace
from foretrace.costmodels import Work, fuse_attention, fuse_ops, price_op, retype_storages, timeline, without_ops
from foretrace.graph import Category, ForetraceError, Phase, StepGraph, laws
from foretrace.hardware import load
from handmade import perceptron

GRAPH = perceptron(layers=3, batch=4, width=1024)
ACTIVATION = 4 * 1024 * 4
TEXTBOOK = f"{Path(__file__).parents[2] / 'examples' / 'closed_forms.py'}:textbook"
SIZES = {"batch": 4, "seq": 128, "layers": 2, "width": 64, "heads": 4, "vocab": 100}


def work(graph: StepGraph) -> list[Work]:
    return [price_op(op).work for op in graph.ops]


# --- leaving out ---


def test_without_the_optimizer() -> None:
    rest = without_ops(GRAPH, GRAPH.select(phase="optimizer"))
    laws.check(rest)
    assert [op.name for op in rest.ops] == [op.name for op in GRAPH.ops if op.phase is not Phase.OPTIMIZER]
    assert work(rest) == work(GRAPH)[: len(rest.ops)]
    gone = sum(s.bytes for s in GRAPH.select_storages(phase="optimizer"))
    assert gone == 3 * 1024 * 1024 * 4
    before, after = timeline(GRAPH), timeline(rest)
    assert (after.start_bytes, after.end_bytes) == (before.start_bytes, before.end_bytes)
    assert after.peak_bytes == max(m.peak_bytes for p, m in before.phases.items() if p is not Phase.OPTIMIZER)


def test_what_a_later_op_reads_stays() -> None:
    """Without its ReLU a layer's output is still allocated: the next layer reads it."""
    rest = without_ops(GRAPH, GRAPH.select("h.0", name="aten.relu"))
    laws.check(rest)
    assert len(rest.ops) == len(GRAPH.ops) - 1
    assert sum(s.bytes for s in rest.storages) == sum(s.bytes for s in GRAPH.storages)


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, len(GRAPH.ops) - 1), min_size=1))
def test_whatever_is_left_out_the_rest_is_legal(gone: set[int]) -> None:
    rest = without_ops(GRAPH, [GRAPH.ops[i] for i in gone])
    assert len(rest.ops) == len(GRAPH.ops) - len(gone)
    for law in (laws.storages_are_born_once, laws.storages_die_at_most_once, laws.events_match_storages):
        assert law(rest) == []
    for law in (laws.death_follows_birth, laws.events_conserve, laws.storages_outlive_their_use):
        assert law(rest) == []
    assert timeline(rest).peak_bytes <= timeline(GRAPH).peak_bytes


# --- several as one ---


def test_a_product_and_its_relu_as_one() -> None:
    """What passes between them is written and read no more; what backward needs still is."""
    parts = GRAPH.select("h.1", phase="forward")
    fused = fuse_ops(GRAPH, parts)
    laws.check(fused)
    (one,) = fused.select(name="foretrace.fused")
    assert (one.module, one.phase, len(fused.ops)) == ("h.1", Phase.FORWARD, len(GRAPH.ops) - len(parts) + 1)
    weight, product = 1024 * 1024 * 4, 2 * 4 * 1024 * 1024
    expected = Work(
        tensor_flops=product, vector_flops=4 * 1024, read_bytes=ACTIVATION + weight, written_bytes=ACTIVATION
    )
    assert price_op(one).work == expected
    apart = [price_op(op).work for op in parts]
    assert sum(w.flops for w in apart) == expected.flops
    assert sum(w.bytes for w in apart) == expected.bytes + 2 * ACTIVATION
    gone = {s.id for s in fused.storages if not s.bytes}
    assert sum(GRAPH.storages[i].bytes for i in gone) == ACTIVATION


def test_an_op_between_that_needs_what_they_make() -> None:
    first, *_, last = GRAPH.select("h.1", phase="forward", name="aten.[mr]*")
    middle = fuse_ops(GRAPH, [first, last])
    laws.check(middle)
    with pytest.raises(ForetraceError, match=r"op \d+ aten.relu.default between them needs what they make"):
        fuse_ops(GRAPH, [first, GRAPH.select("h.2", phase="forward", name="aten.mm")[0]])


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ((), "there are no ops to change"),
        ((GRAPH.ops[0], GRAPH.ops[-1]), "ops of several phases cannot be one"),
        ((perceptron(layers=9).ops[-1],), "these ops are not of this graph"),
    ],
)
def test_ops_that_cannot_be_one(ops: tuple[foretrace.graph.Op, ...], message: str) -> None:
    with pytest.raises(ForetraceError, match=message):
        fuse_ops(GRAPH, ops)


def test_attention_as_one_is_what_a_trace_of_fused_attention_says() -> None:
    """The estimate writes the causal mask down, which PyTorch's kernel does not; nothing else differs in memory."""
    apart, together = (foretrace.trace_target(TEXTBOOK, {**SIZES, "fused": fused}) for fused in (False, True))
    estimate = fuse_attention(apart)
    laws.check(estimate)
    assert len(estimate.select(name="foretrace.fused")) == 2 * SIZES["layers"]
    saved, exact = timeline(estimate).saved_for_backward_bytes, timeline(together).saved_for_backward_bytes
    masks = SIZES["layers"] * SIZES["seq"] ** 2
    row_statistics = SIZES["layers"] * SIZES["batch"] * SIZES["heads"] * SIZES["seq"] * 4
    generator = exact - saved + masks - row_statistics
    assert 0 <= generator <= SIZES["layers"] * 16
    scores = SIZES["batch"] * SIZES["heads"] * SIZES["seq"] ** 2 * 4
    assert timeline(apart).saved_for_backward_bytes - saved >= SIZES["layers"] * scores
    flops = [sum(w.tensor_flops for w in work(graph)) for graph in (apart, estimate, together)]
    product = SIZES["layers"] * 2 * SIZES["batch"] * SIZES["seq"] ** 2 * SIZES["width"]
    assert flops[0] + product == flops[1] == flops[2]
    assert fuse_attention(together) is together


# --- another dtype ---


def test_saved_tensors_in_eight_bits() -> None:
    saved = GRAPH.select_storages(category="saved_for_backward")
    small = retype_storages(GRAPH, saved, "float8_e4m3fn")
    laws.check(small)
    assert timeline(small).saved_for_backward_bytes * 4 == timeline(GRAPH).saved_for_backward_bytes > 0
    relu = GRAPH.select("h.0", name="aten.relu")[0]
    assert price_op(relu).work.written_bytes == ACTIVATION
    assert price_op(small.ops[relu.id]).work.written_bytes == ACTIVATION // 4


def test_parameters_in_half_are_named_so() -> None:
    half = retype_storages(GRAPH, GRAPH.select_storages(category=Category.PARAMETER), "bfloat16")
    laws.check(half)
    assert {named.dtype for named in half.facts.parameters} == {"bfloat16"}
    assert {named.dtype for named in half.facts.state} == {"float32"}
    assert foretrace.price(half, on="a100-sxm4-80gb").parameters.bytes == 3 * 1024 * 1024 * 2


@pytest.mark.parametrize("dtype", ["int8", "float7", "fp8"])
def test_no_such_dtype(dtype: str) -> None:
    with pytest.raises(ForetraceError, match=f"{dtype!r} is no floating-point dtype"):
        retype_storages(GRAPH, [], dtype)


# --- what ops cost, the longest chain, a device of one's own ---


def test_the_cost_of_ops_adds_up() -> None:
    report = foretrace.price(GRAPH, on="a100-sxm4-80gb")
    by_phase = [report.cost(GRAPH.select(phase=phase)) for phase in Phase]
    assert sum(cost.ops for cost in by_phase) == len(GRAPH.ops)
    assert sum(cost.work.flops for cost in by_phase) == report.flops.total
    assert sum(cost.seconds for cost in by_phase) == pytest.approx(report.time.kernel_seconds)
    assert sum(cost.saved_bytes for cost in by_phase) == report.memory.saved_for_backward_bytes
    with pytest.raises(ForetraceError, match="is not of this report's trace"):
        report.cost(perceptron(layers=9).ops)


def test_the_critical_path_is_a_chain_and_no_chain_is_longer() -> None:
    import networkx as nx

    report = foretrace.price(GRAPH, on="a100-sxm4-80gb")
    path = report.critical_path()
    seconds = [time.seconds for time in report.time.ops]
    assert all(GRAPH.graph.has_edge(one.id, other.id) for one, other in pairwise(path))
    weighted = nx.DiGraph((u, v, {"weight": seconds[v]}) for u, v in GRAPH.graph.edges())
    weighted.add_edges_from(("start", op.id, {"weight": seconds[op.id]}) for op in GRAPH.ops)
    assert sum(seconds[op.id] for op in path) == pytest.approx(nx.dag_longest_path_length(weighted))


def test_a_changed_profile() -> None:
    base = load("a100-sxm4-80gb")
    mine = base.changed(
        "mine",
        "a guess",
        sm_count=54,
        tensor_flops_per_second={"bfloat16": 1e14},
        vector_efficiency=(0.1, 0.2, 0.3),
    )
    assert (mine.name, mine.sm_count, mine.sources["sm_count"]) == ("mine", 54, "a guess")
    assert mine.tensor_flops_per_second == {**base.tensor_flops_per_second, "bfloat16": 1e14}
    assert mine.vector_efficiency.typical == 0.2
    assert mine.sources["tensor_flops_per_second.float16"] == base.sources["tensor_flops_per_second.float16"]
    assert foretrace.price(GRAPH, on=mine).profile is mine


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sm_cout": 3}, "mine: unknown key sm_cout"),
        ({"sm_count": 3.5}, "mine: sm_count.value is 3.5, not a whole number"),
        ({"memory_bandwidth_bytes_per_second": 2.0}, "mine: memory_bandwidth_bytes_per_second.value is 2, outside"),
        ({"tensor_flops_per_second": {"bf16": 1e14}}, "mine: unknown key tensor_flops_per_second.bf16"),
        ({"tensor_flops_per_second": 1e14}, "mine: tensor_flops_per_second is not a table"),
        ({"vector_efficiency": (0.3, 0.2, 0.1)}, "mine: vector_efficiency is"),
        ({"memory_total_bytes": 10**12}, "mine: memory_total_bytes is more than memory_nominal_bytes"),
    ],
)
def test_a_profile_that_cannot_be(values: dict[str, object], message: str) -> None:
    with pytest.raises(ForetraceError) as error:
        load("a100-sxm4-80gb").changed("mine", "a guess", **values)
    assert error.value.message.startswith(message)
