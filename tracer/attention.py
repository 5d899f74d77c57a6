"""A call of ``scaled_dot_product_attention`` -> the backend that a GPU runs it with, and why the others were refused.

The choice is made as in
https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/transformers/cuda/sdp_utils.cpp
(``select_sdp_backend``; each refusal here names the condition as it is checked there, in that order) and the kernel
called as in https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/transformers/attention.cpp, from the
dtype, shapes, mask, dropout and derivatives of the call, the user's flags (``sdpa_kernel``, ``enable_flash_sdp``), and
the GPU's compute capability. cuDNN is taken to be of a version after 9.15.1, which CUDA 13's builds of PyTorch come
with; they prefer it on 9.0 and 10.x.

Not covered: nested tensors, float8, and ROCm.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .log import dtype_name

aten = torch.ops.aten

MATH, FLASH, EFFICIENT, CUDNN = "math", "flash", "efficient", "cuDNN"
_NUMBERS = {0: MATH, 1: FLASH, 2: EFFICIENT, 3: CUDNN}
"""``torch.nn.attention.SDPBackend``."""
_USUAL_ORDER = [1, 2, 0, 3, 4]
"""``at::Context``'s, before a GPU that prefers cuDNN, or the user, says otherwise."""

Capability = tuple[int, int]
HALVES = (torch.float16, torch.bfloat16)


class Attention(NamedTuple):
    """A call of ``scaled_dot_product_attention``."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None = None
    dropout: float = 0.0
    causal: bool = False
    scale: float | None = None
    gqa: bool = False

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and value."""
        return self.query, self.key, self.value

    @property
    def needs_grad(self) -> bool:
        """Whether autograd will ask for the derivative."""
        return torch.is_grad_enabled() and any(t.requires_grad for t in self.tensors)

    @property
    def widths(self) -> tuple[int, ...]:
        """Head dimensions of query, key and value."""
        return tuple(t.shape[-1] for t in self.tensors)


class Refused(NamedTuple):
    """A backend that was passed over."""

    backend: str
    why: str


Test = Callable[[Attention, Capability], str | None]
"""Says why a call is refused; None where it is not."""


def choose_attention(call: Attention, capability: Capability = (8, 0)) -> tuple[str, list[Refused]]:
    """The backend that a GPU runs, and why those before it in line were refused.

    Raises ``RuntimeError``, as PyTorch does, where the user's flags leave none.
    """
    refused: list[Refused] = []
    for backend in _order(capability):
        why = next((why for test in _TESTS[backend] if (why := test(call, capability))), None)
        if why is None:
            return backend, refused
        refused.append(Refused(backend, why))
    told = "; ".join(f"{backend}: {why}" for backend, why in refused)
    raise RuntimeError(f"No available kernel. Aborting execution. {told}")


def check(call: Attention) -> None:
    """Raises ``RuntimeError`` for a call that no backend takes (``validate_sdpa_input``)."""
    dtypes = [str(tensor.dtype) for tensor in call.tensors]
    if len(set(dtypes)) > 1:
        raise RuntimeError(f"attention wants query, key and value of one dtype, and is given {', '.join(dtypes)}")
    if any(tensor.dim() < 2 for tensor in call.tensors):
        raise RuntimeError("attention wants query, key and value of at least 2 dimensions")
    if call.mask is not None and call.mask.dtype not in (torch.bool, torch.float32, call.query.dtype):
        raise RuntimeError(
            f"attention wants a mask of bool, float32 or the dtype of the query, and is given {call.mask.dtype}"
        )
    if not 0 <= call.dropout <= 1:
        raise RuntimeError(f"a dropout probability lies between 0 and 1, and is given as {call.dropout}")


def run_attention(backend: str, call: Attention) -> torch.Tensor:
    """The call, as the backend's op."""
    return _CALLS[backend](call)


# -- the order ------------------------------------------------------------------------------------


def _order(capability: Capability) -> list[str]:
    """``priority_order``: what the user set, or what the GPU prefers."""
    order = list(torch._C._get_sdp_priority_order())
    if order == _USUAL_ORDER and prefers_cudnn(capability):
        order = [3, 1, 2, 0]
    return [_NUMBERS[number] for number in order if number in _NUMBERS]


def prefers_cudnn(capability: Capability) -> bool:
    """``check_prefer_cudnn_attention``."""
    return capability[0] in (9, 10) and os.environ.get("TORCH_CUDNN_SDPA_DEPRIORITIZED") != "1"


# -- why a backend is refused ---------------------------------------------------------------------


def _flag(asked: Callable[[], bool]) -> Test:
    return lambda call, capability: None if asked() else "switched off"


def _four_dimensions(call: Attention, capability: Capability) -> str | None:
    return "not four dimensions" if any(t.dim() != 4 for t in call.tensors) else None


def _no_mask(call: Attention, capability: Capability) -> str | None:
    return "explicit mask" if call.mask is not None else None


def _one_width(call: Attention, capability: Capability) -> str | None:
    if len(set(call.widths)) > 1 or call.widths[0] > 256:
        return "head dimensions " + ", ".join(map(str, call.widths))
    return None


def _from_capability(least: Capability) -> Test:
    def test(call: Attention, capability: Capability) -> str | None:
        return None if least <= capability <= (12, 1) else f"compute capability {_text(capability)}"

    return test


def _width_to_differentiate(call: Attention, capability: Capability) -> str | None:
    """Consumer GPUs have too little shared memory for the derivative of wide heads."""
    small = (8, 6) <= capability <= (8, 9) or (12, 0) <= capability <= (12, 1)
    width = call.widths[0]
    if not (small and call.needs_grad) or width <= 192 or (width > 224 and not call.dropout):
        return None
    return f"derivative for head dimension {width} on compute capability {_text(capability)}"


def _square_if_causal(call: Attention, capability: Capability) -> str | None:
    if call.causal and call.query.shape[-2] != call.key.shape[-2]:
        return "causal with sequences of different length"
    return None


def _halves(call: Attention, capability: Capability) -> str | None:
    """Half precision; bfloat16 from compute capability 8.0."""
    return _dtype(call, HALVES if capability >= (8, 0) else (torch.float16,), capability)


def _floats(call: Attention, capability: Capability) -> str | None:
    allowed = (torch.float16, torch.float32)
    return _dtype(call, (*allowed, torch.bfloat16) if capability >= (8, 0) else allowed, capability)


def _dtype(call: Attention, allowed: tuple[torch.dtype, ...], capability: Capability) -> str | None:
    dtypes = {t.dtype for t in call.tensors}
    if len(dtypes) > 1:
        return "dtypes " + ", ".join(dtype_name(t.dtype) for t in call.tensors)
    if call.query.dtype in allowed:
        return None
    on = f" on compute capability {_text(capability)}" if call.query.dtype is torch.bfloat16 else ""
    return dtype_name(call.query.dtype) + on


def _heads(grouped: bool, keys_as_values: bool = True) -> Test:
    """Batches agree, and heads do; with ``enable_gqa`` a backend may allow fewer of key and value."""

    def test(call: Attention, capability: Capability) -> str | None:
        batches = {t.shape[0] for t in call.tensors}
        query, key, value = (t.shape[-3] for t in call.tensors)
        if grouped and call.gqa:
            fits = query % key == 0 and query % value == 0 and (key == value or not keys_as_values)
        else:
            fits = query == key == value
        return None if len(batches) == 1 and fits else "batch or heads differ"

    return test


def _not_empty(call: Attention, capability: Capability) -> str | None:
    return "empty sequence" if call.query.shape[-2] == 0 or call.key.shape[-2] == 0 else None


def _last_dimension(single_may: bool) -> Test:
    """Stride 1 in the last dimension, of the mask too."""

    def test(call: Attention, capability: Capability) -> str | None:
        dense = all(t.stride(-1) == 1 for t in call.tensors) or (single_may and call.query.shape[-1] == 1)
        if not dense:
            return "last dimension not contiguous"
        if call.mask is not None and call.mask.stride(-1) != 1:
            return "last dimension of the mask not contiguous"
        return None

    return test


def _alignment(call: Attention, capability: Capability) -> int:
    """Elements in which matrices are loaded (``minimum_gemm_alignment``)."""
    half = call.query.dtype in HALVES
    tensor_cores = capability >= (8, 0) or (capability >= (7, 0) and half)
    least = 4 if capability >= (8, 0) else 1
    return max(least, 8 if half else 4) if tensor_cores else least


def _aligned_widths(call: Attention, capability: Capability) -> str | None:
    query, key, value = call.widths
    alignment = _alignment(call, capability)
    if query != key or query % alignment or value % alignment or not query or not value:
        return f"head dimensions {query}, {value} not multiples of {alignment}"
    return None


def _aligned_offsets(call: Attention, capability: Capability) -> str | None:
    alignment = _alignment(call, capability)
    if capability >= (8, 0) and any(t.numel() and t.storage_offset() % alignment for t in call.tensors):
        return f"storage offsets not multiples of {alignment}"
    return None


def _deterministic(call: Attention, capability: Capability) -> str | None:
    wanted = torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    return "not deterministic" if wanted else None


def _mask_shape(call: Attention, capability: Capability) -> str | None:
    """Of two or four dimensions that broadcast, and without a derivative."""
    if call.mask is None:
        return None
    if call.mask.requires_grad:
        return "mask requires grad"
    full = (*call.query.shape[:3], call.key.shape[2])
    sizes = zip(reversed(call.mask.shape), reversed(full), strict=False)
    if call.mask.dim() not in (2, 4) or any(size not in (1, whole) for size, whole in sizes):
        return "mask of shape " + str(list(call.mask.shape))
    return None


def _sixteenths(call: Attention, capability: Capability) -> str | None:
    return f"dropout {call.dropout:g} is no multiple of 1/16" if (call.dropout * 16) % 1 else None


def _cudnn_shapes(call: Attention, capability: Capability) -> str | None:
    """``check_cudnn_tensor_shapes``."""
    query, _, value = call.widths
    data_centre = capability[0] == 10 or capability == (9, 0)
    most = 192 if data_centre and (query, value) == (192, 128) else 128
    if max(query, value) > most or query % 8 or value % 8:
        return f"head dimensions {query}, {value}"
    if max(call.query.shape[:2]) > 65_535:
        return "more than 65,535 batches or heads"
    if call.key.shape[2] == 1 or (call.dropout and call.query.shape[2] == 1):
        return "sequence of one"
    return None


_TESTS: dict[str, tuple[Test, ...]] = {
    FLASH: (
        _flag(torch.backends.cuda.flash_sdp_enabled),
        _four_dimensions,
        _no_mask,
        _one_width,
        _from_capability((8, 0)),
        _width_to_differentiate,
        _square_if_causal,
        _halves,
        _heads(grouped=True),
        _not_empty,
        _last_dimension(single_may=True),
    ),
    EFFICIENT: (
        _flag(torch.backends.cuda.mem_efficient_sdp_enabled),
        _from_capability((5, 0)),
        _four_dimensions,
        _aligned_widths,
        _aligned_offsets,
        _not_empty,
        _last_dimension(single_may=False),
        _heads(grouped=False),
        _floats,
    ),
    CUDNN: (
        _flag(torch.backends.cuda.cudnn_sdp_enabled),
        _four_dimensions,
        _deterministic,
        _halves,
        _mask_shape,
        _from_capability((8, 0)),
        _sixteenths,
        _not_empty,
        _last_dimension(single_may=True),
        _heads(grouped=True, keys_as_values=False),
        _cudnn_shapes,
    ),
    MATH: (_flag(torch.backends.cuda.math_sdp_enabled),),
}


def _text(capability: Capability) -> str:
    return ".".join(map(str, capability))


# -- what a backend is called with ----------------------------------------------------------------


def _flash(call: Attention) -> torch.Tensor:
    """Heads are padded to a multiple of eight, and the result is cut again."""
    size = call.query.shape[-1]
    scale = call.scale if call.scale is not None else size**-0.5
    padded = (_padded(t, 8) for t in call.tensors)
    out: torch.Tensor = aten._scaled_dot_product_flash_attention.default(
        *padded, call.dropout, call.causal, False, scale=scale
    )[0]
    return out if out.shape[-1] == size else out.narrow(-1, 0, size)


def _padded(tensor: torch.Tensor, multiple: int) -> torch.Tensor:
    missing = -tensor.shape[-1] % multiple
    return torch.nn.functional.pad(tensor, (0, missing)) if missing else tensor


def _efficient(call: Attention) -> torch.Tensor:
    mask = None if call.mask is None else _expanded(_added(call.mask, call.query), call)
    result: torch.Tensor = aten._scaled_dot_product_efficient_attention.default(
        *call.tensors, mask, call.needs_grad, call.dropout, call.causal, scale=call.scale
    )[0]
    return result


def _cudnn(call: Attention) -> torch.Tensor:
    mask = None if call.mask is None else _added(call.mask, call.query)
    result: torch.Tensor = aten._scaled_dot_product_cudnn_attention.default(
        *call.tensors, mask, call.needs_grad, call.dropout, call.causal, False, scale=call.scale
    )[0]
    return result


def _added(mask: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """A mask to add: a boolean one as zeros and minus infinities (``convert_boolean_attn_mask``)."""
    if mask.dtype is not torch.bool:
        return mask
    return torch.where(mask, 0.0, torch.scalar_tensor(float("-inf"), dtype=query.dtype, device=mask.device))


_MASK_ALIGNMENT = 8
"""Elements at which rows of a mask begin (``mem_eff_alignment``)."""


def _expanded(mask: torch.Tensor, call: Attention) -> torch.Tensor:
    """A mask whose rows begin where the kernel can load them, of full shape (``preprocess_mask``)."""
    if mask.stride(-1) != 1 or any(stride % _MASK_ALIGNMENT for stride in mask.stride()[:-1]):
        width = mask.shape[-1]
        mask = torch.nn.functional.pad(mask, (0, _MASK_ALIGNMENT - width % _MASK_ALIGNMENT))[..., :width]
    return mask.expand(*call.query.shape[:3], call.key.shape[2])


def _math(call: Attention) -> torch.Tensor:
    result: torch.Tensor = aten._scaled_dot_product_attention_math.default(
        *call.tensors, call.mask, call.dropout, call.causal, None, scale=call.scale, enable_gqa=call.gqa
    )[0]
    return result


_CALLS: dict[str, Callable[[Attention], Any]] = {FLASH: _flash, EFFICIENT: _efficient, CUDNN: _cudnn, MATH: _math}
