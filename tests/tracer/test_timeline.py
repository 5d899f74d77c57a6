"""Law 2, the timeline is the allocator's: live bytes against the profiler's events of a real run on the CPU."""

from __future__ import annotations

import pytest
import torch

from foretrace.costmodels.timeline import timeline
from foretrace.graph import StepGraph
from foretrace.tracer import Step, trace
from foretrace.tracer.measure import Block, Measured, measure
from small_models import MODELS

SCRATCH = {
    "aten::mkldnn_convolution": "oneDNN reorders input, weight and output into blocked layouts and back",
    "aten::convolution_backward": "the same, for both gradients, and a scratchpad",
    "aten::native_batch_norm": "partial sums of each thread",
    "aten::native_batch_norm_backward": "a contiguous copy of the gradient",
    "aten::mkldnn_rnn_layer": "oneDNN packs weights and states and takes a scratchpad",
    "aten::mkldnn_rnn_layer_backward": "the same, and gradients of the states",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "the kernel's accumulators of each thread",
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": "the same",
    "aten::native_layer_norm_backward": "partial sums of the weight gradients of each thread",
    "aten::embedding_dense_backward": "counts of each index",
    "aten::bmm": "contiguous copies of operands whose strides BLAS cannot take",
}
"""Kernels that take memory of more than a number inside and give it back before they return, and why."""

WRAPPED_NUMBER_BYTES = 8
"""A Python number that meets a tensor becomes a tensor of at most 8 bytes for the time of the op."""


def run(name: str, optimizer: str) -> tuple[StepGraph, Measured]:
    torch.manual_seed(0)
    step = MODELS[name]()
    graph = trace(step.model, step.inputs, optimizer=optimizer, device="cpu")
    return graph, measure(Step(step.model, step.inputs, optimizer=optimizer))


def scratch_of(graph: StepGraph, measured: Measured) -> list[Block]:
    """The blocks that no predicted birth stands for. Fails where a predicted birth does not happen in its place.

    Births are matched in order, op by op; within one op the kernel may allocate its results in any order, and
    what it frees before it returns is no result.
    """
    births: list[tuple[str, list[int]]] = []
    last = None
    for event in graph.events:
        if event.bytes > 0:
            if event.op != last:
                births.append(("aten::" + graph.ops[event.op].name.split(".")[1], []))
            births[-1][1].append(event.bytes)
            last = event.op
    freed_in = calls_at_free(measured)
    scratch = []
    at = 0
    for place, block in enumerate(measured.blocks):
        if block.bytes < 0:
            continue
        name, sizes = births[at] if at < len(births) else ("", [])
        result = name in block.ops and block.calls[block.ops.index(name)] not in freed_in.get(place, ())
        if result and block.bytes in sizes:
            sizes.remove(block.bytes)
            at += not sizes
        else:
            scratch.append(block)
    assert births[at:] == []
    return scratch


def calls_at_free(measured: Measured) -> dict[int, tuple[int, ...]]:
    """For each allocation, by its place, the calls that were running when it was freed."""
    taken: dict[int, int] = {}
    found = {}
    for place, block in enumerate(measured.blocks):
        if block.bytes > 0:
            taken[block.address] = place
        elif block.address in taken:
            found[taken.pop(block.address)] = block.calls
    return found


@pytest.mark.parametrize("optimizer", ["adamw", "adamw:fused", "sgd"])
@pytest.mark.parametrize("name", MODELS)
def test_live_bytes_at_the_end_of_each_phase_are_the_allocators(name: str, optimizer: str) -> None:
    graph, measured = run(name, optimizer)
    predicted = timeline(graph)
    for phase, end in measured.ends.items():
        assert predicted.phases[phase].end_bytes - predicted.start_bytes == end, phase


@pytest.mark.parametrize("name", MODELS)
def test_every_predicted_birth_happens_in_its_op_and_all_else_is_scratch_of_a_known_kernel(name: str) -> None:
    graph, measured = run(name, "adamw")
    large = [block for block in scratch_of(graph, measured) if block.bytes > WRAPPED_NUMBER_BYTES]
    assert [block for block in large if not SCRATCH.keys() & set(block.ops)] == []


@pytest.mark.parametrize("name", ["gpt", "gpt_without_dropout"])
def test_the_peak_is_the_allocators_to_the_byte(name: str) -> None:
    graph, measured = run(name, "adamw")
    predicted = timeline(graph)
    assert predicted.peak_bytes - predicted.start_bytes == measured.peak_bytes


@pytest.mark.parametrize(("name", "kernel"), [("resnet", "convolution"), ("lstm", "mkldnn_rnn_layer")])
def test_the_peak_is_the_allocators_but_for_onednn(name: str, kernel: str) -> None:
    """Without its scratch the real run peaks where the trace does; with it, inside the oneDNN kernel."""
    graph, measured = run(name, "adamw")
    predicted = timeline(graph)
    scratch = {id(block) for block in scratch_of(graph, measured)}
    taken: dict[int, bool] = {}
    live = peak = without = peak_without = 0
    at_peak: tuple[str, ...] = ()
    for block in measured.blocks:
        live += block.bytes
        if block.bytes > 0:
            taken[block.address] = id(block) in scratch
        if not taken.get(block.address, False):
            without += block.bytes
            peak_without = max(peak_without, without)
        if live > peak:
            peak, at_peak = live, block.ops
    assert peak == measured.peak_bytes
    assert peak_without == predicted.peak_bytes - predicted.start_bytes
    assert any(kernel in op for op in at_peak)
