"""A timeline and an instant of it -> the *story* of what is alive then: who made it, what keeps it, what if not.

What is alive is grouped as in `holders`. A group is kept by what comes to it after the instant: the ops that still read
it, autograd where its death is a node's being done, or else a Python name or container. The *next peak* is the largest
number of live bytes in the whole step if the group had never been allocated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..graph import Category, ForetraceError, Op, Phase, StepGraph, Storage
from .holders import Holder, group, key
from .timeline import START, Timeline, live_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Without:
    """The peak of the step if a group did not exist, and the op that brings it; None where that is the start."""

    peak_bytes: int
    op: Op | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A group of equal storages that are alive, and why."""

    holder: Holder
    made_by: Op | None
    """The op that allocated the first of them; None for what was live when the step began."""
    kept_by: str
    reader: Op | None
    """The op that reads the first of them next; None where none does."""
    shapes: tuple[str, ...]
    without: Without


@dataclass(frozen=True, kw_only=True)
class Story:
    """What is alive at one instant of a step."""

    timeline: Timeline
    event: int
    """The instant: after this event, or `START`."""
    live_bytes: int
    kept: tuple[Kept, ...]

    @property
    def op(self) -> Op | None:
        """The op of the instant; None before the first event."""
        graph = self.timeline.graph
        place = graph.events[self.event].op if self.event != START else START
        return graph.ops[place] if place >= 0 else None


def instant(timeline: Timeline, at: str) -> int:
    """The event that an instant's name means: ``peak``, the end of a phase by its name, or an op by its id.

    Raises `ForetraceError` for another name.
    """
    graph = timeline.graph
    if at == "peak":
        return timeline.peak_event
    if at == "start":
        return START
    ends = {str(span.phase): span.end_event - 1 for span in graph.spans}
    if at in ends:
        return ends[at]
    if at.isdigit() and int(at) < len(graph.ops):
        return _highest(timeline, int(at))
    raise ForetraceError(
        f"the step has no instant {at!r}",
        f"Say peak, start, {', '.join(ends)} (their ends), or the id of an op below {len(graph.ops):,}.",
    )


def _highest(timeline: Timeline, op: int) -> int:
    """The event of an op after which most bytes are live, or the last one before it."""
    events = timeline.graph.events
    during = [place for place, event in enumerate(events) if event.op == op]
    if during:
        return max(during, key=lambda place: (timeline.live_bytes[place], -place))
    return max((place for place, event in enumerate(events) if event.op < op), default=START)


def story(timeline: Timeline, at: str = "peak", most: int = 10) -> Story:
    """The story of an instant; only the `most` largest groups are asked what would be without them."""
    graph = timeline.graph
    event = instant(timeline, at)
    alive = live_at(graph, event)
    groups: dict[object, list[Storage]] = {}
    for storage in alive:
        groups.setdefault(key(graph, storage), []).append(storage)
    rows = group(graph, alive)
    after = graph.events[event].op if event != START else START
    readers = _readers(graph, after, {s.id for s in alive})
    kept = tuple(
        _kept(timeline, row, found, readers)
        for row in rows[:most]
        if (found := groups.get((row.module, row.category, row.bytes_each, row.packet, row.source)))
    )
    live = timeline.live_bytes[event] if event != START else timeline.start_bytes
    return Story(timeline=timeline, event=event, live_bytes=live, kept=kept)


def _readers(graph: StepGraph, after: int, storages: set[int]) -> Mapping[int, Op]:
    """For each of the storages the first op after that one which reads it and is no view."""
    found: dict[int, Op] = {}
    for op in graph.ops[after + 1 :]:
        if not op.is_view:
            for tensor in op.inputs:
                if tensor.storage in storages:
                    found.setdefault(tensor.storage, op)
    return found


def _kept(timeline: Timeline, holder: Holder, storages: list[Storage], readers: Mapping[int, Op]) -> Kept:
    graph, first = timeline.graph, storages[0]
    made = graph.ops[first.born] if first.born is not None and first.born >= 0 else None
    reader = readers.get(first.id)
    return Kept(
        holder=holder,
        made_by=made,
        kept_by=_keeper(graph, first, reader),
        reader=reader,
        shapes=_shapes(graph, first, made, reader),
        without=_without(timeline, {s.id for s in storages}),
    )


LASTS = {
    Category.PARAMETER: "the module",
    Category.BUFFER: "the module",
    Category.OPTIMIZER_STATE: "the optimizer",
    Category.INPUT: "the caller",
    Category.WORKSPACE: "the kernel that runs",
}


def _keeper(graph: StepGraph, storage: Storage, reader: Op | None) -> str:
    """What keeps a storage alive after the instant."""
    if storage.category in LASTS:
        return LASTS[storage.category]
    if storage.category is Category.GRADIENT:
        return "its parameter's .grad, until zero_grad"
    if storage.category is Category.SAVED:
        return "autograd, which saved it for backward"
    if reader is not None:
        return f"the {str(reader.phase).replace('_', ' ')}, which still reads it"
    if storage.died is None:
        return "a Python name or container, beyond the step"
    ended = graph.ops[storage.died].phase if storage.died >= 0 else Phase.FORWARD
    if ended is Phase.BACKWARD:
        return "autograd or a Python name; nothing reads it any more"
    return "a Python name; nothing reads it any more"


def _shapes(graph: StepGraph, storage: Storage, made: Op | None, reader: Op | None) -> tuple[str, ...]:
    """The tensors by which the storage is made or read."""
    if storage.name:
        facts = graph.facts
        named = (*facts.parameters, *facts.buffers, *facts.inputs, *facts.state)
        return tuple(dict.fromkeys(f"{n.dtype}{list(n.shape)}" for n in named if n.storage == storage.id))
    seen = (t for op in (made, reader) if op is not None for t in (*op.outputs, *op.inputs) if t.storage == storage.id)
    return tuple(dict.fromkeys(f"{t.dtype}{list(t.shape)}" for t in seen))[:1]


def _without(timeline: Timeline, storages: Iterable[int]) -> Without:
    graph = timeline.graph
    gone = set(storages)
    missing = np.zeros(len(graph.events), dtype=np.int64)
    for place, event in enumerate(graph.events):
        if event.storage in gone:
            missing[place] = event.bytes
    at_start = sum(graph.storages[s].bytes for s in gone if graph.storages[s].born is None)
    live = np.asarray(timeline.live_bytes, dtype=np.int64) - np.cumsum(missing) - at_start
    start = timeline.start_bytes - at_start
    if not len(live) or live.max() <= start:
        return Without(peak_bytes=start, op=None)
    place = graph.events[int(live.argmax())].op
    return Without(peak_bytes=int(live.max()), op=graph.ops[place] if place >= 0 else None)
