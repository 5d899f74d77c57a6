"""Recorded steps replayed on the allocator: what goes on from step to step, what is asked, and where memory ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from foretrace.costmodels import timeline
from foretrace.graph import Category, Facts, ForetraceError, Op, Phase, Source, StepGraph, laws
from foretrace.hardware import load
from foretrace.hardware.alloc_conf import parse
from foretrace.hardware.allocator import CachingAllocator
from foretrace.hardware.first_step import first_step
from foretrace.hardware.replay import BEFORE, Place, replay_steps, requests
from foretrace.hardware.requests import Free, Malloc, Sample
from foretrace.hardware.script import Extra, Lasting, Return, Scratch, once_each
from foretrace.hardware.succession import starting, succession, surviving
from handmade import Script, perceptron

MIB = 1 << 20
SOURCE = Source("model.py", 7, "forward")


def step(batch: int, *, first: bool = False, width: int = 8) -> StepGraph:
    """A step with a parameter and a state of `width` MiB, and an input and an output of `batch` MiB.

    The loop names the output, so that it lives until the next step has made another; the first step makes the state.
    """
    s = Script()
    x = s.held("x", (batch, MIB // 4), Category.INPUT)
    weight = s.held("layer.weight", (width, MIB // 4), Category.PARAMETER)
    if not first:
        s.held("layer.weight/exp_avg", (width, MIB // 4), Category.OPTIMIZER_STATE)
        kept = s.held("kept", (batch, MIB // 4), Category.TEMPORARY)
    s.begin(Phase.FORWARD)
    output = s.new((batch, MIB // 4), Category.SAVED)
    s.call("aten.mm.default", output, self=x, mat2=weight, module="layer", source=SOURCE)
    if not first:
        s.free(kept)
    s.begin(Phase.OPTIMIZER)
    if first:
        state = s.new((width, MIB // 4), Category.OPTIMIZER_STATE)
        s.storages[-1] = replace(s.storages[-1], name="layer.weight/exp_avg")
        s.call("aten.zeros_like.default", state, self=weight)
    root = s.new((width, MIB // 4))
    s.call("aten.sqrt.default", root, self=weight)
    s.free(root)
    return s.end(Facts(target=f"step({batch})", device="cuda"))


def names(before: StepGraph, after: StepGraph) -> dict[str, str | int]:
    """The succession by names, or bytes in MiB where there is none."""
    pairs = succession(before, after)
    return {
        after.storages[new].name: before.storages[old].name or before.storages[old].bytes // MIB
        for new, old in pairs.items()
    }


# -- what goes on ---------------------------------------------------------------------------------


def test_what_begins_and_what_survives() -> None:
    assert [s.name for s in starting(step(4))] == ["x", "layer.weight", "layer.weight/exp_avg", "kept"]
    assert [s.bytes // MIB for s in surviving(step(4, first=True))] == [4, 8, 4, 8]


def test_the_first_steps_state_and_output_go_on() -> None:
    assert names(step(4, first=True), step(4)) == {
        "x": "x",
        "layer.weight": "layer.weight",
        "layer.weight/exp_avg": "layer.weight/exp_avg",
        "kept": 4,
    }


def test_an_input_of_another_shape_is_new_and_the_kept_output_keeps_its_size() -> None:
    assert names(step(4), step(6)) == {
        "layer.weight": "layer.weight",
        "layer.weight/exp_avg": "layer.weight/exp_avg",
        "kept": 4,
    }


def test_steps_of_different_models_are_refused() -> None:
    with pytest.raises(ForetraceError, match=r"parameter 'layer.weight' of 10,485,760 bytes is in step\(4\)"):
        succession(step(4), step(4, width=10))


# -- what is asked --------------------------------------------------------------------------------


def test_the_requests_of_two_steps() -> None:
    assert list(requests([step(4, first=True), step(6)])) == [
        (Malloc(1, 4 * MIB), Place(0, BEFORE, 0)),
        (Malloc(2, 8 * MIB), Place(0, BEFORE, 1)),
        (Malloc(3, 4 * MIB), Place(0, 0, 2)),
        (Malloc(4, 8 * MIB), Place(0, 1, 3)),
        (Malloc(5, 8 * MIB), Place(0, 2, 4)),
        (Free(5), Place(0, 2, 4)),
        # The next batch is made before the name lets go of the last one.
        (Malloc(6, 6 * MIB), Place(1, BEFORE, 0)),
        (Free(1), Place(1, BEFORE)),
        (Malloc(7, 6 * MIB), Place(1, 0, 4)),
        (Free(3), Place(1, 0, 3)),
        (Malloc(8, 8 * MIB), Place(1, 1, 5)),
        (Free(8), Place(1, 1, 5)),
    ]


def test_extras_come_after_the_outputs_and_go_before_anything_dies() -> None:
    def extras(op: object) -> list[Extra]:
        if getattr(op, "packet", "") != "aten.mm":
            return []
        return [Scratch(1), Lasting(2, "cublas"), Scratch(3, before_outputs=True), Scratch(4), Scratch(0)]

    asked = [request for request, place in requests([step(4), step(4)], extras) if place.op == 0]
    assert asked == [
        *(Malloc(5, 3), Malloc(6, 4 * MIB), Malloc(7, 1), Malloc(8, 2), Malloc(9, 4)),
        *(Free(9), Free(7), Free(5), Free(4)),
        *(Malloc(11, 3), Malloc(12, 4 * MIB), Malloc(13, 1), Malloc(14, 4)),
        *(Free(14), Free(13), Free(11), Free(6)),
    ]


def test_scratch_may_be_given_back_while_its_op_goes_on() -> None:
    def extras(op: object) -> list[Extra]:
        if getattr(op, "packet", "") != "aten.mm":
            return []
        early = [Scratch(1, "a", before_outputs=True), Return("a", before_outputs=True)]
        return [*early, Scratch(2, "b"), Scratch(3, "c"), Return("b"), Return("nothing")]

    asked = [request for request, place in requests([step(4)], extras) if place.op == 0]
    assert asked[:7] == [Malloc(5, 1), Free(5), Malloc(6, 4 * MIB), Malloc(7, 2), Malloc(8, 3), Free(7), Free(8)]


def test_extras_are_asked_for_once_of_ops_that_are_alike() -> None:
    graph, asked = perceptron(layers=4), []

    def extras(op: Op) -> list[Extra]:
        asked.append(op.id)
        return [Scratch(op.inputs[0].numel), Lasting(2, op.packet)] if op.inputs else []

    once = list(requests([graph] * 2, once_each(extras, graph.kinds)))
    assert len(asked) == len(set(asked)) < len(graph.ops)
    assert once == list(requests([graph] * 2, extras))


@pytest.mark.parametrize("graph", [step(4), step(4, first=True), perceptron()])
def test_no_extras_are_as_none(graph: StepGraph) -> None:
    assert list(requests([graph] * 2, lambda op: ())) == list(requests([graph] * 2))


# -- what comes of it -----------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [4, 7])
def test_a_first_step_is_derived_from_a_steady_one(batch: int) -> None:
    derived = first_step(step(batch))
    requested = [[request for request, _ in requests([graph])] for graph in (derived, step(batch, first=True))]
    assert requested[0] == requested[1]
    assert first_step(derived) is derived
    found, expected = replay_steps(step(batch)), replay_steps([step(batch, first=True), step(batch), step(batch)])
    assert (found.steps[1:], found.segments) == (expected.steps[1:], expected.segments)


def test_a_derived_first_step_is_legal() -> None:
    derived = first_step(perceptron())
    laws.check(derived)
    assert derived.facts.warmup == 0
    assert timeline(derived).end_bytes == timeline(perceptron()).end_bytes


def test_a_run_of_steps() -> None:
    found = replay_steps([step(4, first=True), step(4), step(4)], sample_every=4)
    first, second, last = found.steps
    assert (first.start.allocated_bytes, first.peak_requested_bytes, first.peak_op) == (12 * MIB, 32 * MIB, 2)
    # Of 20 MiB segments the first holds the input, the parameter and the output, 4 MiB being left; the state and the
    # root of 8 MiB each lie in a second one.
    assert (first.peak_allocated_bytes, first.peak_reserved_bytes, first.device_allocations) == (32 * MIB, 40 * MIB, 2)
    assert (second.start, second.end) == (first.end, first.end)
    # The two outputs are live together, in 24 + 4 MiB; the step's peak is the same, with the root.
    assert (last.peak_allocated_bytes, last.peak_op, last.device_allocations) == (32 * MIB, 1, 0)
    assert (found.peak_reserved_bytes, found.fits, found.failure) == (40 * MIB, True, None)
    assert last.at_peak.fragmentation == 8 / 40
    assert found.last == last == second
    assert found.curve == (
        Sample(3, 24 * MIB, 24 * MIB, 40 * MIB),
        Sample(7, 24 * MIB, 24 * MIB, 40 * MIB),
        Sample(11, 24 * MIB, 24 * MIB, 40 * MIB),
    )


@pytest.mark.parametrize("graph", [step(4), step(7), perceptron(), perceptron(layers=5, batch=300)])
def test_requested_bytes_are_the_timelines(graph: StepGraph) -> None:
    expected = timeline(graph)
    for found in replay_steps([graph] * 3).steps:
        assert found.peak_requested_bytes == expected.peak_bytes
        assert found.start.requested_bytes == expected.start_bytes
        assert found.end.requested_bytes == expected.end_bytes
        assert found.peak_requested_bytes <= found.peak_allocated_bytes <= found.peak_reserved_bytes


def test_batches_of_differing_shape_need_more_than_each_alone() -> None:
    sizes = (11, 12, 13, 11, 14)
    varying = replay_steps([step(size) for size in sizes])
    alone = max(replay_steps(step(size)).peak_reserved_bytes for size in sizes)
    assert varying.peak_reserved_bytes > alone
    assert [found.peak_requested_bytes // MIB for found in varying.steps] == [
        # Parameter and state; the input and both outputs, or, after the largest batch, both inputs and its output.
        *(16 + 11 + 11 + 11, 16 + 12 + 11 + 12, 16 + 13 + 12 + 13, 16 + 13 + 11 + 13, 16 + 14 + 11 + 14),
    ]


def test_expandable_segments_save_what_fragments() -> None:
    run = [step(size) for size in (11, 12, 13, 11, 14, 17)]
    expandable = replay_steps(run, conf=parse("expandable_segments:True"))
    assert expandable.peak_reserved_bytes < replay_steps(run).peak_reserved_bytes
    assert expandable.peak_requested_bytes == replay_steps(run).peak_requested_bytes


# -- where memory ends ----------------------------------------------------------------------------


def test_out_of_memory_is_foretold_with_its_place() -> None:
    found = replay_steps([step(30)], capacity_bytes=120 * MIB, extras=lambda op: [Lasting(20 * MIB, "cublas")])
    failure = found.failure
    assert failure is not None and not found.fits
    # 30 + 8 + 8 + 30 at the start take 30 + 20 + 30 MiB; the output would need 30 more, and then there is the extra.
    assert (failure.step, failure.storage) == (0, None)
    assert failure.op is not None
    assert (failure.op.name, failure.module, failure.source) == ("aten.mm.default", "layer", SOURCE)
    assert failure.message.startswith(
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 120.00 MiB of which 10.00 MiB "
        "is free. Including non-PyTorch memory, this process has 110.00 MiB memory in use. Of the allocated memory "
        "106.00 MiB is allocated by PyTorch, and 4.00 MiB is reserved by PyTorch but unallocated. "
    )
    assert [(row.category, row.bytes // MIB, row.count) for row in failure.holders] == [
        (Category.INPUT, 30, 1),
        (Category.TEMPORARY, 30, 1),
        (Category.SAVED, 30, 1),
        (Category.OPTIMIZER_STATE, 8, 1),
        (Category.PARAMETER, 8, 1),
    ]
    assert found.steps == ()


def test_extras_are_among_the_holders() -> None:
    found = replay_steps(
        [step(30)], capacity_bytes=120 * MIB, extras=lambda op: [Lasting(10 * MIB, "cublas"), Scratch(11 * MIB)]
    )
    assert found.failure is not None
    workspaces = [row for row in found.failure.holders if row.category is Category.WORKSPACE]
    assert [(row.bytes // MIB, row.packet) for row in workspaces] == [(10, "")]


def test_what_does_not_even_fit_at_the_start() -> None:
    found = replay_steps(step(30), capacity_bytes=45 * MIB)
    failure = found.failure
    assert failure is not None
    assert failure.storage is not None
    assert (failure.op, failure.source, failure.module, failure.storage.name) == (None, None, "layer", "layer.weight")


def test_a_later_step_can_be_the_one_that_fails() -> None:
    found = replay_steps([step(11), step(12), step(40)], capacity_bytes=100 * MIB)
    assert found.failure is not None
    assert (found.failure.step, len(found.steps)) == (2, 2)


def test_a_profile_gives_the_capacity() -> None:
    profile = load("a100-sxm4-80gb")
    found = replay_steps(step(4), profile=profile)
    assert found.capacity_bytes == profile.memory_total_bytes - profile.cuda_context_bytes
    failure = replay_steps(step(80_000), profile=profile).failure
    assert failure is not None
    assert failure.error.total_bytes == profile.memory_total_bytes


def test_a_given_allocator_takes_the_place_of_a_fresh_one() -> None:
    found = replay_steps(step(4), allocator=CachingAllocator(30 * MIB))
    assert (found.capacity_bytes, found.fits) == (30 * MIB, False)


def test_a_trace_of_another_device_is_refused() -> None:
    graph = step(4)
    with pytest.raises(ForetraceError, match="a step on cpu, and the allocator modelled is that of CUDA"):
        replay_steps(replace(graph, facts=replace(graph.facts, device="cpu")))
