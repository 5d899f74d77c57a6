"""A traced run against a real GPU: five steps replayed from nothing must leave what the recorded GPU held then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from foretrace.costmodels.timeline import counts
from foretrace.graph import Op, Phase, StepGraph
from foretrace.hardware.blocks import SegmentState, State
from foretrace.hardware.recording import requests, start
from foretrace.hardware.replay import Extra, Lasting, replay_steps
from foretrace.hardware.requests import replay
from foretrace.tracer import trace
from memory_history import allocator_at_start, read
from transformer_on_gpu import recorded_step

CUBLAS = 8_519_680
"""A cuBLAS workspace of the recorded GPU: 4,096 x 2 + 16 x 8 KiB (PyTorch's default ``:4096:2:16:8``)."""

BYTES = {"float32": "xl_ctx128_full_step_none", "bfloat16": "xl_ctx128_full_step_bf16"}


def workspaces(op: Op) -> Iterator[Extra]:
    """One cuBLAS handle for the thread of the program and one for autograd's; each takes its workspace at first use."""
    if op.packet in ("aten.mm", "aten.bmm"):
        yield Lasting(CUBLAS, f"cublas, {'autograd' if op.phase is Phase.BACKWARD else 'main'} thread")


def allocated(segments: tuple[SegmentState, ...]) -> int:
    return sum(block.bytes for segment in segments for block in segment.blocks if block.state is State.ALLOCATED)


@pytest.fixture(scope="module", params=BYTES)
def run(request: pytest.FixtureRequest) -> tuple[list[StepGraph], str]:
    """The first step and five steady ones, of which the last is the recorded one."""

    def traced(warmup: int) -> StepGraph:
        return trace(lambda: recorded_step(128, request.param == "bfloat16"), device="cuda", warmup=warmup)

    return [traced(0), *[traced(1)] * 5], BYTES[request.param]


def test_bytes_before_at_the_peak_and_after_are_the_gpus(run: tuple[list[StepGraph], str]) -> None:
    graphs, name = run
    events, end = read(name)
    recorded = replay(requests(events), allocator_at_start(name))
    found = replay_steps(graphs, extras=workspaces)
    assert found.steps[-2].end.allocated_bytes == allocated(start(events, end))
    assert found.last.end.allocated_bytes == allocated(end)
    assert found.last.peak_requested_bytes == recorded.peak_requested_bytes
    assert found.last.peak_allocated_bytes == recorded.peak_allocated_bytes
    assert found.last.peak_reserved_bytes == sum(segment.bytes for segment in end)
    assert found.last.device_allocations == 0


def test_there_are_as_many_segments_of_each_size_as_on_the_gpu(run: tuple[list[StepGraph], str]) -> None:
    graphs, name = run
    _, end = read(name)
    found = replay_steps(graphs, extras=workspaces).segments
    assert Counter(segment.bytes for segment in found) == Counter(segment.bytes for segment in end)


def test_every_birth_and_death_comes_in_the_gpus_order(run: tuple[list[StepGraph], str]) -> None:
    """But for what one kernel takes inside: ``index_put_`` with accumulation, which sorts the indices."""
    graphs, name = run
    traced = [event.bytes for event in graphs[-1].events if counts(graphs[-1], graphs[-1].storages[event.storage])]
    recorded = [event.bytes if event.action == "alloc" else -event.bytes for event in read(name)[0]]
    missing = [4096, 4096, -4096, 4096, 4096, 4096, 1, -1, -4096, -4096, -4096, -4096]
    place = next(i for i, (ours, theirs) in enumerate(zip(traced, recorded, strict=False)) if ours != theirs)
    assert recorded[place : place + len(missing)] == missing
    assert traced == recorded[:place] + recorded[place + len(missing) :]


def test_without_the_first_step_too_little_is_reserved(run: tuple[list[StepGraph], str]) -> None:
    """Then optimizer state takes segments of its own from the start, and leaves none for the temporaries."""
    graphs, name = run
    alone = {"xl_ctx128_full_step_none": 69_103_255_552, "xl_ctx128_full_step_bf16": 69_050_826_752}
    assert replay_steps(graphs[-1]).peak_reserved_bytes == alone[name]
