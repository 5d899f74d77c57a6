"""The truth beside the prediction: run the step for real on the CPU and read the allocator's own events.

PyTorch's profiler reports every allocation and free of its CPU allocator with its size. The real run has
no recorder and no dispatch mode in it, since either would change what autograd does. What the allocator
is asked for inside a kernel (oneDNN scratch, scalars wrapped as tensors) is in these events too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile, record_function

from ..graph import Phase
from .inputs import as_call
from .step import Step, make_optimizer, phases, run_step

_MARK = "foretrace_phase_"
_START = "foretrace_step"


@dataclass(frozen=True, slots=True)
class Block:
    """One allocation (``bytes > 0``) or free (``bytes < 0``) of the real run, at ``address``.

    ``ops`` are the names of the ATen ops that were running, the outermost first, and ``calls`` which call of
    them each was (the number of its event).
    """

    bytes: int
    address: int
    ops: tuple[str, ...]
    calls: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """Live bytes of a real step, counted from its start: the start is 0, frees of older tensors are negative."""

    ends: dict[Phase, int]
    """At the end of each phase; of its last run, where a phase runs more than once."""
    peak_bytes: int
    blocks: tuple[Block, ...]
    """Every allocation and free of the step, in order."""


class _Marks:
    """Stands where a `Recorder` stands in `phases`, and writes each change of phase into the profile."""

    def __init__(self) -> None:
        self.phase = Phase.FORWARD

    def enter(self, phase: Phase) -> Phase:
        before, self.phase = self.phase, phase
        # As in a trace, forward begins with its first op; what is freed before that belongs to the phase it follows.
        with record_function(_MARK + phase):
            pass
        return before

    def left(self, phase: Phase) -> None:
        """Nothing to look at."""


def measure(step: Step, warmup: int = 1) -> Measured:
    """Run `step` on real tensors, `warmup` turns and then one that is measured.

    The module of `step` must be real and on the CPU; it is trained by ``warmup + 1`` steps.
    """
    marks: Any = _Marks()
    with phases(marks, []):
        call = as_call(step.inputs)
        optimizer = make_optimizer(step.optimizer if step.step != "inference" else None, step.model)
        loop = run_step(step.model, optimizer, call, step)
        # The warm-up is profiled too: the profiler reports a free only of what it saw allocated.
        with _profiled() as events:
            for _ in range(warmup):
                next(loop)
            with record_function(_START):
                pass
            next(loop)
        loop.close()
    return _read(events)


@contextmanager
def _profiled() -> Iterator[list[Any]]:
    found: list[Any] = []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield found
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    found.extend(_flat(profiler.profiler.kineto_results.experimental_event_tree(), ()))
    found.sort(key=lambda item: item[0].start_time_ns)


def _flat(events: list[Any], around: tuple[Any, ...]) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Every event of the tree with the ATen ops around it."""
    for event in events:
        yield event, around
        yield from _flat(event.children, (*around, event) if event.name.startswith("aten::") else around)


def _read(events: list[Any]) -> Measured:
    live = peak = 0
    phase = Phase.FORWARD
    coming = False
    ends: dict[Phase, int] = {}
    blocks: list[Block] = []
    for event, around in events:
        kind, fields = event.typed
        if kind == _EventType.Allocation:
            live += fields.alloc_size
            peak = max(peak, live)
            ops, calls = tuple(op.name for op in around), tuple(op.id for op in around)
            blocks.append(Block(fields.alloc_size, fields.ptr, ops, calls))
        elif event.name == _START:
            live, peak, phase, ends, blocks, coming = 0, 0, Phase.FORWARD, {}, [], False
        elif event.name.startswith(_MARK):
            new = Phase(event.name.removeprefix(_MARK))
            coming = new is Phase.FORWARD
            if not coming:
                ends[phase] = live
                phase = new
        elif coming and event.name.startswith("aten::"):
            ends[phase] = live
            phase, coming = Phase.FORWARD, False
    ends[phase] = live
    return Measured(ends, peak, tuple(blocks))
