"""Runs forward and backward of every op that PyTorch tests the gradient of, and prints as JSON how it was foretold.

A program of its own, since importing PyTorch's test lists freezes the flags of ``torch.backends`` for a whole process.
An op is called, on the largest arguments by which PyTorch tests it (``op_db``), in a module whose parameters are what
has a gradient. Live bytes at the end of forward and of backward are compared with those of a real run on the CPU; then
the step is traced for CUDA, priced, and replayed on the allocator.

It prints ``{"cases": count, "wrong": [[op, arguments, phase, foretold, measured], ...], "untraced": {op: message},
"assumed": [names of ops without a rule], "idle": [ops with matrix products and no FLOPs]}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils import _pytree

from foretrace.costmodels.timeline import timeline
from foretrace.graph import ForetraceError, Phase, StepGraph
from foretrace.report import Report, price
from foretrace.tracer import Step, trace
from foretrace.tracer.measure import measure

PHASES = (Phase.FORWARD, Phase.BACKWARD)
PRODUCTS = frozenset({"aten.mm", "aten.bmm", "aten.addmm", "aten.baddbmm", "aten.convolution"})
MOST_SAMPLES = 60
"""Of an op, that are looked at for the largest."""


class Calls(nn.Module):
    """Calls an op; the tensors that have a gradient are parameters, the others are given."""

    def __init__(self, op: Any, sample: Any) -> None:
        super().__init__()
        self.op = op
        flat, self.spec = _pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
        trained = [value for value in flat if _has_gradient(value)]
        self.trained = nn.ParameterList([nn.Parameter(value.detach().clone()) for value in trained])
        self.given = tuple(v.clone() for v in flat if isinstance(v, torch.Tensor) and not v.requires_grad)
        self.flat = [_Tensor(v.requires_grad) if isinstance(v, torch.Tensor) else v for v in flat]
        self.finish = sample.output_process_fn_grad

    def forward(self, *given: torch.Tensor) -> Any:
        trained, others = iter(self.trained), iter(given)
        flat = [(next(trained) if v.trained else next(others)) if isinstance(v, _Tensor) else v for v in self.flat]
        value, args, kwargs = _pytree.tree_unflatten(flat, self.spec)
        return self.finish(self.op(value, *args, **kwargs))


class _Tensor:
    """Stands for a tensor among the arguments."""

    def __init__(self, trained: bool) -> None:
        self.trained = trained


def _has_gradient(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def loss(output: Any) -> torch.Tensor:
    """The mean square of all that has a gradient."""
    found = [value for value in _pytree.tree_leaves(output) if _has_gradient(value)]
    if not found:
        raise ValueError("nothing has a gradient")
    real = [torch.view_as_real(value.resolve_conj()) if value.is_complex() else value for value in found]
    return sum((value.square().mean() for value in real), torch.zeros(()))


def largest(op: Any) -> Any:
    """The largest of the arguments with which an op's gradient is tested; None where there are none."""
    torch.manual_seed(0)
    # Not op.sample_inputs, which looks for the name of the test that runs, for half of the time.
    tested = islice(op.sample_inputs_func(op, "cpu", torch.float32, requires_grad=True), MOST_SAMPLES)
    return max((s for s in tested if any(map(_has_gradient, _leaves(s)))), key=_elements, default=None)


def _leaves(sample: Any) -> list[Any]:
    return _pytree.tree_leaves((sample.input, sample.args, sample.kwargs))


def _elements(sample: Any) -> int:
    return sum(value.numel() for value in _leaves(sample) if isinstance(value, torch.Tensor))


def described(sample: Any) -> str:
    return str([tuple(v.shape) if isinstance(v, torch.Tensor) else v for v in _leaves(sample)])[:120]


def step(op: Any, sample: Any) -> Step:
    torch.manual_seed(0)
    model = Calls(op, sample)
    return Step(model, model.given, loss, optimizer=None)


def traced(op: Any, sample: Any, device: str) -> StepGraph:
    made = step(op, sample)
    return trace(made.model, made.inputs, loss=loss, optimizer=None, device=device)


def differences(op: Any, sample: Any, measured: dict[Phase, int]) -> Iterator[tuple[str, int, int]]:
    told = timeline(traced(op, sample, "cpu"))
    for phase in PHASES:
        found = told.phases[phase].end_bytes - told.start_bytes
        if found != measured[phase]:
            yield phase, found, measured[phase]


def on_gpu(op: Any, sample: Any) -> Report:
    """The report of a step for CUDA, with all that it says of the device's memory."""
    report = price(traced(op, sample, "cuda"), on="a100-sxm4-80gb")
    if report.device_memory is None or report.device_memory.allocated_peak_bytes <= 0:
        raise AssertionError("nothing is on the device")
    return report


def is_idle(report: Report) -> bool:
    """Whether there are matrix products of something, and no FLOPs."""
    products = [op for op in report.trace.ops if op.packet in PRODUCTS and all(t.numel for t in op.inputs)]
    return bool(products) and not report.flops.total


def walk() -> dict[str, Any]:
    cases, wrong, untraced, assumed, idle = 0, [], {}, set[str](), []
    for op in op_db:
        if not op.supports_autograd or torch.float32 not in op.dtypes:
            continue
        sample = largest(op)
        try:
            measured = measure(step(op, sample)).ends if sample is not None else None
        except ForetraceError:
            measured = None  # PyTorch tests that it is refused, or that nothing has a gradient
        if measured is None:
            continue
        cases += 1
        try:
            wrong += [(op.formatted_name, described(sample), *found) for found in differences(op, sample, measured)]
            report = on_gpu(op, sample)
        except Exception as error:
            untraced[op.formatted_name] = str(error)
            continue
        assumed |= {one.name for one in report.coverage.assumed}
        idle += [op.formatted_name] if is_idle(report) else []
    return {"cases": cases, "wrong": wrong, "untraced": untraced, "assumed": sorted(assumed), "idle": idle}


if __name__ == "__main__":
    print(json.dumps(walk()))
