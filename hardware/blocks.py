"""Segments and blocks: the nouns of PyTorch's CUDA caching allocator, and the states that they are told in.

A *segment* is memory taken from the device at once. It is cut into *blocks* without gaps; a block is handed out to
one request, or lies free in its *pool*. There is one pool for small and one for large requests of each stream.
An *expandable* segment is a range of addresses, of which some pages are mapped to memory; a block of it that is not
mapped takes no memory.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum

MIB = 1 << 20
MIN_BLOCK = 512
"""Sizes are rounded up to a multiple of this (``kMinBlockSize``)."""
SMALL = MIB
"""The largest request that goes to a small pool (``kSmallSize``)."""
SMALL_SEGMENT = 2 * MIB
"""What a small pool takes from the device at once (``kSmallBuffer``)."""
MIN_LARGE = 10 * MIB
"""From this size on a request gets a segment of its own (``kMinLargeAlloc``)."""
ROUND_LARGE = 2 * MIB
"""The size of such a segment is rounded up to a multiple of this (``kRoundLarge``)."""


class State(StrEnum):
    """What a block is doing, in the words of ``torch.cuda.memory._snapshot``."""

    ALLOCATED = "active_allocated"
    AWAITING_FREE = "active_awaiting_free"
    """Given back, but another stream may still use it."""
    INACTIVE = "inactive"


class Segment:
    """Memory taken from the device at once; ``page_bytes`` is 0 unless it is expandable."""

    __slots__ = ("address", "age", "page_bytes", "size")

    def __init__(self, address: int, size: int, age: int, page_bytes: int = 0) -> None:
        self.address = address
        self.size = size
        self.age = age
        self.page_bytes = page_bytes


class Block:
    """A run of bytes in a segment, with its neighbours in that segment."""

    __slots__ = (
        "address",
        "allocated",
        "awaited",
        "key",
        "mapped",
        "next",
        "pool",
        "previous",
        "requested",
        "segment",
        "since",
        "size",
        "users",
    )

    def __init__(self, address: int, size: int, pool: Pool, segment: Segment) -> None:
        self.address = address
        self.size = size
        self.pool = pool
        self.segment = segment
        self.requested = 0
        self.key: Hashable = None
        self.allocated = False
        self.mapped = True
        self.previous: Block | None = None
        self.next: Block | None = None
        self.users: set[int] | None = None
        """Other streams that were said to use it."""
        self.awaited = 0
        """Streams that it waits for, after it was given back."""
        self.since = 0
        """How often its pool had been searched when it became free."""

    @property
    def is_split(self) -> bool:
        """True when its segment has other blocks."""
        return self.previous is not None or self.next is not None

    @property
    def is_free(self) -> bool:
        """True when it may be handed out or merged."""
        return not self.allocated and not self.awaited and not self.users

    @property
    def state(self) -> State:
        """What it is doing."""
        if self.allocated:
            return State.ALLOCATED
        return State.AWAITING_FREE if self.awaited else State.INACTIVE


Entry = tuple[int, int, int, Block]


class Pool:
    """The free blocks of one kind and stream, sorted by size; equal sizes by the age of their segment, then address."""

    __slots__ = ("free", "is_small", "searches", "stream", "unmapped")

    def __init__(self, is_small: bool, stream: int) -> None:
        self.is_small = is_small
        self.stream = stream
        self.free: list[Entry] = []
        self.unmapped: list[tuple[int, Block]] = []
        """The unmapped blocks of expandable segments, by address."""
        self.searches = 0

    def add(self, block: Block) -> None:
        """Put a block among the free ones."""
        block.since = self.searches
        insort(self.free, (block.size, block.segment.age, block.address, block))

    def take(self, block: Block) -> None:
        """Take a block out of the free ones."""
        free = self.free
        del free[bisect_left(free, (block.size, block.segment.age, block.address))]

    def add_unmapped(self, block: Block) -> None:
        """Put a block among those without memory."""
        insort(self.unmapped, (block.address, block))

    def take_unmapped(self, block: Block) -> None:
        """Take a block out of those without memory."""
        del self.unmapped[bisect_left(self.unmapped, (block.address,))]


@dataclass(frozen=True, slots=True)
class BlockState:
    """A block as told to others. ``requested_bytes`` is 0 for one that was never handed out."""

    bytes: int
    requested_bytes: int
    state: State
    key: Hashable = None
    """The request that holds it."""


@dataclass(frozen=True, slots=True)
class SegmentState:
    """A segment as told to others: its blocks in order of address, which fill it without gaps.

    Of an expandable segment each run of mapped pages is one of these, as in ``torch.cuda.memory._snapshot``.
    """

    address: int
    bytes: int
    is_small: bool
    stream: int
    blocks: tuple[BlockState, ...]
    is_expandable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What PyTorch's memory statistics say at one moment, in bytes."""

    allocated_bytes: int
    """Blocks handed out, what they hold beyond their request included: ``memory_allocated``."""
    requested_bytes: int
    """What the holders of those blocks asked for."""
    active_bytes: int
    """Blocks handed out, or given back while another stream may use them."""
    reserved_bytes: int
    """Segments: ``memory_reserved``."""
    inactive_split_bytes: int
    """Free blocks in segments of which another part is in use; expandable segments are left out."""

    @property
    def unallocated_bytes(self) -> int:
        """Reserved, but not handed out."""
        return self.reserved_bytes - self.allocated_bytes

    @property
    def fragmentation(self) -> float:
        """The share of the reserved bytes that is not handed out; 0 where nothing is reserved."""
        return self.unallocated_bytes / self.reserved_bytes if self.reserved_bytes else 0.0
