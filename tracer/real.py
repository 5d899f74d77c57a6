"""A target, a module or a step -> its step on real tensors of the CPU, and the loop that runs it.

A module on the meta device is *materialised* for the run: small numbers take the place of what it lacks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree

from ..graph import ForetraceError
from .autocast import autocast_dtype, region
from .inputs import DRAWN_BELOW, Call, as_call
from .modules import with_loss
from .ready import answer_as_wrapped, ready, uncompiled
from .step import Step, make_optimizer, phases, run_step
from .target import as_step, describe, resolve


def real_step(target: Any, parameters: dict[str, Any] | None, inputs: str | None, optimizer: Any, warmup: int) -> Step:
    """The step of a target, on real tensors. Raises `ForetraceError` for what is none."""
    if warmup < 0:
        raise ForetraceError(f"warmup is {warmup}", "Give 0 for the very first step, 1 or more for a later one.")
    step = _made(target, parameters or {}, inputs)
    if optimizer is not None:
        step = replace(step, optimizer=None if optimizer == "none" else optimizer)
    materialise(with_loss(step.model, step.loss))
    return step


@contextmanager
def real_loop(step: Step, listener: Any, autocast: Any) -> Iterator[Iterator[None]]:
    """The loop of the step, one step a turn; `listener` is told of its phases as a `Recorder` is.

    What the step raises is raised as a `ForetraceError`.
    """
    around = region("cpu", autocast_dtype(autocast))
    try:
        with phases(listener, []), uncompiled(), _as_wrapped(step):
            call = _real_call(step.inputs)
            trained = with_loss(step.model, step.loss)
            made = make_optimizer(step.optimizer if step.step != "inference" else None, trained)
            loop = run_step(step.model, made, call, step, around)
            yield loop
            loop.close()
    except ForetraceError:
        raise
    except Exception as error:
        mend = "The step must run in plain PyTorch on the CPU."
        if isinstance(error, IndexError):
            mend += f" What --input describes as whole numbers is drawn below {DRAWN_BELOW}: "
            mend += "where that is too much, let the target return inputs of its own."
        raise ForetraceError(f"the real run raised {describe(error)}", mend) from error


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
