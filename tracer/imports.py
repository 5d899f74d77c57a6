"""Modules that a trace is the first to import -> forgotten, where they hold tensors of the trace.

What a module makes when it is imported has no values while tracing: a table, or a whole model. Whoever imports it after
the trace shall get real ones. Only what a module holds by a name of its own is looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from .record import Recorder

_kept: ContextVar[bool] = ContextVar("kept", default=False)


@contextmanager
def kept() -> Iterator[None]:
    """Leave what is imported meanwhile where it is: somebody else will forget it."""
    token = _kept.set(True)
    try:
        yield
    finally:
        _kept.reset(token)


@contextmanager
def forgotten(recorder: Recorder) -> Iterator[None]:
    """Forget what is imported meanwhile and holds tensors that have no values."""
    before = set(sys.modules)
    try:
        yield
    finally:
        for name in () if _kept.get() else sys.modules.keys() - before:
            inside = getattr(sys.modules[name], "__dict__", {})
            if not name.startswith("torch.") and _holds_nothing(inside.values(), recorder):
                _forget(name)


def _holds_nothing(values: Any, recorder: Recorder) -> bool:
    """Whether some of these are tensors of the trace without values, or modules of such."""
    found = [value for value in list(values) if isinstance(value, (torch.Tensor, nn.Module))]
    tensors = [tensor for tensor in found if isinstance(tensor, torch.Tensor)]
    for model in found:
        tensors += (*model.parameters(), *model.buffers()) if isinstance(model, nn.Module) else ()
    return any(owner is not None and not owner.known for owner in recorder.owners_of(tensors))


def _forget(name: str) -> None:
    module = sys.modules.pop(name)
    above, _, last = name.rpartition(".")
    if above in sys.modules and getattr(sys.modules[above], last, None) is module:
        delattr(sys.modules[above], last)
