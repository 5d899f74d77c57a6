"""A call of an op as a key that is equal for equal shapes, and its results described without their data.

A *description* of a result is one of ``("new", shape, strides, dtype)``, ``("argument", position, shape)``,
``("list", descriptions)``, ``("value", value)``, and for a result that does not fill its new storage
``("within", shape, strides, dtype, bytes)``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from .arena import holds_values, storage_bytes

META = torch.device("meta")


def scan(value: Any, key: list[Any], given: list[torch.Tensor]) -> None:
    """Add a value to the key of the call, and its tensors to those given."""
    if isinstance(value, torch.Tensor):
        given.append(value)
        key.append((value.dtype, value.shape, value.stride() if value.layout is torch.strided else value.layout))
    elif isinstance(value, (list, tuple)):
        key.append(len(value))
        for item in value:
            scan(item, key, given)
    elif isinstance(value, (int, float)):
        # 2, 2.0 and True are equal, but give results of different types.
        key.append(type(value))
        key.append(value)
    else:
        key.append(value if value.__hash__ is not None else repr(value))


def listed(values: Iterable[Any], given: list[torch.Tensor]) -> None:
    """Add the tensors among values, and in lists among them, to those given."""
    for value in values:
        if isinstance(value, torch.Tensor):
            given.append(value)
        elif isinstance(value, (list, tuple)):
            given += [item for item in value if isinstance(item, torch.Tensor)]


def on_meta(value: Any, twins: dict[int, torch.Tensor]) -> Any:
    """The value with meta tensors for its tensors; equal tensors get equal `twins`."""
    if isinstance(value, torch.Tensor):
        twin = twins.get(id(value))
        if twin is None:
            twin = twins[id(value)] = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=META)
        return twin
    if isinstance(value, (list, tuple)):
        return [on_meta(v, twins) for v in value]
    if isinstance(value, torch.Generator):
        return None
    return value


def describe(result: Any, alias: int | None, twins: dict[int, torch.Tensor], args: tuple[Any, ...]) -> Any:
    """The description of a result on meta; `alias` is the argument it is by its schema."""
    if isinstance(result, torch.Tensor):
        if alias is None and id(result) in twins:
            alias = next((i for i, a in enumerate(args) if a is result), None)
        if alias is not None and alias < len(args):
            return ("argument", alias, tuple(result.shape))
        return ("new", tuple(result.shape), result.stride(), result.dtype)
    if isinstance(result, (list, tuple)):
        return ("list", [describe(r, None, twins, args) for r in result])
    return ("value", result)


def fits(item: Any, wide: bool) -> bool:
    """Whether the described result is small enough to carry values; `wide`: as small as integers must be."""
    if item[0] in ("new", "within"):
        return holds_values(storage_bytes(item[1], item[2], item[3].itemsize), torch.bool if wide else item[3])
    if item[0] == "list":
        return all(fits(i, wide) for i in item[1])
    return True


def has_mask(indices: Any) -> bool:
    """Whether one of the indices of ``aten.index`` is a mask, so that the result's size depends on values."""
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def inmost(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor that holds the memory, where transforms (``vmap``, ``grad``) have wrapped it in others."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
