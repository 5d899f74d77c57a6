"""The user's module while it is traced: its tensors stand in the arena, its calls tell the module path.

Afterwards it is exactly as it was: the same tensor objects with the same data, gradients, attributes,
hooks and flags, whether the trace went well or not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as nn_module

from .arena import base_of
from .record import Recorder


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
        for module in model.modules():
            undo.callback(_restore_attributes, module, _attributes(module))
        storages: dict[Any, torch.Tensor] = {}
        seen: set[int] = set()
        for tensor in (*model.parameters(), *model.buffers()):
            if id(tensor) not in seen and not _is_lazy(tensor):
                seen.add(id(tensor))
                _stand_in(tensor, recorder, storages, undo)
        yield


def _is_lazy(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, nn.parameter.UninitializedTensorMixin)  # type: ignore[attr-defined]


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {
        name: (type(value)(value) if name.startswith("_") and isinstance(value, (dict, set)) else value)
        for name, value in module.__dict__.items()
    }


def _restore_attributes(module: nn.Module, attributes: dict[str, Any]) -> None:
    # The dictionaries of parameters, buffers and hooks keep their identity; only their content goes back.
    for name in [name for name in module.__dict__ if name not in attributes]:
        del module.__dict__[name]
    for name, value in attributes.items():
        current: Any = module.__dict__.get(name)
        if name.startswith("_") and isinstance(value, (dict, set)) and type(current) is type(value):
            if not _same(current, value):
                current.clear()
                current.update(value)
        else:
            module.__dict__[name] = value


def _same(current: Any, before: Any) -> bool:
    """Whether a dictionary or set holds the very same objects in the same order; tensors must not be compared."""
    if isinstance(before, dict):
        return list(current) == list(before) and all(current[key] is before[key] for key in before)
    return bool(current == before) and list(current) == list(before)


def _stand_in(tensor: torch.Tensor, recorder: Recorder, storages: dict[Any, torch.Tensor], undo: ExitStack) -> None:
    owner = recorder.owners.get(base_of(tensor))
    if owner is not None and not tensor.is_meta:
        before = owner.device
        owner.device = recorder.device_of[owner.id] = recorder.device
        undo.callback(setattr, owner, "device", before)
        undo.callback(setattr, tensor, "grad", tensor.grad)
        return
    undo.callback(_restore_grad, tensor, tensor.grad)
    tensor.grad = None
    twin = _view_of_twin(tensor, recorder, storages)
    if tensor.is_meta:
        _swap(tensor, twin, undo)
    else:
        undo.callback(_restore_data, tensor, tensor.data)
        tensor.data = twin


def _swap(tensor: torch.Tensor, twin: torch.Tensor, undo: ExitStack) -> None:
    """A meta tensor cannot be pointed at CPU memory, so what is behind the two Python objects changes places.

    ``torch.utils.swap_tensors`` does so too, but refuses where there are weak references (an LSTM has them to its
    weights) or where a graph still holds the tensor, as after an error. Both do no harm here.
    """
    twin.requires_grad_(tensor.requires_grad)
    for name in ("_backward_hooks", "_post_accumulate_grad_hooks"):
        setattr(twin, name, getattr(tensor, name))
    torch._C._swap_tensor_impl(tensor, twin)

    def back() -> None:
        tensor.grad = None
        torch._C._swap_tensor_impl(tensor, twin)

    undo.callback(back)


def _restore_grad(tensor: torch.Tensor, grad: torch.Tensor | None) -> None:
    tensor.grad = grad


def _restore_data(tensor: torch.Tensor, data: torch.Tensor) -> None:
    tensor.grad = None
    tensor.data = data


def _view_of_twin(tensor: torch.Tensor, recorder: Recorder, storages: dict[Any, torch.Tensor]) -> torch.Tensor:
    """A twin of the tensor's storage, shared by all tensors that share it, seen through the tensor's strides."""
    storage = tensor.untyped_storage()
    count = storage.nbytes() // tensor.itemsize
    dense = count == tensor.numel()
    whole = tensor.detach() if dense else tensor.detach().as_strided((count,), (1,), 0)
    key = (storage._cdata, tensor.dtype)
    twin = storages.get(key)
    if twin is None:
        twin = storages[key] = recorder.twin(whole, recorder.device)
    return twin.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).detach()
