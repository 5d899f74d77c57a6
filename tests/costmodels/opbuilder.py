"""Ops made by hand: fresh tensors, and calls by schema names."""

from __future__ import annotations

from itertools import count
from typing import Any

from foretrace.costmodels import Work, price_op
from foretrace.graph import Op, Phase, Tensor

STORAGES = count()


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= max(size, 1)
    return tuple(strides)


def new(*shape: int, dtype: str = "float32") -> Tensor:
    """A contiguous tensor over a storage of its own."""
    return Tensor(next(STORAGES), dtype, shape, contiguous(shape))


def call(
    name: str, result: object, /, *, mutates: tuple[str, ...] = (), phase: Phase = Phase.FORWARD, **args: Any
) -> Op:
    return Op(id=0, name=name, phase=phase, args=args, result=result, mutates=mutates)


def work(name: str, result: object, /, **given: Any) -> Work:
    """What the rules in scope say of the call."""
    return price_op(call(name, result, **given)).work
