"""Where a meta kernel is missing or tells less than the real one returns: the true shapes, one function an op.

Results are described as in `calls`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch._prims_common import suggest_memory_format

from ..graph import ForetraceError
from . import cudnn_roads
from .calls import dense

_PROBE_FLOPS = 4_000_000_000
"""A kernel this small is run to ask for a size that only it knows; a tenth of a second on one core."""


def _lstm_workspace(results: list[Any], args: tuple[Any, ...], device: str) -> list[Any]:
    """oneDNN's LSTM returns a workspace for backward, whose layout depends on the CPU; the meta kernel says 0 bytes.

    The kernel itself is asked, on zeros. A long sequence is asked at two lengths and extended in a straight
    line, which is off by some pages of 4096 bytes at most, since oneDNN rounds each part up to a page.
    """
    x, weights, hx, cx, options = args[0], args[1:5], args[5], args[6], args[7:]
    if not (options[-1] and torch.is_grad_enabled()):
        return results
    steps, batch, width = x.shape
    hidden = hx.shape[-1]
    longest = max(4, _PROBE_FLOPS // (8 * batch * hidden * (width + hidden)))
    zeros = [torch.zeros(w.shape, dtype=w.dtype) for w in (*weights, hx, cx)]

    def size(length: int) -> int:
        sequence = torch.zeros(length, batch, width, dtype=x.dtype)
        return int(torch.ops.aten.mkldnn_rnn_layer.default(sequence, *zeros, *options)[3].numel())

    if steps <= longest:
        workspace = size(steps)
    else:
        short, long = size(longest // 2), size(longest)
        workspace = long + (steps - longest) * (long - short) // (longest - longest // 2)
    return [*results[:3], ("new", (workspace,), (1,), torch.uint8)]


def _convolution_format(results: list[Any], args: tuple[Any, ...], device: str) -> list[Any]:
    """The result is channels-last where input or weight is; the meta kernel is always row-major.

    (ATen/native/ConvUtils.h: mkldnn_conv_use_channels_last, cudnn_conv_suggest_memory_format; not for float64.)
    """
    formats = {suggest_memory_format(t) for t in args[:2]} & {torch.channels_last, torch.channels_last_3d}
    return results if args[0].dtype is torch.float64 else _in_format(results, formats)


def _group_norm(results: list[Any], args: tuple[Any, ...], device: str) -> list[Any]:
    """The CPU's kernel keeps mean and rstd in the dtype of the weight, where that is a wider one."""
    x, weight = args[:2]
    kept = weight.dtype if device == "cpu" and weight is not None else x.dtype
    statistics = [(kind, shape, strides, kept) for kind, shape, strides, _ in results[1:]]
    return _group_norm_format([results[0], *statistics], args, device)


def _group_norm_format(results: list[Any], args: tuple[Any, ...], device: str) -> list[Any]:
    """The CPU's kernels keep the input's memory format, CUDA's are row-major (ATen/native/group_norm.cpp)."""
    x = args[0] if len(args) == 8 else args[1]
    formats = {suggest_memory_format(x)} & {torch.channels_last, torch.channels_last_3d}
    return _in_format(results, formats if device == "cpu" else {torch.contiguous_format})


def _batch_norm_statistics(results: list[Any], args: tuple[Any, ...], device: str) -> list[Any]:
    """In evaluation the CPU's kernel saves no statistics (ATen/native/Normalization.cpp: batch_norm_cpu)."""
    if args[5] or device != "cpu":
        return results
    return [results[0], *(("new", (0,), (1,), item[3]) for item in results[1:])]


def _layer_norm_statistics(results: list[Any], args: tuple[Any, ...], device: str) -> list[Any]:
    """The CPU's kernel keeps mean and rstd in the input's dtype unless the parameters have a wider one."""
    x, weight = args[0], args[2]
    if device != "cpu" or (weight is not None and weight.dtype is not x.dtype):
        return results
    return [results[0], *((item[0], item[1], item[2], x.dtype) for item in results[1:])]


def _log_sigmoid_buffer(results: list[Any], args: tuple[Any, ...], device: str) -> list[Any]:
    """CUDA's backward computes the exponentials again (ATen/native/cuda/ActivationLogSigmoidKernel.cu, and
    ATen/native/Activation.cpp: log_sigmoid_forward_cuda); the CPU's keeps them."""
    return results if device == "cpu" else [results[0], ("new", (0,), (1,), args[0].dtype)]


def _reduced_in_place(results: list[Any], args: tuple[Any, ...], device: str) -> list[Any]:
    """A mean or a sum in the memory of the losses that it is of: the kernel resizes their tensor to a scalar.

    (ATen/native/BinaryOps.cpp: ``TORCH_META_FUNC(mse_loss)`` and ``(smooth_l1_loss)``; Loss.cpp and cuda/Loss.cu:
    ``soft_margin_loss_out``, ``binary_cross_entropy_out_cpu``, ``binary_cross_entropy_out_cuda``.)
    """
    _, shape, strides, dtype = results[0]
    elements = prod(torch.broadcast_shapes(args[0].shape, args[1].shape))
    return [("within", shape, strides, dtype, elements * dtype.itemsize)] if not shape and elements > 1 else results


def _of_the_first(results: list[Any], args: tuple[Any, ...], device: str) -> list[Any]:
    """The result has the dtype of the first argument, whatever that of the second."""
    ((kind, shape, strides, _),) = results
    return [(kind, shape, strides, args[0].dtype)]


def _soft_margin_loss(results: list[Any], args: tuple[Any, ...], device: str) -> list[Any]:
    return _reduced_in_place(_of_the_first(results, args, device), args, device)


def _ctc_loss(scores: torch.Tensor, targets: torch.Tensor, lengths: Any, target_lengths: Any, *rest: Any) -> Any:
    """The loss of each sequence and the table of forward probabilities (ATen/native/LossCTC.cpp)."""
    steps, batch = scores.shape[:2] if scores.dim() == 3 else (scores.shape[0], 1)
    return scores.new_empty((batch,)), scores.new_empty((batch, steps, 2 * max(target_lengths) + 1))


def _like_second(grad: torch.Tensor, x: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


STANDS_FOR_META: dict[str, Callable[..., Any]] = {
    "aten._ctc_loss.default": _ctc_loss,
    "aten._ctc_loss_backward.default": _like_second,
    "aten._ctc_loss_backward.Tensor": _like_second,
    "aten.fractional_max_pool3d_backward.default": _like_second,
    "aten.multi_margin_loss_backward.default": _like_second,
    "aten.multilabel_margin_loss_backward.default": _like_second,
}
"""Op without a meta kernel -> a function on meta tensors that returns what it would."""


def _in_format(results: list[Any], formats: set[torch.memory_format]) -> list[Any]:
    """The first result with the strides of a memory format, if there is one."""
    if not formats or results[0][0] != "new":
        return results
    _, shape, _, dtype = results[0]
    strides = torch.empty(shape, device="meta", memory_format=formats.pop()).stride()
    return [("new", shape, strides, dtype), *results[1:]]


CORRECTIONS: dict[str, Callable[[list[Any], tuple[Any, ...], str], list[Any]]] = {
    "aten.convolution.default": _convolution_format,
    "aten._native_batch_norm_legit.default": _batch_norm_statistics,
    "aten.native_batch_norm.default": _batch_norm_statistics,
    "aten.native_group_norm.default": _group_norm,
    "aten.native_group_norm_backward.default": _group_norm_format,
    "aten.native_layer_norm.default": _layer_norm_statistics,
    "aten.mkldnn_rnn_layer.default": _lstm_workspace,
    "aten.log_sigmoid_forward.default": _log_sigmoid_buffer,
    "aten.mse_loss.default": _reduced_in_place,
    "aten.smooth_l1_loss.default": _reduced_in_place,
    "aten.soft_margin_loss.default": _soft_margin_loss,
    "aten.huber_loss.default": _of_the_first,
    "aten.normal.Tensor_Tensor": _of_the_first,
    "aten.binary_cross_entropy.default": _reduced_in_place,
}
"""Op -> what makes the true description of its results of the meta kernel's, the arguments and the device."""


def _like(tensor: torch.Tensor | None, wanted: bool = True) -> Any:
    if tensor is None or not wanted:
        return ("value", None)
    shape = tuple(tensor.shape)
    return ("new", shape, dense(shape), tensor.dtype)


def _grouped_mm(args: tuple[Any, ...]) -> list[Any]:
    """One product a group; its meta kernel takes bfloat16 only, the real one falls back to a loop for others.

    Rows are padded to 16 bytes (torch/_meta_registrations.py says the same of its strides).
    """
    a, b, offsets = args[0], args[1], args[2] if len(args) > 2 else None
    dtype = args[4] if len(args) > 4 and args[4] is not None else a.dtype
    groups = (offsets.shape[0],) if offsets is not None and a.dim() == 2 and b.dim() == 2 else ()
    batch = (a.shape[0],) if a.dim() == 3 and b.dim() == 3 else groups
    rows, columns = a.shape[-2], b.shape[-1]
    width = -(-columns * dtype.itemsize // 16) * 16 // dtype.itemsize
    strides = (rows * width, width, 1) if batch else (width, 1)
    return [("new", (*batch, rows, columns), strides, dtype)]


def _lstm_cell(args: tuple[Any, ...]) -> list[Any]:
    """The new state and cell, and the gates that are kept; the meta kernel asks for biases that need not be there."""
    cx = args[2]
    kept = (cx.shape[0], 4 * cx.shape[1])
    return [_like(cx), _like(cx), ("new", kept, dense(kept), cx.dtype)]


def _gru_cell(args: tuple[Any, ...]) -> list[Any]:
    """The new state, and what the cell keeps for its backward (ATen/native/cuda/RNN.cu: _thnn_fused_gru_cell_cuda)."""
    hx = args[2]
    kept = (hx.shape[0], 5 * hx.shape[1])
    return [_like(hx), ("new", kept, dense(kept), hx.dtype)]


def _gru_cell_backward(args: tuple[Any, ...]) -> list[Any]:
    """Gradients of both products' results, of the state and of both biases (ATen/native/cuda/RNN.cu)."""
    grad, _, has_bias = args
    gates = ("new", shape := (grad.shape[0], 3 * grad.shape[1]), dense(shape), grad.dtype)
    bias = ("new", shape[1:], (1,), grad.dtype) if has_bias else ("value", None)
    return [gates, gates, _like(grad), bias, bias]


def _nested(args: tuple[Any, ...]) -> list[Any]:
    raise ForetraceError(
        "nested tensors have no shape that a trace could follow",
        "Pad instead: give nn.TransformerEncoder enable_nested_tensor=False, for one.",
    )


def _like_the_first(args: tuple[Any, ...]) -> list[Any]:
    return [_like(args[0])]


def _rows_of_padded(args: tuple[Any, ...]) -> list[Any]:
    """The rows of all sequences, side by side; how many there are is the last argument."""
    padded, count = args[0], args[2]
    shape = (count, *padded.shape[2:])
    return [("new", shape, dense(shape), padded.dtype)]


SHAPES: dict[str, Callable[[tuple[Any, ...]], list[Any]]] = {
    **cudnn_roads.SHAPES,
    "aten._nested_tensor_from_mask.default": _nested,
    "aten._thnn_fused_lstm_cell.default": _lstm_cell,
    "aten._thnn_fused_gru_cell.default": _gru_cell,
    "aten._thnn_fused_gru_cell_backward.default": _gru_cell_backward,
    "aten._dirichlet_grad.default": _like_the_first,
    "aten._grouped_mm.default": _grouped_mm,
    "aten._padded_dense_to_jagged_forward.default": _rows_of_padded,
}
"""Op without a meta kernel that serves -> what describes its results, given the arguments."""
