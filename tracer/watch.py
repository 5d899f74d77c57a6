"""Looks at the model and its optimizers between the phases: which storage holds what, and what else is known."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..graph import Facts, Named, Phase
from ..graph.bulk import of_columns
from . import sparse
from .backends import backends
from .lift import Roles, storage_numbers
from .log import dtype_name
from .modules import members
from .record import Recorder
from .variants import Variant


@dataclass(frozen=True, slots=True)
class Settings:
    """How the step is traced, apart from the step itself."""

    device: str
    capability: tuple[int, int]
    autocast: torch.dtype | None
    warmup: int
    target: str
    arguments: dict[str, Any]
    variant: Variant


class Watch:
    """Looks at parameters, gradients and optimizer state between the phases, and names their storages."""

    def __init__(
        self,
        model: nn.Module,
        recorder: Recorder,
        optimizers: list[torch.optim.Optimizer],
        inputs: list[tuple[str, torch.Tensor]],
    ) -> None:
        self.model, self.recorder, self.optimizers, self.inputs = model, recorder, optimizers, inputs
        self.roles = Roles()
        self.seen = self.seen_with_state = (-1, -1)
        """How many ops, and storages, there were at the last look, and at the last one at the state as well."""
        (parameters,) = members(model, "_parameters")
        self.names = {id(parameter): name for name, parameter in parameters}
        self._note(self.roles.inputs, inputs)

    def look(self, phase: Phase) -> None:
        """Note what the storages hold now; between two looks without an op nothing has changed."""
        with_state, now = phase is Phase.OPTIMIZER, (self.recorder.answered, len(self.recorder.bytes_of))
        if phase is Phase.ZERO_GRAD or now == (self.seen_with_state if with_state else self.seen):
            return
        if not (with_state or self.recorder.recording):
            return  # what a step before left is looked at when it is over
        self.seen = now
        parameters, buffers = members(self.model, "_parameters", "_buffers")
        self._note(self.roles.parameters, parameters)
        self._note(self.roles.gradients, [(name, p.grad) for name, p in parameters if p.grad is not None])
        self._note(self.roles.buffers, sparse.pieces(buffers))
        if with_state:
            self.seen_with_state = now
            self._note(self.roles.state, list(self._state()))

    def _state(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The optimizers' tensors of this moment. Nothing here may hold them: an optimizer may replace them."""
        for optimizer in self.optimizers:
            for parameter, values in optimizer.state.items():
                name = self.names.get(id(parameter), "parameter")
                yield from _tensors(name, values)

    def _note(self, names: dict[int, str], tensors: list[tuple[str, torch.Tensor]]) -> None:
        owners = self.recorder.owners_of([tensor for _, tensor in tensors])
        for (name, _), owner in zip(tensors, owners, strict=True):
            if owner is not None:
                names.setdefault(owner.id, name)

    def facts(self, settings: Settings, notes: tuple[str, ...]) -> Facts:
        """What is known of the trace, with storages by the ids that the lifted graph gives them."""
        numbers = storage_numbers(self.recorder)
        parameters, buffers = members(self.model, "_parameters", "_buffers")
        return Facts(
            target=settings.target,
            arguments={name: _plain(value) for name, value in sorted(settings.arguments.items())},
            device=self.recorder.device,
            capability=".".join(map(str, settings.capability)) if self.recorder.device.startswith("cuda") else "",
            autocast=dtype_name(settings.autocast) if settings.autocast is not None else None,
            own_autocast=tuple(dtype for dtype in self.recorder.autocast if getattr(torch, dtype) != settings.autocast),
            warmup=settings.warmup,
            optimizer=self._optimizer(),
            parameters=self._named(parameters, numbers),
            buffers=self._named(sparse.pieces(buffers), numbers),
            inputs=self._named(self.inputs, numbers),
            state=self._named(list(dict(self._state()).items()), numbers),
            modules={name: type(module).__name__ for name, module in self.model.named_modules()},
            calls=self.recorder.callers.lines,
            recomputed=self.recorder.callers.again,
            assumptions=tuple(self.recorder.assumptions.used()),
            notes=notes,
            backends=backends(self.recorder.device),
            versions={"torch": torch.__version__.partition("+")[0], "python": platform.python_version()},
        )

    def _named(self, named: list[tuple[str, torch.Tensor]], numbers: dict[int, int]) -> tuple[Named, ...]:
        tensors = [tensor for _, tensor in named]
        owners = self.recorder.owners_of(tensors)
        return tuple(
            of_columns(
                Named,
                len(named),
                name=[name for name, _ in named],
                storage=[numbers.get(owner.id if owner is not None else 0, numbers[0]) for owner in owners],
                shape=[tuple(tensor.shape) for tensor in tensors],
                dtype=[dtype_name(tensor.dtype) for tensor in tensors],
                trainable=[tensor.requires_grad for tensor in tensors],
            )
        )

    def _optimizer(self) -> dict[str, object]:
        if not self.optimizers:
            return {}
        optimizer = self.optimizers[0]
        names = {row.signature.name for row in self.recorder.rows if row.phase is Phase.OPTIMIZER}
        way = (
            "fused"
            if any("_fused_" in n for n in names)
            else "foreach"
            if any("_foreach_" in n for n in names)
            else "for-loop"
        )
        group = {k: v for k, v in optimizer.param_groups[0].items() if isinstance(v, (int, float, bool, tuple))}
        return {"class": type(optimizer).__name__, "implementation": way, **dict(sorted(group.items()))}


def _tensors(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in an entry of an optimizer's state: mostly a dict for each parameter, but any nest will do."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, (Mapping, list, tuple)):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _tensors(f"{name}/{key}", item)


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str)) or value is None else repr(value)
