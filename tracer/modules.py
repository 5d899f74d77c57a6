"""The user's module while it is traced: its tensors stand in the arena, its calls tell the module path.

Afterwards it is exactly as it was: the same tensor objects with the same data, gradients, attributes,
hooks and flags, whether the trace went well or not.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules import module as nn_module

from . import sparse
from .arena import base_of
from .key import quiet
from .record import Recorder


def with_loss(model: nn.Module, loss: Any) -> nn.Module:
    """The module, with the loss beside it where that is a module which holds tensors of its own."""
    if not isinstance(loss, nn.Module):
        return model
    known = {id(tensor) for table in members(model, "_parameters", "_buffers") for _, tensor in table}
    if all(id(tensor) in known for table in members(loss, "_parameters", "_buffers") for _, tensor in table):
        return model
    name = "loss"
    while hasattr(model, name):
        name += "_"
    both = nn.Module()
    both._modules.update({"": model, name: loss})
    return both


@contextmanager
def module_paths(model: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Keep ``recorder.module_stack`` at the qualified name of the module that is running."""
    paths = {id(module): name for name, module in model.named_modules()}
    stack = recorder.module_stack

    def enter(module: nn.Module, args: Any) -> None:
        path = paths.get(id(module), stack[-1])
        if recorder.recording:
            recorder.callers.entered(path, recorder.phase, len(stack) == 1, sys._getframe(1), len(recorder.rows))
        stack.append(path)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if len(stack) > 1:
            stack.pop()

    with ExitStack() as undo:
        undo.callback(nn_module.register_module_forward_pre_hook(enter).remove)
        undo.callback(nn_module.register_module_forward_hook(leave, always_call=True).remove)
        yield
    del stack[1:]


@contextmanager
def stand_ins(model: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Put an arena tensor behind every parameter and buffer of `model`, and everything back at the end."""
    with ExitStack() as undo:
        for before in [_attributes(module) for module in model.modules()]:
            undo.callback(_restore_attributes, before)
        tables = members(model, "_parameters", "_buffers")
        tensors = {id(t): t for table in tables for _, t in table if not _is_lazy(t)}.values()
        holders = Counter(t.untyped_storage()._cdata for t in tensors if t.layout is torch.strided)
        storages: dict[Any, torch.Tensor] = {}
        for tensor in tensors:
            _stand_in(tensor, recorder, storages, holders, undo)
        yield


def _is_lazy(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, nn.parameter.UninitializedTensorMixin)  # type: ignore[attr-defined]


class _Attributes(NamedTuple):
    """A module as it was."""

    module: nn.Module
    values: dict[str, Any]
    tables: dict[str, Any]
    """What was in those of its own dictionaries and sets that were not empty."""


def _attributes(module: nn.Module) -> _Attributes:
    values = module.__dict__.copy()
    return _Attributes(module, values, {n: v.copy() for n, v in values.items() if v is not None and _is_table(n, v)})


def _is_table(name: str, value: Any) -> bool:
    """Whether it is a dictionary of parameters, of buffers or of hooks, or the like, and holds something."""
    return name.startswith("_") and isinstance(value, (dict, set)) and bool(value)


def _restore_attributes(before: _Attributes) -> None:
    now = before.module.__dict__
    for name in now.keys() - before.values.keys():
        del now[name]
    for name, value in before.values.items():
        if now.get(name, now) is not value:
            now[name] = value
        # The dictionaries of parameters, buffers and hooks keep their identity; only their content goes back.
        held = before.tables.get(name)
        if held is not None and not _same(value, held):
            value.clear()
            value.update(held)
        elif held is None and _is_table(name, value):
            value.clear()


def _same(current: Any, before: Any) -> bool:
    """Whether a dictionary or set holds the very same objects in the same order; tensors must not be compared."""
    if len(current) != len(before):
        return False
    if isinstance(before, dict):
        return list(current) == list(before) and all(current[key] is before[key] for key in before)
    return bool(current == before) and list(current) == list(before)


def _stand_in(
    tensor: torch.Tensor,
    recorder: Recorder,
    storages: dict[Any, torch.Tensor],
    holders: Counter[int],
    undo: ExitStack,
) -> None:
    if tensor.layout is not torch.strided:
        undo.callback(_restore_data, tensor, tensor.data)
        tensor.data = sparse.twin(recorder, tensor)
        return
    owner = recorder.owners.get(base_of(tensor))
    if owner is not None and not tensor.is_meta:
        before = owner.device
        owner.device = recorder.device_of[owner.id] = recorder.device
        undo.callback(setattr, owner, "device", before)
        undo.callback(setattr, tensor, "grad", tensor.grad)
        return
    undo.callback(setattr, tensor, "grad", tensor.grad)
    tensor.grad = None
    alone = holders[tensor.untyped_storage()._cdata] == 1
    twin = recorder.twin(tensor, recorder.device) if alone and _fills(tensor) else _view(tensor, recorder, storages)
    if tensor.is_meta:
        _swap(tensor, twin)
        undo.callback(_swap_back, tensor, twin)
    else:
        undo.callback(_restore_data, tensor, tensor.data)
        tensor.data = twin


def _swap(tensor: torch.Tensor, twin: torch.Tensor) -> None:
    """A meta tensor cannot be pointed at CPU memory, so what is behind the two Python objects changes places.

    ``torch.utils.swap_tensors`` does so too, but refuses where there are weak references (an LSTM has them to its
    weights) or where a graph still holds the tensor, as after an error. Both do no harm here.
    """
    twin.requires_grad_(tensor.requires_grad)
    for name in ("_backward_hooks", "_post_accumulate_grad_hooks"):
        setattr(twin, name, getattr(tensor, name))
    torch._C._swap_tensor_impl(tensor, twin)


def _swap_back(tensor: torch.Tensor, twin: torch.Tensor) -> None:
    tensor.grad = None
    torch._C._swap_tensor_impl(tensor, twin)


def _restore_data(tensor: torch.Tensor, data: torch.Tensor) -> None:
    tensor.grad = None
    tensor.data = data


def _fills(tensor: torch.Tensor) -> bool:
    """Whether the tensor is all of its storage."""
    nbytes = tensor.numel() * tensor.itemsize
    return not tensor.storage_offset() and tensor.is_contiguous() and tensor.untyped_storage().nbytes() == nbytes


def _view(tensor: torch.Tensor, recorder: Recorder, storages: dict[Any, torch.Tensor]) -> torch.Tensor:
    """A twin of the tensor's storage, shared by all tensors that share it, seen through the tensor's strides."""
    storage = tensor.untyped_storage()
    count = storage.nbytes() // tensor.itemsize
    dense = count == tensor.numel()
    key = (storage._cdata, tensor.dtype)
    twin = storages.get(key)
    with quiet():  # unseen: the user's own tensor is no part of the step
        if twin is None:
            whole = tensor.detach() if dense else tensor.detach().as_strided((count,), (1,), 0)
            twin = storages[key] = recorder.twin(whole, recorder.device)
        return twin.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).detach()


def members(model: nn.Module, *tables: str) -> list[list[tuple[str, torch.Tensor]]]:
    """What ``named_parameters`` or ``named_buffers`` tell for each of these tables, by one walk without generators."""
    found: list[dict[int, tuple[str, torch.Tensor]]] = [{} for _ in tables]
    by_table = list(zip(tables, found, strict=True))
    seen: set[int] = set()
    waiting = [("", model)]
    while waiting:
        prefix, module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        inside = module.__dict__
        for table, by_id in by_table:
            for name, tensor in inside[table].items():
                if tensor is not None:
                    by_id.setdefault(id(tensor), (prefix + name, tensor))
        if module._modules:
            children = [
                (f"{prefix}{name}." if name else prefix, child)
                for name, child in module._modules.items()
                if child is not None
            ]
            waiting += children[::-1]
    return [list(by_id.values()) for by_id in found]
