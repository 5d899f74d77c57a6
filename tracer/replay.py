"""Outcomes of a real run -> what the same calls give in a trace, each call by its place and its turn there."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from ..graph import Outcome, Outcomes, Result
from .arena import SMALL_FLOAT_BYTES
from .calls import has_mask
from .choices import CHOICES
from .signature import Signature

MOST_VALUES = 1 << 16
"""Results of more elements are known by their size alone."""

READ = "read"
"""Stands for the op where Python reads a whole tensor: ``tolist``, ``numpy``."""

READS = ("tolist", "numpy", "__array__")
"""Methods of tensors that read all of one without any op."""

AS_RUN = "as in the real run"
"""What is assumed where an outcome is taken."""

_ON_THE_HOST = frozenset({"aten.allclose.default", "aten.equal.default", "aten._pack_padded_sequence.default"})
"""Ops that look at values and have no tag that says so."""


def depends_on_data(sig: Signature, args: tuple[Any, ...]) -> bool:
    """Whether a call has an outcome: its result's size or value decides what the program does next."""
    if sig.name == "aten.index.Tensor":
        return has_mask(args[1])
    return sig.dynamic or sig.random or sig.name in _ON_THE_HOST or sig.name.split(".")[1] in CHOICES


def result_of(sig: Signature, value: Any) -> Result:
    """The noun for a value that an op returned."""
    if not isinstance(value, torch.Tensor):
        return Result((), type(value).__name__, None if isinstance(value, complex) else (value,))
    dtype = str(value.dtype).removeprefix("torch.")
    shape = tuple(value.shape)
    values = tuple(_TOLIST(value.flatten())) if _is_kept(sig, value) else None
    return Result(shape, dtype, values, _larger(value))


def _larger(tensor: torch.Tensor) -> int | None:
    """The bytes of the storage, where the tensor is new and does not fill it."""
    if tensor.layout is not torch.strided or tensor._is_view() or not tensor.is_contiguous():
        return None
    held = tensor.untyped_storage().nbytes()
    return held if held > tensor.numel() * tensor.itemsize else None


def shapes_of(values: Any) -> tuple[tuple[int, ...], ...]:
    """The shapes of the tensors among arguments, lists of them included."""
    found: list[tuple[int, ...]] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(tuple(value.shape))
        elif isinstance(value, (tuple, list)):
            found.extend(shapes_of(value))
    return tuple(found)


def can_be_read(tensor: torch.Tensor) -> bool:
    """Whether a tensor that Python reads has plain memory."""
    return tensor.layout is torch.strided and not tensor.is_meta


def whole(tensor: torch.Tensor) -> Result:
    """The noun for a tensor of which all is read."""
    kept = tensor.numel() <= MOST_VALUES and not tensor.is_complex()
    values = tuple(_TOLIST(tensor.detach().flatten())) if kept else None
    return Result(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), values)


_TOLIST = torch.Tensor.tolist
"""The stock method, however it is patched later."""


def _is_kept(sig: Signature, value: torch.Tensor) -> bool:
    if value.layout is not torch.strided or value.is_meta or value.numel() > MOST_VALUES or value.is_complex():
        return False
    choice = CHOICES.get(sig.name.split(".")[1])
    floats = sig.random or (choice is not None and choice.of_floats)
    return not value.is_floating_point() or (floats and value.numel() * value.itemsize <= SMALL_FLOAT_BYTES)


class Replay:
    """Hands out outcomes in the order in which they came to pass."""

    def __init__(self, outcomes: Outcomes) -> None:
        self._steps = outcomes.steps
        self._step = 0
        self._met: Counter[tuple[str, str]] = Counter()

    def begin(self) -> None:
        """The next step begins; the last that was run stands for all that come after it."""
        self._step = min(self._step + 1, len(self._steps) - 1)
        self._met.clear()

    def next(self, op: str, where: str) -> Outcome | None:
        """The outcome of the next call of `op` at this place; of its last one there, where the run had no more."""
        place = op, where
        found = self._steps[self._step].get(place) if self._steps else None
        if not found:
            return None
        self._met[place] += 1
        return found[min(self._met[place], len(found)) - 1]


def fill(tensor: torch.Tensor, result: Result) -> bool:
    """Put the values of an outcome into a tensor; False where they are not there or do not fit."""
    if result.values is None or tuple(tensor.shape) != result.shape:
        return False
    tensor.copy_(torch.tensor(result.values, dtype=tensor.dtype).view(result.shape))
    return True
