"""Priced ops become the time of a step: sums, phases, shares and MFU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from foretrace.costmodels.price import Priced, price_ops
from foretrace.costmodels.work import Work
from foretrace.graph.op import Op, Tensor
from foretrace.graph.phase import Phase
from foretrace.graph.step_graph import Facts, StepGraph
from foretrace.graph.storage import Category, Storage
from foretrace.hardware import estimate, host_storages, kernel_time, load
from foretrace.hardware.constants import constants
from foretrace.hardware.kernel_time import Unit
from handmade import perceptron

A100 = load("a100-sxm4-80gb")


def priced(phase: Phase, work: Work, dtype: str = "bfloat16", kind: str = "rule", storage: int = 0) -> Priced:
    one = Tensor(storage, dtype, (4096, 4096), (4096, 1))
    op = Op(id=0, name="aten.mm.default", phase=phase, args={"self": one, "mat2": one}, result=one)
    return Priced(op=op, work=work, kind=kind, by="here")  # type: ignore[arg-type]


MATMUL = Work(tensor_flops=2 * 4096**3, read_bytes=4 * 4096**2, written_bytes=2 * 4096**2)
COPY = Work(read_bytes=10**9, written_bytes=10**9)
ADD = Work(vector_flops=1, read_bytes=8, written_bytes=4)

STEP = [
    priced(Phase.FORWARD, MATMUL),
    priced(Phase.FORWARD, COPY, "float32"),
    priced(Phase.FORWARD, COPY, "float32", kind="free"),
    priced(Phase.BACKWARD, MATMUL),
    priced(Phase.BACKWARD, MATMUL),
    priced(Phase.OPTIMIZER, ADD, "float32", kind="assumed"),
]


def test_a_step_is_the_sum_of_its_ops() -> None:
    step = estimate(STEP, A100)
    alone = [kernel_time(p.work, p.op, A100) for p in STEP]
    matmul, copy, add = alone[0].seconds, alone[1].seconds, alone[5].seconds
    assert step.forward_seconds == pytest.approx(step.waiting_seconds + matmul + copy)
    assert step.backward_seconds == pytest.approx(2 * matmul)
    assert step.optimizer_seconds == pytest.approx(add)
    assert step.zero_grad_seconds == 0
    assert step.kernel_seconds == pytest.approx(3 * matmul + copy + add)
    assert step.step_seconds == pytest.approx(step.kernel_seconds + step.waiting_seconds)
    assert step.low_seconds < step.step_seconds < step.high_seconds
    assert [t.bound for t in step.ops] == ["tensor", "memory", "free", "tensor", "tensor", "floor"]
    assert step.ops[0] == alone[0]
    assert step.profile == "a100-sxm4-80gb"


def test_a_step_may_be_a_share_of_the_way_to_all_its_kernels_being_slow() -> None:
    step = estimate(STEP, replace(A100, host_speed=1e9))
    usual, slow = (sum(getattr(t, name) for t in step.ops) for name in ("seconds", "high_seconds"))
    share = constants()["step_interval.high"]
    assert 0 < share <= 1
    assert step.high_seconds == pytest.approx(usual + share * (slow - usual))
    assert step.low_seconds == pytest.approx(sum(t.low_seconds for t in step.ops))


def test_a_slower_host_makes_a_step_that_waits_longer_and_leaves_its_kernels() -> None:
    quick, slow = (estimate(STEP, replace(A100, host_speed=speed)) for speed in (2.0, 0.5))
    assert slow.host_seconds == pytest.approx(4 * quick.host_seconds)
    assert slow.kernel_seconds == pytest.approx(quick.kernel_seconds)
    assert slow.waiting_seconds > quick.waiting_seconds


def test_shares_sum_to_one() -> None:
    step = estimate(STEP, A100)
    assert sum(step.bound_shares.values()) == pytest.approx(1)
    assert sum(step.bound_seconds.values()) == pytest.approx(step.step_seconds)
    assert set(step.bound_shares) == {"tensor", "vector", "memory", "floor", "host"}
    assert sum(step.tier_seconds.values()) == pytest.approx(step.kernel_seconds)
    assert sum(step.tier_shares.values()) == pytest.approx(1)
    assert step.bound_shares["memory"] == pytest.approx(step.ops[1].seconds / step.step_seconds)


def test_mfu_is_matrix_flops_over_what_the_peak_could_have_done() -> None:
    step = estimate(STEP, A100)
    assert step.tensor_flops == 3 * 2 * 4096**3
    assert step.peak_unit == Unit("tensor", "bfloat16")
    assert step.mfu == pytest.approx(3 * 2 * 4096**3 / (step.step_seconds * 312e12))
    assert 0 < step.mfu < 1


def test_float32_is_measured_against_the_cores_that_run_it() -> None:
    step = [priced(Phase.FORWARD, MATMUL, "float32")]
    assert estimate(step, A100).peak_flops_per_second == 19.5e12
    assert estimate(step, A100, tf32=True).peak_flops_per_second == 156e12
    assert estimate(step, A100, tf32=True).step_seconds < estimate(step, A100).step_seconds


def test_an_empty_step_takes_no_time() -> None:
    step = estimate([], A100)
    assert (step.step_seconds, step.mfu, step.peak_unit, step.ops) == (0, 0, None, ())
    assert sum(step.bound_shares.values()) == 0


def test_an_op_on_the_host_costs_the_device_nothing() -> None:
    step = [priced(Phase.OPTIMIZER, ADD, storage=7), priced(Phase.OPTIMIZER, ADD, storage=8)]
    assert [t.bound for t in estimate(step, A100, host_storages={7}).ops] == ["free", "floor"]


def test_what_checkpointing_runs_again_counts_for_the_hardware_only() -> None:
    first = priced(Phase.FORWARD, MATMUL)
    again = replace(first, op=replace(first.op, phase=Phase.BACKWARD, sequence=3))
    gradient = replace(first, op=replace(first.op, phase=Phase.BACKWARD, forward=0, sequence=3))
    step = estimate([first, again, gradient], A100)
    assert (step.tensor_flops, step.recomputed_flops) == (3 * 2 * 4096**3, 2 * 4096**3)
    assert step.mfu == pytest.approx(step.hfu * 2 / 3)


def test_a_type_that_the_device_has_no_unit_for_is_named() -> None:
    step = [priced(Phase.FORWARD, MATMUL, "bfloat16"), priced(Phase.FORWARD, MATMUL, "float16")]
    assert estimate(step, load("v100-sxm2-16gb")).substitutes == {"bfloat16": Unit("vector", "float32")}
    assert estimate(step, A100).substitutes == {}


def test_what_is_on_the_host_follows_from_the_device_of_the_trace() -> None:
    storages = (
        Storage(0, 4, "cuda:0", Category.PARAMETER),
        Storage(1, 4, "cpu", Category.OPTIMIZER_STATE),
    )
    assert host_storages(StepGraph((), storages, (), (), Facts(device="cuda"))) == {1}
    assert host_storages(StepGraph((), storages, (), (), Facts(device="cpu"))) == set()


def test_kinds_change_nothing() -> None:
    graph = perceptron(layers=6)
    ops = price_ops(graph)
    assert estimate(ops, A100, kinds=graph.kinds) == estimate(ops, A100)
    # the same op twice, but with other work, as a rule of a user's may give
    pair = [STEP[0], replace(STEP[0], work=COPY)]
    assert estimate(pair, A100, kinds=(0, 0)) == estimate(pair, A100)
