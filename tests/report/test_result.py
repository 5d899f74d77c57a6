"""Whole reports, with the arithmetic written out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import foretrace
from foretrace.costmodels import Holder, Kind, PhaseMemory
from foretrace.graph import Category, Phase, Source
from foretrace.hardware import load
from foretrace.report import Coverage, Flops, Parameters, Report, Taker, price
from foretrace.report.result import NOT_MODELLED, not_modelled
from handmade import perceptron

TOY = Path(__file__).parents[1] / "support" / "toy.toml"
WEIGHT = 8 * 8 * 4
ACTIVE = 4 * 8 * 4
LOSS = 4


@pytest.fixture(scope="module")
def report() -> Report:
    """One linear layer of 8 x 8 and a ReLU on 4 rows."""
    return price(perceptron(layers=1, batch=4, width=8), on=TOY)


def test_flops(report: Report) -> None:
    product, relu, total, mask = 2 * 4 * 8 * 8, 4 * 8, 4 * 8, 4 * 8
    lerp, addcmul, sqrt, addcdiv = 3 * 64, 3 * 64, 64, 3 * 64
    forward = product + relu + total
    assert report.flops == Flops(
        forward=forward,
        backward=mask + product,
        optimizer=lerp + addcmul + sqrt + addcdiv,
        zero_grad=0,
        causal_forward=forward,
        causal_backward=mask + product,
    )
    assert report.flops.total == report.flops.causal_total == report.work.work.flops


def test_memory(report: Report) -> None:
    held = 3 * WEIGHT + ACTIVE
    memory = report.memory
    assert (memory.start_bytes, memory.end_bytes, memory.saved_for_backward_bytes) == (held, held, ACTIVE)
    assert memory.phases == {
        Phase.FORWARD: PhaseMemory(held + 2 * ACTIVE, held + ACTIVE + LOSS),
        Phase.BACKWARD: PhaseMemory(held + LOSS + ACTIVE + WEIGHT, held + LOSS + WEIGHT),
        Phase.OPTIMIZER: PhaseMemory(held + LOSS + 2 * WEIGHT, held + LOSS + WEIGHT),
        Phase.ZERO_GRAD: PhaseMemory(held + LOSS + WEIGHT, held),
    }
    assert memory.peak_bytes == held + LOSS + 2 * WEIGHT == sum(memory.at_peak.values())
    assert report.peak_op is not None and report.peak_op.name == "aten._foreach_sqrt.default"


def test_holders(report: Report) -> None:
    first, last = Source("model.py", 11, "forward"), Source("train.py", 22, "step")
    assert report.holders == (
        Holder("h.*", Category.OPTIMIZER_STATE, WEIGHT, "", None, 2),
        Holder("", Category.TEMPORARY, WEIGHT, "aten._foreach_sqrt", last, 1),
        Holder("h.*", Category.GRADIENT, WEIGHT, "aten.mm", first, 1),
        Holder("h.*", Category.PARAMETER, WEIGHT, "", None, 1),
        Holder("", Category.INPUT, ACTIVE, "", None, 1),
        Holder("", Category.TEMPORARY, LOSS, "aten.sum", Source("train.py", 20, "step"), 1),
    )
    assert sum(holder.bytes for holder in report.holders) == report.memory.peak_bytes


def test_takers(report: Report) -> None:
    # The floor of a launch is 2 us. Beside it one tile of 32 x 32 occupies a wave of 10 multiprocessors, with 8 terms
    # forward and 4 backward and a start of 128, at half of 10 TFLOP/s.
    seconds = 2 * 2e-6 + 10 * 2 * 32 * 32 * (8 + 128 + 4 + 128) / (0.5 * 10e12)
    mm = Taker(
        module="h.*",
        packet="aten.mm",
        count=2,
        seconds=pytest.approx(seconds),
        flops=2 * 512,
        source=Source("model.py", 11, "forward"),
    )
    assert report.takers[0] == mm
    assert sum(taker.seconds for taker in report.takers) == pytest.approx(report.time.kernel_seconds)


def test_parameters_and_coverage(report: Report) -> None:
    assert report.parameters == Parameters(total=64, trainable=64, bytes=WEIGHT)
    assert report.coverage == Coverage(
        ops=13,
        kinds={Kind.RULE: 10, Kind.FREE: 3, Kind.ASSUMED: 0},
        assumed=(),
        assumed_seconds=0.0,
        assumptions=(),
        notes=(),
        not_modelled=NOT_MODELLED,
    )


def test_parameters_that_share_a_storage_count_their_bytes_once() -> None:
    graph = perceptron(layers=1, batch=4, width=8)
    (weight,) = graph.facts.parameters
    frozen = replace(weight, name="part", shape=(8,), trainable=False)
    graph = replace(graph, facts=replace(graph.facts, parameters=(weight, frozen)))
    assert price(graph, on=TOY).parameters == Parameters(total=72, trainable=64, bytes=WEIGHT)


def test_a_row_for_each_op(report: Report) -> None:
    rows = report.rows()
    assert [row["id"] for row in rows] == list(range(13))
    assert rows[1] == {
        "id": 1,
        "name": "aten.mm.default",
        "phase": "forward",
        "module": "h.0",
        "file": "model.py",
        "line": 11,
        "forward": None,
        "inputs": "float32[4, 8] float32[8, 8]",
        "outputs": "float32[4, 8]",
        "tensor_flops": 512,
        "vector_flops": 0,
        "skippable_flops": 0,
        "read_bytes": 128 + 256,
        "written_bytes": 128,
        "allocated_bytes": 128,
        "seconds": report.time.ops[1].seconds,
        "low_seconds": report.time.ops[1].low_seconds,
        "high_seconds": report.time.ops[1].high_seconds,
        "bound": report.time.ops[1].bound,
        "tier": report.time.ops[1].tier,
        "priced": "rule",
        "by": report.priced[1].by,
    }
    assert all(type(value) in (int, float, str, type(None)) for row in rows for value in row.values())


def test_rows_add_up(report: Report) -> None:
    rows = report.rows()
    flops = sum(int(str(row["tensor_flops"])) + int(str(row["vector_flops"])) for row in rows)
    assert flops == report.flops.total
    born = sum(storage.bytes for storage in report.trace.storages if storage.born is not None)
    assert sum(int(str(row["allocated_bytes"])) for row in rows) == born


def test_what_fits_is_what_the_device_has_beside_the_context() -> None:
    report = price(perceptron(), on=TOY)
    assert report.device_memory is not None
    reserved = report.device_memory.reserved_peak_bytes
    assert report.needed_bytes == report.reserved_peak_bytes == reserved
    assert reserved % 2**21 == 0 and reserved >= report.device_memory.allocated_peak_bytes
    assert report.device_memory.allocated_peak_bytes >= report.memory.peak_bytes + 8_519_680
    context = report.profile.cuda_context_bytes
    assert price(perceptron(), on=TOY, memory_bytes=reserved + context).fits is True
    short = price(perceptron(), on=TOY, memory_bytes=reserved + context - 1)
    assert short.fits is False
    assert "CUDA out of memory. Tried to allocate" in " ".join(str(short).split())


def test_a_device_smaller_than_the_context_is_no_device() -> None:
    with pytest.raises(foretrace.ForetraceError, match="no room beside the CUDA context"):
        price(perceptron(), on=TOY, memory_bytes=1_000)


def test_a_step_on_the_cpu_has_no_allocator_of_cudas() -> None:
    graph = perceptron()
    on_cpu = tuple(replace(storage, device="cpu") for storage in graph.storages)
    graph = replace(graph, storages=on_cpu, facts=replace(graph.facts, device="cpu"))
    with pytest.raises(foretrace.ForetraceError, match="traced for the cpu"):
        price(graph, on=TOY, conf="expandable_segments:True")


def test_the_allocators_settings_change_what_is_reserved() -> None:
    plain = price(perceptron(), on=TOY)
    expandable = price(perceptron(), on=TOY, conf="expandable_segments:True")
    assert (plain.reserved_peak_bytes, expandable.reserved_peak_bytes) != (None, plain.reserved_peak_bytes)
    with pytest.raises(foretrace.ForetraceError, match="Did you mean"):
        price(perceptron(), on=TOY, conf="expandable_segment:True")


def test_a_step_for_the_cpu_is_not_asked_whether_it_fits() -> None:
    graph = perceptron()
    graph = replace(graph, facts=replace(graph.facts, device="cpu"))
    assert price(graph, on=TOY).fits is None


def test_a_step_without_ops_costs_nothing() -> None:
    graph = perceptron()
    empty = replace(graph, ops=(), events=(), spans=(), storages=graph.at_start, facts=replace(graph.facts))
    report = price(empty, on=TOY)
    assert (report.flops.total, report.time.step_seconds, report.takers, report.rows()) == (0, 0.0, (), [])
    assert report.memory.peak_bytes == report.memory.start_bytes > 0
    assert "at the start" in str(report)


def test_the_public_names_are_these() -> None:
    assert foretrace.price is price
    assert foretrace.Report is Report
    assert "a100-sxm4-80gb" in foretrace.profiles()


def test_an_unknown_profile_is_one_line() -> None:
    with pytest.raises(foretrace.ForetraceError) as raised:
        foretrace.price(perceptron(), on="a100")
    assert raised.value.mend


def test_kernels_of_another_gpu_are_said_to_be_not_modelled() -> None:
    graph = perceptron()
    a100, h100 = load("a100-sxm4-80gb"), load("h100-sxm5-80gb")
    rocm = replace(a100, vendor="AMD", compute_capability="gfx942")
    traced_for_h100 = replace(graph, facts=replace(graph.facts, capability="9.0"))
    assert not_modelled(graph, a100) == not_modelled(traced_for_h100, h100) == NOT_MODELLED
    assert not_modelled(graph, h100)[-1] == (
        "kernel choices of compute capability 9.0: the step was traced for compute capability 8.0"
    )
    assert not_modelled(traced_for_h100, rocm)[-1] == (
        "kernel choices of AMD's GPUs: the step was traced for compute capability 9.0"
    )
    on_cpu = replace(graph, facts=replace(graph.facts, device="cpu"))
    assert not_modelled(on_cpu, h100) == NOT_MODELLED


def test_kernels_whose_memory_nobody_knows_are_named() -> None:
    graph = perceptron()
    named = replace(graph, ops=(replace(graph.ops[0], name="aten._cslt_sparse_mm.default"), *graph.ops[1:]))
    assert "what kernels take inside of _cslt_sparse_mm" in price(named, on=TOY).coverage.not_modelled
    assert not [line for line in price(graph, on=TOY).coverage.not_modelled if "inside of" in line]
