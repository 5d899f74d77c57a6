"""Pairs each birth of a step graph with the allocation of a measured step that it stands for.

A *pairing* goes through both in order, op by op. Within one op the kernel may allocate its results in any order, and
what it frees before it returns is no result but *scratch*. Where the two part, the pairing goes on at the next place
where they fit again: a birth in between was *missing* from the real run, an allocation in between was *unpredicted*, a
birth in the right op but of another size is *resized*.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

from ..graph import Category, Measured, Op, StepGraph
from .timeline import counts

WRAPPED_NUMBER_BYTES = 8
"""A Python number that meets a tensor becomes a tensor of at most 8 bytes for the time of the op."""

_REACH = 256
"""How many births or allocations are skipped at most to find where the two fit again."""


@dataclass(frozen=True, slots=True)
class Parting:
    """A place where predicted and measured differ.

    ``storage`` is the predicted one that did not come, or came in another size; ``place`` is the allocation among the
    measured blocks. One of them is None where the other has no counterpart. ``op`` is the id of the op, or of
    the nearest that was predicted, and -1 where there is none.
    """

    op: int
    storage: int | None
    place: int | None


@dataclass(slots=True)
class Pairing:
    """What became of every birth and of every allocation."""

    pairs: dict[int, int] = field(default_factory=dict)
    """The place of the allocation by the storage that it stands for, of the same size in the same op."""
    resized: dict[int, int] = field(default_factory=dict)
    """The same, where the size differs."""
    scratch: list[int] = field(default_factory=list)
    """Places of allocations that a kernel gave back before it returned, and of numbers wrapped as tensors."""
    partings: list[Parting] = field(default_factory=list)
    """Where the two differ, in order."""


@dataclass(slots=True)
class _Births:
    """The births of one op that have not been met yet: storages and their sizes."""

    op: int
    name: str
    left: dict[int, int]


def pair(graph: StepGraph, measured: Measured) -> Pairing:
    """The pairing of a prediction with a real run of the same step."""
    return _Pairer(graph, measured).run()


def measured_name(op: Op) -> str:
    """An op's name as the profiler of a real run writes it.

    >>> from ..graph import Phase
    >>> measured_name(Op(id=0, name="aten.addmm.default", phase=Phase.FORWARD, args={}, result=None))
    'aten::addmm'
    """
    return op.packet if "::" in op.packet else op.packet.replace(".", "::", 1)


class _Pairer:
    """Walks through the allocations with the births in hand."""

    def __init__(self, graph: StepGraph, measured: Measured) -> None:
        self.graph, self.measured = graph, measured
        self.births = list(_births(graph))
        self.taken = [place for place, block in enumerate(measured.blocks) if block.bytes > 0]
        self.at = 0
        self.found = Pairing()

    def run(self) -> Pairing:
        for index, place in enumerate(self.taken):
            if self._met(place):
                continue
            if self._is_scratch(place):
                self.found.scratch.append(place)
            else:
                self._part(index)
        self._miss(len(self.births) - self.at)
        return self.found

    def _fits(self, births: int, place: int) -> int | None:
        """The storage among the births that the allocation stands for."""
        if births >= len(self.births) or not self._is_result(births, place):
            return None
        size = self.measured.blocks[place].bytes
        return next((s for s, expected in self.births[births].left.items() if expected == size), None)

    def _is_result(self, births: int, place: int) -> bool:
        """Whether the allocation happened in the op and outlives it."""
        block, name = self.measured.blocks[place], self.births[births].name
        return name in block.ops and block.calls[block.ops.index(name)] not in self.measured.calls_at_free(place)

    def _met(self, place: int) -> bool:
        storage = self._fits(self.at, place)
        if storage is not None:
            self._take(self.found.pairs, storage, place)
        return storage is not None

    def _take(self, into: dict[int, int], storage: int, place: int) -> None:
        into[storage] = place
        del self.births[self.at].left[storage]
        self.at += not self.births[self.at].left

    def _is_scratch(self, place: int) -> bool:
        number = self.measured.blocks[place].bytes <= WRAPPED_NUMBER_BYTES and place in self.measured.freed_at
        return number or bool(self.measured.kernel(place))

    def _part(self, index: int) -> None:
        """Note the difference at an allocation that fits no birth in hand, and go where the two fit again."""
        place = self.taken[index]
        skipped = self._skipped(index)
        if skipped:
            self._miss(skipped)
            self._met(place)
        elif skipped is None and self.at < len(self.births) and self._is_result(self.at, place):
            self._resize(place)
        else:
            self.found.partings.append(Parting(self._nearest(place), None, place))

    def _skipped(self, index: int) -> int | None:
        """How many ops' births did not happen; 0 where the births in hand come later; None where neither is seen."""
        for distance in range(1, _REACH):
            if self._fits(self.at + distance, self.taken[index]) is not None:
                return distance
            if index + distance < len(self.taken) and self._fits(self.at, self.taken[index + distance]) is not None:
                return 0
        return None

    def _miss(self, count: int) -> None:
        """The next `count` ops' births did not happen."""
        for births in self.births[self.at : self.at + count]:
            self.found.partings += [Parting(births.op, storage, None) for storage in births.left]
        self.at += count

    def _resize(self, place: int) -> None:
        births = self.births[self.at]
        storage = next(iter(births.left))
        self.found.partings.append(Parting(births.op, storage, place))
        self._take(self.found.resized, storage, place)

    def _nearest(self, place: int) -> int:
        """The op between the births already met and those to come that has the name of one that was running."""
        first = self.births[self.at - 1].op if self.at else 0
        end = self.births[self.at].op if self.at < len(self.births) else len(self.graph.ops) - 1
        running = self.measured.blocks[place].ops
        between = range(first, end + 1)
        return next((i for i in between if measured_name(self.graph.ops[i]) in running), end)


def _births(graph: StepGraph) -> Iterator[_Births]:
    """The births of results on the traced device, those of one op together."""
    results = {s.id for s in graph.storages if counts(graph, s) and s.category is not Category.WORKSPACE}
    events = (e for e in graph.events if e.bytes > 0 and e.op >= 0 and e.storage in results)
    for op, born in groupby(events, key=lambda event: event.op):
        yield _Births(op, measured_name(graph.ops[op]), {event.storage: event.bytes for event in born})
