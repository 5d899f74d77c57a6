"""What C++ differentiates by the device: extremes of all elements; and roads inside of ``torch.func``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foretrace.graph import Op, StepGraph
from foretrace.tracer import trace
from foretrace.tracer.extremes import _on_cpu, _on_cuda


class Calls(nn.Module):
    """A linear layer, and then one function of its output."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function, self.linear = function, nn.Linear(128, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.linear(x)).sum()


def traced(function: Callable[[torch.Tensor], torch.Tensor], device: str = "cuda") -> StepGraph:
    return trace(Calls(function), (torch.randn(64, 128),), device=device)


def ops(graph: StepGraph, packet: str) -> list[Op]:
    return [op for op in graph.ops if op.packet == packet]


@pytest.mark.parametrize("name", ["max", "min", "median", "nanmedian"])
def test_the_gradient_of_an_extreme_is_found_without_a_look(name: str) -> None:
    graph = traced(lambda y: getattr(y, name)())
    backward = [op.packet.removeprefix("aten.") for op in graph.ops if op.phase == "backward"]
    spread = ["isnan", "isnan", "logical_and_", "eq", "logical_or_", "sum", "div", "mul"]
    assert [op for op in backward if op in spread][: len(spread)] == spread
    assert "_local_scalar_dense" not in backward
    assert "aten._local_scalar_dense" in [op.packet for op in traced(lambda y: y.max(), device="cpu").ops]


@pytest.mark.parametrize("name", ["max", "min", "median", "nanmedian"])
@pytest.mark.parametrize("gpu", [True, False])
def test_it_is_an_equal_share_for_each_that_equals_it(name: str, gpu: bool) -> None:
    for values in ([1.0, 3.0, 3.0, -2.0, -2.0, 1.0, 1.0], [1.0, float("nan"), 2.0]):
        ours, theirs = (torch.tensor(values, requires_grad=True) for _ in range(2))
        (wanted,) = torch.autograd.grad(getattr(theirs, name)(), theirs)
        value = getattr(ours.detach(), name)()
        found = (_on_cuda if gpu else _on_cpu)(torch.ones(()), ours.detach(), value)
        torch.testing.assert_close(found, wanted, equal_nan=True)


def test_transforms_take_these_roads_too() -> None:
    def transformed(y: torch.Tensor) -> torch.Tensor:
        return y * torch.func.grad(lambda z: F.dropout(z, 0.5, True).max())(y)

    assert len(ops(traced(transformed), "aten.logical_or_")) == 1


def test_an_rms_norm_inside_of_a_transform_is_composed_and_said_to_be() -> None:
    graph = traced(lambda y: y * torch.func.grad(lambda z: F.rms_norm(z, (256,)).sum())(y))
    assert ops(graph, "aten._fused_rms_norm") == []
    assert any("inside of torch.func" in note for note in graph.facts.notes)
