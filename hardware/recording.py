"""A recorded memory history -> the requests in it, and the segments that there were when it began.

A *recording* is what ``torch.cuda.memory._snapshot`` tells of one device: a list of events, and the segments with
their blocks at the end. A history that was switched on late begins with memory in use. Which, follows from the end
and the events: what was freed without having been allocated was there, and so was what is there at the end without
having been allocated. The rest was free. How far a block reaches beyond its request follows from the rules of
splitting: free room of up to 1 MiB behind a block of the large pool belongs to that block, since none that small is
ever split off; in the small pool every block is as large as its rounded request.

Not covered: ``max_split_size``, expandable segments, private pools, and several streams.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from .blocks import MIN_BLOCK, SMALL, SMALL_SEGMENT, BlockState, SegmentState, State
from .requests import Free, Malloc, Request


class Recorded(NamedTuple):
    """One event, in the words of ``torch.cuda.memory._snapshot``; ``bytes`` is what was requested."""

    action: str
    address: int
    bytes: int
    stream: int = 0


Key = tuple[str, int]


def requests(events: Iterable[Recorded]) -> list[Request]:
    """The requests of a recording, frees where they were completed.

    The key of memory from before is ``("start", address)``, of other memory ``("event", index)``.
    """
    keys: dict[int, Key] = {}
    found: list[Request] = []
    for index, event in enumerate(events):
        if event.action == "alloc":
            keys[event.address] = ("event", index)
            found.append(Malloc(("event", index), event.bytes, event.stream))
        elif event.action == "free_completed":
            found.append(Free(keys.pop(event.address, ("start", event.address))))
    return found


def start(events: Sequence[Recorded], end: Iterable[SegmentState]) -> tuple[SegmentState, ...]:
    """The segments when the recording began, by address."""
    segments = _segments_before(events, end)
    live = _live_before(events, end)
    return tuple(_filled(address, size, live) for address, size in sorted(segments.items()))


def _segments_before(events: Sequence[Recorded], end: Iterable[SegmentState]) -> dict[int, int]:
    segments = {segment.address: segment.bytes for segment in end}
    for event in reversed(events):
        if event.action == "segment_alloc":
            del segments[event.address]
        elif event.action == "segment_free":
            segments[event.address] = event.bytes
    return segments


def _live_before(events: Sequence[Recorded], end: Iterable[SegmentState]) -> dict[int, int]:
    """The requested bytes of what was live, by address."""
    live: dict[int, int] = {}
    for segment in end:
        address = segment.address
        for block in segment.blocks:
            if block.state is State.ALLOCATED:
                live[address] = block.requested_bytes
            address += block.bytes
    for event in reversed(events):
        if event.action == "alloc":
            del live[event.address]
        elif event.action == "free_completed":
            live[event.address] = event.bytes
    return live


def _filled(address: int, size: int, live: dict[int, int]) -> SegmentState:
    """A segment with its blocks: the live ones, and the free room between them."""
    is_small, end = size == SMALL_SEGMENT, address + size
    blocks: list[BlockState] = []
    starts = sorted(place for place in live if address <= place < end)
    place = address
    for begin, following in pairwise([*starts, end]):
        if begin > place:
            blocks.append(BlockState(begin - place, 0, State.INACTIVE))
        length = (live[begin] + MIN_BLOCK - 1) // MIN_BLOCK * MIN_BLOCK
        if not is_small and following - (begin + length) <= SMALL:
            length = following - begin
        key: Hashable = ("start", begin)
        blocks.append(BlockState(length, live[begin], State.ALLOCATED, key))
        place = begin + length
    if place < end:
        blocks.append(BlockState(end - place, 0, State.INACTIVE))
    return SegmentState(address, size, is_small, 0, tuple(blocks))
