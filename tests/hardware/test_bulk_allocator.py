"""Moves played in bulk against the same requests one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrace.hardware.addresses import falling
from foretrace.hardware.alloc_conf import parse
from foretrace.hardware.allocator import CachingAllocator
from foretrace.hardware.bulk_allocator import BulkAllocator, Move
from foretrace.hardware.out_of_memory import OutOfMemory
from foretrace.hardware.replay import replay_steps
from foretrace.tracer import trace
from small_models import gpt

MIB = 1 << 20
SIZES = st.one_of(st.integers(1, 4096), st.integers(1, 3 * MIB), st.integers(1, 30).map(MIB.__mul__))


def moves_of(asked: list[tuple[int, bool, int]]) -> list[Move]:
    """Each asks for some bytes, or gives back one of what is held."""
    held: list[tuple[int, int]] = []
    found: list[Move] = []
    for op, (nbytes, gives_back, which) in enumerate(asked):
        if gives_back and held:
            size, key = held.pop(which % len(held))
            found.append((op, 0, -size, key))
        else:
            found.append((op, 0, nbytes, op))
            held.append((nbytes, op))
    return found


def one_by_one(allocator: CachingAllocator, moves: list[Move]) -> tuple[int, Move]:
    """The op of the peak, and the last move, of the plain way."""
    peak_op, move = -1, (0, 0, 0, 0)
    for move in moves:
        op, _, nbytes, key = move
        before = allocator.peak_allocated_bytes
        try:
            allocator.malloc(key, nbytes) if nbytes > 0 else allocator.free(key)
        except OutOfMemory:
            break
        if allocator.peak_allocated_bytes > before:
            peak_op = op
    return peak_op, move


def state(allocator: CachingAllocator) -> dict[str, object]:
    names = [name for name in CachingAllocator.__slots__ if not name.startswith("_")]
    told = {name: getattr(allocator, name) for name in names if name != "conf"}
    return told | {"segments": allocator.segments(), "at peak": allocator.at_peak}


@given(
    st.lists(st.tuples(SIZES, st.booleans(), st.integers(0, 99)), max_size=120),
    st.booleans(),
    st.sampled_from((None, 100 * MIB, 300 * MIB)),
)
def test_moves_in_bulk_are_requests_one_by_one(
    asked: list[tuple[int, bool, int]], by_age: bool, capacity: int | None
) -> None:
    moves = moves_of(asked)
    half = len(moves) // 2
    plain = CachingAllocator(capacity, by_age=by_age, place=None if by_age else falling())
    bulk = BulkAllocator(capacity, by_age=by_age, place=None if by_age else falling())
    peak_op, last = one_by_one(plain, moves)
    assert bulk.plays
    try:
        found = bulk.play(iter(moves[half:]), bulk.play(iter(moves[:half]), -1))
    except OutOfMemory as error:
        assert (bulk.last_move, error.key) == (last, last[3])
    else:
        assert found == peak_op
    assert state(bulk) == state(plain)


@pytest.mark.parametrize(
    "conf", ["expandable_segments:True", "max_split_size_mb:64", "roundup_power2_divisions:4"], ids=lambda conf: conf
)
def test_other_settings_are_not_played(conf: str) -> None:
    assert not BulkAllocator(conf=parse(conf)).plays


def test_blocks_that_another_stream_uses_are_not_played() -> None:
    allocator = BulkAllocator()
    allocator.malloc("a", MIB)
    allocator.record_stream("a", 1)
    assert not allocator.plays
    allocator.free("a")
    assert not allocator.plays
    allocator.synchronize()
    assert allocator.plays


@pytest.mark.parametrize("capacity", [None, 2 * MIB])
def test_a_run_is_replayed_the_same_either_way(capacity: int | None) -> None:
    graph = trace(gpt, device="cuda")
    bulk, plain = (
        replay_steps(graph, allocator=kind(capacity, by_age=False, place=falling()))
        for kind in (BulkAllocator, CachingAllocator)
    )
    assert repr(bulk) == repr(plain)
    assert bulk.fits is (capacity is None)
