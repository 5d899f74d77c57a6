"""Step graph + measured step -> `Comparison`: where the prediction is the allocator's, and where the two part.

Both are counted from the start of the step. They *agree* when live bytes are equal at the end of every phase. In the
peak is also what kernels take inside and give back before they return, their *scratch*: predicted as workspaces where
it can be known. So the peaks are compared without it too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ..graph import Category, Measured, Op, Phase, StepGraph, Tensor
from ..graph.op import tensors
from .pairing import Pairing, Parting, pair
from .timeline import Timeline, counts, live_at, timeline

NUMBER = "a Python number"
"""What stands in place of a kernel's name where scratch is a number wrapped as a tensor."""


class How(StrEnum):
    """In what way predicted and measured part."""

    MISSING = "missing"
    UNPREDICTED = "unpredicted"
    RESIZED = "resized"
    FREED_EARLIER = "freed earlier"
    FREED_LATER = "freed later"


@dataclass(frozen=True, slots=True)
class Beside:
    """One number both ways."""

    predicted_bytes: int
    measured_bytes: int

    @property
    def difference_bytes(self) -> int:
        """Measured less predicted."""
        return self.measured_bytes - self.predicted_bytes


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where the two part: the op (or the nearest one predicted), and the bytes that each knows."""

    how: How
    op: Op | None
    bytes: Beside
    running: tuple[str, ...] = ()
    """The ops that were running when the real run allocated it, the outermost first."""


@dataclass(frozen=True, slots=True)
class Scratch:
    """What a kernel holds inside at the measured peak."""

    kernel: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Reading:
    """An assumption of the trace, and what the real run did: bytes it sized, and counts where they can be read off."""

    assumption: Mapping[str, object]
    bytes: Beside | None
    assumed_counts: tuple[int, ...] = ()
    real_counts: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Predicted beside measured, of one step."""

    graph: StepGraph = field(repr=False, compare=False)
    start_bytes: int
    """Live when the step began, as predicted; the other numbers are counted from here."""
    ends: Mapping[Phase, Beside]
    peak: Beside
    peak_without_scratch: Beside
    """The most that was held, what kernels took inside left out."""
    scratch: tuple[Scratch, ...]
    """At the measured peak, the largest first."""
    first: Difference | None
    readings: tuple[Reading, ...]

    @property
    def agrees(self) -> bool:
        """True when live bytes are equal at the end of every phase."""
        return not any(end.difference_bytes for end in self.ends.values())

    @property
    def peak_is_explained(self) -> bool:
        """True when the peaks are equal but for scratch."""
        return not self.peak.difference_bytes or not self.peak_without_scratch.difference_bytes


def compare(graph: StepGraph, measured: Measured) -> Comparison:
    """Hold a trace for the CPU against a real run of the same step."""
    predicted = timeline(graph)
    pairing = pair(graph, measured)
    without, scratch = _peaks(measured, set(pairing.scratch))
    return Comparison(
        graph=graph,
        start_bytes=predicted.start_bytes,
        ends=_ends(predicted, measured),
        peak=Beside(predicted.peak_bytes - predicted.start_bytes, measured.peak_bytes),
        peak_without_scratch=Beside(_peak_without_workspaces(predicted), without),
        scratch=scratch,
        first=_first(predicted, measured, pairing),
        readings=tuple(_read(graph, measured, pairing, item) for item in graph.facts.assumptions),
    )


def _ends(predicted: Timeline, measured: Measured) -> dict[Phase, Beside]:
    """Live bytes at each phase's end; a phase that only one of the two knows ends where its start was."""
    ends = {phase: held.end_bytes - predicted.start_bytes for phase, held in predicted.phases.items()}
    phases = [phase for phase in Phase if phase in ends or phase in measured.ends]
    return {phase: Beside(ends.get(phase, 0), measured.ends.get(phase, 0)) for phase in phases}


def _peak_without_workspaces(predicted: Timeline) -> int:
    """The predicted peak, counted from the start, what kernels take inside left out."""
    graph = predicted.graph
    inside = 0
    peak = 0
    for event, live in zip(graph.events, predicted.live_bytes, strict=True):
        if graph.storages[event.storage].category is Category.WORKSPACE:
            inside += event.bytes
        peak = max(peak, live - inside - predicted.start_bytes)
    return peak


def _peaks(measured: Measured, scratch: set[int]) -> tuple[int, tuple[Scratch, ...]]:
    """The peak without scratch, and the scratch that is live at the peak with it."""
    born = {freed: place for place, freed in measured.freed_at.items()}
    inside: dict[int, int] = {}
    live = peak = without = peak_without = 0
    at_peak: dict[int, int] = {}
    for place, block in enumerate(measured.blocks):
        live += block.bytes
        if place in scratch:
            inside[place] = block.bytes
        elif born.get(place) in scratch:
            del inside[born[place]]
        else:
            without += block.bytes
            peak_without = max(peak_without, without)
        if live > peak:
            peak, at_peak = live, dict(inside)
    return peak_without, _by_kernel(measured, at_peak)


def _by_kernel(measured: Measured, held: Mapping[int, int]) -> tuple[Scratch, ...]:
    counted: dict[str, int] = {}
    for place, size in held.items():
        kernel = measured.kernel(place) or NUMBER
        counted[kernel] = counted.get(kernel, 0) + size
    rows = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Scratch(kernel, size) for kernel, size in rows)


# --- the first difference ---


def _first(predicted: Timeline, measured: Measured, pairing: Pairing) -> Difference | None:
    """The first allocation that differs; where there is none, the first storage that is not freed where predicted."""
    for parting in pairing.partings:
        return _difference(predicted.graph, measured, parting)
    return next(_frees(predicted, measured, pairing), None)


def _difference(graph: StepGraph, measured: Measured, parting: Parting) -> Difference:
    op = graph.ops[parting.op] if parting.op >= 0 else None
    expected = 0 if parting.storage is None else graph.storages[parting.storage].bytes
    block = None if parting.place is None else measured.blocks[parting.place]
    how = How.MISSING if block is None else How.UNPREDICTED if parting.storage is None else How.RESIZED
    return Difference(how, op, Beside(expected, block.bytes if block else 0), block.ops if block else ())


def _frees(predicted: Timeline, measured: Measured, pairing: Pairing) -> Iterator[Difference]:
    """Where live bytes differ at a phase's end: what one op made that is then live in one of the two only.

    Results of one op that are equally large are told apart by their number alone.
    """
    graph = predicted.graph
    ends = {span.phase: span.end_event - 1 for span in graph.spans}
    for phase, beside in _ends(predicted, measured).items():
        end = measured.ends_at.get(phase)
        if not beside.difference_bytes or end is None or phase not in ends:
            continue
        held = Counter(_made(graph, s) for s, place in pairing.pairs.items() if _is_held(measured, place, end))
        held.subtract(_made(graph, s.id) for s in live_at(graph, ends[phase]) if s.id in pairing.pairs)
        for (op, size), count in sorted(held.items()):
            if count:
                sizes = Beside(0, count * size) if count > 0 else Beside(-count * size, 0)
                yield Difference(How.FREED_LATER if count > 0 else How.FREED_EARLIER, graph.ops[op], sizes)


def _made(graph: StepGraph, storage: int) -> tuple[int, int]:
    """The op that made a storage that was paired, and its size."""
    found = graph.storages[storage]
    return (-1 if found.born is None else found.born), found.bytes


def _is_held(measured: Measured, place: int, end: int) -> bool:
    """Whether the allocation at `place` is live after `end` blocks."""
    return place < end <= measured.freed_at.get(place, end)


# --- what the real run says of the assumptions ---


def _read(graph: StepGraph, measured: Measured, pairing: Pairing, assumption: Mapping[str, object]) -> Reading:
    """What the ops that the assumption is about allocated, each way, where every one of them can be found."""
    real = {**pairing.pairs, **pairing.resized}
    ops = [op for op in graph.ops if _is_about(assumption, op)]
    results = [s for s in graph.storages if counts(graph, s) and s.category is not Category.WORKSPACE]
    born = {op.id: [s for s in results if s.born == op.id] for op in ops}
    storages = [storage for made in born.values() for storage in made]
    if not storages or any(storage.id not in real for storage in storages):
        return Reading(assumption, None)
    sizes = {storage.id: measured.blocks[real[storage.id]].bytes for storage in storages}
    assumed = tuple(_count(op) for op in ops)
    taken = [
        count * sum(sizes[s.id] for s in born[op.id]) // sum(s.bytes for s in born[op.id])
        for count, op in zip(assumed, ops, strict=True)
        if born[op.id]
    ]
    return Reading(assumption, Beside(sum(s.bytes for s in storages), sum(sizes.values())), assumed, tuple(taken))


def _is_about(assumption: Mapping[str, object], op: Op) -> bool:
    """Whether the op has the name and stands on the line that the assumption names."""
    if assumption.get("op") != op.name or op.source is None or not _is_chosen_by_data(op):
        return False
    place = str(assumption.get("at", ""))
    return place == str(op.source) or place.endswith(f"({op.source})")


def _is_chosen_by_data(op: Op) -> bool:
    """False for an index by whole numbers, whose size is known."""
    return op.packet != "aten.index" or any(t.dtype in ("bool", "uint8") for t in tensors(op.get("indices")))


def _count(op: Op) -> int:
    """How many elements or rows the op was assumed to keep: the size of its first result where it is not known."""
    result = op.outputs[0] if op.outputs else None
    if result is None or not result.shape:
        return 0
    indices = op.get("indices")
    lead = 0
    if isinstance(indices, tuple):
        lead = next((i for i, index in enumerate(indices) if isinstance(index, Tensor)), 0)
    return result.shape[min(lead, len(result.shape) - 1)]
