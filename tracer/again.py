"""A call of `trace` or `trace_target` -> its trace, which remembers how to make *another one at other sizes*.

A size is what the target or the callable takes by that name, or what a spec names. Where inputs were given as tensors,
or as specs with numbers in them, ``batch`` is their first size: they are cut, or repeated, to the one asked for. The
memory of it lasts as long as the trace, and with it the module and the inputs that were given; it is not saved.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial, wraps
from math import prod
from typing import Any, ParamSpec

import torch
from torch import nn

from ..graph import ForetraceError, StepGraph
from .arena import holds_values
from .inputs import size_names

P = ParamSpec("P")
BATCH = ("batch", "batch_size", "bs")
"""What the number of samples is called."""


def remembered(function: Callable[P, StepGraph]) -> Callable[P, StepGraph]:
    """A function that traces, whose traces know how to be made again."""
    signature = inspect.signature(function)

    @wraps(function)
    def traced(*args: P.args, **kwargs: P.kwargs) -> StepGraph:
        graph = function(*args, **kwargs)
        given = signature.bind(*args, **kwargs).arguments
        graph.remember(partial(_target_again if "parameters" in signature.parameters else _again, traced, given))
        return graph

    return traced


def _target_again(function: Callable[..., StepGraph], given: Mapping[str, Any], **sizes: int) -> StepGraph:
    return function(**{**given, "parameters": {**(given.get("parameters") or {}), **_as_called(given, sizes)}})


def _as_called(given: Mapping[str, Any], sizes: Mapping[str, int]) -> Mapping[str, int]:
    """The batch by the name that the target has for it."""
    from .trace import taken as taken_by

    taken = {
        *taken_by(given["target"], given.get("device")),
        *(given.get("parameters") or {}),
        *_spec_names(given.get("inputs")),
    }
    return {_named(name, taken): value for name, value in sizes.items()}


def _again(function: Callable[..., StepGraph], given: Mapping[str, Any], **sizes: int) -> StepGraph:
    """The same call of `trace`: sizes go to the callable, to the specs, and the batch to the inputs' first size."""
    model, inputs = given["model"], given.get("inputs")
    taken = _parameters(model)
    specs = {*_spec_names(inputs), *(given.get("sizes") or {})}
    changed = dict(given)
    for name, value in sizes.items():
        if _named(name, taken) in taken:
            changed["model"] = _built_with(changed["model"], {_named(name, taken): value})
        elif _named(name, specs) in specs:
            changed["sizes"] = {**(changed.get("sizes") or {}), _named(name, specs): value}
        elif name in BATCH and inputs is not None:
            changed["inputs"] = _with_batch(inputs, value)
        else:
            raise ForetraceError(
                f"the trace was made without a size {name}",
                f"Trace a callable that takes {name}=, or name it in a spec, such as float32[{name}, 8].",
            )
    return function(**changed)


def _spec_names(inputs: Any) -> set[str]:
    """The sizes that specs name, in one text or item by item."""
    if isinstance(inputs, str):
        return size_names(inputs)
    items = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, (tuple, list)) else ()
    return {name for item in items for name in _spec_names(item)}


def _named(name: str, taken: set[str]) -> str:
    return next((other for other in BATCH if other in taken), name) if name in BATCH and name not in taken else name


def _parameters(model: Any) -> set[str]:
    if isinstance(model, nn.Module):
        return set()
    try:
        return set(inspect.signature(model).parameters)
    except (TypeError, ValueError):
        return set()


def _built_with(model: Callable[..., Any], sizes: Mapping[str, int]) -> Callable[[], Any]:
    return partial(model, **sizes)


def _with_batch(inputs: Any, batch: int) -> Any:
    """Inputs with another first size, where all of them that have one share it."""
    if isinstance(inputs, str):
        found = set(re.findall(r"\[\s*(\d+)", inputs))
        if len(found) == 1:
            return re.sub(r"\[\s*\d+", f"[{batch}", inputs)
    else:
        found = {str(t.shape[0]) for t in _tensors(inputs) if t.ndim}
        if len(found) == 1:
            return _resized(inputs, batch)
    raise ForetraceError(
        f"the inputs share no first size: {', '.join(sorted(found)) or 'none'}",
        "Name the batch in specs, such as float32[batch, 8], with sizes.",
    )


def _tensors(inputs: Any) -> list[torch.Tensor]:
    if isinstance(inputs, torch.Tensor):
        return [inputs]
    items = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, (tuple, list)) else ()
    return [tensor for item in items for tensor in _tensors(item)]


def _resized(inputs: Any, batch: int) -> Any:
    if isinstance(inputs, torch.Tensor):
        return _repeated(inputs, batch) if inputs.ndim else inputs
    if isinstance(inputs, Mapping):
        return {name: _resized(item, batch) for name, item in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(_resized(item, batch) for item in inputs)
    return inputs


def _repeated(inputs: torch.Tensor, batch: int) -> torch.Tensor:
    """A tensor's rows from the first on, over and over; without memory where a trace would not look at the values."""
    shape = (batch, *inputs.shape[1:])
    if holds_values(prod(shape) * inputs.itemsize, inputs.dtype):
        return inputs[torch.arange(batch) % inputs.shape[0]]
    return torch.empty(shape, dtype=inputs.dtype, device="meta", requires_grad=inputs.requires_grad)
