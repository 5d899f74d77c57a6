from __future__ import annotations

from foretrace.hardware.allocator import CachingAllocator
from foretrace.hardware.blocks import Counters
from foretrace.hardware.requests import (
    EmptyCache,
    Free,
    Malloc,
    RecordStream,
    Replay,
    Sample,
    Synchronize,
    replay,
)

MIB = 1 << 20


def counters(allocated: int, requested: int, active: int, reserved: int, inactive: int) -> Counters:
    return Counters(
        allocated_bytes=allocated,
        requested_bytes=requested,
        active_bytes=active,
        reserved_bytes=reserved,
        inactive_split_bytes=inactive,
    )


def test_a_replay_says_all_of_it() -> None:
    asked = [Malloc("a", 11 * MIB), Malloc("b", 30 * MIB - 100), Free("a"), Malloc("c", 3 * MIB), Free("b")]
    found = replay(asked, sample_every=2)
    assert found == Replay(
        requests=5,
        peak_allocated_bytes=42 * MIB,
        peak_requested_bytes=41 * MIB - 100,
        peak_active_bytes=42 * MIB,
        peak_reserved_bytes=42 * MIB,
        at_peak=counters(42 * MIB, 41 * MIB - 100, 42 * MIB, 42 * MIB, 0),
        # c is cut from a's segment of 12 MiB.
        at_end=counters(3 * MIB, 3 * MIB, 3 * MIB, 42 * MIB, 9 * MIB),
        device_allocations=2,
        retries=0,
        curve=(
            Sample(1, 42 * MIB, 41 * MIB - 100, 42 * MIB),
            Sample(3, 33 * MIB, 33 * MIB - 100, 42 * MIB),
        ),
        segments=found.segments,
        failed=None,
    )
    assert [segment.bytes for segment in found.segments] == [12 * MIB, 30 * MIB]


def test_streams_and_the_cache_can_be_asked_for() -> None:
    asked = [Malloc("a", 20 * MIB), RecordStream("a", 1), Free("a"), Synchronize(1), EmptyCache(), Malloc("b", 1)]
    found = replay(asked)
    assert (found.peak_active_bytes, found.at_end.reserved_bytes) == (20 * MIB, 2 * MIB)


def test_a_replay_ends_where_memory_does() -> None:
    asked = [Malloc("a", 30 * MIB), Malloc("b", 30 * MIB), Malloc("c", 1)]
    found = replay(asked, CachingAllocator(50 * MIB))
    assert found.requests == 1
    assert found.failed is not None
    assert (found.failed.key, found.failed.segment_bytes) == ("b", 30 * MIB)
    assert (found.retries, found.at_end.allocated_bytes) == (1, 30 * MIB)


def test_peaks_of_a_replay_begin_with_it() -> None:
    allocator = CachingAllocator()
    replay([Malloc("a", 40 * MIB), Free("a"), Malloc("b", 12 * MIB)], allocator)
    found = replay([Malloc("c", 20 * MIB)], allocator)
    assert (found.peak_allocated_bytes, found.device_allocations) == (32 * MIB, 0)
