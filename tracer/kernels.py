"""What an op's kernel on this CPU returns: the op is run on numbers of no meaning, and its results are described.

For the few ops whose meta kernel is missing, or says other sizes or strides than the CPU's kernel returns. Results are
described as in `calls`. The memory is real for that moment, so a call with more than `MOST_BYTES` is not run.
"""

from __future__ import annotations

from typing import Any

import torch

from .arena import storage_bytes

MOST_BYTES = 2**28

CPU_DIFFERS = frozenset(
    {
        "aten._embedding_bag.default",
        "aten._embedding_bag_forward_only.default",
        "aten._fft_c2r.default",
        "aten._fft_r2c.default",
        "aten.channel_shuffle.default",
        "aten.col2im.default",
        "aten.glu_backward.default",
        "aten.hann_window.default",
        "aten.hann_window.periodic",
        "aten.im2col.default",
        "aten.linalg_lstsq.default",
        "aten.log_sigmoid_forward.default",
        "aten.pixel_shuffle.default",
        "aten.pixel_unshuffle.default",
        "aten.reflection_pad2d.default",
        "aten.replication_pad2d.default",
        "aten.roll.default",
    }
)
"""Ops whose meta kernel says other sizes or strides than the CPU's kernel."""


def ask(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The container of the results and a description of each; None where the call cannot be tried.

    Only PyTorch's own kernels are: what another library's kernel does besides is not known.
    """
    generator = torch.Generator().manual_seed(0)
    if func.namespace != "aten" or _bytes(args) + _bytes(tuple(kwargs.values())) > MOST_BYTES:
        return None
    real = {name: _real(value, generator) for name, value in kwargs.items()}
    if real.get("device") is not None:
        real["device"] = torch.device("cpu")
    try:
        result = func(*(_real(value, generator) for value in args), **real)
    except (RuntimeError, NotImplementedError, ValueError, IndexError):
        return None
    if isinstance(result, torch.Tensor) and result.layout is not torch.strided:
        return None
    if isinstance(result, (tuple, list)):
        return type(result), [_described(item) for item in result]
    return None, [_described(result)]


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.itemsize
    return sum(_bytes(item) for item in value) if isinstance(value, (tuple, list)) else 0


def _real(value: Any, generator: torch.Generator) -> Any:
    if isinstance(value, torch.Tensor):
        real = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype).zero_()
        return real.normal_(generator=generator) if value.is_floating_point() and real.numel() else real
    if isinstance(value, (tuple, list)):
        return [_real(item, generator) for item in value]
    return value


def _described(result: Any) -> Any:
    if isinstance(result, torch.Tensor):
        shape, strides, dtype = tuple(result.shape), result.stride(), result.dtype
        nbytes = result.untyped_storage().nbytes()
        if result.layout is torch.strided and nbytes > storage_bytes(shape, strides, dtype.itemsize):
            return ("within", shape, strides, dtype, nbytes)
        return ("new", shape, strides, dtype)
    if isinstance(result, (tuple, list)):
        return ("list", [_described(item) for item in result])
    return ("value", result)
