"""A step graph, and what kernels take beside it -> the *script* of the step: what it takes and gives back, in order.

A script is written once and played as often as the step runs; it knows no addresses, and nothing of the steps before.
Storages elsewhere than on the traced device, and those of 0 bytes, are not in it.

Kernels take memory that no op returns. What is known of it is given as *extras* (`Extras`): for an op, `Scratch`
taken when its outputs have been allocated (or before) and given back before anything dies, last taken first unless a
`Return` says otherwise, and `Lasting` taken at its first use and kept for good. Ops on the host take none.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

from ..graph import Op, StepGraph


class Scratch(NamedTuple):
    """Memory that a kernel takes and gives back while the op runs."""

    bytes: int
    name: str = "workspace"
    before_outputs: bool = False
    """True where the kernel asks for it before the op's outputs are allocated."""


class Lasting(NamedTuple):
    """Memory that is taken once, by the first op that needs it, and kept: a cuBLAS workspace."""

    bytes: int
    name: str
    """One and the same for all ops that share it."""
    before_outputs: bool = False


class Return(NamedTuple):
    """A `Scratch` that is given back while its op goes on: the last one taken under that name."""

    name: str
    before_outputs: bool = False
    """True where that happens before the op's outputs are allocated."""


Extra = Scratch | Lasting | Return
Extras = Callable[[Op], Iterable[Extra]]
"""What an op takes beside its outputs, in the order in which its kernels ask for it."""

Move = tuple[int, int, int]
"""An op, a slot and bytes, below 0 where they are given back. A slot is the id of a storage, or below 0 an extra's."""


def once_each(extras: Extras, kinds: Sequence[int]) -> Extras:
    """The same extras, asked for once of ops that are alike; `kinds` are `StepGraph.kinds`."""
    known: dict[int, tuple[Extra, ...]] = {}

    def of(op: Op) -> tuple[Extra, ...]:
        kind = kinds[op.id]
        found = known.get(kind)
        if found is None:
            found = known[kind] = tuple(extras(op))
        return found

    return of


@dataclass(slots=True)
class Script:
    """What one step takes and gives back after its beginning. A lasting extra is there where it is first asked for."""

    graph: StepGraph
    moves: list[Move] = field(default_factory=list)
    extras: list[Scratch | Lasting] = field(default_factory=list)

    def extra(self, slot: int) -> Scratch | Lasting:
        """The extra of a slot below 0."""
        return self.extras[-1 - slot]


def script(graph: StepGraph, extras: Extras | None = None) -> Script:
    """The script of a step."""
    there = [on and s.bytes > 0 for on, s in zip(graph.on_device, graph.storages, strict=True)]
    moves = [(event.op, event.storage, event.bytes) for event in graph.events if there[event.storage]]
    if extras is None:
        return Script(graph, moves)
    moves.sort(key=itemgetter(0))
    wanted = [
        (op.id, found)
        for op, several in zip(graph.ops, map(extras, graph.ops), strict=True)
        if (found := tuple(several)) and _runs_there(op, there)
    ]
    return _Writer(Script(graph), moves).written(wanted)


def _runs_there(op: Op, there: Sequence[bool]) -> bool:
    """Whether any of an op's tensors is there."""
    for several in (op.outputs, op.inputs):
        for tensor in several:
            if there[tensor.storage]:
                return True
    return False


@dataclass(slots=True)
class _Writer:
    """Puts extras among the moves of storages, which are in order of ops."""

    script: Script
    storages: list[Move]
    lasting: set[str] = field(default_factory=set)
    held: list[int] = field(default_factory=list)
    """The slots of what the present op has taken and not given back."""

    def written(self, wanted: Iterable[tuple[int, Iterable[Extra]]]) -> Script:
        """`wanted` are the extras of ops that have some, by the op's id, in order."""
        moves, storages, done = self.script.moves, self.storages, 0
        for op, extras in wanted:
            if all(type(extra) is Lasting and extra.name in self.lasting for extra in extras):
                continue
            first = bisect_left(storages, (op,), done)
            births = _end_of_births(storages, first, op)
            moves += storages[done:first]
            self._take(op, extras, before_outputs=True)
            moves += storages[first:births]
            self._take(op, extras, before_outputs=False)
            while self.held:
                self._give_back(op, self.held.pop())
            done = births
        moves += storages[done:]
        return self.script

    def _take(self, op: int, extras: Iterable[Extra], *, before_outputs: bool) -> None:
        for extra in extras:
            if extra.before_outputs is not before_outputs:
                continue
            if isinstance(extra, Return):
                self._return(op, extra.name)
            elif extra.bytes > 0 and not (isinstance(extra, Lasting) and extra.name in self.lasting):
                self.script.extras.append(extra)
                slot = -len(self.script.extras)
                self.script.moves.append((op, slot, extra.bytes))
                if isinstance(extra, Lasting):
                    self.lasting.add(extra.name)
                else:
                    self.held.append(slot)

    def _return(self, op: int, name: str) -> None:
        found = next((slot for slot in reversed(self.held) if self.script.extra(slot).name == name), None)
        if found is not None:
            self.held.remove(found)
            self._give_back(op, found)

    def _give_back(self, op: int, slot: int) -> None:
        self.script.moves.append((op, slot, -self.script.extra(slot).bytes))


def _end_of_births(moves: Sequence[Move], first: int, op: int) -> int:
    """The place after the last birth of an op whose moves begin at `first`."""
    place = found = first
    while place < len(moves) and moves[place][0] == op:
        place += 1
        if moves[place - 1][2] > 0:
            found = place
    return found
