"""Every op of PyTorch's own test lists, one tensor in another dtype: which calls its CPU kernels refuse, and a trace.

Prints a JSON object: how many calls both refuse, and the ops of which only the kernel does (`missed`), or only the
trace (`false`). A program of its own, because importing those lists freezes settings of torch for a whole process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_flatten, tree_unflatten

import foretrace
from foretrace.graph import ForetraceError
from foretrace.tracer import log, record

OTHERS = (torch.float16, torch.int32)
Call = Callable[..., Any]


class Called(nn.Module):
    """Calls a function of its inputs on the way."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call, self.weight = call, nn.Parameter(torch.zeros(1))

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        self.call(*given)
        return self.weight.sum()


def calls() -> Iterator[tuple[str, Call, list[torch.Tensor]]]:
    """The first sample of each op that is given several tensors: its name, a function of them, and these."""
    for op in op_db:
        if torch.float32 not in op.dtypes or op.name.startswith(("_refs", "ops.")):
            continue
        sample = next(iter(op.sample_inputs("cpu", torch.float32)), None)
        if sample is None:
            continue
        flat, spec = tree_flatten((sample.input, sample.args, sample.kwargs))
        places = [place for place, value in enumerate(flat) if isinstance(value, torch.Tensor)]
        given = [flat[place] for place in places]
        if len(given) > 1 and all(tensor.layout is torch.strided for tensor in given):
            yield op.name, _call(op, flat, spec, places), given


def _call(op: Any, flat: list[Any], spec: Any, places: list[int]) -> Call:
    def call(*given: torch.Tensor) -> Any:
        values = list(flat)
        for place, tensor in zip(places, given, strict=True):
            values[place] = tensor
        first, rest, named = tree_unflatten(values, spec)
        return op(first, *rest, **named)

    return call


def refuses(run: Callable[[], Any], error: type[Exception]) -> bool:
    """Whether it raises an error of that kind."""
    try:
        run()
    except error:
        return True
    return False


def main() -> None:
    """Compare every call."""
    # No storage holds values, so that no kernel is run because they are known.
    log.holds_values = record.holds_values = lambda nbytes, dtype: False  # type: ignore[attr-defined]
    both, missed, false = 0, set(), set()
    for name, call, given in calls():
        for place, tensor in enumerate(given):
            for other in OTHERS:
                if tensor.dtype is other or not (tensor.is_floating_point() or other is torch.int32):
                    continue

                def made(place: int = place, other: torch.dtype = other, given: list[Any] = given) -> list[Any]:
                    return [(t.detach().to(other) if n == place else t.detach()).clone() for n, t in enumerate(given)]

                def traced(call: Call = call, made: Callable[[], list[Any]] = made) -> object:
                    return foretrace.trace(
                        Called(call), tuple(made()), loss=lambda out: out, device="cpu", warmup=0, fold=False
                    )

                truth = refuses(lambda call=call, made=made: call(*made()), Exception)  # type: ignore[misc]
                found = refuses(traced, ForetraceError)
                both += truth and found
                if truth is not found:
                    (missed if truth else false).add(name)
    json.dump({"both": both, "missed": sorted(missed), "false": sorted(false)}, sys.stdout)


if __name__ == "__main__":
    main()
