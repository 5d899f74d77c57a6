"""Law 2, the timeline is the allocator's: live bytes against the profiler's events of a real run on the CPU."""

from __future__ import annotations

import pytest
import torch

from foretrace.costmodels import WRAPPED_NUMBER_BYTES, compare, pair, timeline
from foretrace.graph import Category, Measured, StepGraph
from foretrace.tracer import Step, measure, scratch, trace
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


def run(name: str, optimizer: str) -> tuple[StepGraph, Measured]:
    torch.manual_seed(0)
    step = MODELS[name]()
    graph = trace(step.model, step.inputs, optimizer=optimizer, device="cpu")
    return graph, measure(Step(step.model, step.inputs, optimizer=optimizer))


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
    found = pair(graph, measured)
    assert found.partings == []
    inside = {s.id for s in graph.storages if s.category is Category.WORKSPACE}
    births = [event for event in graph.events if event.bytes > 0 and event.storage not in inside]
    assert {storage: measured.blocks[place].bytes for storage, place in found.pairs.items()} == {
        event.storage: event.bytes for event in births
    }
    large = [measured.blocks[place] for place in found.scratch if measured.blocks[place].bytes > WRAPPED_NUMBER_BYTES]
    assert [block for block in large if not SCRATCH.keys() & set(block.ops)] == []


@pytest.mark.parametrize("name", MODELS)
def test_the_peak_is_the_allocators_to_the_byte(name: str) -> None:
    """Scratch inside kernels included; but for a Python number, wrapped and cast inside the op at the peak."""
    found = compare(*run(name, "adamw"))
    assert found.peak.difference_bytes == (12 if name == "moe" else 0)
    assert found.agrees and found.peak_is_explained and found.first is None


@pytest.mark.parametrize(("name", "kernel"), [("resnet", "aten.convolution"), ("lstm", "aten.mkldnn_rnn_layer")])
def test_scratch_inside_kernels_is_a_workspace_of_its_op(name: str, kernel: str) -> None:
    """Without it the peaks are equal too, and lower."""
    graph, measured = run(name, "adamw")
    found = compare(graph, measured)
    assert found.peak_without_scratch.predicted_bytes == found.peak_without_scratch.measured_bytes
    assert found.peak_without_scratch.predicted_bytes < found.peak.predicted_bytes
    held = [s for s in timeline(graph).peak_storages if s.category is Category.WORKSPACE]
    assert [graph.ops[s.born].packet.startswith(kernel) for s in held if s.born is not None] == [True]
    assert [row.kernel.replace("::", ".").startswith(kernel) for row in found.scratch] == [True]


def test_a_call_too_large_to_try_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "MOST_BYTES", 1_000)
    graph, _ = run("resnet", "sgd")
    assert [note for note in graph.facts.notes if "too large to try" in note]
    assert not [s for s in graph.storages if s.category is Category.WORKSPACE and s.bytes > 1_000]


class Replacing(torch.optim.SGD):
    """Makes its momentum anew in each step and drops the old one, parameter by parameter."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            old = self.state[parameter].get("momentum", parameter.grad)
            self.state[parameter]["momentum"] = new = 0.9 * old + parameter.grad
            parameter -= 0.1 * new


def test_state_that_an_optimizer_replaces_dies_when_it_does() -> None:
    """The trace keeps nothing of it: peak and end are those of the real run."""
    torch.manual_seed(0)
    step = MODELS["gpt"]()
    graph = trace(step.model, step.inputs, optimizer=Replacing, device="cpu")
    found = compare(graph, measure(Step(step.model, step.inputs, optimizer=Replacing)))
    assert found.peak.difference_bytes == 0 and found.agrees
    old = [s for s in graph.storages if s.category is Category.OPTIMIZER_STATE and s.born is None]
    assert len({s.died for s in old}) == len(old) == len(graph.facts.state)
