"""Composite ops that take another road on CUDA than on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foretrace.graph import Op, StepGraph
from foretrace.tracer import trace


class Calls(nn.Module):
    """A linear layer, or a convolution, and then one function of its output."""

    def __init__(self, function: Any, first: nn.Module) -> None:
        super().__init__()
        self.function, self.first = function, first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.first(x)).float().sum()


def traced(
    function: Any, *, device: str = "cuda", x: Any = None, first: nn.Module | None = None, **how: Any
) -> StepGraph:
    x = torch.randn(64, 128) if x is None else x
    return trace(Calls(function, first or nn.Linear(128, 256)), (x,), device=device, **how)


def ops(graph: StepGraph, packet: str) -> list[Op]:
    return [op for op in graph.ops if op.packet == packet]


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_float16_is_widened_inside_the_softmax(name: str) -> None:
    graph = traced(lambda y: getattr(F, name)(y, -1), autocast="float16")
    (forward,) = ops(graph, f"aten._{name}")
    assert (forward.inputs[0].dtype, forward.outputs[0].dtype) == ("float16", "float32")
    (backward,) = ops(graph, f"aten._{name}_backward_data")
    assert backward.outputs[0].dtype == "float16"


@pytest.mark.parametrize(("autocast", "device"), [("bfloat16", "cuda"), (None, "cuda")])
def test_others_are_cast_first(autocast: str | None, device: str) -> None:
    graph = traced(lambda y: F.softmax(y, -1, dtype=torch.float32), autocast=autocast, device=device)
    (forward,) = ops(graph, "aten._softmax")
    assert forward.inputs[0].dtype == forward.outputs[0].dtype == "float32"
    assert forward.get("half_to_float") is False


def test_float16_on_the_cpu_is_cast() -> None:
    graph = traced(lambda y: F.softmax(y.half(), -1, dtype=torch.float32), device="cpu")
    assert ops(graph, "aten._softmax")[0].inputs[0].dtype == "float32"


def channels_last(device: str) -> StepGraph:
    first = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 16, 16).to(memory_format=torch.channels_last)
    return traced(lambda y: F.group_norm(y, 2), first=first, x=x, device=device)


def test_group_norm_copies_channels_last_on_cuda_alone() -> None:
    (on_cuda,), (on_cpu,) = (ops(channels_last(device), "aten.native_group_norm") for device in ("cuda", "cpu"))
    dense, interleaved = (8 * 14 * 14, 14 * 14, 14, 1), (8 * 14 * 14, 1, 14 * 8, 8)
    assert (on_cuda.inputs[0].strides, on_cpu.inputs[0].strides) == (dense, interleaved)


class Cell(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(16, 32, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, c = self.cell(x)
        return (h * c).sum()


def test_an_lstm_cell_is_one_kernel_that_keeps_its_gates() -> None:
    graph = trace(Cell(bias=True), (torch.randn(4, 16),), device="cuda")
    (cell,) = ops(graph, "aten._thnn_fused_lstm_cell")
    assert [t.shape for t in cell.outputs] == [(4, 32), (4, 32), (4, 128)]
    assert len(ops(graph, "aten._thnn_fused_lstm_cell_backward_impl")) == 1
    assert ops(graph, "aten.sigmoid") == []


def test_an_lstm_cell_on_the_cpu_is_composed() -> None:
    assert ops(trace(Cell(bias=True), (torch.randn(4, 16),), device="cpu"), "aten._thnn_fused_lstm_cell") == []
    assert ops(trace(Cell(bias=False), (torch.randn(4, 16),), device="cuda"), "aten._thnn_fused_lstm_cell") == []


def normalized(batch: int, training: bool) -> list[str]:
    norm = nn.BatchNorm1d(2).train(training)
    graph = traced(lambda y: y, first=norm, x=torch.empty(batch, 2, 1, device="meta"))
    return [op.packet for op in graph.ops if op.packet.endswith("batch_norm")]


@pytest.mark.parametrize(
    ("batch", "training", "kernel"),
    [
        (880_801, True, "aten.cudnn_batch_norm"),
        (880_802, True, "aten.native_batch_norm"),
        (65_535, False, "aten.cudnn_batch_norm"),
        (65_536, False, "aten.native_batch_norm"),
    ],
)
def test_cudnns_batch_norm_has_a_largest_batch(batch: int, training: bool, kernel: str) -> None:
    assert normalized(batch, training) == [kernel]
