"""Losses and samplers that cuDNN takes on CUDA: ``ctc_loss`` and ``grid_sampler``, which branch on the device in C++.

Sources: ATen/native/LossCTC.cpp and cudnn/LossCTC.cpp (_use_cudnn_ctc_loss); ATen/native/GridSampler.cpp,
GridSamplerUtils.h (cond_cudnn_grid_sampler) and cudnn/GridSampler.cpp. Not covered: the workspace of the
loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .calls import dense
from .signature import decompose

if TYPE_CHECKING:
    from .record import Recorder

aten = torch.ops.aten
Chooser = Callable[..., Any]

MEAN, SUM = 1, 2
"""``at::Reduction``."""
LONGEST_TARGET = 255
MOST_CHANNELS = 1024
MOST_ELEMENTS = 2**31 - 1
BILINEAR, ZEROS = 0, 0
"""``GridSamplerInterpolation`` and ``GridSamplerPadding``."""


# -- CTC loss -------------------------------------------------------------------------------------


def ctc_loss(overload: str) -> Callable[[Recorder, Counter[str]], Chooser]:
    """The road of ``ctc_loss.IntList`` or ``ctc_loss.Tensor``, which come as lists and tensors of lengths."""
    stock, fused = getattr(aten.ctc_loss, overload), getattr(aten._cudnn_ctc_loss, _FUSED[overload])

    def make(recorder: Recorder, choices: Counter[str]) -> Chooser:
        def loss(
            log_probs: torch.Tensor,
            targets: torch.Tensor,
            input_lengths: Any,
            target_lengths: Any,
            blank: int = 0,
            reduction: int = MEAN,
            zero_infinity: bool = False,
        ) -> Any:
            args = log_probs, targets, input_lengths, target_lengths, blank
            if not (recorder.on_gpu(log_probs) and _taken[overload](recorder, *args)):
                if recorder.on_gpu(log_probs) and not recorder.on_gpu(targets):
                    targets = targets.to(recorder.device, torch.int64)
                return decompose(stock, log_probs, targets, *args[2:], reduction, zero_infinity)
            losses = fused(*args, True, zero_infinity)[0]
            if reduction == MEAN:
                return (losses / _at_least_one(target_lengths, losses)).mean()
            return losses.sum() if reduction == SUM else losses

        return loss

    return make


_FUSED = {"IntList": "default", "Tensor": "Tensor"}


def _may_be_taken(log_probs: torch.Tensor, targets: torch.Tensor, blank: int) -> bool:
    return (
        torch._C._get_cudnn_enabled()
        and blank == 0
        and (log_probs.dim(), log_probs.dtype) == (3, torch.float32)
        and (targets.dim(), targets.dtype) == (1, torch.int32)
        and targets.is_contiguous()
    )


def _lists_are_taken(
    recorder: Recorder, log_probs: torch.Tensor, targets: torch.Tensor, given: list[int], wanted: list[int], blank: int
) -> bool:
    """With targets on the host, and where every sequence has the full length."""
    full = all(length == log_probs.shape[0] for length in given)
    return _may_be_taken(log_probs, targets, blank) and not recorder.on_gpu(targets) and full and _fit(given, wanted)


def _tensors_are_taken(
    recorder: Recorder,
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    given: torch.Tensor,
    wanted: torch.Tensor,
    blank: int,
) -> bool:
    """With lengths as int32; they are copied to the host to be compared."""
    whole = given.dtype is torch.int32 and wanted.dtype is torch.int32
    return whole and _may_be_taken(log_probs, targets, blank) and _fit(_on_host(given), _on_host(wanted))


_taken: dict[str, Callable[..., bool]] = {"IntList": _lists_are_taken, "Tensor": _tensors_are_taken}


def _on_host(lengths: torch.Tensor) -> list[int]:
    values: list[int] = lengths.to(torch.device("cpu"), torch.int64).tolist()
    return values


def _fit(given: Sequence[int], wanted: Sequence[int]) -> bool:
    return all(target <= min(length, LONGEST_TARGET) for length, target in zip(given, wanted, strict=True))


def _at_least_one(lengths: Any, like: torch.Tensor) -> torch.Tensor:
    if isinstance(lengths, torch.Tensor):
        return lengths.clamp_min(1)
    return torch.tensor(lengths, dtype=like.dtype, device=like.device).clamp_min(1)


def _ctc_results(args: tuple[Any, ...]) -> list[Any]:
    """The loss of each sequence, and the gradient, which is computed at once."""
    scores = args[0]
    shape = tuple(scores.shape)
    return [("new", shape[1:2], (1,), scores.dtype), ("new", shape, dense(shape), scores.dtype)]


# -- grid sampling --------------------------------------------------------------------------------


def grid_sampler(recorder: Recorder, choices: Counter[str]) -> Chooser:
    """The road of ``grid_sampler``: cuDNN where corners are aligned and what is outside counts as zeros."""

    def sampler(input: torch.Tensor, grid: torch.Tensor, mode: int, padding: int, align_corners: bool) -> Any:
        fits = (mode, padding, align_corners) == (BILINEAR, ZEROS, True) and input.dim() == 4
        if fits and recorder.on_gpu(input) and input.shape[1] <= MOST_CHANNELS and _taken_both(input, grid):
            return aten.cudnn_grid_sampler.default(input, grid)
        return decompose(aten.grid_sampler.default, input, grid, mode, padding, align_corners)

    return sampler


def _taken_both(*tensors: torch.Tensor) -> bool:
    dtypes = (torch.float16, torch.float32, torch.float64)
    return torch._C._get_cudnn_enabled() and all(
        0 < tensor.numel() <= MOST_ELEMENTS and tensor.dtype in dtypes for tensor in tensors
    )


def _grid_results(args: tuple[Any, ...]) -> list[Any]:
    """The image at the points of the grid, in row-major order."""
    image, grid = args
    shape = (*image.shape[:2], *grid.shape[1:3])
    return [("new", shape, dense(shape), image.dtype)]


def _grid_gradients(args: tuple[Any, ...]) -> list[Any]:
    """Those of image and grid, always both."""
    return [("new", shape := tuple(t.shape), dense(shape), t.dtype) for t in args[:2]]


SHAPES: dict[str, Callable[[tuple[Any, ...]], list[Any]]] = {
    "aten._cudnn_ctc_loss.default": _ctc_results,
    "aten._cudnn_ctc_loss.Tensor": _ctc_results,
    "aten.cudnn_grid_sampler.default": _grid_results,
    "aten.cudnn_grid_sampler_backward.default": _grid_gradients,
}
"""Op -> what describes its results, as in `corrections`."""
