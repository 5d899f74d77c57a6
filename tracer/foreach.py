"""What an op on lists of tensors returns, told from the tensors: asking the meta kernels of hundreds takes a while.

Results are described as in `calls`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .signature import Signature

ELEMENTWISE = frozenset(
    f"aten._foreach_{name}"
    for name in (
        *("add", "sub", "mul", "div", "pow", "sqrt", "neg", "abs", "sign", "lerp", "addcmul", "addcdiv"),
        *(
            "maximum",
            "minimum",
            "clamp_max",
            "clamp_min",
            "exp",
            "log",
            "reciprocal",
            "rsqrt",
            "sigmoid",
            "zero",
            "copy",
        ),
    )
)
"""Ops that give each tensor of their first list back, changed."""


def answer(sig: Signature, args: tuple[Any, ...]) -> Any:
    """The container of the results and a description of each; None where the meta kernels must be asked."""
    if sig.mutates:
        return None, [("value", None)]
    tensors = args[0]
    if not isinstance(tensors, (list, tuple)):  # a number to the power of each tensor
        return None
    if not all(_gives_its_own_kind(tensor) for tensor in tensors) or not _keeps_dtype(tensors[0].dtype, args[1:]):
        return None
    if not all(_keeps_shapes(tensors, other) for other in args[1:]):
        return None
    return list, [("new", tuple(t.shape), t.stride(), t.dtype) for t in tensors]


def _gives_its_own_kind(tensor: torch.Tensor) -> bool:
    """Whether a result like this one has its dtype and its strides for certain."""
    return tensor.is_floating_point() and tensor.is_contiguous()


def _keeps_dtype(dtype: torch.dtype, others: tuple[Any, ...]) -> bool:
    """Whether what the first list meets is of its dtype, or a real number."""
    for other in others:
        for item in other if isinstance(other, (list, tuple)) else (other,):
            if isinstance(item, complex) or (isinstance(item, torch.Tensor) and item.dim() and item.dtype is not dtype):
                return False
    return True


def _keeps_shapes(tensors: Any, other: Any) -> bool:
    """Whether no tensor of the first list is broadcast to the shape of its partner in another."""
    partners = other if isinstance(other, (list, tuple)) else ()
    return all(
        not isinstance(partner, torch.Tensor) or partner.shape == tensor.shape
        for tensor, partner in zip(tensors, partners, strict=False)
    )
