"""Real torch calls turned into ops: what the dispatcher sees, as the rules get to read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from foretrace.graph import Const, Op, Phase, Tensor


class Recorder(TorchDispatchMode):
    """Writes down every op that runs under it. Keeps all tensors alive, so that a storage's id stays its own."""

    def __init__(self, phase: Phase = Phase.FORWARD) -> None:
        super().__init__()
        self.phase = phase
        self.ops: list[Op] = []
        self.storages: dict[int, int] = {}
        self.alive: list[object] = []

    def value(self, value: Any) -> object:
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()
            self.alive.append(storage)
            number = self.storages.setdefault(storage._cdata, len(self.storages))
            shape, strides = tuple(map(int, value.shape)), tuple(map(int, value.stride()))
            return Tensor(number, str(value.dtype)[6:], shape, strides, int(value.storage_offset()))
        if isinstance(value, (list, tuple)):
            return tuple(self.value(item) for item in value)
        if isinstance(value, torch.dtype):
            return Const("dtype", str(value)[6:])
        if value is None or isinstance(value, (bool, int, float, complex, str)):
            return value
        return Const(type(value).__name__, str(value))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        schema = func._schema
        names = [argument.name for argument in schema.arguments]
        given = {name: self.value(value) for name, value in zip(names, args, strict=False)}
        given |= {name: self.value(value) for name, value in (kwargs or {}).items()}
        mutates = tuple(a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write and a.name in given)
        result = func(*args, **(kwargs or {}))
        overload = schema.overload_name or "default"
        name = f"{schema.name.replace('::', '.')}.{overload}"
        made = self.value(result)
        self.alive.append(result)
        self.ops.append(Op(id=len(self.ops), name=name, phase=self.phase, args=given, result=made, mutates=mutates))
        return result


def record(run: Callable[[], object], phase: Phase = Phase.FORWARD) -> list[Op]:
    """The ops that `run` dispatches, backward included."""
    with Recorder(phase) as recorder:
        run()
    return recorder.ops
