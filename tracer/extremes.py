"""The largest, smallest or middle of all elements on CUDA: its gradient goes to every element that equals it.

The CPU first asks whether that element is no number, and reads the answer; CUDA computes both cases without a look
(torch/csrc/autograd/FunctionsManual.cpp: evenly_distribute_backward). Not covered: forward differentiation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.function import _SingleLevelFunction

if TYPE_CHECKING:
    from .record import Recorder

Chooser = Callable[..., Any]

EXTREMES = ("max", "min", "median", "nanmedian")
"""Ops on all elements that have this derivative (tools/autograd/derivatives.yaml)."""


def extreme(name: str) -> Callable[[Recorder, Counter[str]], Chooser]:
    """The road of one of the `EXTREMES`."""
    op = getattr(torch.ops.aten, name).default

    def make(recorder: Recorder, choices: Counter[str]) -> Chooser:
        def call(input: torch.Tensor) -> Any:
            # Transforms (``torch.func``) have come by already: each calls this with tensors of its own level.
            with enable_single_level_autograd_function():
                return _Extreme.apply(input, op, recorder.on_gpu(input))  # type: ignore[attr-defined]

        return call

    return make


class _Extreme(_SingleLevelFunction):
    """Keeps the input and the result, as the node of PyTorch's own does."""

    @staticmethod
    def forward(input: torch.Tensor, op: Any, gpu: bool) -> Any:
        """The op itself, below what differentiates."""
        with torch._C._AutoDispatchBelowAutograd():
            return op(input)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        """What backward needs."""
        ctx.save_for_backward(inputs[0], output)
        ctx.gpu = inputs[2]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor | None) -> Any:
        """An equal share for each element that equals the result."""
        if grad is None:
            return None, None, None
        input, value = ctx.saved_tensors
        return (_on_cuda if ctx.gpu else _on_cpu)(grad, input, value), None, None


def _on_cuda(grad: torch.Tensor, input: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    neither = input.isnan().logical_and_(value.isnan())
    mask = (input == value).logical_or_(neither)
    return mask * (grad / mask.sum())


def _on_cpu(grad: torch.Tensor, input: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    mask = input.isnan() if value.isnan().item() else input == value
    return grad.new_zeros(input.shape).masked_fill_(mask, grad / mask.sum())
