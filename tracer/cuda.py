"""What CUDA does otherwise: composite ops whose C++ asks for the device take CUDA's road here.

The tensors of a trace are CPU tensors, so a composite op in C++ that branches on ``is_cuda()`` goes the
CPU's way. The table `KERNELS` puts CUDA's way back, one function per op, each with its source in PyTorch.
It holds while a step is traced for ``device="cuda"``.

Not covered yet: the reserve space of cuDNN's batch norm; the workspaces of its recurrent layers and its CTC loss;
nested tensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from . import spectral
from .attention import Attention, check, choose_attention, run_attention
from .cudnn_layers import MODES
from .cudnn_roads import ctc_loss, grid_sampler
from .encoder import encoder_layer, self_attention
from .extremes import EXTREMES, extreme
from .record import Recorder
from .recurrent import gru_cell, lstm_cell, recurrent
from .signature import decompose

aten = torch.ops.aten
Chooser = Callable[..., Any]


@contextmanager
def cuda_kernels(recorder: Recorder) -> Iterator[Counter[str]]:
    """Send composite ops CUDA's way while tracing for it. Yields the choices made, with their reasons."""
    choices: Counter[str] = Counter()
    if torch.device(recorder.device).type != "cuda":
        yield choices
        return
    library = torch.library.Library("aten", "IMPL")
    try:
        for name, make in KERNELS.items():
            kernel = make(recorder, choices)
            for key in ("AutogradCPU", "CPU") if _is_composite(name) else ("AutogradCPU",):
                library.impl(name, kernel, key)
                if key == "CPU":  # which makes the composite look like an op with a kernel of its own
                    recorder.roads[str(_op(name))] = kernel
        yield choices
    finally:
        recorder.roads.clear()
        library._destroy()


def _is_composite(name: str) -> bool:
    """Whether the op has no kernel of its own for the CPU, which may not be replaced."""
    return not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "CPU")


def _stock(name: str) -> Any:
    """The op's own composite kernel, for tensors that are not on the GPU."""
    return lambda *args, **kwargs: decompose(_op(name), *args, **kwargs)


def _op(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(aten, packet), overload or "default")


# -- dropout --------------------------------------------------------------------------------------


def _dropout(recorder: Recorder, choices: Counter[str]) -> Chooser:
    """One fused kernel with a byte mask (ATen/native/Dropout.cpp: is_fused_kernel_acceptable)."""
    stock = _stock("dropout")

    def dropout(input: torch.Tensor, p: float, train: bool) -> Any:
        if recorder.on_gpu(input) and train and 0 < p < 1 and input.numel():
            return aten.native_dropout.default(input, p, train)[0]
        return stock(input, p, train)

    return dropout


# -- scaled dot product attention -----------------------------------------------------------------


def _attention(recorder: Recorder, choices: Counter[str]) -> Chooser:
    """The backend that `attention` chooses for the call and the GPU, with the reasons kept."""
    stock = _stock("scaled_dot_product_attention")

    def attention(*args: Any, scale: float | None = None, enable_gqa: bool = False, **kwargs: Any) -> Any:
        if not recorder.on_gpu(args[0]):
            return stock(*args, scale=scale, enable_gqa=enable_gqa, **kwargs)
        named = {_ARGUMENTS[name]: value for name, value in kwargs.items()}
        call = Attention(*args, **{**named, "scale": scale, "gqa": enable_gqa})
        check(call)
        backend, refused = choose_attention(call, recorder.capability)
        if recorder.recording:
            told = "; ".join(f"{name} refused: {why}" for name, why in refused)
            choices[f"attention runs the {backend} kernel" + (f" ({told})" if told else "")] += 1
        return run_attention(backend, call)

    return attention


_ARGUMENTS = {"attn_mask": "mask", "dropout_p": "dropout", "is_causal": "causal"}


# -- batch norm -----------------------------------------------------------------------------------


def _batch_norm(recorder: Recorder, choices: Counter[str]) -> Chooser:
    """cuDNN where it is on (ATen/native/Normalization.cpp: _select_batch_norm_backend)."""
    stock = _stock("_batch_norm_impl_index")

    def batch_norm(
        input: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
        cudnn_enabled: bool,
    ) -> Any:
        cudnn = (
            recorder.on_gpu(input)
            and cudnn_enabled
            and input.dtype not in (torch.float64, torch.bfloat16)
            and weight is not None
            and weight.dtype is torch.float32
            and bias is not None
            and (training or running_mean is not None)
            and input.dim() >= 3
            and input.shape[0] <= (880_801 if training else 65_535)
            and eps >= 1e-5  # CUDNN_BN_MIN_EPSILON
            and 0 < input.numel() < 2**31 - 1
        )
        if not cudnn:
            result = stock(input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled)
            return result
        out, mean, var, reserve = aten.cudnn_batch_norm.default(
            input.contiguous(memory_format=torch._prims_common.suggest_memory_format(input)),
            weight,
            bias,
            running_mean,
            running_var,
            training,
            momentum,
            eps,
        )
        choices["batch norm runs cuDNN; its reserve space is not modelled"] += recorder.recording
        return out, mean, var, reserve, 1

    return batch_norm


# -- pooling and one-hot vectors ------------------------------------------------------------------


def _max_pool1d(recorder: Recorder, choices: Counter[str]) -> Chooser:
    """With the places of the maxima, also where no gradient is asked for (ATen/native/MaxPooling.cpp: max_pool1d)."""
    stock = _stock("max_pool1d")

    def max_pool1d(input: torch.Tensor, *args: Any) -> Any:
        return aten.max_pool1d_with_indices(input, *args)[0] if recorder.on_gpu(input) else stock(input, *args)

    return max_pool1d


def _one_hot(recorder: Recorder, choices: Counter[str]) -> Chooser:
    """Classes are not compared with their number, which would wait for the GPU (ATen/native/Onehot.cpp: one_hot)."""
    stock = _stock("one_hot")

    def one_hot(input: torch.Tensor, num_classes: int = -1) -> Any:
        whole = input.dtype is torch.int64 and input.numel() > 0 and (num_classes == -1 or num_classes >= 1)
        if not (recorder.on_gpu(input) and whole):
            return stock(input, num_classes)
        count = int(input.max().item()) + 1 if num_classes == -1 else num_classes
        made = torch.zeros((*input.shape, count), dtype=torch.int64, device=input.device)
        return made.scatter_(-1, input.unsqueeze(-1), 1)

    return one_hot


# -- group norm -----------------------------------------------------------------------------------


def _group_norm(recorder: Recorder, choices: Counter[str]) -> Chooser:
    """The input in row-major order, also where it is channels-last (ATen/native/group_norm.cpp: group_norm).

    From 2.14 on the copy is the kernel's own, and the input is saved as it came.
    """
    stock = _stock("group_norm")

    def group_norm(input: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        copies = torch.__version__ < "2.14" and recorder.on_gpu(input)
        return stock(input.contiguous() if copies else input, *args, **kwargs)

    return group_norm


# -- softmax --------------------------------------------------------------------------------------


def _softmax(name: str) -> Callable[[Recorder, Counter[str]], Chooser]:
    """From float16 to float32 in one kernel, as autocast asks for; others are cast first (ATen/native/SoftMax.cpp)."""

    def make(recorder: Recorder, choices: Counter[str]) -> Chooser:
        stock, fused = _stock(f"{name}.int"), _op(f"_{name}")

        def softmax(input: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> Any:
            widens = input.dtype is torch.float16 and dtype is torch.float32
            if widens and recorder.on_gpu(input):
                return fused(input, dim, True)
            return stock(input, dim, dtype)

        return softmax

    return make


# -- RMS norm -------------------------------------------------------------------------------------


def _rms_norm(recorder: Recorder, choices: Counter[str]) -> Chooser:
    """One fused kernel, where other devices compose it (native_functions.yaml: _fused_rms_norm has a CUDA kernel)."""
    stock = _stock("_fused_rms_norm")

    def rms_norm(
        input: torch.Tensor, normalized_shape: list[int], weight: torch.Tensor | None, eps: float | None
    ) -> Any:
        if not recorder.on_gpu(input):
            return stock(input, normalized_shape, weight, eps)
        if torch._C._functorch.is_functorch_wrapped_tensor(input):
            choices["an RMS norm inside of torch.func is composed; CUDA has one kernel for it"] += recorder.recording
            return stock(input, normalized_shape, weight, eps)
        return _RMSNorm.apply(input, weight, recorder, normalized_shape, eps)

    return rms_norm


class _RMSNorm(torch.autograd.Function):
    """The fused kernel and its derivative: keeps input, weight and the reciprocal root mean squares."""

    @staticmethod
    def forward(
        ctx: Any, input: torch.Tensor, weight: torch.Tensor | None, recorder: Recorder, shape: list[int], eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The normalized input, and the reciprocal root mean square of each row in the accumulation type."""
        ctx.set_materialize_grads(False)
        rows = (*input.shape[: input.dim() - len(shape)], *(1 for _ in shape))
        wide = torch.float32 if input.itemsize < 4 else input.dtype
        results = [(tuple(input.shape), input.dtype), (rows, wide)]
        out, rstd = recorder.emit(aten._fused_rms_norm.default, (input, list(shape), weight, eps), results)
        ctx.save_for_backward(input, weight, rstd)
        ctx.recorder, ctx.shape = recorder, list(shape)
        ctx.mark_non_differentiable(rstd)
        return out, rstd

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _: Any) -> Any:
        """Gradients of input and weight; copies in row-major order are the kernel's own."""
        if grad is None:
            return (None,) * 5
        input, weight, rstd = ctx.saved_tensors
        mask = [ctx.needs_input_grad[0], weight is not None and ctx.needs_input_grad[1]]
        wanted = [(tuple(t.shape), t.dtype) for t, need in zip((input, weight), mask, strict=True) if need]
        args = (grad, input, ctx.shape, rstd, weight, mask)
        made = iter(ctx.recorder.emit(aten._fused_rms_norm_backward.default, args, wanted))
        return (*(next(made) if need else None for need in mask), None, None, None)


KERNELS: dict[str, Callable[[Recorder, Counter[str]], Chooser]] = {
    "dropout": _dropout,
    "scaled_dot_product_attention": _attention,
    "_batch_norm_impl_index": _batch_norm,
    "max_pool1d": _max_pool1d,
    "one_hot": _one_hot,
    **{name: extreme(name) for name in EXTREMES},
    "ctc_loss.IntList": ctc_loss("IntList"),
    "ctc_loss.Tensor": ctc_loss("Tensor"),
    "grid_sampler": grid_sampler,
    "group_norm": _group_norm,
    "softmax.int": _softmax("softmax"),
    "log_softmax.int": _softmax("log_softmax"),
    "_fused_rms_norm": _rms_norm,
    "lstm_cell": lstm_cell,
    "gru_cell": gru_cell,
    "_transformer_encoder_layer_fwd": encoder_layer,
    "_native_multi_head_attention": self_attention,
    **{f"{name}.input": recurrent(name, packed=False) for name in MODES},
    **{f"{name}.data": recurrent(name, packed=True) for name in MODES},
    **spectral.KERNELS,
}
"""Composite op -> what makes its CUDA kernel. One entry per op family."""
