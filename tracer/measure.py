"""A target, a module or a step -> `Measured`: run for real on the CPU, with the allocator's own events read.

PyTorch's profiler reports every allocation and free of its CPU allocator with its size. The real run has
no recorder and no dispatch mode in it, since either would change what autograd does. What the allocator
is asked for inside a kernel (oneDNN scratch, scalars wrapped as tensors) is in these events too.

A module on the meta device is *materialised* for the run: small numbers take the place of what it lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch._C._profiler import _EventType
from torch.profiler import record_function
from torch.utils import _pytree

from ..graph import Block, ForetraceError, Measured, Phase
from .autocast import autocast_dtype, region
from .events import profiled
from .inputs import Call, as_call
from .randomness import seeded
from .ready import answer_as_wrapped, ready, uncompiled
from .step import Step, make_optimizer, phases, run_step
from .target import as_step, describe, resolve

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
    if warmup < 0:
        raise ForetraceError(f"warmup is {warmup}", "Give 0 for the very first step, 1 or more for a later one.")
    with seeded():
        step = _made(target, parameters or {}, inputs)
        if optimizer is not None:
            step = replace(step, optimizer=None if optimizer == "none" else optimizer)
        materialise(step.model)
        try:
            return _run(step, warmup, region("cpu", autocast_dtype(autocast)))
        except ForetraceError:
            raise
        except Exception as error:
            raise ForetraceError(
                f"the real run raised {describe(error)}", "The step must run in plain PyTorch on the CPU."
            ) from error


def _made(target: Any, parameters: dict[str, Any], inputs: str | None) -> Step:
    if isinstance(target, str):
        return resolve(target, parameters, inputs)
    is_made = isinstance(target, (Step, nn.Module, tuple))
    step = as_step(target if is_made else target(), "the target")
    return ready(step if inputs is None else replace(step, inputs=inputs))


@contextmanager
def _as_wrapped(step: Step) -> Iterator[None]:
    """The module answers as its wrapper would, and no longer."""
    before = set(step.model.__dict__)
    answer_as_wrapped(step)
    added = set(step.model.__dict__) - before
    try:
        yield
    finally:
        for name in added:
            step.model.__dict__.pop(name, None)


def _run(step: Step, warmup: int, around: Callable[[], AbstractContextManager[Any]]) -> Measured:
    marks: Any = _Marks()
    with phases(marks, []), uncompiled(), _as_wrapped(step):
        call = _real_call(step.inputs)
        optimizer = make_optimizer(step.optimizer if step.step != "inference" else None, step.model)
        loop = run_step(step.model, optimizer, call, step, around)
        # The warm-up is profiled too: the profiler reports a free only of what it saw allocated.
        with profiled() as events:
            for _ in range(warmup):
                next(loop)
            with record_function(_START):
                pass
            next(loop)
        loop.close()
    return _read(events)


# -- real tensors ---------------------------------------------------------------------------------


def materialise(model: nn.Module) -> None:
    """Give `model` memory on the CPU: what is on meta is filled with small numbers, what is elsewhere is moved.

    A tensor that several modules share stays shared.
    """
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None and tensor.is_meta:
                    if id(tensor) not in made:
                        made[id(tensor)] = _like(tensor)
                    held[name] = made[id(tensor)]  # type: ignore[assignment]
    if any(tensor.device.type != "cpu" for tensor in (*model.parameters(), *model.buffers())):
        model.to("cpu")


def _like(tensor: torch.Tensor) -> torch.Tensor:
    """A real tensor or parameter of the CPU in place of one on meta."""
    real = _filled(torch.empty_like(tensor, device="cpu", requires_grad=False))
    if isinstance(tensor, nn.Parameter):
        real = nn.Parameter(real, tensor.requires_grad)
        real.__dict__.update(tensor.__dict__)
        return real
    # A buffer may be a variance or a frequency: not below zero.
    return real.abs_() if real.is_floating_point() else real


def _filled(tensor: torch.Tensor) -> torch.Tensor:
    numbers = tensor.is_floating_point() or tensor.is_complex()
    return tensor.normal_(0, 0.02) if numbers else tensor.zero_()


def _real_call(inputs: Any) -> Call:
    """The arguments of the module, with memory and values for those on meta."""

    def real(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_meta:
            return value
        return _filled(torch.empty_like(value, device="cpu", requires_grad=False)).requires_grad_(value.requires_grad)

    return _pytree.tree_map(real, as_call(inputs))


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
