"""Values for the integers that depend on unknown numbers: which expert, which place, which bin.

They are assumed, like the sizes in `assumptions`, and are listed only when a size, a branch or ``.item()`` comes to
depend on them.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch

from .arena import holds_values

MOST_LEVELS = 16
"""A number kept between two bounds that are no further apart is taken for a choice among so many levels."""


def _balanced(result: torch.Tensor, args: Any, kwargs: Any) -> torch.Tensor:
    """Each row takes the next choices in turn: all are taken equally often."""
    values, dim = args[0], args[2] if len(args) > 2 else -1
    return _in_turn(result, dim, values.shape[dim] if values.dim() else 1)


def _in_turn(result: torch.Tensor, dim: int, choices: int) -> torch.Tensor:
    if not result.dim():
        return torch.zeros((), dtype=result.dtype)
    last = result.transpose(dim, -1)
    return (torch.arange(last.numel()).view(last.shape) % max(choices, 1)).transpose(dim, -1)


def _one_choice(result: torch.Tensor, args: Any, kwargs: Any) -> torch.Tensor | None:
    """Of argmax, or max along a dimension: rows choose in turn. Whether something holds is no choice."""
    values = args[0]
    if result.dtype is torch.bool:
        return None
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


def _all_hold(result: torch.Tensor, args: Any, kwargs: Any) -> torch.Tensor | None:
    """Of a test of all numbers, whose one answer the program reads: it is passed."""
    return torch.ones((), dtype=result.dtype) if not result.dim() else None


def _levels(result: torch.Tensor, args: Any, kwargs: Any) -> torch.Tensor | None:
    """Of whole numbers between two bounds that are close: they take the levels in turn."""
    low, high = (kwargs.get(name, args[i] if len(args) > i else None) for i, name in ((1, "min"), (2, "max")))
    if low is None or high is None or not 1 < high - low <= MOST_LEVELS or low != int(low) or high != int(high):
        return None
    levels = int(high) - int(low) + 1
    return (torch.arange(result.numel()) % levels + int(low)).view(result.shape).to(result.dtype)


class Choice(NamedTuple):
    """What is assumed of an op's results, and the values that this gives; None where it gives none."""

    assumed: str
    values: Callable[[torch.Tensor, Any, Any], torch.Tensor | None]
    of_floats: bool = False
    """Whether results that are no integers choose, too."""


CHOICES = {
    "clamp": Choice("all levels are chosen equally often", _levels, of_floats=True),
    "topk": Choice("all choices are made equally often", _balanced),
    "argmax": Choice("all choices are made equally often", _one_choice),
    "argmin": Choice("all choices are made equally often", _one_choice),
    "max": Choice("all choices are made equally often", _one_choice),
    "min": Choice("all choices are made equally often", _one_choice),
    "sort": Choice("the values come sorted", _in_place_order),
    "all": Choice("a test of all numbers is passed", _all_hold),
    "_is_all_true": Choice("a test of all numbers is passed", _all_hold),
    "isnan": Choice("no number is NaN", _none_of_them),
    "isinf": Choice("all numbers are finite", _none_of_them),
}
"""Ops whose results choose among unknown numbers."""


HALF = "a mask of unknown numbers picks half of them"
"""What is assumed of a mask by which known integers are assigned, such as the labels of boxes that overlap enough."""

_PERIODS = 4


def half(shape: tuple[int, ...], number: int) -> torch.Tensor:
    """Which elements the mask of that number picks: every second, or every second pair, or every second four ...

    So masks that follow one another agree on half of what they pick, as if they were independent.
    """
    count = prod(shape)
    return ((torch.arange(count) >> (number % _PERIODS)) % 2 == 0).view(shape)


ASSIGNS: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "aten.index_put.default": lambda args: (args[1], (args[0], args[2])),
    "aten.index_put_.default": lambda args: (args[1], (args[0], args[2])),
    "aten.masked_fill.Scalar": lambda args: (args[1:2], args[:1]),
    "aten.masked_fill_.Scalar": lambda args: (args[1:2], args[:1]),
    "aten.where.self": lambda args: (args[:1], args[1:]),
}
"""Ops that assign by a mask -> the masks, and the tensors of which the result is made."""


# -- places ---------------------------------------------------------------------------------------


def _spread(count: int, most: int) -> torch.Tensor:
    """`count` of the places 0 to `most` - 1, at equal distances."""
    return torch.arange(count) * most // max(count, 1)


def _places(results: list[torch.Tensor], args: Any) -> None:
    """Of nonzero: elements at equal distances."""
    shape = args[0].shape
    flat = _spread(results[0].shape[0], args[0].numel())
    results[0].copy_(torch.stack(torch.unravel_index(flat, shape), 1) if shape else results[0])


def _first_ones(results: list[torch.Tensor], args: Any) -> None:
    """Of the kept boxes: the first."""
    results[0].copy_(torch.arange(results[0].numel()))


def _bins(results: list[torch.Tensor], args: Any) -> None:
    """Of unique values: each as often as the others."""
    different = results[0].shape[0]
    results[1].copy_((torch.arange(results[1].numel()) % max(different, 1)).view(results[1].shape))
    results[2].copy_(torch.bincount(results[1].flatten(), minlength=different)[: results[2].numel()])


PLACES: dict[str, tuple[Callable[[list[torch.Tensor], Any], None], tuple[int, ...]]] = {
    "aten.nonzero": (_places, (0,)),
    "torchvision.nms": (_first_ones, (0,)),
    "aten._unique2": (_bins, (1, 2)),
}
"""Op whose results' sizes were assumed -> what fills in the values that go with them, and which results it fills."""


def fill_places(name: str, results: list[torch.Tensor], args: Any) -> tuple[int, ...]:
    """Fill in the values that go with assumed sizes; returns which of the results hold values now."""
    rule = PLACES.get(name.rsplit(".", 1)[0])
    if rule is None:
        return ()
    function, filled = rule
    if any(not holds_values(results[i].numel() * results[i].itemsize, results[i].dtype) for i in filled):
        return ()
    function(results, args)
    return filled
