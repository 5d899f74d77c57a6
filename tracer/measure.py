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

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from ..graph import Phase
from .inputs import as_call
from .step import Step, make_optimizer, phases, run_step

_MARK = "foretrace_phase_"
_START = "foretrace_step"


@dataclass(frozen=True, slots=True)
class Measured:
    """Live bytes of a real step, counted from its start (so the start is 0 and frees of older tensors are negative)."""

    ends: dict[Phase, int]
    """At the end of each phase; of its last run, where a phase runs more than once."""
    peak_bytes: int
    events: tuple[tuple[str, int], ...]
    """The op that was running and the bytes, for every allocation (positive) and free (negative)."""


class _Marks:
    """Stands where a `Recorder` stands in `phases`, and writes each change of phase into the profile."""

    def __init__(self) -> None:
        self.phase = Phase.FORWARD

    def enter(self, phase: Phase) -> Phase:
        before, self.phase = self.phase, phase
        # As in a trace, forward begins with its first op; what is freed before that belongs to the phase it follows.
        if phase is not Phase.FORWARD:
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
    found.extend(sorted(profiler.profiler.kineto_results.events(), key=lambda e: (e.start_ns(), -e.duration_ns())))


def _read(events: list[Any]) -> Measured:
    live = peak = 0
    phase = Phase.FORWARD
    ends: dict[Phase, int] = {}
    running: list[tuple[int, str]] = []
    sizes: list[tuple[str, int]] = []
    for event in events:
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
            while running and running[-1][0] < event.start_ns():
                running.pop()
            sizes.append((running[-1][1] if running else "", event.nbytes()))
        elif event.name() == _START:
            live, peak, phase, ends, sizes = 0, 0, Phase.FORWARD, {}, []
        elif event.name().startswith(_MARK):
            ends[phase] = live
            phase = Phase(event.name().removeprefix(_MARK))
        else:
            while running and running[-1][0] < event.start_ns():
                running.pop()
            running.append((event.start_ns() + event.duration_ns(), event.name()))
    ends[phase] = live
    return Measured(ends, peak, tuple(sizes))
