"""Many requests at once -> what `CachingAllocator` makes of them one by one, in half the time.

A request is a *move* here: the op that asks, a slot (which is not looked at), bytes, below 0 where they are given back,
and a key. Played in bulk are the requests of one stream under PyTorch's own settings; all others are for ``malloc`` and
``free``. The rules are theirs, written out in one loop without a call for each; `CachingAllocator` says where they are
from, and a test holds the two against each other.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

from .allocator import CachingAllocator
from .blocks import MIN_BLOCK, SMALL, Block

Move = tuple[int, int, int, int]
"""An op, a slot, bytes and a key."""


class BulkAllocator(CachingAllocator):
    """A caching allocator that can `play` many moves at once."""

    __slots__ = ("last_move",)

    @property
    def plays(self) -> bool:
        """True where `play` may be asked: the settings are PyTorch's own, and no stream has to be waited for."""
        waits = any(block.users for block in self._live.values() if block) or self.active_bytes != self.allocated_bytes
        return self._takes_best_fit and not self._rounds and not waits

    def play(self, moves: Iterable[Move], peak_op: int) -> int:
        """Take and give back, all on stream 0; the op that brought the allocated peak, or `peak_op` if none did.

        Keys that are taken must be new, and bytes not 0. ``last_move`` is then the last move that was tried. Raises
        `OutOfMemory` as ``malloc`` does.
        """
        live, grow = self._live, self._grow
        small, large = (self._pools.get((kind, 0)) or self._new_pool(kind, 0) for kind in (True, False))
        active, requested, inactive = self.active_bytes, self.requested_bytes, self.inactive_split_bytes
        peak, peak_requested, peak_inactive = (
            self.peak_allocated_bytes,
            self.peak_requested_bytes,
            self.peak_inactive_split_bytes,
        )
        move: Move = (0, 0, 0, 0)
        try:
            for move in moves:
                op, _, nbytes, key = move
                if nbytes > 0:
                    size = (nbytes + MIN_BLOCK - 1) // MIN_BLOCK * MIN_BLOCK
                    pool = small if size <= SMALL else large
                    free = pool.free
                    place = bisect_left(free, (size,))
                    if place < len(free):
                        block = free.pop(place)[3]
                    else:
                        self._note(active, requested, inactive)
                        block = grow(key, pool, nbytes, size)
                    before, rest = block.previous, block.size - size
                    was_split = before is not None or block.next is not None
                    if rest >= MIN_BLOCK if pool is small else rest > SMALL:
                        segment, address = block.segment, block.address
                        front = Block(address, size, pool, segment)
                        front.previous, front.next = before, block
                        if before is not None:
                            before.next = front
                        block.previous = front
                        block.address = address = address + size
                        block.size = rest
                        insort(free, (rest, segment.age, address, block))
                        inactive += -size if was_split else rest
                        block = front
                    else:
                        size += rest
                        if was_split:
                            inactive -= size
                    block.allocated, block.requested, block.key = True, nbytes, key
                    live[key] = block
                    active += size
                    requested += nbytes
                    if requested > peak_requested:
                        peak_requested = requested
                    if active > peak:
                        peak, peak_op = active, op
                        self._others_at_peak = requested, active, self.reserved_bytes, inactive
                else:
                    given = live.pop(key)
                    assert given is not None
                    block, free, age, size = given, given.pool.free, given.segment.age, given.size
                    active -= size
                    requested -= block.requested
                    block.allocated, block.key = False, None
                    before, after = block.previous, block.next
                    if before is not None and not before.allocated:
                        inactive -= before.size
                        size += before.size
                        block.address = before.address
                        del free[bisect_left(free, (before.size, age, before.address))]
                        block.previous = before = before.previous
                        if before is not None:
                            before.next = block
                    if after is not None and not after.allocated:
                        inactive -= after.size
                        size += after.size
                        del free[bisect_left(free, (after.size, age, after.address))]
                        block.next = after = after.next
                        if after is not None:
                            after.previous = block
                    block.size = size
                    insort(free, (size, age, block.address, block))
                    if before is not None or after is not None:
                        inactive += size
                if inactive > peak_inactive:
                    peak_inactive = inactive
        finally:
            self._note(active, requested, inactive)
            self.last_move = move
            self.peak_allocated_bytes, self.peak_requested_bytes = peak, peak_requested
            self.peak_active_bytes = max(self.peak_active_bytes, peak)
            self.peak_inactive_split_bytes = peak_inactive
        return peak_op

    def _note(self, active: int, requested: int, inactive: int) -> None:
        self.allocated_bytes = self.active_bytes = active
        self.requested_bytes, self.inactive_split_bytes = requested, inactive
