"""A step graph -> its *digest*: the same step in numbers that can be laid beside those of another size.

Storages and ops are put into *classes* that mean the same in every instance of a model: the kind of module (repeated
ones rolled up), the op, the line of code, the phase. A *point* is a moment of the timeline at which live bytes are at
their highest for a while: an op's class, and the how-manieth op of that class it is, counted from the front or from
the back, so that it means the same in a model with more layers. A *series* is one number of the digest by name:

- ``Made``: bytes of a class of storages; ``Counted``: how many numbers the parameters of a class hold;
- ``Spent``: FLOPs of a class of ops;
- ``Live``: bytes of a class of storages that are live at a point; ``Level``: bytes of all that are.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import numpy as np

from ...graph import Category, Op, Phase, Source, StepGraph
from ..holders import roll
from ..price import price_ops
from ..timeline import START, counts, forward_end

Place = tuple[str, str, str, str]
"""Phase, rolled module, packet without its namespace, source line."""


class StorageClass(NamedTuple):
    """Storages that play one part: ``name`` for those that have one, ``maker`` for those that an op made."""

    category: Category
    on_device: bool
    name: str
    maker: Place
    output: int
    """Which of the op's results it is; 0 for those of a list."""

    @property
    def module(self) -> str:
        """The rolled module that it belongs to."""
        return self.name.split("/")[0].rpartition(".")[0] if self.name else self.maker[1]

    @property
    def what(self) -> str:
        """What it is, in a word or two: its name within the module, or the op that made it."""
        return self.name[len(self.module) :].lstrip(".") if self.name else self.maker[2]

    @property
    def at(self) -> str:
        """The line of code that made it; empty where that is not known."""
        return self.maker[3]


class Point(NamedTuple):
    """A moment at which live bytes are at their highest for a while."""

    op: Place
    from_end: bool
    nth: int

    @property
    def phase(self) -> str:
        """The phase it lies in; ``start`` before the step."""
        return self.op[0]

    def __str__(self) -> str:
        phase, module, packet, source = self.op
        if not packet:
            return phase
        count = f", {ordinal(self.nth)} {'from the end' if self.from_end else 'from the front'}"
        where = "".join(f" {part}" for part in (module and f"in {module}", source) if part)
        return f"{phase}: {packet}{where}{count}"


class Made(NamedTuple):
    """Bytes of a class of storages."""

    of: StorageClass


class Counted(NamedTuple):
    """How many numbers the parameters of a class hold; one that two names share counts once."""

    of: str
    trained: bool


class Spent(NamedTuple):
    """FLOPs of a class of ops."""

    of: Place


class Level(NamedTuple):
    """Live bytes at a point."""

    at: Point


class Live(NamedTuple):
    """Live bytes of a class at a point."""

    at: Point
    of: StorageClass


Series = Made | Counted | Spent | Level | Live

AT_START = Point(("start", "", "", ""), False, 0)
AFTER_FORWARD = Point(("after forward", "", "", ""), False, 0)


def ordinal(index: int) -> str:
    """The how-manieth, from 0 on, in words.

    >>> ordinal(0), ordinal(10), ordinal(21)
    ('1st', '11th', '22nd')
    """
    number = index + 1
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


@dataclass(frozen=True)
class Digest:
    """One instance in numbers. ``moments`` has the events of each class of ops at which live bytes turn down."""

    sizes: Mapping[str, int]
    numbers: Mapping[Series, int]
    """All `Made`, `Counted` and `Spent`."""
    moments: Mapping[Place, tuple[int, ...]]
    peak_bytes: int
    forward_event: int
    classes: tuple[StorageClass, ...] = field(repr=False)
    events: np.ndarray = field(repr=False)
    """Class and change of live bytes of each event on the device; the first rows are what is live at the start."""
    levels: np.ndarray = field(repr=False)
    """Live bytes after each row of `events`."""
    offset: int = field(repr=False)
    """The row of the first event."""
    ops: int = 0
    keeps: Mapping[StorageClass, str] = field(default_factory=dict, repr=False)
    """Why a class is saved for backward: which op keeps it, and as what."""

    @property
    def regime(self) -> frozenset[Series]:
        """What there is, whatever its size: instances that differ in it run other kernels or branches."""
        return frozenset(self.numbers)

    def numbers_of(self, series: Iterable[Series]) -> list[int]:
        """Some of the numbers, in that order."""
        return [self.numbers[s] for s in series]

    def row(self, point: Point) -> int:
        """The row of `events` at a point. Raises ``KeyError`` where the step has no such point."""
        if point == AT_START:
            return self.offset - 1
        if point == AFTER_FORWARD:
            return self.offset + self.forward_event
        events = self.moments[point.op]
        if point.nth >= len(events):
            raise KeyError(point)
        return self.offset + events[-1 - point.nth if point.from_end else point.nth]

    def level(self, point: Point) -> int:
        """Live bytes at a point."""
        row = self.row(point)
        return int(self.levels[row]) if row >= 0 else 0

    def live(self, point: Point) -> dict[StorageClass, int]:
        """Live bytes at a point by class."""
        (sums,) = self.live_at([point])
        return {c: size for c, size in zip(self.classes, sums.tolist(), strict=True) if size}

    def live_at(self, points: Sequence[Point]) -> np.ndarray:
        """Live bytes at some points: one row for each, one column for each of `classes`."""
        changes = np.zeros((len(self.events) + 1, len(self.classes)), dtype=np.int64)
        changes[np.arange(len(self.events)), self.events[:, 0]] = self.events[:, 1]
        return changes.cumsum(axis=0)[[self.row(point) for point in points]]

    def highest(self) -> Point:
        """The first point at which the peak is reached."""
        best = [
            (events[i], Point(place, False, i))
            for place, events in self.moments.items()
            for i in range(len(events))
            if int(self.levels[self.offset + events[i]]) == self.peak_bytes
        ]
        return AT_START if self.level(AT_START) == self.peak_bytes or not best else min(best)[1]


def digest(graph: StepGraph, sizes: Mapping[str, int]) -> Digest:
    """The digest of one recorded step."""
    places = [place_of(op) for op in graph.ops]
    kinds = storage_classes(graph, places)
    numbers: dict[Series, int] = defaultdict(int)
    for storage in graph.storages:
        if storage.bytes or storage.category is Category.PARAMETER:
            numbers[Made(kinds[storage.id])] += storage.bytes
    for name, trained, count in _parameters(graph):
        numbers[Counted(name, trained)] += count
    for priced in price_ops(graph):
        if priced.work.flops:
            numbers[Spent(places[priced.op.id])] += priced.work.flops
    return _with_events(graph, sizes, dict(numbers), places, kinds)


def _with_events(
    graph: StepGraph,
    sizes: Mapping[str, int],
    numbers: Mapping[Series, int],
    places: list[Place],
    kinds: list[StorageClass],
) -> Digest:
    index: dict[StorageClass, int] = {}
    on_device = [counts(graph, s) for s in graph.storages]
    rows = [(index.setdefault(kinds[s.id], len(index)), s.bytes) for s in graph.at_start if on_device[s.id]]
    offset = len(rows)
    for event in graph.events:
        change = event.bytes if on_device[event.storage] else 0
        rows.append((index.setdefault(kinds[event.storage], len(index)), change))
    table = np.array(rows, dtype=np.int64).reshape(-1, 2)
    levels = np.cumsum(table[:, 1])
    start_bytes = int(levels[offset - 1]) if offset else 0
    span = forward_end(graph.spans)
    return Digest(
        sizes=dict(sizes),
        numbers=numbers,
        moments=_moments(graph, places, table[offset:, 1]),
        peak_bytes=max(start_bytes, int(levels[offset:].max(initial=start_bytes))),
        forward_event=span.end_event - 1 if span else START,
        classes=tuple(index),
        events=table,
        levels=levels,
        offset=offset,
        ops=len(graph.ops),
        keeps=_keeps(graph, kinds),
    )


def _moments(graph: StepGraph, places: list[Place], changes: np.ndarray) -> dict[Place, tuple[int, ...]]:
    """The events after which live bytes fall, or nothing more happens, by the class of the op that they are in."""
    found: dict[Place, list[int]] = defaultdict(list)
    last = -1
    for i, change in enumerate(changes.tolist()):
        if change < 0 and last >= 0:
            found[_place_at(graph, places, last)].append(last)
            last = -1
        elif change > 0:
            last = i
    if last >= 0:
        found[_place_at(graph, places, last)].append(last)
    return {place: tuple(events) for place, events in found.items()}


def _place_at(graph: StepGraph, places: list[Place], event: int) -> Place:
    op = graph.events[event].op
    return places[op] if op >= 0 else ("start", "", "before the first op", "")


def place_of(op: Op) -> Place:
    """The class of an op."""
    return str(op.phase), roll(op.module), bare(op.packet), str(op.source) if op.source else ""


def alike(name: str) -> str:
    """A name with its indices rolled up, those that `torch.nn.LSTM` and its kin write into a name too.

    >>> alike("h.3.attn.weight"), alike("lstm.weight_ih_l1"), alike("lstm.bias_hh_l0_reverse")
    ('h.*.attn.weight', 'lstm.weight_ih_l*', 'lstm.bias_hh_l*_reverse')
    """
    return re.sub(r"(?<=_l)[0-9]+(?=$|_reverse|/)", "*", roll(name))


def bare(packet: str) -> str:
    """A packet as people say it.

    >>> bare("aten.addmm"), bare("my::op")
    ('addmm', 'my::op')
    """
    return packet.removeprefix("aten.")


def storage_classes(graph: StepGraph, places: list[Place]) -> list[StorageClass]:
    """The class of each storage."""
    outputs: Counter[int] = Counter()
    found = []
    for storage in graph.storages:
        maker, output = ("", "", "", ""), 0
        if storage.born is not None and storage.born >= 0:
            maker = places[storage.born]
            output = 0 if _is_list(graph.ops[storage.born]) else outputs[storage.born]
            outputs[storage.born] += 1
        name = alike(storage.name) if storage.name else ""
        if name:
            maker, output = ("", "", "", ""), 0
        found.append(StorageClass(storage.category, counts(graph, storage), name, maker, output))
    return found


def _is_list(op: Op) -> bool:
    """Whether it works on a list of tensors, as long as the model is deep."""
    return bare(op.packet).startswith(("_foreach_", "_fused_adam", "_fused_sgd", "_amp_foreach", "_cudnn_rnn"))


def _parameters(graph: StepGraph) -> Iterable[tuple[str, bool, int]]:
    seen: set[int] = set()
    for named in graph.facts.parameters:
        if named.storage not in seen:
            seen.add(named.storage)
            yield alike(named.name), named.trainable, prod(named.shape)


def _keeps(graph: StepGraph, kinds: list[StorageClass]) -> dict[StorageClass, str]:
    """For each class that is saved for backward: the forward op whose derivative reads it."""
    wanted = {s.id for s in graph.storages if s.category is Category.SAVED}
    found: dict[StorageClass, list[str]] = defaultdict(list)
    for op in graph.ops:
        if op.phase is not Phase.BACKWARD or op.forward is None:
            continue
        forward = graph.ops[op.forward]
        for storage in {t.storage for t in op.inputs} & wanted:
            if storage is None:
                continue
            text = _kept(forward, storage)
            if text not in found[kinds[storage]]:
                found[kinds[storage]].append(text)
    return {kind: "; ".join(texts[:2]) for kind, texts in found.items()}


def _kept(forward: Op, storage: int) -> str:
    as_what = "result" if any(t.storage == storage for t in forward.outputs) else "input"
    return f"{bare(forward.packet)} keeps its {as_what}{_at(forward.source)}"


def _at(source: Source | None) -> str:
    return f", {source}" if source else ""
