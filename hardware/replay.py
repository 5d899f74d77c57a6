"""Recorded steps -> the requests that they make of the caching allocator, and the memory that they take on a device.

A step graph is one step. It is replayed as a run of steps: what is live at the start is allocated first, in order of
its ids; then come each step's births and deaths in their order, and from step to step storages go on as each other
(`succession`). A single graph makes a run of a first step, without optimizer state at its start, and of further ones;
several graphs make a run of different steps, such as batches of differing shape.

Kernels take memory that no op returns. What is known of it is given as *extras* (`Extras`): for an op, `Scratch`
taken when its outputs have been allocated (or before) and given back before anything dies, last taken first unless a
`Return` says otherwise, and `Lasting` taken at its first use and kept for good. Ops on the host take none.

Memory in the result is *requested* (the storages' bytes, and the extras'), *allocated* (the blocks that hold them)
and *reserved* (the segments). The CUDA context comes on top.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..costmodels.holders import Holder, group
from ..costmodels.timeline import counts
from ..graph import Category, Event, ForetraceError, Op, Source, StepGraph, Storage
from .addresses import falling, ties_go_by_address
from .alloc_conf import AllocConf
from .allocator import CachingAllocator
from .blocks import Counters, SegmentState
from .first_step import first_step
from .out_of_memory import OutOfMemory
from .profile import Profile
from .requests import Free, Malloc, Request, Sample, ask
from .succession import starting, succession

STEPS = 3
"""How often a single graph is replayed: by the third step the allocator has seen all that a steady step asks."""
BEFORE = -1
"""The op of what is asked before a step's first op."""


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


@dataclass(slots=True)
class _Run:
    """Turns a run of steps into requests; at any moment it knows what is live under which key."""

    extras: Extras | None
    step: int = BEFORE
    keys: int = 0
    held: dict[int, int] = field(default_factory=dict)
    """The key of each live storage, by its id in the present graph."""
    lasting: dict[str, tuple[int, int]] = field(default_factory=dict)
    """The key and bytes of each lasting extra, by name."""
    scratch: list[tuple[int, Scratch]] = field(default_factory=list)
    """What the present op holds."""

    def requests(self, graphs: Iterable[StepGraph]) -> Iterator[Placed]:
        before: StepGraph | None = None
        for graph in graphs:
            self.step += 1
            yield from self._begin(before, graph)
            yield from self._replay(graph)
            before = graph

    def _begin(self, before: StepGraph | None, graph: StepGraph) -> Iterator[Placed]:
        """Carry over what goes on, allocate what is new, and then free what has ended."""
        earlier, self.held = self.held, {}
        goes_on = succession(before, graph) if before is not None else {}
        for storage in starting(graph):
            if storage.id in goes_on:
                self.held[storage.id] = earlier.pop(goes_on[storage.id])
            else:
                yield self._born(storage, BEFORE)
        for key in earlier.values():
            yield Placed(Free(key), Place(self.step, BEFORE))

    def _replay(self, graph: StepGraph) -> Iterator[Placed]:
        counted = [counts(graph, storage) and storage.bytes > 0 for storage in graph.storages]
        if self.extras is None:
            for event in graph.events:
                if counted[event.storage]:
                    yield self._event(graph, event)
            return
        events = iter(_by_op(graph))
        for op, now in events:
            mine = [event for event in now if counted[event.storage]]
            births = max((i + 1 for i, event in enumerate(mine) if event.bytes > 0), default=0)
            runs_there = op is not None and any(counted[t.storage] for t in (*op.outputs, *op.inputs))
            extras = tuple(self.extras(op)) if op is not None and runs_there else ()
            at = Place(self.step, op.id if op is not None else BEFORE)
            yield from self._take(at, (e for e in extras if e.before_outputs))
            for event in mine[:births]:
                yield self._event(graph, event)
            yield from self._take(at, (e for e in extras if not e.before_outputs))
            while self.scratch:
                yield Placed(Free(self.scratch.pop()[0]), at)
            for event in mine[births:]:
                yield self._event(graph, event)

    def _event(self, graph: StepGraph, event: Event) -> Placed:
        if event.bytes > 0:
            return self._born(graph.storages[event.storage], event.op)
        return Placed(Free(self.held.pop(event.storage)), Place(self.step, event.op, event.storage))

    def _born(self, storage: Storage, op: int) -> Placed:
        self.held[storage.id] = self._key()
        return Placed(Malloc(self.held[storage.id], storage.bytes), Place(self.step, op, storage.id))

    def _take(self, at: Place, extras: Iterable[Extra]) -> Iterator[Placed]:
        for extra in extras:
            if isinstance(extra, Return):
                yield from self._give_back(at, extra.name)
                continue
            if extra.bytes <= 0 or (isinstance(extra, Lasting) and extra.name in self.lasting):
                continue
            key = self._key()
            if isinstance(extra, Lasting):
                self.lasting[extra.name] = key, extra.bytes
            else:
                self.scratch.append((key, extra))
            yield Placed(Malloc(key, extra.bytes), at)

    def _give_back(self, at: Place, name: str) -> Iterator[Placed]:
        for i in reversed(range(len(self.scratch))):
            if self.scratch[i][1].name == name:
                yield Placed(Free(self.scratch.pop(i)[0]), at)
                return

    def _key(self) -> int:
        self.keys += 1
        return self.keys

    def live(self, graph: StepGraph, op: int, holds: Callable[[Hashable], bool]) -> list[Storage]:
        """What is live now, the extras as storages of the category workspace."""
        device = graph.facts.device
        live = [graph.storages[id] for id, key in self.held.items() if holds(key)]
        named = [(key, name, size, None) for name, (key, size) in self.lasting.items()]
        passing = [(key, extra.name, extra.bytes, op) for key, extra in self.scratch]
        extras = [
            Storage(-1, size, device, Category.WORKSPACE, born=born, name=name)
            for key, name, size, born in (*named, *passing)
            if holds(key)
        ]
        return sorted(live, key=lambda storage: storage.id) + extras


def _by_op(graph: StepGraph) -> Iterator[tuple[Op | None, list[Event]]]:
    """Each op with its events; first those before any op."""
    events: dict[int, list[Event]] = {}
    for event in graph.events:
        events.setdefault(event.op, []).append(event)
    yield None, events.get(BEFORE, [])
    for op in graph.ops:
        yield op, events.get(op.id, [])


def requests(graphs: Iterable[StepGraph], extras: Extras | None = None) -> Iterator[Placed]:
    """The requests that a run of steps makes of the allocator, each with its place. Keys are whole numbers."""
    return _Run(extras).requests(graphs)


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
    """Those at the end."""
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
) -> RunMemory:
    """Replay a run of steps, as long as there is memory.

    A single graph is replayed `steps` times, the first time as `first_step` has it: the segments that a first step
    leaves behind shape those of the later ones. A sequence is replayed as it is. Memory is limited by `profile` (its
    memory less the CUDA context), or to `capacity_bytes`, or not at all; or `allocator` is given instead, of which
    nothing is in use (else `allocator_of` makes one). The curve has a point after every `sample_every` requests.

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
    return _Watch(allocator, run, _Run(extras), sample_every).replay()


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

    def replay(self) -> RunMemory:
        allocator, failure = self.allocator, None
        place, peak = Place(0, BEFORE), 0
        try:
            for done, (request, place) in enumerate(self.run.requests(self.graphs)):
                while place.step > len(self.finished):
                    self._finish()
                    peak = allocator.allocated_bytes
                if self.start is None and place.op != BEFORE:
                    self.start = allocator.now()
                ask(allocator, request)
                if allocator.peak_allocated_bytes > peak:
                    peak, self.peak_op = allocator.peak_allocated_bytes, place.op
                if self.sample_every and (done + 1) % self.sample_every == 0:
                    self._sample(done)
        except OutOfMemory as error:
            failure = self._failure(error, place)
            self._keep_peaks()
        else:
            for _ in self.graphs[len(self.finished) :]:
                self._finish()
        return RunMemory(
            steps=tuple(self.finished),
            peak_allocated_bytes=self.peaks[0],
            peak_requested_bytes=self.peaks[1],
            peak_reserved_bytes=self.peaks[2],
            capacity_bytes=allocator.capacity_bytes,
            segments=allocator.segments(),
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

    def _sample(self, done: int) -> None:
        now = self.allocator
        self.curve.append(Sample(done, now.allocated_bytes, now.requested_bytes, now.reserved_bytes))

    def _failure(self, error: OutOfMemory, place: Place) -> Failure:
        graph = self.graphs[place.step]
        live = self.run.live(graph, place.op, self.allocator.holds)
        return Failure(
            step=place.step,
            op=graph.ops[place.op] if place.op != BEFORE else None,
            storage=graph.storages[place.storage] if place.storage is not None else None,
            error=error,
            holders=group(graph, live),
        )


def _check_device(graph: StepGraph) -> None:
    device = graph.facts.device.split(":")[0]
    if device != "cuda":
        raise ForetraceError(
            f"the trace is of a step on {device}, and the allocator modelled is that of CUDA",
            'Trace with device="cuda"; that needs no GPU',
        )
