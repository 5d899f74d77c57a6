"""What is on around a trace, and is no part of the step: the caller's modes, another trace."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from foretrace.graph import ForetraceError
from foretrace.tracer import trace


def make() -> tuple[nn.Module, str, Callable[[Tensor], Tensor]]:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), "float32[3, 8]", torch.sum


AROUND: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "gradients off": lambda: torch.set_grad_enabled(False),
    "fake tensors": FakeTensorMode,
    "a counter of FLOPs": lambda: FlopCounterMode(display=False),
    "autocast of the CPU": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "the meta device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_the_callers_modes_are_not_the_steps(around: Callable[[], AbstractContextManager[Any]]) -> None:
    with around():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
        found = trace(make)
        assert before == (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
        )
    assert found == trace(make)


def test_a_module_of_fake_tensors_is_refused() -> None:
    with FakeTensorMode():
        model = nn.Linear(3, 1)
        with pytest.raises(ForetraceError, match=r"built of fake tensors.*callable"):
            trace(model, "float32[2, 3]", loss=torch.sum)


def test_what_is_on_a_gpu_is_not_for_the_autocast_of_the_cpu() -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(x).sum().backward()
        optimizer.step()

    def inside(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16), torch.autocast("cpu", enabled=False):
            model(x).sum().backward()
        optimizer.step()

    dtypes = [
        {tensor.dtype for op in trace(nn.Linear(3, 1), "float32[2, 3]", step=own).ops for tensor in op.outputs}
        for own in (step, inside)
    ]
    assert "bfloat16" not in dtypes[0]
    assert "bfloat16" in dtypes[1]


def test_a_trace_inside_of_a_traced_step_is_refused_and_one_beside_it_is_not() -> None:
    def inside(output: Tensor) -> Tensor:
        trace(make)
        return output.sum()

    with pytest.raises(ForetraceError, match="inside of a step that is traced"):
        trace(nn.Linear(3, 1), "float32[2, 3]", loss=inside)

    def beside() -> Any:
        trace(make)
        return make()

    assert trace(beside) == trace(make)
