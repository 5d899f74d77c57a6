"""Recorded steps -> the requests that they make of the caching allocator, and the memory that they take on a device.

A step graph is one step. It is replayed as a run of steps: what is live at the start is allocated first, in order of
its ids; then come each step's births and deaths in their order, and from step to step storages go on as each other
(`succession`). A single graph makes a run of a first step, without optimizer state at its start, and of further ones;
several graphs make a run of different steps, such as batches of differing shape.

What a step does in itself is its script (`script.py`), with what kernels take beside their outputs as *extras*.

Memory in the result is *requested* (the storages' bytes, and the extras'), *allocated* (the blocks that hold them)
and *reserved* (the segments). The CUDA context comes on top.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from ..costmodels.holders import Holder, group
from ..graph import Category, ForetraceError, Op, Source, StepGraph, Storage
from .addresses import falling, ties_go_by_address
from .alloc_conf import AllocConf
from .allocator import CachingAllocator
from .blocks import Counters, SegmentState
from .first_step import first_step
from .out_of_memory import OutOfMemory
from .profile import Profile
from .requests import Free, Malloc, Request, Sample
from .script import Extras, Lasting, Scratch, Script, script
from .succession import starting, succession

STEPS = 3
"""How often a single graph is replayed: by the third step the allocator has seen all that a steady step asks."""
BEFORE = -1
"""The op of what is asked before a step's first op."""


class Place(NamedTuple):
    """Where in a run something is asked: in which step, during which op (`BEFORE` the first), for which storage."""

    step: int
    op: int
    storage: int | None = None
    """None for extras."""


class Placed(NamedTuple):
    """A request, and where it comes from."""

    request: Request
    place: Place


Step = tuple[int, int, int, int]
"""A `Move` and the key that it is about. `ENDED` is the slot of what ended between the steps."""

ENDED = -1


@dataclass(slots=True)
class _Run:
    """Plays a run of steps; at any moment it knows what is live under which key."""

    extras: Extras | None
    step: int = BEFORE
    keys: int = 0
    script: Script | None = None
    """That of the present step."""
    held: dict[int, int] = field(default_factory=dict)
    """The key of what is live, by its slot in the present script."""
    lasting: dict[str, tuple[int, int]] = field(default_factory=dict)
    """The key and bytes of each lasting extra of the steps before, by name."""

    def play(self, graph: StepGraph) -> Iterator[Step]:
        """The next step of the run, move by move."""
        self.step += 1
        before = self.script
        if before is None or before.graph is not graph:
            self.script = script(graph, self.extras)
        return chain(self._begin(before, graph), self._go_on())

    def _begin(self, before: Script | None, graph: StepGraph) -> Iterator[Step]:
        """Carry over what goes on, allocate what is new, and then free what has ended."""
        earlier, self.held = self.held, {}
        goes_on = succession(before.graph, graph) if before is not None else {}
        for storage in starting(graph):
            if storage.id in goes_on:
                self.held[storage.id] = earlier.pop(goes_on[storage.id])
            else:
                yield BEFORE, storage.id, storage.bytes, self._key(storage.id)
        for slot, key in earlier.items():
            if before is not None and slot < 0:
                extra = before.extra(slot)
                self.lasting[extra.name] = key, extra.bytes
            elif before is not None:
                yield BEFORE, ENDED, -before.graph.storages[slot].bytes, key

    def _go_on(self) -> Iterator[Step]:
        assert self.script is not None
        held, keys = self.held, self.keys
        there = {slot for slot, extra in self._extras() if extra.name in self.lasting}
        for op, slot, nbytes in self.script.moves:
            if nbytes < 0:
                yield op, slot, nbytes, held.pop(slot)
            elif slot >= 0 or slot not in there:
                keys += 1
                held[slot] = keys
                yield op, slot, nbytes, keys
        self.keys = keys

    def _extras(self) -> Iterator[tuple[int, Lasting]]:
        """The lasting extras of the present script, by slot."""
        assert self.script is not None
        for place, extra in enumerate(self.script.extras):
            if isinstance(extra, Lasting):
                yield -1 - place, extra

    def _key(self, slot: int) -> int:
        self.keys += 1
        self.held[slot] = self.keys
        return self.keys

    def live(self, op: int, holds: Callable[[Hashable], bool]) -> list[Storage]:
        """What is live now, the extras as storages of the category workspace."""
        assert self.script is not None
        graph = self.script.graph
        live = [graph.storages[slot] for slot, key in self.held.items() if slot >= 0 and holds(key)]
        taken = [(key, self.script.extra(slot)) for slot, key in self.held.items() if slot < 0]
        kept = [(key, name, size, None) for name, (key, size) in self.lasting.items()]
        kept += [(key, extra.name, extra.bytes, None) for key, extra in taken if isinstance(extra, Lasting)]
        passing = [(key, extra.name, extra.bytes, op) for key, extra in taken if isinstance(extra, Scratch)]
        extras = [
            Storage(-1, size, graph.facts.device, Category.WORKSPACE, born=born, name=name)
            for key, name, size, born in (*kept, *passing)
            if holds(key)
        ]
        return sorted(live, key=lambda storage: storage.id) + extras


def requests(graphs: Iterable[StepGraph], extras: Extras | None = None) -> Iterator[Placed]:
    """The requests that a run of steps makes of the allocator, each with its place. Keys are whole numbers."""
    run = _Run(extras)
    for graph in graphs:
        for op, slot, nbytes, key in run.play(graph):
            place = Place(run.step, op, slot if slot >= 0 else None)
            yield Placed(Malloc(key, nbytes) if nbytes > 0 else Free(key), place)


def run_of(graph: StepGraph, steps: int = STEPS) -> tuple[StepGraph, ...]:
    """The run that a single step stands for: a first one as `first_step` has it, and `steps` - 1 like itself."""
    return (first_step(graph), *[graph] * (steps - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """The memory of one step of a run, as PyTorch's statistics would have it if they were reset when it began."""

    start: Counters
    """When its first op ran."""
    end: Counters
    peak_allocated_bytes: int
    peak_requested_bytes: int
    peak_reserved_bytes: int
    at_peak: Counters
    """When the allocated bytes first reached their peak; its ``fragmentation`` is the step's."""
    peak_op: int
    """The id of the op that brought that peak; `BEFORE` where the start was the peak."""
    device_allocations: int
    """Calls of the device for memory; 0 once the run is steady."""
    retries: int
    """Requests for which the allocator first had to give all its free memory back to the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The request that found no memory: which step it was, which op, where in the model and the code, and who holds."""

    step: int
    """Counted from 0."""
    op: Op | None
    """None where what is live at the start does not fit."""
    storage: Storage | None
    """What was asked for; None for an extra."""
    error: OutOfMemory
    holders: tuple[Holder, ...]
    """What was live on the device at that moment, largest first."""

    @property
    def module(self) -> str:
        """The path of the module in which it happened; of a state or parameter, the one in its name."""
        if self.op is not None and self.op.module:
            return self.op.module
        return self.storage.name.partition("/")[0].rpartition(".")[0] if self.storage is not None else ""

    @property
    def source(self) -> Source | None:
        """The line of the user's code."""
        return self.op.source if self.op is not None else None

    @property
    def message(self) -> str:
        """What PyTorch would print."""
        return self.error.message()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMemory:
    """The memory of a run of steps."""

    steps: tuple[StepMemory, ...]
    """Those that came to their end."""
    peak_allocated_bytes: int
    peak_requested_bytes: int
    peak_reserved_bytes: int
    capacity_bytes: int | None
    """What the device could give; None where it was not limited."""
    segments: tuple[SegmentState, ...]
    """Those at the end; none where they were not asked for."""
    curve: tuple[Sample, ...]
    failure: Failure | None

    @property
    def fits(self) -> bool:
        """True when every request found memory."""
        return self.failure is None

    @property
    def last(self) -> StepMemory:
        """The last step that came to its end. Raises ``IndexError`` when the first one failed."""
        return self.steps[-1]


def replay_steps(
    graphs: StepGraph | Sequence[StepGraph],
    *,
    steps: int = STEPS,
    profile: Profile | None = None,
    capacity_bytes: int | None = None,
    conf: AllocConf | None = None,
    extras: Extras | None = None,
    sample_every: int = 0,
    allocator: CachingAllocator | None = None,
    with_segments: bool = True,
) -> RunMemory:
    """Replay a run of steps, as long as there is memory.

    A single graph is replayed `steps` times, the first time as `first_step` has it: the segments that a first step
    leaves behind shape those of the later ones. A sequence is replayed as it is. Memory is limited by `profile` (its
    memory less the CUDA context), or to `capacity_bytes`, or not at all; or `allocator` is given instead, of which
    nothing is in use (else `allocator_of` makes one). The curve has a point after every `sample_every` requests.
    Telling the segments takes time, and is left out where nobody asks `with_segments`.

    Raises `ForetraceError` for a trace of another device, and for steps of different models.
    """
    run = run_of(graphs, steps) if isinstance(graphs, StepGraph) else tuple(graphs)
    for graph in run:
        _check_device(graph)
    if allocator is None:
        total_bytes = profile.memory_total_bytes if profile is not None else capacity_bytes
        if profile is not None and capacity_bytes is None:
            capacity_bytes = profile.memory_total_bytes - profile.cuda_context_bytes
        allocator = allocator_of(run[0], capacity_bytes, conf, total_bytes)
    return _Watch(allocator, run, _Run(extras), sample_every).replay(with_segments)


def allocator_of(
    graph: StepGraph,
    capacity_bytes: int | None = None,
    conf: AllocConf | None = None,
    total_bytes: int | None = None,
) -> CachingAllocator:
    """An allocator that chooses among equal blocks as the version of PyTorch does that traced the step."""
    by_address = ties_go_by_address(graph.facts.versions.get("torch"))
    return CachingAllocator(
        capacity_bytes,
        conf,
        total_bytes=total_bytes,
        by_age=not by_address,
        place=falling() if by_address else None,
    )


@dataclass(slots=True)
class _Watch:
    """Replays a run and keeps the counts of each step."""

    allocator: CachingAllocator
    graphs: tuple[StepGraph, ...]
    run: _Run
    sample_every: int
    finished: list[StepMemory] = field(default_factory=list)
    curve: list[Sample] = field(default_factory=list)
    peaks: tuple[int, int, int] = (0, 0, 0)
    start: Counters | None = None
    peak_op: int = BEFORE
    calls: int = 0
    retries: int = 0
    done: int = 0

    def replay(self, with_segments: bool) -> RunMemory:
        allocator, failure = self.allocator, None
        malloc, free, samples = allocator.malloc, allocator.free, self.sample_every > 0
        move: Step = (BEFORE, ENDED, 0, 0)
        try:
            for graph in self.graphs:
                peak, is_starting = allocator.allocated_bytes, True
                for move in self.run.play(graph):
                    op, _, nbytes, key = move
                    if is_starting and op != BEFORE:
                        self.start, is_starting = allocator.now(), False
                    if nbytes < 0:
                        free(key)
                    else:
                        malloc(key, nbytes)
                        if allocator.peak_allocated_bytes > peak:
                            peak, self.peak_op = allocator.peak_allocated_bytes, op
                    if samples:
                        self._sample()
                self._finish()
        except OutOfMemory as error:
            failure = self._failure(error, move)
            self._keep_peaks()
        return RunMemory(
            steps=tuple(self.finished),
            peak_allocated_bytes=self.peaks[0],
            peak_requested_bytes=self.peaks[1],
            peak_reserved_bytes=self.peaks[2],
            capacity_bytes=allocator.capacity_bytes,
            segments=allocator.segments() if with_segments else (),
            curve=tuple(self.curve),
            failure=failure,
        )

    def _finish(self) -> None:
        """Close the present step and begin the next."""
        allocator = self.allocator
        self.finished.append(
            StepMemory(
                start=self.start or allocator.now(),
                end=allocator.now(),
                peak_allocated_bytes=allocator.peak_allocated_bytes,
                peak_requested_bytes=allocator.peak_requested_bytes,
                peak_reserved_bytes=allocator.peak_reserved_bytes,
                at_peak=allocator.at_peak,
                peak_op=self.peak_op,
                device_allocations=allocator.device_allocations - self.calls,
                retries=allocator.retries - self.retries,
            )
        )
        self._keep_peaks()
        allocator.reset_peaks()
        self.start, self.peak_op = None, BEFORE
        self.calls, self.retries = allocator.device_allocations, allocator.retries

    def _keep_peaks(self) -> None:
        allocator = self.allocator
        present = (allocator.peak_allocated_bytes, allocator.peak_requested_bytes, allocator.peak_reserved_bytes)
        allocated, requested, reserved = map(max, self.peaks, present)
        self.peaks = allocated, requested, reserved

    def _sample(self) -> None:
        now, done = self.allocator, self.done
        self.done += 1
        if self.done % self.sample_every == 0:
            self.curve.append(Sample(done, now.allocated_bytes, now.requested_bytes, now.reserved_bytes))

    def _failure(self, error: OutOfMemory, move: Step) -> Failure:
        graph, (op, slot, _, _) = self.graphs[self.run.step], move
        return Failure(
            step=self.run.step,
            op=graph.ops[op] if op != BEFORE else None,
            storage=graph.storages[slot] if slot >= 0 else None,
            error=error,
            holders=group(graph, self.run.live(op, self.allocator.holds)),
        )


def _check_device(graph: StepGraph) -> None:
    device = graph.facts.device.split(":")[0]
    if device != "cuda":
        raise ForetraceError(
            f"the trace is of a step on {device}, and the allocator modelled is that of CUDA",
            'Trace with device="cuda"; that needs no GPU',
        )
