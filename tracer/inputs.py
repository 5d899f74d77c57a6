"""Inputs of a step: what the user gave, as tensors of the trace."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch.utils import _pytree

from ..graph import ForetraceError
from .record import Recorder

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of the module."""

_SPEC = re.compile(r"^(?:(?P<name>[A-Za-z_]\w*)\s*:\s*)?(?P<dtype>\w+)\s*\[(?P<sizes>[^\]]*)\]$")
_TOKENS = 100
"""Integers of a spec are drawn below this; no kernel looks them up, so any vocabulary will do."""


def as_call(inputs: Any) -> Call:
    """Positional and keyword arguments from what the user gave.

    Raises `ForetraceError` for a spec text that cannot be read.
    """
    if inputs is None:
        return (), {}
    if isinstance(inputs, str):
        return parse_specs(inputs)
    if isinstance(inputs, dict) or (hasattr(inputs, "keys") and hasattr(inputs, "__getitem__")):
        return (), {str(name): _from_spec(inputs[name]) for name in inputs.keys()}  # noqa: SIM118
    if isinstance(inputs, (tuple, list)):
        return tuple(_from_spec(value) for value in inputs), {}
    return (inputs,), {}


def _from_spec(value: Any) -> Any:
    if isinstance(value, str) and _SPEC.match(value.strip()):
        return parse_spec(value)[1]
    return value


def parse_specs(text: str) -> Call:
    """Arguments from ``"input_ids: int64[8, 1024]; labels: int64[8, 1024]"``."""
    args: list[torch.Tensor] = []
    kwargs: dict[str, torch.Tensor] = {}
    for part in filter(None, (p.strip() for p in re.split(r"[;\n]", text))):
        name, tensor = parse_spec(part)
        if name is None:
            args.append(tensor)
        else:
            kwargs[name] = tensor
    return tuple(args), kwargs


def parse_spec(text: str) -> tuple[str | None, torch.Tensor]:
    """A name, if there is one, and a tensor from ``"name: dtype[sizes]"``."""
    mend = 'Write specs like "input_ids: int64[8, 1024]; mask: bool[8, 1024]".'
    match = _SPEC.match(text.strip())
    if match is None:
        raise ForetraceError(f"the input spec {text!r} cannot be read", mend)
    dtype = getattr(torch, match["dtype"], None)
    if not isinstance(dtype, torch.dtype):
        raise ForetraceError(f"the input spec {text!r} names no dtype of torch: {match['dtype']}", mend)
    sizes = [part.strip() for part in match["sizes"].split(",") if part.strip()]
    if not all(size.isdigit() for size in sizes):
        raise ForetraceError(f"the input spec {text!r} has a size that is no whole number", mend)
    return match["name"], _example([int(size) for size in sizes], dtype)


def _example(shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    if dtype is torch.bool:
        return torch.ones(shape, dtype=dtype)
    if dtype.is_floating_point or dtype.is_complex:
        return torch.empty(shape, dtype=dtype)
    return torch.randint(0, _TOKENS, shape, dtype=dtype)


def stand_in(call: Call, recorder: Recorder) -> tuple[Call, list[tuple[str, torch.Tensor]]]:
    """The arguments with arena tensors in place of tensors, and those tensors by name."""
    named: list[tuple[str, torch.Tensor]] = []
    seen: dict[int, torch.Tensor] = {}

    def twin(path: Any, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in seen:
            tensor = _settle(value, recorder)
            seen[id(value)] = tensor
            named.append((_pytree.keystr(path), tensor))
        return seen[id(value)]

    args = _pytree.tree_map_with_path(twin, call[0])
    kwargs = {name: _pytree.tree_map_with_path(lambda p, v, n=name: twin((n, *p), v), v) for name, v in call[1].items()}
    return (args, kwargs), named


def _settle(value: torch.Tensor, recorder: Recorder) -> torch.Tensor:
    owner = None if value.is_meta else recorder.owners.get(value.data_ptr())
    if owner is not None:
        owner.device = recorder.device_of[owner.id] = recorder.device
        return value
    tensor = recorder.twin(value.detach(), recorder.device)
    return tensor.requires_grad_() if value.requires_grad else tensor
