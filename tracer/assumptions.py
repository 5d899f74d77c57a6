"""What a trace takes for granted where a real run would look at the data.

An *assumption* stands for values that a trace does not have: the size of ``nonzero``, a loss read with
``.item()``. Each has a default that can be explained, and every use is listed with its place.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

import torch

Shape = tuple[int, ...]


class Assumptions:
    """Answers for data-dependent ops, and the list of those that were needed."""

    def __init__(self) -> None:
        self._used: Counter[tuple[str, str, str]] = Counter()

    def used(self) -> list[dict[str, object]]:
        """Each assumption that was made: ``op``, ``assumed``, ``at`` and how often."""
        return [
            {"op": op, "assumed": what, "at": at, "count": count}
            for (op, what, at), count in sorted(self._used.items())
        ]

    def clear(self) -> None:
        """Forget what was needed so far, as before the recorded step."""
        self._used.clear()

    def scalar(self, dtype: torch.dtype, where: str) -> Any:
        """The value of an unknown scalar: False, 0 or 0.0 (a test for NaN or overflow then says no)."""
        value: Any = False if dtype is torch.bool else 0.0 if dtype.is_floating_point else 0
        self._used["aten._local_scalar_dense.default", f"the value is {value}", where] += 1
        return value

    def say(self, op: str, what: str, where: str) -> None:
        """Note the use of an assumption made elsewhere."""
        self._used[op, what, where] += 1

    def shapes(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], where: str
    ) -> list[tuple[Shape, torch.dtype]] | None:
        """Shapes and dtypes of the results of a data-dependent op; None where nothing can be assumed."""
        rule = _RULES.get(name.rsplit(".", 1)[0])
        if rule is None:
            return None
        what, shapes = rule(args, kwargs)
        self._used[name, what, where] += 1
        return shapes


def _nonzero(args: Any, kwargs: Any) -> Any:
    mask = args[0]
    return "every element counts", [((mask.numel(), mask.dim()), torch.int64)]


def _masked_select(args: Any, kwargs: Any) -> Any:
    values, mask = args[:2]
    count = prod(torch.broadcast_shapes(values.shape, mask.shape))
    return "every element is kept", [((count,), values.dtype)]


def _index(args: Any, kwargs: Any) -> Any:
    values, indices = args[:2]
    front: list[int] = []
    counts: list[Shape] = []
    dim = 0
    for index in indices:
        if index is None:
            front.append(values.shape[dim])
            dim += 1
        elif index.dtype in (torch.bool, torch.uint8):
            counts.append((prod(index.shape),))
            dim += index.dim()
        else:
            counts.append(tuple(index.shape))
            dim += 1
    picked = tuple(torch.broadcast_shapes(*counts)) if counts else ()
    # With one run of indices the picked dimensions take its place; a mask in front is by far the most common.
    lead = next((i for i, index in enumerate(indices) if index is not None), 0)
    shape = (*front[:lead], *picked, *front[lead:], *values.shape[dim:])
    return "the mask keeps every row", [(shape, values.dtype)]


def _unique(args: Any, kwargs: Any) -> Any:
    values = args[0]
    count = values.numel()
    return "all values differ", [((count,), values.dtype), (tuple(values.shape), torch.int64), ((count,), torch.int64)]


def _bincount(args: Any, kwargs: Any) -> Any:
    values = args[0]
    weights = args[1] if len(args) > 1 else kwargs.get("weights")
    least = args[2] if len(args) > 2 else kwargs.get("minlength", 0)
    dtype = torch.int64 if weights is None else torch.float64
    return f"values are below {least or values.numel()}", [((least or values.numel(),), dtype)]


_RULES = {
    "aten.nonzero": _nonzero,
    "aten.masked_select": _masked_select,
    "aten.index": _index,
    "aten._unique2": _unique,
    "aten.bincount": _bincount,
}


def _balanced(result: torch.Tensor, args: Any, kwargs: Any) -> torch.Tensor:
    """Each row takes the next choices in turn: all are taken equally often."""
    values, dim = args[0], args[2] if len(args) > 2 else -1
    return _in_turn(result, dim, values.shape[dim] if values.dim() else 1)


def _in_turn(result: torch.Tensor, dim: int, choices: int) -> torch.Tensor:
    if not result.dim():
        return torch.zeros((), dtype=result.dtype)
    last = result.transpose(dim, -1)
    return (torch.arange(last.numel()).view(last.shape) % max(choices, 1)).transpose(dim, -1)


def _one_choice(result: torch.Tensor, args: Any, kwargs: Any) -> torch.Tensor:
    """Of argmax, or max along a dimension: rows choose in turn."""
    values = args[0]
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    choices = values.numel() if dim is None else values.shape[dim]
    return torch.arange(result.numel()).view(result.shape) % max(choices, 1)


def _in_place_order(result: torch.Tensor, args: Any, kwargs: Any) -> torch.Tensor:
    """A sort that finds its input sorted."""
    dim = next((a for a in args[1:] if type(a) is int), kwargs.get("dim", -1))
    if not result.dim():
        return torch.zeros((), dtype=result.dtype)
    shape = [1] * result.dim()
    shape[dim] = result.shape[dim]
    return torch.arange(result.shape[dim]).view(shape).expand(result.shape)


def _none_of_them(result: torch.Tensor, args: Any, kwargs: Any) -> torch.Tensor:
    return torch.zeros(result.shape, dtype=result.dtype)


CHOICES = {
    "topk": ("all choices are made equally often", _balanced),
    "argmax": ("all choices are made equally often", _one_choice),
    "argmin": ("all choices are made equally often", _one_choice),
    "max": ("all choices are made equally often", _one_choice),
    "min": ("all choices are made equally often", _one_choice),
    "sort": ("the values come sorted", _in_place_order),
    "isnan": ("no number is NaN", _none_of_them),
    "isinf": ("all numbers are finite", _none_of_them),
}
"""Ops whose integer results depend on values of floats only: what is assumed of them, and the values that this gives.

The assumption is listed only when a size, a branch or ``.item()`` comes to depend on it.
"""
