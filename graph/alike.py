"""The ops of a step -> their *kinds*: a model repeats its layers, and what was found of one op holds for those alike.

Two ops are *alike* when all is the same but where in the model and in memory they are: name, phase, and of arguments
and result the values and the forms of the tensors (dtype, shape, strides, offset), and which tensors share a storage.
Module, line, sequence number and the storages themselves may differ. A kind is the id of the first op of that kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from .op import Op, Tensor, Value

_NONE: Mapping[int, int] = MappingProxyType({})


def kinds_of(ops: Sequence[Op], copies: Mapping[int, int] = _NONE) -> tuple[int, ...]:
    """The kind of each op, as a place in `ops`. `copies` are known to be alike: the place of one, by another's."""
    found = dict(copies)
    first: dict[object, int] = {}
    forms = _Forms()
    for place, op in enumerate(ops):
        if place not in copies:
            storages = [t.storage for t in op.inputs + op.outputs]
            shared = _shared(storages) if len(set(storages)) < len(storages) else ()
            key = (op.name, op.phase, op.mutates, *op.args, *forms.of((*op.args.values(), op.result)), *shared)
            found[place] = first.setdefault(key, place)
    earliest: dict[int, int] = {}
    return tuple([earliest.setdefault(found[copies.get(place, place)], place) for place in range(len(ops))])


def _shared(storages: Sequence[int]) -> list[int]:
    """For each storage the place of the first that is the same."""
    first: dict[int, int] = {}
    return [first.setdefault(storage, place) for place, storage in enumerate(storages)]


class _Forms:
    """Gives each form of a value a number. ``1``, ``1.0`` and ``True`` are distinct."""

    def __init__(self) -> None:
        self.numbers: dict[object, int] = {}
        self.seen: dict[int, int] = {}
        """Numbers by the identity of values that were looked at before: most are one and the same object."""
        self.kept: list[Value] = []
        """Those values, so that no other takes their identity."""

    def of(self, values: Sequence[Value]) -> list[int]:
        """The number of each value's form."""
        known = map(self.seen.get, map(id, values))
        return [self._new(value) if number is None else number for value, number in zip(values, known, strict=True)]

    def _new(self, value: Value) -> int:
        self.kept.append(value)
        number = self.seen[id(value)] = self._number(value)
        return number

    def _number(self, value: Value) -> int:
        if type(value) is Tensor:
            key: object = value[1:]
        elif type(value) is tuple:
            key = (tuple, *self.of(value))
        else:
            key = (type(value), value)
        try:
            return self.numbers.setdefault(key, len(self.numbers))
        except TypeError:  # a value without a hash is like no other
            return self.numbers.setdefault(object(), len(self.numbers))
