"""The log of a step with folded blocks -> the *part* of each block in it, proof that parts repeat, and the gaps.

A block's part of the log is its ops and events in forward, from the return of the block before it to its own, and in
backward, from the first op that differentiates one of its own to the first that differentiates one of the block below.
Parts repeat if, told by the part that each storage plays (own parameter, own gradient, result, gradient passed down,
made inside, or the same for all), those of the second unit and of the last but one are equal to the letter, although
one stands above folded blocks and the other below. A *gap* is what folded blocks left in the log. What does not fit
raises `Unfoldable`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..graph import Phase, Tensor
from ..graph.op import tensors
from .fold import FoldedRun
from .log import PLACEHOLDER, Row
from .record import Recorder
from .special import READS
from .turn import Mark, Unfoldable

Role = tuple[Any, ...]

BETWEEN = frozenset({PLACEHOLDER, "aten.add_.Tensor", "aten.add.Tensor"})
"""What runs where blocks are folded: nothing but the engine's sums of gradients."""


class Part(NamedTuple):
    """Ops ``[first_op, end_op)`` and events ``[first_event, end_event)`` of the log."""

    first_op: int
    end_op: int
    first_event: int
    end_event: int


@dataclass(slots=True)
class Gap:
    """A part of the log that folded blocks left, and the blocks whose parts belong there, in order."""

    run: FoldedRun
    backward: bool
    places: list[int]
    part: Part
    nodes: int
    """Autograd nodes that were made in it."""
    deaths: list[tuple[int, int]] | None = None
    """In a gap that holds deaths only: whose, as places in a unit and in what is made inside."""


class Block:
    """One block that ran: its two parts, and the role of each storage in them."""

    def __init__(self, view: View, place: int) -> None:
        self.view, self.place = view, place
        self.forward, self.backward = view.forward_part(place), view.backward_part(place)
        self.roles = {storage: role for role, storage in view.known_roles(place)}
        self.inside: list[int] = []
        """The storages made inside, in order of birth."""
        events = view.recorder.events
        for part in self.parts:
            for _, storage, nbytes in events[part.first_event : part.end_event]:
                if nbytes > 0 and storage not in self.roles:
                    self.roles[storage] = ("inside", len(self.inside))
                    self.inside.append(storage)

    @property
    def parts(self) -> list[Part]:
        """What it has in forward, and in backward."""
        return [self.forward] if self.backward is None else [self.forward, self.backward]

    def told(self) -> list[Any]:
        """Both parts, with roles for storages and places relative to the block."""
        events = self.view.recorder.events
        told: list[Any] = []
        for part in self.parts:
            told += [self._row(self.view.recorder.rows[i]) for i in range(part.first_op, part.end_op)]
            told += [
                (op - part.first_op, self._role(storage), nbytes)
                for op, storage, nbytes in events[part.first_event : part.end_event]
            ]
            told.append(self.view.nodes(self.place) if part is self.forward else None)
        told.append([self._made(storage) for storage in self.inside])
        return told

    def _made(self, storage: int) -> Any:
        return self.view.recorder.bytes_of[storage], self.view.recorder.device_of[storage]

    def _row(self, row: Row) -> Any:
        name = self.view.run.run.blocks[self.place][0]
        module: Any = row.module
        if module == name or module.startswith(name + "."):
            module = ("own", module[len(name) :])
        sequence = None if row.sequence is None else row.sequence - self.view.first_node(self.place)
        return (
            row.signature.name,
            [(argument, self._value(value)) for argument, value in row.args.items()],
            self._value(row.result),
            row.phase,
            module,
            row.code,
            row.line,
            sequence,
            None if row.forward is None else row.forward - self.forward.first_op,
        )

    def _value(self, value: Any) -> Any:
        if type(value) is Tensor:
            return (self._role(value.storage), *value[1:])
        if type(value) is tuple:
            return [self._value(item) for item in value]
        return (type(value), value)

    def _role(self, storage: int) -> Role:
        return self.roles.get(storage) or ("same", storage)


class View:
    """The log as one run sees it."""

    def __init__(self, recorder: Recorder, run: FoldedRun, gradients: dict[str, list[int]]) -> None:
        self.recorder, self.run, self.turn, self.gradients = recorder, run, run.turn, gradients
        self.period, self.units = run.run.period, run.run.units
        self.count = len(run.run.blocks)
        self.starts = self._starts_of_backward() if self.turn.differentiable else {}
        self.blocks: dict[int, Block] = {}
        self.known: dict[int, list[tuple[Role, int]]] = {}

    def prove(self) -> None:
        """Raises `Unfoldable` unless the log repeats."""
        for first in self._template_unit():
            last = self.run.reference(first)
            one, other = Block(self, first), Block(self, last)
            if one.told() != other.told():
                raise Unfoldable(f"{self._name(first)} and {self._name(last)} do not repeat each other")
            self._check_closed(one)
            self.blocks[first], self.blocks[last] = one, other
        for place in range(1, self.count):
            entry, before = self.turn.entries[place], self.turn.exits[place - 1]
            if (entry.ops, entry.sequence) != (before.ops, before.sequence):
                raise Unfoldable("ops run between the blocks")

    def _template_unit(self) -> range:
        first = self.run.run.template(0)
        return range(first, first + self.period)

    def _name(self, place: int) -> str:
        return self.run.run.blocks[place][0]

    def _check_closed(self, block: Block) -> None:
        """No op reads values or writes known ones of others; those of backward make no nodes, and are the block's."""
        rows = self.recorder.rows
        known = {owner.id for owner in self.recorder.owners.values() if owner.known}
        for part in block.parts:
            for row in rows[part.first_op : part.end_op]:
                if row.signature.name in READS:
                    raise Unfoldable("a block looks at values")
                for tensor in (t for name in row.signature.mutates for t in tensors(row.args.get(name))):
                    if tensor.storage in known and tensor.storage not in block.roles:
                        raise Unfoldable("a block writes known values that are not its own")
        if block.backward is not None:
            for row in rows[block.backward.first_op : block.backward.end_op]:
                if row.sequence is not None or row.phase is not Phase.BACKWARD:
                    raise Unfoldable("backward builds a graph of its own")
                if row.forward is not None and not block.forward.first_op <= row.forward < block.forward.end_op:
                    raise Unfoldable("backward goes through two blocks at once")

    # -- parts ----------------------------------------------------------------------------------

    def _starts_of_backward(self) -> dict[int, Mark]:
        """Where the backward of each block begins."""
        run, rows, events = self.run.run, self.recorder.rows, self.recorder.events
        place_of = {
            op: place
            for place in range(1, self.count)
            if run.is_run(place)
            for op in range(self.turn.exits[place - 1].ops, self.turn.exits[place].ops)
        } | dict.fromkeys(range(self.turn.entries[0].ops, self.turn.exits[0].ops), 0)
        firsts: dict[int, int] = {}
        for number in range(self.turn.exits[-1].ops, len(rows)):
            forward = rows[number].forward
            if forward is not None and forward in place_of:
                firsts.setdefault(place_of[forward], number)
        starts = dict(self.turn.backward)
        waiting = sorted((op, place) for place, op in firsts.items())
        at = 0
        for op, place in waiting:
            while at < len(events) and events[at][0] < op:
                at += 1
            starts[place] = Mark(op, at, 0)
        return starts

    def forward_part(self, place: int) -> Part:
        """What a block has in forward."""
        before, after = self.turn.exits[place - 1], self.turn.exits[place]
        return Part(before.ops, after.ops, before.events, after.events)

    def backward_part(self, place: int) -> Part | None:
        """What a block has in backward; None where there is none."""
        if not self.turn.differentiable:
            return None
        start, end = self.starts.get(place), self.starts.get(place - 1)
        if start is None or end is None or start.ops > end.ops or start.events > end.events:
            raise Unfoldable("backward does not go down block by block")
        return Part(start.ops, end.ops, start.events, end.events)

    def first_node(self, place: int) -> int:
        """How many autograd nodes there were before the block's own."""
        return self.turn.exits[place - 1].sequence

    def nodes(self, place: int) -> int:
        """How many autograd nodes the block's forward made."""
        return self.turn.exits[place].sequence - self.first_node(place)

    # -- roles ----------------------------------------------------------------------------------

    def known_roles(self, place: int) -> list[tuple[Role, int]]:
        """The storages of a block, folded or not, that play a part for others, too; the last role of one counts."""
        if place not in self.known:
            self.known[place] = list(self._known_roles(place))
        return self.known[place]

    def _known_roles(self, place: int) -> Iterator[tuple[Role, int]]:
        name = self._name(place)
        for relative, tensor in (*self.run.parameters[place], *self.run.buffers[place]):
            owner = self.recorder.owner_of(tensor)
            if owner is not None:
                yield ("own", relative), owner.id
        for relative, _ in self.run.parameters[place]:
            for number, storage in enumerate(self.gradients.get(f"{name}.{relative}", ())):
                yield ("gradient", relative, number), storage
        for cached, storage in self.turn.cached.get(place, {}).items():
            yield ("cached", cached), storage
        for distance in (2, 1, 0):
            for number, storage in self._results(place - distance):
                yield ("result", distance, number), storage
        for distance in (1, 0):
            for number, heard in enumerate(self.turn.gradients.get(place - distance, ())):
                if heard is not None:
                    yield ("passed", distance, number), heard[0]

    def _results(self, place: int) -> list[tuple[int, int]]:
        return list(enumerate(self.turn.results[place])) if place >= 0 else []

    def storages_for(self, place: int) -> dict[int, int]:
        """The template's storages that have a role, and what the block at `place` has in their stead."""
        ours = dict(self.known_roles(place))
        found: dict[int, int] = {}
        for role, template in self.known_roles(self.run.run.template(place)):
            own = ours.pop(role, None)
            if own is None or found.setdefault(template, own) != own:
                raise Unfoldable("a storage plays a part in one block and none in another")
        if any(role[:2] != ("result", 2) for role in ours):
            raise Unfoldable("a storage plays a part in one block and none in another")
        return found

    # -- gaps -----------------------------------------------------------------------------------

    def gaps(self) -> list[Gap]:
        """What the folded blocks left in the log, to be written anew."""
        folded = [place for place in range(self.count) if not self.run.run.is_run(place)]
        first, last = folded[0], folded[-1]
        start, end = self.turn.exits[first - 1], self.turn.exits[last]
        part = Part(start.ops, end.ops, start.events, end.events)
        gaps = [Gap(self.run, False, folded, part, end.sequence - start.sequence)]
        if self.turn.differentiable:
            start, end = self.starts[last], self.starts[first - 1]
            part = Part(start.ops, end.ops, start.events, end.events)
            gaps.append(Gap(self.run, True, folded[::-1], part, 0))
        for gap in gaps:
            self._check_gap(gap, first, last)
        return gaps + self._late_gaps(folded)

    def _late_gaps(self, folded: list[int]) -> list[Gap]:
        """Where what is made inside dies later, as a cache that autocast empties: block after block, proved as well."""
        second = self._late(self._template_unit())
        before_last = self._late(range(self.run.reference(0), self.run.reference(0) + self.period))
        if [deaths for _, _, deaths in second] != [deaths for _, _, deaths in before_last]:
            raise Unfoldable("what outlives the blocks does not die alike")
        gaps = []
        for (start, end, deaths), (other_start, other_end, _) in zip(second, before_last, strict=True):
            if end == other_start:
                at, places = end, folded
            elif other_end == start:
                at, places = start, folded[::-1]
            else:
                raise Unfoldable("what outlives the blocks does not die in order")
            op = self.recorder.events[at - 1][0] + 1
            gaps.append(Gap(self.run, False, places[:: self.period], Part(op, op, at, at), 0, deaths))
        return gaps

    def _late(self, unit: range) -> list[tuple[int, int, list[tuple[int, int]]]]:
        """Deaths of what a unit made inside, outside of its parts: runs of events, and who dies in them."""
        whose = {storage: (place - unit[0], n) for place in unit for n, storage in enumerate(self.blocks[place].inside)}
        events = self.recorder.events
        for place in unit:
            for part in self.blocks[place].parts:
                for _, storage, nbytes in events[part.first_event : part.end_event]:
                    if nbytes < 0:
                        whose.pop(storage, None)
        found: list[tuple[int, int, list[tuple[int, int]]]] = []
        for at, (_, storage, nbytes) in enumerate(events) if whose else ():
            if nbytes < 0 and storage in whose:
                if not found or found[-1][1] != at:
                    found.append((at, at, []))
                start, _, deaths = found.pop()
                found.append((start, at + 1, [*deaths, whose.pop(storage)]))
        if whose:
            raise Unfoldable("something that is made in a block outlives the step")
        return found

    def _check_gap(self, gap: Gap, first: int, last: int) -> None:
        rows = self.recorder.rows[gap.part.first_op : gap.part.end_op]
        if any(row.signature.name not in BETWEEN or row.phase is not Phase.BACKWARD for row in rows):
            raise Unfoldable("other ops run beside the blocks")
        events = self.recorder.events[gap.part.first_event : gap.part.end_event]
        known = {s for place in range(first - 1, last + 2) for _, s in self.known_roles(place)}
        inside = {storage for _, storage, nbytes in events if nbytes > 0}
        dead = {storage for _, storage, nbytes in events if nbytes < 0}
        if not (dead <= inside | known and inside <= dead | known):
            raise Unfoldable("something else is born or freed beside the blocks")
