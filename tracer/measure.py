"""A target, a module or a step -> `Measured`: run for real on the CPU, with the allocator's own events read.

PyTorch's profiler reports every allocation and free of its CPU allocator with its size. The real run has
no recorder and no dispatch mode in it, since either would change what autograd does. What the allocator
is asked for inside a kernel (oneDNN scratch, scalars wrapped as tensors) is in these events too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch._C._profiler import _EventType
from torch.profiler import record_function

from ..graph import Block, Measured, Phase
from .events import profiled
from .randomness import seeded
from .real import real_loop, real_step
from .step import Step

_MARK = "foretrace_phase_"
_START = "foretrace_step"


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


def measure(
    target: str | Step | nn.Module | Callable[[], Any],
    parameters: dict[str, Any] | None = None,
    *,
    inputs: str | None = None,
    optimizer: Any = None,
    autocast: Any = None,
    warmup: int = 1,
) -> Measured:
    """Run a step on real tensors of the CPU, `warmup` turns and then one that is measured.

    `target` is ``path.py:callable`` or ``package.module:callable``, called with `parameters`, or what such a callable
    returns, or the callable. A module that is given is trained by ``warmup + 1`` steps. `inputs` (a text of specs) and
    `optimizer`, where given, take the place of the target's own; `autocast` is a dtype for ``torch.autocast`` around
    forward and loss. Randomness begins with seed 0, as in a trace.

    Raises `ForetraceError` for a step that does not run.
    """
    with seeded():
        return _run(real_step(target, parameters, inputs, optimizer, warmup), warmup, autocast)


def _run(step: Step, warmup: int, autocast: Any) -> Measured:
    with real_loop(step, _Marks(), autocast) as loop, profiled() as events:
        # The warm-up is profiled too: the profiler reports a free only of what it saw allocated.
        for _ in range(warmup):
            next(loop)
        with record_function(_START):
            pass
        next(loop)
    return _read(events)


# -- the allocator's events -----------------------------------------------------------------------


def _read(events: list[Any]) -> Measured:
    live = peak = 0
    phase = Phase.FORWARD
    coming = False
    ends: dict[Phase, int] = {}
    ends_at: dict[Phase, int] = {}
    blocks: list[Block] = []

    def end() -> None:
        ends[phase], ends_at[phase] = live, len(blocks)

    for event, around in events:
        kind, fields = event.typed
        if kind == _EventType.Allocation:
            live += fields.alloc_size
            peak = max(peak, live)
            ops, calls = tuple(op.name for op in around), tuple(op.id for op in around)
            blocks.append(Block(fields.alloc_size, fields.ptr, ops, calls))
        elif event.name == _START:
            live, peak, phase, ends, ends_at, blocks, coming = 0, 0, Phase.FORWARD, {}, {}, [], False
        elif event.name.startswith(_MARK):
            new = Phase(event.name.removeprefix(_MARK))
            coming = new is Phase.FORWARD
            if not coming:
                end()
                phase = new
        elif coming and event.name.startswith("aten::"):
            end()
            phase, coming = Phase.FORWARD, False
    end()
    return Measured(ends, peak, tuple(blocks), ends_at)
