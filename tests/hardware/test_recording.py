"""The allocator model against real GPUs: every block at its recorded address, every segment at the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from foretrace.hardware.allocator import CachingAllocator
from foretrace.hardware.blocks import SegmentState, State
from foretrace.hardware.recording import requests, start
from foretrace.hardware.requests import Free, Malloc, replay
from memory_history import NAMES, allocator_at_start, read

MIB = 1 << 20

COUNTS = {
    # allocations, segments taken, peak of blocks handed out, of requests, of segments
    "convnet_small": (1935, 7, 110_110_720, 108_258_676, 134_217_728),
    "linear_grad": (12, 7, 4_436_169_216, 4_434_803_008, 4_439_670_784),
    "xl_ctx1024_forward_bf16": (2218, 0, 22_154_463_232, 22_019_524_608, 22_741_516_288),
    "xl_ctx128_forward_none": (1704, 5, 13_859_874_816, 13_724_936_192, 13_889_437_696),
    "xl_ctx128_full_step_bf16": (6158, 0, 68_630_923_776, 68_163_520_516, 74_134_323_200),
    "xl_ctx128_full_step_none": (4872, 0, 68_711_221_760, 68_173_760_516, 74_637_639_680),
}


def plain(segments: tuple[SegmentState, ...]) -> tuple[SegmentState, ...]:
    """Segments without the keys of their blocks, and without what free blocks once were asked for."""
    return tuple(
        replace(
            segment,
            blocks=tuple(
                replace(block, key=None, requested_bytes=block.requested_bytes if block.state is State.ALLOCATED else 0)
                for block in segment.blocks
            ),
        )
        for segment in segments
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_request_gets_its_recorded_address(name: str) -> None:
    events, _ = read(name)
    allocator, placed = allocator_at_start(name), []
    for request in requests(events):
        if isinstance(request, Malloc):
            allocator.malloc(*request)
            placed.append(allocator.address(request.key))
        elif isinstance(request, Free):
            allocator.free(request.key)
    assert placed == [event.address for event in events if event.action == "alloc"]


@pytest.mark.parametrize("name", NAMES)
def test_segments_and_blocks_end_as_recorded(name: str) -> None:
    events, end = read(name)
    replayed = replay(requests(events), allocator_at_start(name))
    assert plain(replayed.segments) == end
    assert replayed.at_end.reserved_bytes == sum(segment.bytes for segment in end)


@pytest.mark.parametrize("name", NAMES)
def test_the_counts_of_a_history(name: str) -> None:
    events, _ = read(name)
    replayed = replay(requests(events), allocator_at_start(name))
    assert (
        sum(event.action == "alloc" for event in events),
        replayed.device_allocations,
        replayed.peak_allocated_bytes,
        replayed.peak_requested_bytes,
        replayed.peak_reserved_bytes,
    ) == COUNTS[name]
    assert replayed.failed is None
    assert replayed.retries == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_page_on_the_allocator_has_these_counts(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "allocator.md").read_text()
    allocations, _, allocated, _, reserved = COUNTS[name]
    row = next(line for line in page.splitlines() if line.startswith(f"| `{name}`"))
    assert f"| {allocations:,} | 0 | {allocated / MIB:,.2f} | {reserved / MIB:,.2f} | all as recorded |" in row


@pytest.mark.parametrize("name", ["linear_grad", "convnet_small", "xl_ctx128_forward_none"])
def test_segments_are_taken_when_and_as_large_as_recorded(name: str) -> None:
    events, _ = read(name)
    allocator, taken, number = allocator_at_start(name), [], -1
    for request in requests(events):
        before = allocator.reserved_bytes
        if isinstance(request, Malloc):
            number += 1
            allocator.malloc(*request)
        elif isinstance(request, Free):
            allocator.free(request.key)
        if allocator.reserved_bytes != before:
            taken.append((number, allocator.reserved_bytes - before))
    recorded, number = [], -1
    for event in events:
        if event.action == "segment_alloc":
            recorded.append((number + 1, event.bytes))
        number += event.action == "alloc"
    assert taken == recorded


def test_a_history_from_the_first_allocation_needs_no_start() -> None:
    events, end = read("linear_grad")
    assert start(events, end) == ()
    replayed = replay(requests(events))
    sizes = [segment.bytes for segment in replayed.segments]
    # The weight, the bias's small segment, the input, the output, a workspace, a second input and output.
    assert sizes == [2_000_683_008, 2 * MIB, 192 * MIB, 954 * MIB, 32 * MIB, 192 * MIB, 954 * MIB]
    assert sorted(sizes) == sorted(segment.bytes for segment in end)


def test_newer_pytorch_reserves_the_same_for_the_recorded_steps() -> None:
    for name in ("xl_ctx128_full_step_none", "xl_ctx128_full_step_bf16"):
        events, end = read(name)
        replayed = replay(requests(events), CachingAllocator(start=start(events, end)))
        assert (replayed.peak_allocated_bytes, replayed.peak_reserved_bytes) == (COUNTS[name][2], COUNTS[name][4])
