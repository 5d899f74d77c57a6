"""The ops of a step -> their *kinds*: a model repeats its layers, and what was found of one op holds for those alike.

Two ops are *alike* when all is the same but where in the model and in memory they are: name, phase, and of arguments
and result the values and the forms of the tensors (dtype, shape, strides, offset), and which tensors share a storage.
Module, line, sequence number and the storages themselves may differ. A kind is the id of the first op of that kind.
"""

from __future__ import annotations

from collections.abc import Sequence

from .op import Op, Tensor, Value


def kinds_of(ops: Sequence[Op]) -> tuple[int, ...]:
    """The kind of each op, as a place in `ops`."""
    first: dict[object, int] = {}
    form = _Forms().form
    found = []
    for place, op in enumerate(ops):
        storages: dict[int, int] = {}
        shared = [storages.setdefault(t.storage, i) for i, t in enumerate(op.inputs + op.outputs)]
        forms = [form(value) for value in op.args.values()]
        key = (op.name, op.phase, op.mutates, form(op.result), *op.args, *forms, *shared)
        found.append(first.setdefault(key, place))
    return tuple(found)


class _Forms:
    """Gives each form of a value a number. ``1``, ``1.0`` and ``True`` are distinct."""

    def __init__(self) -> None:
        self.numbers: dict[object, int] = {}
        self.seen: dict[int, int] = {}
        """Numbers by the identity of values that were looked at before: most are one and the same object."""
        self.kept: list[Value] = []
        """Those values, so that no other takes their identity."""

    def form(self, value: Value) -> int:
        number = self.seen.get(id(value))
        if number is None:
            number = self.seen[id(value)] = self._number(value)
            self.kept.append(value)
        return number

    def _number(self, value: Value) -> int:
        if type(value) is Tensor:
            key: object = value[1:]
        elif type(value) is tuple:
            key = (tuple, *map(self.form, value))
        else:
            key = (type(value), value)
        try:
            return self.numbers.setdefault(key, len(self.numbers))
        except TypeError:  # a value without a hash is like no other
            return self.numbers.setdefault(object(), len(self.numbers))
