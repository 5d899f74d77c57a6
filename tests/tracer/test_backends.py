"""Settings of CUDA's libraries, which the user's code makes while it is traced, and what they change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from foretrace.graph import StepGraph, load, save
from foretrace.report import price
from foretrace.tracer import trace

Setting = tuple[Any, str, object]
Settings = tuple[Setting, ...]
MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn
BENCHMARK = (CUDNN, "benchmark", True)


@pytest.fixture(autouse=True)
def stock() -> Iterator[None]:
    """PyTorch's own settings, before and after."""
    yield
    torch.backends.cuda.matmul.fp32_precision = "none"
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    torch.backends.cudnn.rnn.fp32_precision = "tf32"
    torch.backends.cudnn.benchmark = False


class Net(nn.Module):
    """Makes its settings when it runs, as training code does somewhere."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.conv, self.head = nn.Conv2d(3, 64, 3, padding=1), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for place, name, value in self.settings:
            setattr(place, name, value)
        return self.head(self.conv(x).mean((2, 3))).sum()


def traced(*settings: Setting, device: str = "cuda") -> StepGraph:
    return trace(Net(settings), torch.empty(8, 3, 64, 64), device=device)


def units(graph: StepGraph, packet: str) -> set[str]:
    report = price(graph, on="a100-sxm4-80gb")
    times = zip(graph.ops, report.time.ops, strict=True)
    return {str(t.unit) for op, t in times if op.packet == packet}


def test_pytorchs_own_settings_are_not_noted() -> None:
    graph = traced()
    assert graph.facts.backends == {} and not [note for note in graph.facts.notes if "TF32" in note]
    assert units(graph, "aten.mm") == {"CUDA cores, float32"}


@pytest.mark.parametrize(("name", "value"), [("allow_tf32", True), ("fp32_precision", "tf32")])
def test_products_run_on_tensor_cores_where_tf32_is_allowed(name: str, value: object) -> None:
    graph = traced((MATMUL, name, value))
    assert graph.facts.backends == {"matmul_tf32": True}
    assert "torch.backends.cuda.matmul.allow_tf32 is on" in " ".join(graph.facts.notes)
    assert units(graph, "aten.mm") == units(graph, "aten.convolution") == {"tensor cores, tfloat32"}


def test_a_precision_of_matrix_products_is_the_same_setting() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        assert traced().facts.backends == {"matmul_tf32": True}
    finally:
        torch.set_float32_matmul_precision("highest")


def test_convolutions_without_tf32_take_no_copies() -> None:
    with_it, without = traced(), traced((CUDNN, "allow_tf32", False))
    assert without.facts.backends == {"cudnn_tf32": False}
    taken, left = (price(graph, on="a100-sxm4-80gb").device_memory for graph in (with_it, without))
    assert taken is not None and left is not None
    assert left.requested_peak_bytes < taken.requested_peak_bytes
    assert units(without, "aten.convolution") == {"CUDA cores, float32"}


def test_a_report_says_that_cudnn_tries_its_plans() -> None:
    graph = traced(BENCHMARK)
    said = " ".join(price(graph, on="a100-sxm4-80gb").coverage.not_modelled)
    assert "torch.backends.cudnn.benchmark is on" in said
    linear = trace(nn.Linear(8, 8), torch.empty(2, 8), loss=torch.sum, device="cuda")
    assert linear.facts.backends == {"cudnn_benchmark": True}
    assert "benchmark" not in " ".join(price(linear, on="a100-sxm4-80gb").coverage.not_modelled)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("cudnn", False, "torch.backends.cudnn.enabled is off"),
        ("deterministic", True, "torch.use_deterministic_algorithms is on"),
    ],
)
def test_what_other_kernels_would_take_is_said_to_be_unknown(name: str, value: bool, said: str) -> None:
    torch.backends.cudnn.enabled = name != "cudnn"
    torch.use_deterministic_algorithms(name == "deterministic")
    try:
        graph = traced()
    finally:
        torch.backends.cudnn.enabled = True
        torch.use_deterministic_algorithms(False)
    assert graph.facts.backends == {name: value}
    assert said in " ".join(graph.facts.notes)
    assert said not in " ".join(traced().facts.notes)


def test_the_settings_are_saved(tmp_path: Path) -> None:
    graph = traced(BENCHMARK)
    save(graph, tmp_path / "step.foretrace")
    assert load(tmp_path / "step.foretrace").facts == graph.facts


def test_a_step_on_the_cpu_has_none_of_them() -> None:
    assert traced(BENCHMARK, (MATMUL, "allow_tf32", True), device="cpu").facts.backends == {}
