"""A call of an op on tensors of several dtypes -> what its kernel says against them, if anything.

A meta kernel tells shapes, and many do not look at dtypes: those of ``mm`` and of convolutions take a half and a float,
which no real one does. So a call with dtypes that may not go together is tried on the CPU, on zeros of at most `MOST`
elements a dimension, and again with one dtype for all floats, or for all numbers, indices kept or not. What fails only
as given is refused, in PyTorch's words. What fails in any case may do so for its sizes, which were cut down, and tells
nothing.

A GPU lacks no dtype that only the CPU's kernel lacks; and two of its kernels want one dtype where the CPU's do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from .key import quiet
from .signature import Signature

MOST = 8

_ONE_DTYPE = frozenset({"aten.native_layer_norm.default", "aten.native_group_norm.default"})
"""Ops whose kernels for CUDA read weight and bias as the input's dtype (ATen/native/cuda/layer_norm_kernel.cu and
group_norm_kernel.cu), while those for the CPU take float32 beside halves."""
_OF_DTYPES = re.compile(r"[Tt]ype|did not match|not implemented for")
_OF_THE_CPU = re.compile(r"\(CPU\)|not implemented for")
_WORDS = {torch.float16: "Half", torch.bfloat16: "BFloat16", torch.float32: "Float", torch.float64: "Double"}

_taken: set[tuple[str, str, tuple[torch.dtype, ...]]] = set()
"""Calls by op, device and dtypes that are known to be taken."""


def refusal(
    sig: Signature, args: Sequence[Any], kwargs: dict[str, Any], given: Iterable[torch.Tensor], device: str
) -> str:
    """What PyTorch says against these dtypes; empty where it takes them, or where that cannot be told."""
    dtypes = tuple(tensor.dtype for tensor in given)
    if not _is_doubtful(dtypes, device) or not _is_tried(sig):
        return ""
    if device != "cpu" and sig.name in _ONE_DTYPE and not _is_of_one_place(sig, args):
        return f"expected scalar type {_word(dtypes[0])} but found {_word(next(d for d in dtypes if d != dtypes[0]))}"
    place = sig.name, device, dtypes
    if place in _taken:
        return ""
    said = _said(sig, args, kwargs, _as_given)
    if not said:
        _taken.add(place)
        return ""
    counts = _OF_DTYPES.search(said) and not (device != "cpu" and _OF_THE_CPU.search(said))
    return said if counts and not all(_said(sig, args, kwargs, cast) for cast in _TOGETHER) else ""


def _is_doubtful(dtypes: Sequence[torch.dtype], device: str) -> bool:
    """Numbers of several dtypes, or of one that the CPU has no kernel of many an op for."""
    several = set(dtypes) - {torch.bool}
    return len(several) > 1 or (device == "cpu" and not several <= _EVERYWHERE)


_EVERYWHERE = frozenset({torch.float32, torch.float64, torch.int64})


def _is_of_one_place(sig: Signature, args: Sequence[Any]) -> bool:
    """A group norm of one element a channel goes by a TensorIterator, which casts."""
    return "group_norm" in sig.name and args[5] == 1


def _is_tried(sig: Signature) -> bool:
    """Ops that people call: they check what they are given. Those that PyTorch calls itself may read past a buffer."""
    inner = sig.name.startswith("aten._") or any(part in sig.name for part in _INNER)
    return sig.func.namespace == "aten" and not sig.random and not inner


_INNER = ("_backward", "mkldnn", "cudnn", "miopen", "rnn", "quant")


def _word(dtype: torch.dtype) -> str:
    return _WORDS.get(dtype) or str(dtype).removeprefix("torch.").capitalize()


Cast = Callable[[torch.dtype], torch.dtype]


def _said(sig: Signature, args: Sequence[Any], kwargs: dict[str, Any], cast: Cast) -> str:
    """What the CPU's kernel raises for a small call like this one; empty if nothing."""
    with quiet(), torch.no_grad():
        small = {name: _small(value, cast) for name, value in kwargs.items()}
        if small.get("device") is not None:
            small["device"] = torch.device("cpu")
        try:
            sig.func(*(_small(value, cast) for value in args), **small)
        except Exception as error:
            return str(error).partition("\n")[0] or type(error).__name__
    return ""


def _small(value: Any, cast: Cast) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.zeros([min(size, MOST) for size in value.shape], dtype=cast(value.dtype))
    if isinstance(value, (list, tuple)):
        return [_small(item, cast) for item in value]
    if type(value) is int:
        return min(value, MOST)
    return cast(value) if isinstance(value, torch.dtype) else value


def _as_given(dtype: torch.dtype) -> torch.dtype:
    return dtype


def _one_float(dtype: torch.dtype) -> torch.dtype:
    if dtype.is_complex:
        return torch.complex64
    if dtype.is_floating_point:
        return torch.float32
    return dtype if dtype is torch.bool else torch.int64


def _float_unless_index(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype is torch.int64 else _one_number(dtype)


def _one_number(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if _one_float(dtype) is torch.int64 else _one_float(dtype)


_TOGETHER: tuple[Cast, ...] = (_one_float, _float_unless_index, _one_number)
"""Dtypes that go together, if any do."""
