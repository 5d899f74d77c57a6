"""The log of a step with folded blocks -> the log of the same step with all of them run.

Where the parts of a run's blocks repeat (`parts`), the template's is written once for each folded block, over that
block's own storages, into the gaps that they left. What does not fit raises `Unfoldable`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .fold import Folding
from .log import Copy, Marker, Row
from .parts import Block, Gap, Part, View
from .record import Recorder
from .turn import Unfoldable


def unfold(recorder: Recorder, folding: Folding, gradients: dict[int, str]) -> None:
    """Write the folded blocks' parts into the recorder's log. `gradients`: names of parameters by their storages."""
    by_name: dict[str, list[int]] = {}
    for storage, name in gradients.items():
        by_name.setdefault(name, []).append(storage)
    gaps: list[Gap] = []
    blocks: dict[tuple[int, int], Block] = {}
    for run in folding.runs:
        if run.turn.exits and run.started and not run.off:
            view = View(recorder, run, by_name)
            view.prove()
            gaps += view.gaps()
            blocks |= {(id(run), place): block for place, block in view.blocks.items()}
    if gaps:
        _Writer(recorder, sorted(gaps, key=lambda gap: gap.part.first_event), blocks).write()


@dataclass(slots=True)
class Written:
    """What a template block has in one phase, told by roles."""

    modules: list[str]
    sequences: list[int | None]
    forwards: list[int | None]
    part: Part
    nodes: int
    calls: list[tuple[str, Any]]
    """The modules called in it, and from where."""
    again: list[str]
    """What it runs again."""


class _Writer:
    """Writes the log anew, the gaps filled."""

    def __init__(self, recorder: Recorder, gaps: list[Gap], blocks: dict[tuple[int, int], Block]) -> None:
        self.recorder, self.gaps, self.blocks = recorder, gaps, blocks
        self.rows: list[Row] = []
        self.copies: list[Copy] = []
        self.events: list[tuple[int, int, int]] = []
        self.places: list[int] = [0] * len(recorder.rows)
        """The new place of each old row outside of the gaps."""
        self.shift = 0
        """How many more autograd nodes there are by now."""
        self.began: dict[tuple[int, int], int] = {}
        """Where the forward part of each folded block begins."""
        self.insides: dict[tuple[int, int], dict[int, int]] = {}
        self.kept: list[tuple[Part, int, int]] = []
        """Parts outside of the gaps, with the new places of their first op and event."""

    def write(self) -> None:
        """Fill the gaps, and see that the result is sound."""
        recorder = self.recorder
        templates = {key: self._written(block) for key, block in self.blocks.items()}
        old = recorder.events
        op = event = 0
        for gap in self.gaps:
            if gap.part.first_op < op or gap.part.first_event < event:
                raise Unfoldable("two runs of blocks overlap")
            self._keep(Part(op, gap.part.first_op, event, gap.part.first_event))
            for place in gap.places:
                if gap.deaths is not None:
                    self._bury(gap, place)
                    continue
                key = (id(gap.run), gap.run.run.template(place))
                self._fill(gap, place, self.blocks[key], templates[key][gap.backward])
            self.shift -= gap.nodes
            op, event = gap.part.end_op, gap.part.end_event
        self._keep(Part(op, len(recorder.rows), event, len(old)))
        self._check(old)
        recorder.copies = [copy._replace(like=self.places[copy.like]) for copy in self.copies]
        recorder.markers = [self._moved(marker) for marker in recorder.markers]
        recorder.rows, recorder.events = self.rows, self.events
        if len(self.rows) > recorder.max_ops:
            raise Unfoldable("the step is too long")

    def _written(self, block: Block) -> list[Written]:
        """The template's parts as they are now, before their own rows are moved."""
        rows, callers = self.recorder.rows, self.recorder.callers
        name = block.view.run.run.blocks[block.place][0]
        return [
            Written(
                [row.module for row in rows[part.first_op : part.end_op]],
                [row.sequence for row in rows[part.first_op : part.end_op]],
                [row.forward for row in rows[part.first_op : part.end_op]],
                part,
                block.view.nodes(block.place) if part is block.forward else 0,
                *callers.within(range(part.first_op, part.end_op), name),
            )
            for part in block.parts
        ]

    def _keep(self, part: Part) -> None:
        to = len(self.rows)
        self.kept.append((part, to, len(self.events)))
        self.places[part.first_op : part.end_op] = range(to, to + part.end_op - part.first_op)
        rows = self.recorder.rows[part.first_op : part.end_op]
        for row in rows:
            if row.forward is not None:
                row.forward = self.places[row.forward]
            if row.sequence is not None:
                row.sequence += self.shift
        self.rows += rows
        by = to - part.first_op
        self.events += [
            (op + by, storage, nbytes)
            for op, storage, nbytes in self.recorder.events[part.first_event : part.end_event]
        ]

    def _fill(self, gap: Gap, place: int, block: Block, written: Written) -> None:
        key = (id(gap.run), place)
        if not gap.backward:
            self.began[key] = len(self.rows)
            self.insides[key] = block.view.storages_for(place) | self._inside(block)
        storages, began = self.insides[key], self.began[key]
        names = gap.run.run.blocks[block.place][0], gap.run.run.blocks[place][0]
        nodes = self.shift + self._node_shift(gap, block)
        first = len(self.rows)
        renamed = _renaming(*names)
        self.recorder.callers.copied(
            first, [(renamed(path), line) for path, line in written.calls], map(renamed, written.again)
        )
        by = began - block.forward.first_op
        self.copies.append(
            Copy(
                first,
                written.part.first_op,
                [renamed(module) for module in written.modules],
                [None if sequence is None else sequence + nodes for sequence in written.sequences],
                [None if forward is None else forward + by for forward in written.forwards],
                storages,
            )
        )
        self.rows += self.recorder.rows[written.part.first_op : written.part.end_op]
        by = first - written.part.first_op
        events = self.recorder.events[written.part.first_event : written.part.end_event]
        self.events += [(op + by, storages.get(storage, storage), nbytes) for op, storage, nbytes in events]
        self.shift += written.nodes

    def _bury(self, gap: Gap, place: int) -> None:
        """The deaths of what the unit that begins at `place` made."""
        unit = place - place % gap.run.run.period
        for number, inside in gap.deaths or ():
            template = self.blocks[id(gap.run), gap.run.run.template(number)].inside[inside]
            storage = self.insides[id(gap.run), unit + number][template]
            self.events.append((len(self.rows) - 1, storage, -self.recorder.bytes_of[storage]))

    def _node_shift(self, gap: Gap, block: Block) -> int:
        """From the template's nodes to where the gap begins, as they were counted."""
        first = gap.places[-1 if gap.backward else 0]
        return block.view.first_node(first) - block.view.first_node(block.place)

    def _inside(self, block: Block) -> dict[int, int]:
        recorder = self.recorder
        return {
            storage: recorder.new_id(recorder.bytes_of[storage], recorder.device_of[storage])
            for storage in block.inside
        }

    def _moved(self, marker: Marker) -> Marker:
        for part, op, event in self.kept:
            if part.first_event <= marker.events <= part.end_event and part.first_op <= marker.ops <= part.end_op:
                return Marker(marker.phase, marker.ops - part.first_op + op, marker.events - part.first_event + event)
        raise Unfoldable("a phase begins among folded blocks")

    def _check(self, old: list[tuple[int, int, int]]) -> None:
        """Every storage is born once at most, and dies as before."""
        born = [storage for _, storage, nbytes in self.events if nbytes > 0]
        died = [storage for _, storage, nbytes in self.events if nbytes < 0]
        if len(set(born)) != len(born) or len(set(died)) != len(died):
            raise Unfoldable("a storage would be born or freed twice")
        lost = {storage for _, storage, nbytes in old if nbytes < 0}.difference(died)
        unborn = {storage for _, storage, nbytes in old if nbytes > 0}.difference(born)
        if lost != unborn:
            raise Unfoldable("a storage would not be born or freed")


def _renaming(old: str, new: str) -> Callable[[str], str]:
    inside = old + "."
    known: dict[str, str] = {old: new}

    def renamed(module: str) -> str:
        found = known.get(module)
        if found is None:
            found = known[module] = new + module[len(old) :] if module.startswith(inside) else module
        return found

    return renamed
