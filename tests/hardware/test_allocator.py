"""The caching allocator: PyTorch's documented behaviour, worked out by hand, and laws that always hold."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from foretrace.graph import ForetraceError
from foretrace.hardware.alloc_conf import parse
from foretrace.hardware.allocator import CachingAllocator
from foretrace.hardware.blocks import BlockState, SegmentState, State
from foretrace.hardware.out_of_memory import OutOfMemory

KIB, MIB = 1 << 10, 1 << 20


def allocator(text: str = "", capacity: int | None = None, **options: Any) -> CachingAllocator:
    return CachingAllocator(capacity, parse(text), **options)


def shape(model: CachingAllocator) -> list[list[tuple[int, str]]]:
    """The sizes and states of the blocks of each segment: ``+`` handed out, ``~`` waiting, ``-`` free."""
    sign = {State.ALLOCATED: "+", State.AWAITING_FREE: "~", State.INACTIVE: "-"}
    return [[(block.bytes, sign[block.state]) for block in segment.blocks] for segment in model.segments()]


# -- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "block_bytes", "segment_bytes"),
    [
        (1, 512, 2 * MIB),
        (512, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB),
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),
        (10 * MIB + 1, 10 * MIB + 512, 12 * MIB),
        (11 * MIB - 512, 11 * MIB - 512, 12 * MIB),
        (11 * MIB, 12 * MIB, 12 * MIB),
    ],
)
def test_sizes_of_blocks_and_segments(request_bytes: int, block_bytes: int, segment_bytes: int) -> None:
    """Rounded to 512 bytes; small segments, shared large ones, own large ones; no split that leaves up to 1 MiB."""
    model = allocator()
    model.malloc("a", request_bytes)
    assert (model.block_bytes("a"), model.reserved_bytes) == (block_bytes, segment_bytes)
    assert (model.allocated_bytes, model.requested_bytes) == (block_bytes, request_bytes)


def test_a_request_for_nothing_takes_nothing() -> None:
    model = allocator()
    model.malloc("a", 0)
    assert (model.reserved_bytes, model.allocated_bytes, model.block_bytes("a"), model.address("a")) == (0, 0, 0, -1)
    model.free("a")
    assert not model.holds("a")


@pytest.mark.parametrize(
    ("setting", "request_mib", "rounded_mib"),
    [
        # PyTorch's own test of these settings asks for 84 and 400 MiB.
        ("roundup_power2_divisions:4", 84, 96),
        ("roundup_power2_divisions:[64:8,128:2,256:4,512:2,1024:4,>:1]", 84, 88),
        ("roundup_power2_divisions:[64:8,128:2,256:4,512:2,1024:4,>:1]", 400, 448),
        ("roundup_power2_divisions:[64:8,128:2,256:4,512:2,1024:4,>:1]", 128, 128),
        ("roundup_power2_divisions:1", 84, 84),
        ("", 84, 84),
    ],
)
def test_rounding_to_divisions_of_powers_of_two(setting: str, request_mib: int, rounded_mib: int) -> None:
    assert allocator(setting).round_size(request_mib * MIB) == rounded_mib * MIB


def test_rounding_in_the_words_of_the_documentation() -> None:
    """1200 with 4 divisions becomes 1280; a size up to 512 bytes times the divisions only goes to 512."""
    model = allocator("roundup_power2_divisions:4")
    assert model.round_size(1200 * KIB) == 1280 * KIB
    assert model.round_size(1200) == 1536


# -- blocks ---------------------------------------------------------------------------------------


def test_the_best_fit_is_split_and_what_is_freed_merges_again() -> None:
    model = allocator()
    for key in "abc":
        model.malloc(key, 4 * MIB)
    assert shape(model) == [[(4 * MIB, "+")] * 3 + [(8 * MIB, "-")]]
    model.free("b")
    model.malloc("d", 2 * MIB)
    assert shape(model) == [[(4 * MIB, "+"), (2 * MIB, "+"), (2 * MIB, "-"), (4 * MIB, "+"), (8 * MIB, "-")]]
    model.free("a")
    model.free("d")
    assert shape(model) == [[(8 * MIB, "-"), (4 * MIB, "+"), (8 * MIB, "-")]]
    model.free("c")
    assert shape(model) == [[(20 * MIB, "-")]]


def test_what_would_leave_up_to_a_mebibyte_is_not_split_off_a_large_block() -> None:
    model = allocator()
    model.malloc("a", 20 * MIB)
    model.free("a")
    model.malloc("b", 19 * MIB)
    assert (model.allocated_bytes, model.requested_bytes, model.reserved_bytes) == (20 * MIB, 19 * MIB, 20 * MIB)
    model.free("b")
    model.malloc("c", 19 * MIB - 512)
    assert (model.allocated_bytes, model.inactive_split_bytes) == (19 * MIB - 512, MIB + 512)


def test_small_and_large_requests_and_streams_share_nothing() -> None:
    model = allocator()
    model.malloc("small", MIB)
    model.malloc("large", 2 * MIB)
    model.malloc("elsewhere", MIB, stream=7)
    assert shape(model) == [
        [(MIB, "+"), (MIB, "-")],
        [(2 * MIB, "+"), (18 * MIB, "-")],
        [(MIB, "+"), (MIB, "-")],
    ]
    assert [(s.is_small, s.stream) for s in model.segments()] == [(True, 0), (False, 0), (True, 7)]


@pytest.mark.parametrize(("by_age", "taken"), [(True, 100 * MIB), (False, 0)])
def test_of_equal_blocks_newer_pytorch_takes_the_oldest_segment_and_older_the_lowest(by_age: bool, taken: int) -> None:
    addresses = iter([100 * MIB, 0])
    model = allocator(by_age=by_age, place=lambda size: next(addresses))
    for key in "ab":
        model.malloc(key, 20 * MIB)
    for key in "ab":
        model.free(key)
    model.malloc("c", 20 * MIB)
    assert model.address("c") == taken


def test_counters_and_peaks() -> None:
    model = allocator()
    model.malloc("a", 11 * MIB)
    model.malloc("b", 3 * MIB - 1)
    model.free("a")
    now = model.now()
    assert (now.allocated_bytes, now.requested_bytes, now.active_bytes) == (3 * MIB, 3 * MIB - 1, 3 * MIB)
    assert (now.reserved_bytes, now.inactive_split_bytes) == (32 * MIB, 17 * MIB)
    assert (now.unallocated_bytes, now.fragmentation) == (29 * MIB, 29 / 32)
    assert (model.peak_allocated_bytes, model.peak_requested_bytes) == (15 * MIB, 14 * MIB - 1)
    assert model.at_peak.fragmentation == 17 / 32
    model.reset_peaks()
    assert (model.peak_allocated_bytes, model.peak_reserved_bytes, model.at_peak) == (3 * MIB, 32 * MIB, now)


def test_the_cache_is_emptied_but_for_segments_in_use() -> None:
    model = allocator()
    for key, size in (("a", 4 * MIB), ("b", 50 * MIB), ("c", KIB)):
        model.malloc(key, size)
    model.free("b")
    model.empty_cache()
    assert (model.reserved_bytes, model.device_allocations, model.device_frees) == (22 * MIB, 3, 1)
    model.free("a")
    model.free("c")
    model.empty_cache()
    assert model.reserved_bytes == 0
    assert model.segments() == ()


def test_a_block_that_another_stream_uses_waits_for_it() -> None:
    model = allocator()
    model.malloc("a", 20 * MIB)
    model.record_stream("a", 0)
    model.record_stream("a", 1)
    model.record_stream("a", 2)
    model.free("a")
    assert (model.allocated_bytes, model.active_bytes, model.requested_bytes) == (0, 20 * MIB, 20 * MIB)
    assert shape(model) == [[(20 * MIB, "~")]]
    model.synchronize(1)
    assert model.active_bytes == 20 * MIB
    model.malloc("b", 20 * MIB)
    assert model.reserved_bytes == 40 * MIB
    model.synchronize()
    model.malloc("c", 20 * MIB)
    assert (model.reserved_bytes, model.active_bytes) == (40 * MIB, 40 * MIB)


def test_keys_are_held_once() -> None:
    model = allocator()
    model.malloc("a", 1)
    with pytest.raises(ValueError, match="'a' is allocated already"):
        model.malloc("a", 1)
    with pytest.raises(ValueError, match="-1 bytes asked for 'b'"):
        model.malloc("b", -1)
    with pytest.raises(KeyError):
        model.free("b")


# -- memory runs out ------------------------------------------------------------------------------


def test_before_it_runs_out_the_cache_goes_back_to_the_device() -> None:
    """PyTorch's own test: half of the memory, again half fails, and fits once the first is gone."""
    model = allocator(capacity=100 * MIB)
    model.malloc("a", 60 * MIB)
    with pytest.raises(OutOfMemory):
        model.malloc("b", 60 * MIB)
    assert (model.retries, model.out_of_memories, model.holds("b")) == (1, 1, False)
    model.free("a")
    model.malloc("b", 60 * MIB)
    model.free("b")
    model.malloc("c", 80 * MIB)
    assert (model.retries, model.reserved_bytes, model.device_frees) == (2, 80 * MIB, 1)


def test_waiting_blocks_are_waited_for_before_memory_runs_out() -> None:
    model = allocator(capacity=60 * MIB)
    model.malloc("a", 40 * MIB)
    model.record_stream("a", 1)
    model.free("a")
    model.malloc("b", 50 * MIB)
    assert shape(model) == [[(50 * MIB, "+")]]


def test_a_refused_request_knows_the_numbers_of_its_message() -> None:
    model = allocator(capacity=90 * MIB, total_bytes=100 * MIB)
    model.malloc("a", 40 * MIB)
    model.malloc("b", 3 * MIB)
    with pytest.raises(OutOfMemory) as refused:
        model.malloc("c", 31 * MIB + 1)
    error = refused.value
    assert (error.key, error.requested_bytes, error.segment_bytes) == ("c", 31 * MIB + 1, 32 * MIB)
    assert (error.total_bytes, error.free_bytes, error.used_bytes) == (100 * MIB, 30 * MIB, 70 * MIB)
    assert (error.counters.allocated_bytes, error.counters.unallocated_bytes) == (43 * MIB, 17 * MIB)


def test_a_fraction_of_the_memory_is_a_limit() -> None:
    model = allocator("per_process_memory_fraction:0.5", 95 * MIB, total_bytes=100 * MIB)
    model.malloc("a", 30 * MIB)
    model.free("a")
    model.malloc("b", 50 * MIB)
    with pytest.raises(OutOfMemory) as refused:
        model.malloc("c", 1)
    assert refused.value.allowed_bytes == 50 * MIB
    assert refused.value.free_bytes == 45 * MIB


def test_throwing_before_the_device_is_asked_gives_nothing_back_first() -> None:
    model = allocator("throw_on_cudamalloc_oom:True", 100 * MIB)
    model.malloc("a", 60 * MIB)
    model.free("a")
    with pytest.raises(OutOfMemory) as refused:
        model.malloc("b", 70 * MIB)
    assert refused.value.is_rejected
    assert (model.reserved_bytes, model.retries) == (60 * MIB, 0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: allocator(capacity=0), "a capacity of 0 bytes holds nothing"),
        (lambda: allocator(total_bytes=-1), "a device's memory of -1 bytes holds nothing"),
        (lambda: allocator("per_process_memory_fraction:0.5"), "a share of a memory that is not known"),
    ],
)
def test_limits_that_make_no_sense(build: Callable[[], CachingAllocator], message: str) -> None:
    with pytest.raises(ForetraceError, match=message):
        build()


# -- settings -------------------------------------------------------------------------------------


def test_oversize_blocks_are_not_split_and_serve_only_requests_near_their_size() -> None:
    model = allocator("max_split_size_mb:40")
    model.malloc("a", 100 * MIB)
    model.free("a")
    model.malloc("b", 30 * MIB)
    assert model.reserved_bytes == 130 * MIB
    model.malloc("c", 80 * MIB)
    assert model.reserved_bytes == 210 * MIB
    model.malloc("d", 80 * MIB + 512)
    assert (model.reserved_bytes, model.block_bytes("d")) == (210 * MIB, 100 * MIB)


def test_max_non_split_rounding_widens_what_is_near() -> None:
    model = allocator("max_split_size_mb:40,max_non_split_rounding_mb:60")
    model.malloc("a", 100 * MIB)
    model.free("a")
    model.malloc("c", 41 * MIB)
    assert (model.reserved_bytes, model.block_bytes("c")) == (100 * MIB, 100 * MIB)


def test_just_enough_oversize_blocks_go_back_when_memory_is_short() -> None:
    model = allocator("max_split_size_mb:40", 320 * MIB)
    for key, size in (("a", 60), ("b", 80), ("c", 100), ("d", 30)):
        model.malloc(key, size * MIB)
    for key in "abcd":
        model.free(key)
    model.malloc("e", 170 * MIB)
    # The 100 and the 80 MiB go, the largest first, until 170 are there; the 60 and the 30 stay.
    assert sorted(segment.bytes for segment in model.segments()) == [30 * MIB, 60 * MIB, 170 * MIB]
    assert (model.retries, model.device_frees) == (0, 2)
    model.free("e")
    # One block that is large enough goes alone.
    model.malloc("f", 120 * MIB)
    assert sorted(segment.bytes for segment in model.segments()) == [30 * MIB, 60 * MIB, 120 * MIB]
    assert (model.retries, model.device_frees) == (0, 3)


def test_garbage_collection_frees_what_has_not_been_used_for_long() -> None:
    model = allocator("garbage_collection_threshold:0.5,per_process_memory_fraction:0.5", total_bytes=1000 * MIB)
    for key, size in (("a", 100), ("b", 120), ("c", 140)):
        model.malloc(key, size * MIB)
    for key in "abc":
        model.free(key)
    model.malloc("a", 100 * MIB)
    model.free("a")
    # 360 of 500 MiB are reserved, above half. Since a was used last there was 1 search of the pool, and 2 since b
    # and c: those two are older than the average, and go.
    model.malloc("d", 200 * MIB)
    assert sorted(segment.bytes for segment in model.segments()) == [100 * MIB, 200 * MIB]
    assert model.retries == 0


def test_large_segments_of_another_size() -> None:
    model = allocator("large_segment_size_mb:64")
    model.malloc("a", 2 * MIB)
    model.malloc("b", 30 * MIB)
    assert shape(model) == [[(2 * MIB, "+"), (30 * MIB, "+"), (32 * MIB, "-")]]


# -- expandable segments --------------------------------------------------------------------------


def test_an_expandable_segment_grows_by_pages() -> None:
    model = allocator("expandable_segments:True")
    model.malloc("a", 30 * MIB)
    assert shape(model) == [[(30 * MIB, "+"), (10 * MIB, "-")]]
    model.malloc("b", 15 * MIB)
    assert shape(model) == [[(30 * MIB, "+"), (15 * MIB, "+"), (15 * MIB, "-")]]
    model.malloc("c", KIB)
    assert shape(model)[1] == [(KIB, "+"), (2 * MIB - KIB, "-")]
    assert (model.reserved_bytes, model.device_allocations, model.inactive_split_bytes) == (62 * MIB, 3, 0)
    assert all(segment.is_expandable for segment in model.segments())


def test_blocks_of_expandable_segments_are_split_down_to_512_bytes() -> None:
    model = allocator("expandable_segments:True")
    model.malloc("a", 20 * MIB - 512)
    assert shape(model) == [[(20 * MIB - 512, "+"), (512, "-")]]


def test_whole_free_pages_of_an_expandable_segment_go_back() -> None:
    model = allocator("expandable_segments:True", 100 * MIB)
    for key, size in (("a", 30), ("b", 45), ("c", 5)):
        model.malloc(key, size * MIB)
    model.free("b")
    model.empty_cache()
    # Of the 20 MiB pages, the third (40 to 60) is free as a whole; what it leaves on both sides stays.
    assert shape(model) == [[(30 * MIB, "+"), (10 * MIB, "-")], [(15 * MIB, "-"), (5 * MIB, "+")]]
    assert model.reserved_bytes == 60 * MIB
    # The gap is filled first.
    model.malloc("d", 45 * MIB)
    assert shape(model) == [[(30 * MIB, "+"), (45 * MIB, "+"), (5 * MIB, "+")]]
    for key in "acd":
        model.free(key)
    model.empty_cache()
    assert (model.reserved_bytes, model.segments()) == (0, ())


def test_expandable_segments_need_no_free_run_where_others_do() -> None:
    def growing(text: str) -> int:
        model = allocator(text)
        for size in range(20, 60):
            model.malloc(size, size * MIB)
            model.free(size)
        return model.reserved_bytes

    assert growing("expandable_segments:True") == 60 * MIB
    assert growing("") == sum(range(20, 61, 2)) * MIB


def test_pages_run_out() -> None:
    model = allocator("expandable_segments:True", 50 * MIB)
    model.malloc("a", 30 * MIB)
    with pytest.raises(OutOfMemory) as refused:
        model.malloc("b", 30 * MIB)
    assert refused.value.free_bytes == 10 * MIB
    model.malloc("c", 10 * MIB)
    assert model.reserved_bytes == 40 * MIB


# -- a start with segments ------------------------------------------------------------------------


def test_segments_that_exist_already() -> None:
    held = BlockState(KIB, 1000, State.ALLOCATED, "a")
    start = (
        SegmentState(0, 2 * MIB, True, 0, (held, BlockState(2 * MIB - KIB, 0, State.INACTIVE))),
        SegmentState(4 * MIB, 20 * MIB, False, 0, (BlockState(20 * MIB, 0, State.INACTIVE),)),
    )
    model = allocator(start=start)
    assert model.segments() == start
    assert (model.allocated_bytes, model.requested_bytes, model.reserved_bytes) == (KIB, 1000, 22 * MIB)
    assert model.inactive_split_bytes == 2 * MIB - KIB
    model.free("a")
    model.empty_cache()
    assert model.reserved_bytes == 0


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ([SegmentState(0, 2 * MIB, True, 0, (BlockState(512, 0, State.INACTIVE),))], "do not fill it"),
        ([SegmentState(0, 512, True, 0, (BlockState(512, 0, State.AWAITING_FREE),))], "waits for a stream"),
        ([SegmentState(0, 1024, True, 0, (BlockState(512, 0, State.INACTIVE),) * 2)], "has free neighbours"),
        ([SegmentState(0, 1024, True, 0, (BlockState(512, 1, State.ALLOCATED, 1),) * 2)], "1 holds two blocks"),
        ([SegmentState(0, 512, True, 0, (BlockState(512, 0, State.INACTIVE),))] * 2, "overlaps the one before it"),
        ([SegmentState(0, 512, True, 0, (BlockState(512, 0, State.INACTIVE),), True)], "not covered"),
    ],
)
def test_a_start_that_cannot_be(start: list[SegmentState], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        allocator(start=start)


# -- laws -----------------------------------------------------------------------------------------

CONFS = (
    "",
    "max_split_size_mb:20",
    "max_split_size_mb:24,max_non_split_rounding_mb:30",
    "roundup_power2_divisions:[1:2,4:8,>:4]",
    "expandable_segments:True",
    "expandable_segments:True,large_segment_size_mb:12",
    "garbage_collection_threshold:0.3,per_process_memory_fraction:0.8",
    "large_segment_size_mb:32",
)

sizes = some.one_of(
    some.integers(0, 4 * KIB),
    some.integers(MIB - KIB, MIB + KIB),
    some.integers(1, 40).map(lambda mib: mib * MIB),
    some.integers(MIB, 40 * MIB),
)
requests = some.lists(
    some.one_of(
        some.tuples(some.just("malloc"), sizes, some.integers(0, 1)),
        some.tuples(some.just("free"), some.integers(0, 1000)),
        some.tuples(some.just("record_stream"), some.integers(0, 1000), some.integers(0, 2)),
        some.tuples(some.just("synchronize"), some.sampled_from([None, 0, 1, 2])),
        some.tuples(some.just("empty_cache")),
    ),
    max_size=60,
)


def perform(model: CachingAllocator, asked: list[tuple[Any, ...]], after: Callable[[], None]) -> list[int]:
    """Ask for all of it, of keys that are live; what finds no memory is left out. The keys that are live at the end."""
    live: list[int] = []
    for number, (what, *arguments) in enumerate(asked):
        if what == "malloc":
            try:
                model.malloc(number, *arguments)
                live.append(number)
            except OutOfMemory as error:
                by_pages = model.conf.expandable_segments
                assert error.free_bytes < error.segment_bytes or error.allowed_bytes is not None or by_pages
        elif what in ("synchronize", "empty_cache"):
            getattr(model, what)(*arguments)
        elif live:
            key = live[arguments[0] % len(live)]
            if what == "free":
                live.remove(key)
            getattr(model, what)(key, *arguments[1:])
        after()
    return live


def check(model: CachingAllocator) -> None:
    """The laws: blocks fill segments without overlap or free neighbours, and the counters are their sums."""
    segments = model.segments()
    end = 0
    for segment in segments:
        assert segment.address >= end
        end = segment.address + segment.bytes
        assert sum(block.bytes for block in segment.blocks) == segment.bytes
        states = [block.state for block in segment.blocks]
        assert (State.INACTIVE, State.INACTIVE) not in pairwise(states)
    blocks = [block for segment in segments for block in segment.blocks]
    live = [block for block in blocks if block.state is State.ALLOCATED]
    active = [block for block in blocks if block.state is not State.INACTIVE]
    assert all(block.bytes % 512 == 0 and block.bytes >= block.requested_bytes > 0 for block in active)
    split = [
        block
        for segment in segments
        for block in segment.blocks
        if len(segment.blocks) > 1 and not segment.is_expandable and block.state is State.INACTIVE
    ]
    assert model.allocated_bytes == sum(block.bytes for block in live)
    assert model.active_bytes == sum(block.bytes for block in active)
    assert model.requested_bytes == sum(block.requested_bytes for block in active)
    assert model.reserved_bytes == sum(segment.bytes for segment in segments)
    assert model.inactive_split_bytes == sum(block.bytes for block in split)
    assert model.reserved_bytes >= model.active_bytes >= model.allocated_bytes
    assert model.active_bytes >= model.requested_bytes
    assert model.capacity_bytes is None or model.reserved_bytes <= model.capacity_bytes
    assert model.allowed_bytes is None or model.reserved_bytes <= model.allowed_bytes
    for now, peak in (
        (model.allocated_bytes, model.peak_allocated_bytes),
        (model.requested_bytes, model.peak_requested_bytes),
        (model.active_bytes, model.peak_active_bytes),
        (model.reserved_bytes, model.peak_reserved_bytes),
        (model.inactive_split_bytes, model.peak_inactive_split_bytes),
    ):
        assert 0 <= now <= peak


@given(requests, some.sampled_from(CONFS), some.sampled_from([None, 64 * MIB, 150 * MIB]))
@settings(deadline=None, max_examples=300)
def test_laws_hold_after_every_request(asked: list[tuple[Any, ...]], conf: str, capacity: int | None) -> None:
    model = allocator(conf, capacity, total_bytes=200 * MIB)
    live = perform(model, asked, lambda: check(model))
    held = [key for key in live if model.block_bytes(key)]
    places = sorted((model.address(key), model.address(key) + model.block_bytes(key)) for key in held)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(places))
    for key in live:
        model.free(key)
    model.empty_cache()
    check(model)
    assert (model.reserved_bytes, model.active_bytes, model.requested_bytes) == (0, 0, 0)


@given(requests, some.sampled_from(CONFS), some.sampled_from([None, 64 * MIB]))
@settings(deadline=None, max_examples=300)
def test_the_same_requests_give_the_same_blocks(asked: list[tuple[Any, ...]], conf: str, capacity: int | None) -> None:
    models = [allocator(conf, capacity, total_bytes=200 * MIB) for _ in range(2)]
    for model in models:
        perform(model, asked, lambda: None)
    assert models[0].segments() == models[1].segments()
    assert models[0].now() == models[1].now()


@given(requests, some.sampled_from(CONFS))
@settings(deadline=None, max_examples=300)
def test_a_restored_state_goes_on_as_the_first_would_have(asked: list[tuple[Any, ...]], conf: str) -> None:
    """Where nothing waits for a stream, a state told and taken over again is the same state."""
    text = conf.replace("expandable_segments:True", "expandable_segments:False")
    asked = [request for request in asked if request[0] != "record_stream"]
    first = allocator(text, total_bytes=400 * MIB)
    perform(first, asked, lambda: None)
    second = allocator(text, total_bytes=400 * MIB, start=first.segments())
    assert second.segments() == first.segments()
    check(second)
    further = [("malloc", size, 0) for size in (KIB, 3 * MIB, 21 * MIB, MIB, 12 * MIB)]
    for model in (first, second):
        for number, (_, size, stream) in enumerate(further):
            model.malloc(("further", number), size, stream)
    assert first.reserved_bytes == second.reserved_bytes
    assert first.allocated_bytes == second.allocated_bytes
