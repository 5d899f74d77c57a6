"""What the user gave as inputs -> the arguments of the module, as tensors of the trace.

A *spec* is a text that stands for a tensor: a name, if it has one, a dtype and sizes, which are whole numbers, names
of numbers that are set elsewhere, or products of both: ``"input_ids: int64[batch, 2*seq]"``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree

from ..graph import ForetraceError
from . import sparse
from .record import Recorder

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of the module."""


class Given(NamedTuple):
    """Inputs that are a call already."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Sizes:
    """Numbers by name that specs and proposals may use; it knows which were used."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values
        self.used: set[str] = set()

    def take(self, name: str, default: int | None = None) -> int:
        """The number of that name, or the default. Raises `ForetraceError` without either, or for no whole number."""
        value = self.values.get(name, default)
        if value is None:
            raise ForetraceError(
                f"the size {name!r} is not set", f"Set it with -p {name}=8, or with sizes={{{name!r}: 8}} in Python."
            )
        if type(value) is not int or value < 0:
            raise ForetraceError(f"the size {name!r} is {value!r}", f"Give a whole number, such as -p {name}=8.")
        self.used.add(name)
        return value

    def unused(self, names: set[str]) -> str | None:
        """One of `names` that nothing has used."""
        return min(names - self.used, default=None)


_NONE = Sizes({})

_SPEC = re.compile(r"^(?:(?P<name>[A-Za-z_]\w*)\s*:\s*)?(?P<dtype>\w+)\s*\[(?P<sizes>[^\]]*)\]$")
_SIZE = re.compile(r"^(\d+|[A-Za-z_]\w*)(\s*\*\s*(\d+|[A-Za-z_]\w*))*$")
DRAWN_BELOW = 100
"""Integers of a spec are drawn below this; where a trace looks them up in less, the result is unknown."""


def as_call(inputs: Any, sizes: Sizes = _NONE) -> Call:
    """Positional and keyword arguments from what the user gave.

    Raises `ForetraceError` for a spec text that cannot be read, or names a size that is not in `sizes`.
    """
    if inputs is None:
        return (), {}
    if isinstance(inputs, Given):
        return inputs
    if isinstance(inputs, str):
        return parse_specs(inputs, sizes)
    if isinstance(inputs, dict) or (hasattr(inputs, "keys") and hasattr(inputs, "__getitem__")):
        return (), {str(name): _from_spec(inputs[name], sizes) for name in inputs.keys()}  # noqa: SIM118
    if isinstance(inputs, (tuple, list)):
        return tuple(_from_spec(value, sizes) for value in inputs), {}
    return (inputs,), {}


def size_names(inputs: Any) -> set[str]:
    """The names that the sizes of a text of specs are made of."""
    found = (_SPEC.match(part) for part in _parts(inputs))
    return {name for match in found if match for name in re.findall(r"[A-Za-z_]\w*", match["sizes"])}


def _from_spec(value: Any, sizes: Sizes) -> Any:
    if isinstance(value, str) and _SPEC.match(value.strip()):
        return parse_spec(value, sizes)[1]
    return value


def parse_specs(text: str, sizes: Sizes = _NONE) -> Call:
    """Arguments from ``"input_ids: int64[8, 1024]; labels: int64[8, 1024]"``."""
    args: list[torch.Tensor] = []
    kwargs: dict[str, torch.Tensor] = {}
    for part in _parts(text):
        name, tensor = parse_spec(part, sizes)
        if name is None:
            args.append(tensor)
        else:
            kwargs[name] = tensor
    return tuple(args), kwargs


def _parts(text: str) -> Iterator[str]:
    return filter(None, (part.strip() for part in re.split(r"[;\n]", text)))


def parse_spec(text: str, sizes: Sizes = _NONE) -> tuple[str | None, torch.Tensor]:
    """A name, if there is one, and a tensor from ``"name: dtype[sizes]"``."""
    mend = 'Write specs like "input_ids: int64[8, 1024]; mask: bool[batch, 2*seq]".'
    match = _SPEC.match(text.strip())
    if match is None:
        raise ForetraceError(f"the input spec {text!r} cannot be read", mend)
    dtype = getattr(torch, match["dtype"], None)
    if not isinstance(dtype, torch.dtype):
        raise ForetraceError(f"the input spec {text!r} names no dtype of torch: {match['dtype']}", mend)
    written = [part.strip() for part in match["sizes"].split(",") if part.strip()]
    if not all(_SIZE.match(size) for size in written):
        raise ForetraceError(f"the input spec {text!r} has a size that is no whole number, name or product", mend)
    return match["name"], _example([_number(size, sizes) for size in written], dtype)


def _number(size: str, sizes: Sizes) -> int:
    factors = [factor.strip() for factor in size.split("*")]
    return prod(int(factor) if factor.isdigit() else sizes.take(factor) for factor in factors)


def _example(shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    if dtype is torch.bool:
        return torch.ones(shape, dtype=dtype)
    if dtype.is_floating_point or dtype.is_complex:
        return torch.empty(shape, dtype=dtype)
    return drawn(torch.randint(0, DRAWN_BELOW, shape, dtype=dtype))


_DRAWN = "_drawn_for_a_spec"


def drawn(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, with the remark that nobody chose its values: an index in it may lie outside of its table."""
    setattr(tensor, _DRAWN, True)
    return tensor


def stand_in(call: Call, recorder: Recorder) -> tuple[Call, list[tuple[str, torch.Tensor]]]:
    """The arguments with arena tensors in place of tensors, and those tensors by name."""
    named: list[tuple[str, torch.Tensor]] = []
    seen: dict[int, torch.Tensor] = {}

    def twin(path: Any, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in seen:
            tensor = _settle(value, recorder)
            owner = recorder.owner_of(tensor) if hasattr(value, _DRAWN) else None
            if owner is not None:
                owner.drawn = True
            seen[id(value)] = tensor
            named.extend(sparse.pieces([(_pytree.keystr(path), tensor)]))
        return seen[id(value)]

    args = _pytree.tree_map_with_path(twin, call[0])
    kwargs = {name: _pytree.tree_map_with_path(lambda p, v, n=name: twin((n, *p), v), v) for name, v in call[1].items()}
    return (args, kwargs), named


def _settle(value: torch.Tensor, recorder: Recorder) -> torch.Tensor:
    if value.layout is not torch.strided:
        return sparse.twin(recorder, value)
    owner = None if value.is_meta else recorder.owners.get(value.data_ptr())
    if owner is not None:
        owner.device = recorder.device_of[owner.id] = recorder.device
        return value
    tensor = recorder.twin(value, recorder.device)
    return tensor.requires_grad_() if value.requires_grad else tensor
