"""Requests for memory -> blocks and segments, as PyTorch's CUDA caching allocator would place them.

The *caching allocator* takes segments from the device, cuts them into blocks, and keeps what is given back for later
requests. What PyTorch calls *allocated* is the sum of the blocks handed out, *reserved* the sum of the segments.

The rules are those of ``DeviceCachingAllocator`` in ``c10/cuda/CUDACachingAllocator.cpp``, each named at the method
that follows it: as in PyTorch's main branch of spring 2026, read in the mirror
https://github.com/Continuous-Integrator/pytorch/blob/0919d01f216cbda88a9488b30075c674df16ff49/c10/cuda/CUDACachingAllocator.cpp,
but for the order of equal blocks, which is that of https://github.com/pytorch/pytorch/pull/183591 and in PyTorch 2.14.

Two things of a real run are not in the requests and are settled here: a segment's address (each lies above the others,
unless one says where), and when another stream is done with a block (only when `CachingAllocator.synchronize` says so,
or when memory runs out and the allocator waits).

Not covered: private pools (CUDA graphs, ``torch.cuda.MemPool``), memory that other processes hold, and
fragmentation of the device's own address space, which ``cudaMalloc`` hides.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Iterator

from ..graph.errors import ForetraceError
from .alloc_conf import UNLIMITED, AllocConf
from .blocks import (
    MIN_BLOCK,
    MIN_LARGE,
    ROUND_LARGE,
    SMALL,
    SMALL_SEGMENT,
    Block,
    BlockState,
    Counters,
    Pool,
    Segment,
    SegmentState,
    State,
)
from .out_of_memory import OutOfMemory

ADDRESS_SPACE = 1 << 48
"""What an expandable segment reserves where the device's memory is not known; else 9/8 of that memory."""


class CachingAllocator:
    """PyTorch's CUDA caching allocator on one device, without the device.

    ``capacity_bytes`` is what the device can give to it: the device's memory less the CUDA context and what others
    hold; None is no limit. ``total_bytes`` is the device's whole memory, for the message of `OutOfMemory` and for
    ``per_process_memory_fraction``; the capacity where it is left out. ``start`` are segments that exist already, and
    the keys of their allocated blocks are live; expandable ones are not covered there.

    Among free blocks of equal size PyTorch 2.14 takes the one whose segment is the oldest, and in that the lowest
    address; earlier versions take the lowest address of all. ``by_age=False`` does the latter, and ``place`` tells the
    address that the device gives to a new segment of some size (`addresses.falling`).

    The attributes ``allocated_bytes``, ``requested_bytes``, ``active_bytes``, ``reserved_bytes`` and
    ``inactive_split_bytes`` hold the present counts, each with its own maximum in ``peak_...``; see `Counters` for
    their meaning. ``at_peak`` are the counters when ``allocated_bytes`` first reached its maximum. Further counts:
    ``device_allocations`` and ``device_frees`` (calls of the device, mapped and unmapped pages included),
    ``retries`` (requests that were met only after all free segments had been given back, or not at all) and
    ``out_of_memories``.
    """

    __slots__ = (
        "_by_age", "_collects", "_expandable", "_live", "_max_split", "_next_address", "_others_at_peak", "_place",
        "_pools", "_rounds", "_segments_made", "_takes_best_fit", "_waiting", "active_bytes", "allocated_bytes",
        "allowed_bytes", "capacity_bytes", "conf", "device_allocations", "device_frees", "inactive_split_bytes",
        "out_of_memories", "peak_active_bytes", "peak_allocated_bytes", "peak_inactive_split_bytes",
        "peak_requested_bytes", "peak_reserved_bytes", "requested_bytes", "reserved_bytes", "retries", "total_bytes",
    )  # fmt: skip

    def __init__(
        self,
        capacity_bytes: int | None = None,
        conf: AllocConf | None = None,
        *,
        total_bytes: int | None = None,
        by_age: bool = True,
        place: Callable[[int], int] | None = None,
        start: Iterable[SegmentState] = (),
    ) -> None:
        self.conf = conf or AllocConf()
        self.capacity_bytes = _checked(capacity_bytes, "a capacity")
        self.total_bytes = _checked(total_bytes, "a device's memory") or self.capacity_bytes
        self.allowed_bytes = self._limit()
        self._by_age = by_age
        self._place = place or self._above
        self._rounds = any(self.conf.roundup_power2_divisions)
        self._max_split = self.conf.max_split_bytes
        self._expandable = self.conf.expandable_segments
        self._collects = self.allowed_bytes is not None and self.conf.garbage_collection_threshold > 0
        self._takes_best_fit = not (self._collects or self._expandable) and self._max_split == UNLIMITED
        self._live: dict[Hashable, Block | None] = {}
        self._pools: dict[tuple[bool, int], Pool] = {}
        self._waiting: dict[int, list[Block]] = {}
        self._next_address = 0
        self._segments_made = 0
        self.allocated_bytes = self.requested_bytes = self.active_bytes = 0
        self.reserved_bytes = self.inactive_split_bytes = 0
        self.peak_allocated_bytes = self.peak_requested_bytes = self.peak_active_bytes = 0
        self.peak_reserved_bytes = self.peak_inactive_split_bytes = 0
        self._others_at_peak = (0, 0, 0, 0)
        self.device_allocations = self.device_frees = self.retries = self.out_of_memories = 0
        for state in start:
            self._adopt(state)
        self.reset_peaks()

    # What one asks of it.

    def malloc(self, key: Hashable, nbytes: int, stream: int = 0) -> None:
        """Hand out a block of at least `nbytes` on `stream`, to be given back by its `key`.

        A request for 0 bytes takes nothing. Raises `OutOfMemory`, and ``ValueError`` for a key that is live.
        """
        if key in self._live:
            raise ValueError(f"{key!r} is allocated already")
        if nbytes <= 0:
            if nbytes < 0:
                raise ValueError(f"{nbytes} bytes asked for {key!r}")
            self._live[key] = None
            return
        size = self.round_size(nbytes) if self._rounds else (nbytes + MIN_BLOCK - 1) // MIN_BLOCK * MIN_BLOCK
        pool = self._pools.get((size <= SMALL, stream)) or self._new_pool(size <= SMALL, stream)
        block = self._find_free(pool, size) or self._grow(key, pool, nbytes, size)
        if block.size > size:
            block = self._split(block, pool, size)
            size = block.size
        elif (block.previous is not None or block.next is not None) and not block.segment.page_bytes:
            self.inactive_split_bytes -= size
        block.allocated = True
        block.requested = nbytes
        block.key = key
        self._live[key] = block
        self.active_bytes = active = self.active_bytes + size
        if active > self.peak_active_bytes:
            self.peak_active_bytes = active
        self.requested_bytes = requested = self.requested_bytes + nbytes
        if requested > self.peak_requested_bytes:
            self.peak_requested_bytes = requested
        self.allocated_bytes = allocated = self.allocated_bytes + size
        if allocated > self.peak_allocated_bytes:
            self.peak_allocated_bytes = allocated
            self._others_at_peak = (requested, active, self.reserved_bytes, self.inactive_split_bytes)

    def free(self, key: Hashable) -> None:
        """Give back what `key` holds. Raises ``KeyError`` when it holds nothing."""
        block = self._live.pop(key)
        if block is None:
            return
        block.allocated = False
        self.allocated_bytes -= block.size
        if block.users:
            self._await(block)
        else:
            self._release(block)

    def record_stream(self, key: Hashable, stream: int) -> None:
        """Say that `stream` uses the block too (``Tensor.record_stream``): once given back, it waits for `stream`."""
        block = self._live[key]
        if block is not None and stream != block.pool.stream:
            block.users = {*(block.users or ()), stream}

    def synchronize(self, stream: int | None = None) -> None:
        """Say that a stream, or every one, has finished its work: blocks that waited for it become free."""
        for done in sorted(self._waiting) if stream is None else (stream,):
            for block in self._waiting.pop(done, ()):
                block.awaited -= 1
                if not block.awaited:
                    self._release(block)

    def empty_cache(self) -> None:
        """Give every segment without a live block back to the device (``torch.cuda.empty_cache``)."""
        self.synchronize()
        for pool in sorted(self._pools.values(), key=lambda pool: (pool.is_small, pool.stream)):
            self._release_segments(pool)

    def holds(self, key: Hashable) -> bool:
        """True while `key` is live."""
        return key in self._live

    def block_bytes(self, key: Hashable) -> int:
        """The size of the block that `key` holds."""
        block = self._live[key]
        return block.size if block else 0

    def address(self, key: Hashable) -> int:
        """Where the block that `key` holds begins; -1 for a request of 0 bytes."""
        block = self._live[key]
        return block.address if block else -1

    def now(self) -> Counters:
        """The counters of this moment."""
        return Counters(
            allocated_bytes=self.allocated_bytes,
            requested_bytes=self.requested_bytes,
            active_bytes=self.active_bytes,
            reserved_bytes=self.reserved_bytes,
            inactive_split_bytes=self.inactive_split_bytes,
        )

    @property
    def at_peak(self) -> Counters:
        """The counters when the allocated bytes first reached their maximum."""
        requested, active, reserved, inactive = self._others_at_peak
        return Counters(
            allocated_bytes=self.peak_allocated_bytes,
            requested_bytes=requested,
            active_bytes=active,
            reserved_bytes=reserved,
            inactive_split_bytes=inactive,
        )

    def reset_peaks(self) -> None:
        """Begin the maxima anew from the present (``torch.cuda.reset_peak_memory_stats``)."""
        self.peak_allocated_bytes = self.allocated_bytes
        self.peak_requested_bytes = self.requested_bytes
        self.peak_active_bytes = self.active_bytes
        self.peak_reserved_bytes = self.reserved_bytes
        self.peak_inactive_split_bytes = self.inactive_split_bytes
        self._others_at_peak = (
            self.requested_bytes,
            self.active_bytes,
            self.reserved_bytes,
            self.inactive_split_bytes,
        )

    def segments(self) -> tuple[SegmentState, ...]:
        """All segments with their blocks, by address."""
        mapped = sorted((block for block in self._blocks() if block.mapped), key=lambda block: block.address)
        runs: list[list[Block]] = []
        for block in mapped:
            if block.previous is not None and block.previous.mapped:
                runs[-1].append(block)
            else:
                runs.append([block])
        return tuple(_told(run) for run in runs)

    def round_size(self, nbytes: int) -> int:
        """A request's size as PyTorch rounds it (``round_size``, ``roundup_power2_next_division``)."""
        if nbytes < MIN_BLOCK:
            return MIN_BLOCK
        divisions = self.conf.divisions(nbytes)
        if divisions <= 1 or nbytes <= MIN_BLOCK * divisions:
            return (nbytes + MIN_BLOCK - 1) // MIN_BLOCK * MIN_BLOCK
        step = (1 << (nbytes.bit_length() - 1)) // divisions
        return (nbytes + step - 1) // step * step

    def segment_bytes(self, size: int) -> int:
        """What is asked of the device for a rounded size (``get_allocation_size``)."""
        if size <= SMALL:
            return SMALL_SEGMENT
        if size < MIN_LARGE:
            return self.conf.large_segment_bytes
        return (size + ROUND_LARGE - 1) // ROUND_LARGE * ROUND_LARGE

    # Blocks: found, split, merged.

    def _find_free(self, pool: Pool, size: int) -> Block | None:
        """The best fit, taken out of its pool (``get_free_block``)."""
        free = pool.free
        if self._collects:
            self._count_search(pool)
        index = bisect_left(free, (size,))
        if index == len(free):
            return None
        if self._takes_best_fit:
            return free.pop(index)[3]
        if self._expandable:
            index = self._best_expandable(free, index)
        found = free[index][0]
        if found >= self._max_split and (
            size < self._max_split or found >= size + self.conf.max_non_split_rounding_bytes
        ):
            return None
        block = free[index][3]
        del free[index]
        return block

    def _best_expandable(self, free: list[tuple[int, int, int, Block]], index: int) -> int:
        """A block at the end of what is mapped counts with the room behind it, into which it can grow."""

        def room(block: Block) -> int:
            return block.size + (block.next.size if block.next is not None and not block.next.mapped else 0)

        while (
            free[index][3].segment.page_bytes
            and index + 1 < len(free)
            and room(free[index + 1][3]) < room(free[index][3])
        ):
            index += 1
        return index

    def _split(self, block: Block, pool: Pool, size: int) -> Block:
        """Cut `size` bytes off a larger block, if the rest is worth it (``should_split``, ``alloc_found_block``)."""
        rest = block.size - size
        was_split = block.previous is not None or block.next is not None
        fine = pool.is_small or self._expandable
        if not (rest >= MIN_BLOCK if fine else rest > SMALL and size < self._max_split):
            if was_split and not block.segment.page_bytes:
                self.inactive_split_bytes -= block.size
            return block
        front = Block(block.address, size, pool, block.segment)
        front.previous = before = block.previous
        front.next = block
        if before is not None:
            before.next = front
        block.previous = front
        block.address += size
        block.size = rest
        pool.add(block)
        if not block.segment.page_bytes:
            self._count_inactive(-size if was_split else rest)
        return front

    def _release(self, block: Block) -> None:
        """Put a block back into its pool, merged with free neighbours (``free_block``)."""
        self.active_bytes -= block.size
        self.requested_bytes -= block.requested
        block.key = None
        change = 0
        before, after = block.previous, block.next
        if before is not None and not before.allocated and before.is_free:
            change -= self._merge(block, before)
        if after is not None and not after.allocated and after.is_free:
            change -= self._merge(block, after)
        block.pool.add(block)
        if not block.segment.page_bytes:
            if block.previous is not None or block.next is not None:
                change += block.size
            self._count_inactive(change)

    def _merge(self, block: Block, other: Block) -> int:
        """Let `block` take in its neighbour, if both have memory or neither has; the bytes (``try_merge_blocks``)."""
        if block.mapped is not other.mapped:
            return 0
        if other.mapped:
            block.pool.take(other)
        else:
            block.pool.take_unmapped(other)
        if block.previous is other:
            block.address = other.address
            block.previous = further = other.previous
            if further is not None:
                further.next = block
        else:
            block.next = further = other.next
            if further is not None:
                further.previous = block
        block.size += other.size
        return other.size

    def _await(self, block: Block) -> None:
        """Let a block that was given back wait for the other streams that use it (``insert_events``)."""
        users, block.users = block.users or set(), None
        for stream in users:
            self._waiting.setdefault(stream, []).append(block)
        block.awaited = len(users)

    # Segments: taken and given back.

    def _grow(self, key: Hashable, pool: Pool, nbytes: int, size: int) -> Block:
        """A block of new memory; free memory is given back to the device where that helps (``malloc``)."""
        if self._collects:
            self._collect_garbage()
        take = self.segment_bytes(size)
        if self._is_rejected(take):
            raise self._out_of_memory(key, nbytes, take, is_rejected=True)
        block = self._new_segment(pool, size, take)
        if block is None and self._release_oversize(pool, size):
            block = self._new_segment(pool, size, take)
        if block is None:
            self.empty_cache()
            self.retries += 1
            block = self._new_segment(pool, size, take)
        if block is None:
            self.out_of_memories += 1
            raise self._out_of_memory(key, nbytes, take)
        return block

    def _is_rejected(self, take: int) -> bool:
        if not self.conf.throw_on_cudamalloc_oom or self.total_bytes is None or self.allowed_bytes is not None:
            return False
        return self.reserved_bytes + take > self.total_bytes

    def _new_segment(self, pool: Pool, size: int, take: int) -> Block | None:
        """Memory from the device, if it has any (``alloc_block``)."""
        if self.allowed_bytes is not None and self.reserved_bytes + take > self.allowed_bytes:
            return None
        if self._expandable:
            return self._expand(pool, size)
        if not self._has_room(take):
            return None
        self._reserve(take)
        segment = self._segment(take)
        return Block(segment.address, take, pool, segment)

    def _release_oversize(self, pool: Pool, size: int) -> bool:
        """Give just enough oversize blocks back to the device (``release_available_cached_blocks``)."""
        if self._max_split == UNLIMITED:
            return False
        wanted = max(size, self._max_split)
        free = pool.free
        index = bisect_left(free, (wanted,))
        if index < len(free) and not free[index][3].segment.page_bytes:
            self._release_segment(free[index][3])
            return True
        released = 0
        for _, _, _, block in reversed(free[:index]):
            if released >= wanted or block.size < self._max_split:
                break
            if not block.segment.page_bytes:
                released += block.size
                self._release_segment(block)
        return released >= wanted

    def _release_segments(self, pool: Pool) -> None:
        """Give back all that lies free: whole segments, and whole pages of expandable ones (``release_blocks``)."""
        for _, _, _, block in list(pool.free):
            if block.segment.page_bytes:
                self._unmap(block)
            elif not block.is_split:
                self._release_segment(block)

    def _release_segment(self, block: Block) -> None:
        """Give one free segment back to the device (``release_block``)."""
        block.pool.take(block)
        self.reserved_bytes -= block.size
        self.device_frees += 1

    def _collect_garbage(self) -> None:
        """Give back old free segments once too much is reserved (``garbage_collect_cached_blocks``)."""
        assert self.allowed_bytes is not None
        target = self.reserved_bytes - int(self.conf.garbage_collection_threshold * self.allowed_bytes)
        candidates = [entry[3] for pool in self._large_pools() for entry in pool.free if not entry[3].is_split]
        ages = {block: block.pool.searches - block.since for block in candidates}
        total_age, reclaimed, freed = sum(ages.values()), 0, True
        while reclaimed < target and freed and ages:
            threshold, freed = total_age / len(ages), False
            for block in list(ages):
                if not block.segment.page_bytes and ages[block] >= threshold:
                    freed = True
                    reclaimed += block.size
                    total_age -= ages.pop(block)
                    self._release_segment(block)

    def _count_search(self, pool: Pool) -> None:
        """Pools of one kind share this count, whatever their stream."""
        for other in self._large_pools() if not pool.is_small else (pool,):
            other.searches += 1

    # Expandable segments.

    def _expand(self, pool: Pool, size: int) -> Block | None:
        """Map pages until a free block has `size`; None when they run out (``try_allocate_expandable_block``)."""
        block = self._find_expandable(pool, size)
        if not block.mapped and not self._map(block, min(block.size, size)):
            return None
        while block.size < size:
            following = block.next
            assert following is not None
            if not self._map(following, min(size - block.size, following.size)):
                return None
            block = following
        pool.take(block)
        return block

    def _find_expandable(self, pool: Pool, size: int) -> Block:
        """The lowest run of free and unmapped blocks with room for `size` (``find_expandable_block``)."""
        for _, block in pool.unmapped:
            first = block.previous if block.previous is not None and block.previous.is_free else block
            if _room_from(first) >= size:
                return first
        page = SMALL_SEGMENT if pool.is_small else self.conf.large_segment_bytes
        wanted = self.total_bytes + self.total_bytes // 8 if self.total_bytes else ADDRESS_SPACE
        length = (max(wanted, size) + page - 1) // page * page
        segment = self._segment(length, page)
        block = Block(segment.address, length, pool, segment)
        block.mapped = False
        pool.add_unmapped(block)
        return block

    def _map(self, block: Block, size: int) -> bool:
        """Give memory to the first `size` bytes of an unmapped block, in whole pages (``map_block``)."""
        page, pool = block.segment.page_bytes, block.pool
        take = (size + page - 1) // page * page
        if not self._has_room(take):
            return False
        pool.take_unmapped(block)
        block.mapped = True
        if take < block.size:
            rest = _cut_behind(block, take)
            rest.mapped = False
            pool.add_unmapped(rest)
        for neighbour in (block.previous, block.next):
            if neighbour is not None and neighbour.is_free:
                self._merge(block, neighbour)
        pool.add(block)
        self._reserve(take)
        return True

    def _unmap(self, block: Block) -> None:
        """Give the whole pages inside a free block back to the device (``unmap_block``)."""
        segment, pool = block.segment, block.pool
        page, start = segment.page_bytes, block.address - segment.address
        first = (start + page - 1) // page * page
        end = (start + block.size) // page * page
        if first >= end:
            return
        pool.take(block)
        if first > start:
            before = block
            block = _cut_behind(before, first - start)
            pool.add(before)
        if end < block.address - segment.address + block.size:
            pool.add(_cut_behind(block, end - first))
        block.mapped = False
        for neighbour in (block.previous, block.next):
            if neighbour is not None and neighbour.is_free:
                self._merge(block, neighbour)
        if block.is_split:
            pool.add_unmapped(block)
        self.reserved_bytes -= end - first
        self.device_frees += 1

    # The rest.

    def _limit(self) -> int | None:
        if self.conf.per_process_memory_fraction >= 1:
            return None
        if self.total_bytes is None:
            raise ForetraceError(
                "per_process_memory_fraction is a share of a memory that is not known", "Name a device or a capacity"
            )
        return int(self.conf.per_process_memory_fraction * self.total_bytes)

    def _has_room(self, take: int) -> bool:
        return self.capacity_bytes is None or self.reserved_bytes + take <= self.capacity_bytes

    def _reserve(self, take: int) -> None:
        self.reserved_bytes += take
        self.device_allocations += 1
        if self.reserved_bytes > self.peak_reserved_bytes:
            self.peak_reserved_bytes = self.reserved_bytes

    def _count_inactive(self, change: int) -> None:
        self.inactive_split_bytes = inactive = self.inactive_split_bytes + change
        if inactive > self.peak_inactive_split_bytes:
            self.peak_inactive_split_bytes = inactive

    def _above(self, size: int) -> int:
        return self._next_address

    def _segment(self, size: int, page_bytes: int = 0) -> Segment:
        return self._segment_at(self._place(size), size, page_bytes)

    def _segment_at(self, address: int, size: int, page_bytes: int = 0) -> Segment:
        segment = Segment(address, size, self._segments_made if self._by_age else 0, page_bytes)
        self._segments_made += 1
        end = (address + size + ROUND_LARGE - 1) // ROUND_LARGE * ROUND_LARGE
        self._next_address = max(self._next_address, end)
        return segment

    def _new_pool(self, is_small: bool, stream: int) -> Pool:
        pool = self._pools[is_small, stream] = Pool(is_small, stream)
        pool.searches = max((other.searches for other in self._pools.values() if other.is_small == is_small), default=0)
        return pool

    def _large_pools(self) -> Iterator[Pool]:
        return (self._pools[key] for key in sorted(self._pools) if not key[0])

    def _blocks(self) -> Iterator[Block]:
        yield from (block for block in self._live.values() if block is not None)
        yield from {id(block): block for blocks in self._waiting.values() for block in blocks}.values()
        for pool in self._pools.values():
            yield from (entry[3] for entry in pool.free)
            yield from (block for _, block in pool.unmapped)

    def _adopt(self, state: SegmentState) -> None:
        """Take over a segment that exists already."""
        _check_segment(state, self._next_address)
        pool = self._pools.get((state.is_small, state.stream)) or self._new_pool(state.is_small, state.stream)
        segment = self._segment_at(state.address, state.bytes)
        self.reserved_bytes += state.bytes
        address, previous = state.address, None
        for told in state.blocks:
            block = Block(address, told.bytes, pool, segment)
            block.requested = told.requested_bytes
            address += told.bytes
            block.previous = previous
            if previous is not None:
                previous.next = block
            previous = block
            if told.state is State.INACTIVE:
                pool.add(block)
                self.inactive_split_bytes += told.bytes if len(state.blocks) > 1 else 0
                continue
            if told.key in self._live:
                raise ValueError(f"{told.key!r} holds two blocks of the start")
            block.allocated, block.key = True, told.key
            self._live[told.key] = block
            self.allocated_bytes += told.bytes
            self.active_bytes += told.bytes
            self.requested_bytes += told.requested_bytes

    def _out_of_memory(self, key: Hashable, nbytes: int, take: int, *, is_rejected: bool = False) -> OutOfMemory:
        total = self.total_bytes or 0
        capacity = self.capacity_bytes if self.capacity_bytes is not None else total
        return OutOfMemory(
            key=key,
            requested_bytes=nbytes,
            segment_bytes=take,
            total_bytes=total,
            free_bytes=max(capacity - self.reserved_bytes, 0),
            used_bytes=total - capacity + self.reserved_bytes,
            allowed_bytes=self.allowed_bytes,
            counters=self.now(),
            is_rejected=is_rejected,
        )


def _checked(count: int | None, what: str) -> int | None:
    if count is not None and count <= 0:
        raise ForetraceError(f"{what} of {count:,} bytes holds nothing", "Give a number of bytes above 0")
    return count


def _room_from(block: Block | None) -> int:
    """Bytes of the free and unmapped blocks from here on."""
    room = 0
    while block is not None and block.is_free:
        room += block.size
        block = block.next
    return room


def _cut_behind(block: Block, size: int) -> Block:
    """Leave `size` bytes to a block; the rest becomes a new block behind it."""
    rest = Block(block.address + size, block.size - size, block.pool, block.segment)
    rest.mapped = block.mapped
    rest.previous, rest.next = block, block.next
    if rest.next is not None:
        rest.next.previous = rest
    block.next = rest
    block.size = size
    return rest


def _told(run: list[Block]) -> SegmentState:
    blocks = tuple(BlockState(block.size, block.requested, block.state, block.key) for block in run)
    first = run[0]
    return SegmentState(
        address=first.address,
        bytes=sum(block.size for block in run),
        is_small=first.pool.is_small,
        stream=first.pool.stream,
        blocks=blocks,
        is_expandable=first.segment.page_bytes > 0,
    )


def _check_segment(state: SegmentState, lowest: int) -> None:
    if state.is_expandable:
        raise ValueError("a start with expandable segments is not covered")
    if state.address < lowest:
        raise ValueError(f"the segment at {state.address} overlaps the one before it, or is out of order")
    if not state.blocks or sum(block.bytes for block in state.blocks) != state.bytes:
        raise ValueError(f"the blocks of the segment at {state.address} do not fill it")
    if any(block.state is State.AWAITING_FREE for block in state.blocks):
        raise ValueError(f"a block of the segment at {state.address} waits for a stream, which is not covered")
    if any(left.state is right.state is State.INACTIVE for left, right in _neighbours(state)):
        raise ValueError(f"the segment at {state.address} has free neighbours")


def _neighbours(state: SegmentState) -> Iterator[tuple[BlockState, BlockState]]:
    return zip(state.blocks, state.blocks[1:], strict=False)
