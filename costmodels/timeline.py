"""Turns a step graph's births and deaths into the *timeline*: live bytes after each of them.

The *peak* is the largest of these numbers, or the bytes live at the start where nothing later exceeds them: what
``torch.cuda.max_memory_allocated`` means. Only storages on the traced device count; in the trace of a CUDA step the
host's (an optimizer's step counters, a data loader's batch) do not. A *phase*'s peak includes what was live when it
began, its end is what is live after its last event.

*Saved for backward* is the sum of the storages of that category. *Activations* are those live between forward and
backward that are not parameters, buffers, gradients, optimizer state or inputs.

Bytes are those asked for; what an allocator rounds them up to, and what it reserves, is not said here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from ..graph import Category, Phase, Span, StepGraph, Storage

START = -1
"""The event index that means: before the first event."""

LASTING = frozenset(
    (Category.PARAMETER, Category.BUFFER, Category.GRADIENT, Category.OPTIMIZER_STATE, Category.INPUT),
)
"""Categories that are no activations."""


@dataclass(frozen=True, slots=True)
class PhaseMemory:
    """Live bytes of one phase: the most that there were, and those at its end."""

    peak_bytes: int
    end_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Live bytes over one step.

    ``live_bytes[i]`` is what is live after ``graph.events[i]``. ``peak_event`` is the index of the first event
    that reaches the peak, and ``peak_op`` the op during which it came; both are -1 when the start is the peak.
    """

    graph: StepGraph = field(repr=False, compare=False)
    start_bytes: int
    live_bytes: tuple[int, ...] = field(repr=False)
    peak_bytes: int
    peak_event: int
    peak_op: int
    phases: Mapping[Phase, PhaseMemory]
    at_peak: Mapping[Category, int]
    saved_for_backward_bytes: int
    activation_bytes: int

    @property
    def end_bytes(self) -> int:
        """Bytes live when the step ends."""
        return self.live_bytes[-1] if self.live_bytes else self.start_bytes

    def live_at(self, event_index: int) -> list[Storage]:
        """The storages on the device that are live after an event, by id; -1 is before the first."""
        return live_at(self.graph, event_index)

    @property
    def peak_storages(self) -> list[Storage]:
        """The storages that make the peak."""
        return self.live_at(self.peak_event)


def counts(graph: StepGraph, storage: Storage) -> bool:
    """True when `storage` is on the kind of device that was traced; of all of them, `StepGraph.on_device` tells."""
    return storage.device.split(":")[0] == graph.facts.device.split(":")[0]


def live_at(graph: StepGraph, event_index: int) -> list[Storage]:
    """The storages on the traced device that are live after event `event_index`, by id."""
    last = {s.id: 1 for s in graph.at_start}
    last |= {event.storage: event.bytes for event in graph.events[: event_index + 1]}
    return [s for s, there in zip(graph.storages, graph.on_device, strict=True) if there and last.get(s.id, 0) > 0]


def bytes_of(storages: list[Storage], *categories: Category) -> int:
    """The sum of the storages that have one of `categories`."""
    return sum(s.bytes for s in storages if s.category in categories)


def shares(storages: list[Storage]) -> dict[Category, int]:
    """Bytes of each category, all of them named; they add up to the storages' bytes."""
    found = dict.fromkeys(Category, 0)
    for s in storages:
        found[s.category] += s.bytes
    return found


def phase_memory(graph: StepGraph, start_bytes: int, live: tuple[int, ...]) -> dict[Phase, PhaseMemory]:
    """Peak over all spans of a phase, and the end of the last one."""
    found: dict[Phase, PhaseMemory] = {}
    for span in graph.spans:
        before = live[span.first_event - 1] if span.first_event else start_bytes
        during = (before, *live[span.first_event : span.end_event])
        earlier = found[span.phase].peak_bytes if span.phase in found else 0
        found[span.phase] = PhaseMemory(max(earlier, *during), during[-1])
    return found


def forward_end(spans: tuple[Span, ...]) -> Span | None:
    """The last forward span before the first backward one, or the last of all in a step without backward."""
    last = None
    for span in spans:
        if span.phase is Phase.BACKWARD:
            break
        if span.phase is Phase.FORWARD:
            last = span
    return last


def activation_bytes(graph: StepGraph) -> int:
    """Bytes of the activations: what forward leaves behind."""
    span = forward_end(graph.spans)
    if span is None:
        return 0
    return sum(s.bytes for s in live_at(graph, span.end_event - 1) if s.category not in LASTING)


def timeline(graph: StepGraph) -> Timeline:
    """The timeline of one recorded step, in exact bytes."""
    on_device = graph.on_device
    start_bytes = sum(s.bytes for s in graph.at_start if on_device[s.id])
    steps = (event.bytes if on_device[event.storage] else 0 for event in graph.events)
    live = tuple(accumulate(steps, initial=start_bytes))[1:]
    peak_bytes = max(live, default=start_bytes)
    peak_event = live.index(peak_bytes) if peak_bytes > start_bytes else START
    return Timeline(
        graph=graph,
        start_bytes=start_bytes,
        live_bytes=live,
        peak_bytes=max(peak_bytes, start_bytes),
        peak_event=peak_event,
        peak_op=graph.events[peak_event].op if peak_event != START else START,
        phases=phase_memory(graph, start_bytes, live),
        at_peak=shares(live_at(graph, peak_event)),
        saved_for_backward_bytes=bytes_of([s for s in graph.storages if on_device[s.id]], Category.SAVED),
        activation_bytes=activation_bytes(graph),
    )
