"""The nouns of a *measured step*: what the allocator was asked for while a step ran for real, in order.

A *block* is one allocation or free. It says which ops were running, but no module and no line: a real run has no
recorder in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from .phase import Phase


@dataclass(frozen=True, slots=True)
class Block:
    """One allocation (``bytes > 0``) or free (``bytes < 0``) of the real run, at ``address``.

    ``ops`` are the names of the ATen ops that were running, the outermost first, and ``calls`` which call of
    them each was (the number of its event).
    """

    bytes: int
    address: int
    ops: tuple[str, ...]
    calls: tuple[int, ...]


@dataclass(frozen=True)
class Measured:
    """Live bytes of a real step, counted from its start: the start is 0, frees of older tensors are negative."""

    ends: Mapping[Phase, int]
    """At the end of each phase; of its last run, where a phase runs more than once."""
    peak_bytes: int
    blocks: tuple[Block, ...]
    """Every allocation and free of the step, in order."""
    ends_at: Mapping[Phase, int]
    """How many of the blocks there were by then."""

    @cached_property
    def freed_at(self) -> Mapping[int, int]:
        """For each allocation that was freed in the step, by its place among the blocks, the place of the free."""
        taken: dict[int, int] = {}
        found = {}
        for place, block in enumerate(self.blocks):
            if block.bytes > 0:
                taken[block.address] = place
            elif block.address in taken:
                found[taken.pop(block.address)] = place
        return found

    def calls_at_free(self, place: int) -> tuple[int, ...]:
        """The calls that were running when the allocation at `place` was freed; none for what outlives the step."""
        freed = self.freed_at.get(place)
        return () if freed is None else self.blocks[freed].calls

    def kernel(self, place: int) -> str:
        """The innermost op that both took and gave back the allocation at `place`; empty where it outlives them all."""
        block, calls = self.blocks[place], self.calls_at_free(place)
        inside = [op for op, call in zip(block.ops, block.calls, strict=True) if call in calls]
        return inside[-1] if inside else ""
