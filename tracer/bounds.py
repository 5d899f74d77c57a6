"""A call of an op that takes indices, some of them known -> what lies outside of what they point into, if anything.

A trace runs no kernel on large tensors, so nobody else would look: a model with 1,024 positions would take 2,048 words.
What is known are the values of small whole numbers, such as ids, positions and targets. Kernels of the CPU raise
``IndexError`` for one that lies outside; those of CUDA end the program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

MOST = 1 << 22
"""Of the indices of one call; more are not looked at."""


class Outside(IndexError):
    """An index lies outside; ``mend`` says what to do about it."""

    mend = "Take a smaller size, such as a sequence no longer than the model has positions, or a larger table."


Outside.__name__ = IndexError.__name__  # what the user's code sees, and a message says, is PyTorch's error


class Points(NamedTuple):
    """Indices that have to lie in ``[low, high)``, but for one value that is passed over."""

    indices: torch.Tensor
    low: int
    high: int
    passed_over: int | None = None


Arguments = dict[str, Any]


def takes_indices(name: str) -> bool:
    """Whether the op of that full name is one of these."""
    return name.startswith("aten.") and _packet(name) in _POINTS


def outside(name: str, given: Arguments, is_known: Callable[[torch.Tensor], bool]) -> str:
    """What to say of the first known index that lies outside; empty if none does. `given` are the arguments by name."""
    for points in _POINTS[_packet(name)](given):
        found = _first_outside(points) if is_known(points.indices) else None
        if found is not None:
            return f"index {found} is out of range for the {points.high:,} that {name} takes it from"
    return ""


def _packet(name: str) -> str:
    return name.split(".")[1].rstrip("_")


def _first_outside(points: Points) -> int | None:
    values = points.indices
    for dimension in reversed(range(values.dim())):
        if not values.stride(dimension) and values.shape[dimension]:
            values = values.select(dimension, 0)  # what is expanded says the same again
    if not 0 < values.numel() <= MOST:
        return None
    least, most = int(values.min()), int(values.max())
    if points.passed_over is not None and not points.low <= min(least, most) <= most < points.high:
        values = values[values != points.passed_over]
        least, most = (int(values.min()), int(values.max())) if values.numel() else (points.low, points.low)
    return least if least < points.low else most if most >= points.high else None


# -- which ops ------------------------------------------------------------------------------------


def _rows(given: Arguments) -> Iterator[Points]:
    yield Points(given["indices"], 0, given["weight"].shape[0])


def _renormed_rows(given: Arguments) -> Iterator[Points]:
    yield Points(given["indices"], 0, given["self"].shape[0])


def _along(given: Arguments) -> Iterator[Points]:
    yield Points(given["index"], 0, _size(given))


def _along_from_the_end(given: Arguments) -> Iterator[Points]:
    yield Points(given["index"], -_size(given), _size(given))


def _size(given: Arguments) -> int:
    shape = given["self"].shape
    return int(shape[given["dim"]]) if shape else 1


def _each_dimension(given: Arguments) -> Iterator[Points]:
    """Masks stand for as many dimensions as they have themselves."""
    shape, dimension = given["self"].shape, 0
    for index in given["indices"]:
        if index is not None and index.dtype in (torch.bool, torch.uint8):
            dimension += index.dim()
            continue
        if index is not None:
            yield Points(index, -shape[dimension], shape[dimension])
        dimension += 1


def _elements(given: Arguments) -> Iterator[Points]:
    count = given["self"].numel()
    yield Points(given["index"], -count, count)


def _targets(given: Arguments) -> Iterator[Points]:
    shape = given["self"].shape
    yield Points(given["target"], 0, shape[1] if len(shape) > 1 else shape[0], given["ignore_index"])


_POINTS: dict[str, Callable[[Arguments], Iterator[Points]]] = {
    **dict.fromkeys(("embedding", "_embedding_bag", "_embedding_bag_forward_only"), _rows),
    **dict.fromkeys(("index_select", "gather", "scatter", "scatter_add", "scatter_reduce"), _along),
    **dict.fromkeys(("index_add", "index_copy", "index_reduce"), _along),
    **dict.fromkeys(("index", "_unsafe_index", "index_put", "_index_put_impl", "_unsafe_index_put"), _each_dimension),
    **dict.fromkeys(("take", "put"), _elements),
    **dict.fromkeys(("nll_loss_forward", "nll_loss2d_forward"), _targets),
    "embedding_renorm": _renormed_rows,
    "index_fill": _along_from_the_end,
}
"""By the name of the op without its overload, and without the line that says that it writes in place."""
