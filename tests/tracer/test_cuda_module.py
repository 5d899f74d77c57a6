"""What code that is traced for a GPU is told by ``torch.cuda`` and its likes, on a machine without one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from foretrace.graph import ForetraceError, StepGraph
from foretrace.tracer import trace

OF_THE_DRIVER = {"utilization", "temperature", "power_draw", "clock_rate", "memory_usage", "device_memory_used"}
"""Asked of NVIDIA's management library, which is another package."""
OF_CAPTURE = {"CUDAGraph", "graph", "graph_pool_handle", "make_graphed_callables"}
OF_HANDLES = {
    *("current_blas_handle", "current_solver_handle", "caching_allocator_enable"),
    *("memory_stats_as_nested_dict", "host_memory_stats_as_nested_dict", "get_device_capability"),
}
"""Of libraries that are not there, and what PyTorch has for its own use."""


def stepping(forward: Callable[[torch.Tensor], Any], **options: Any) -> StepGraph:
    """A traced step whose module runs `forward` on its input, on a GPU."""

    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            forward(x)
            return self.layer(x).sum()

    return trace(Asking(), (torch.ones(2, 4),), loss=lambda out: out, device="cuda", warmup=0, **options)


def without_arguments(module: ModuleType) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The module's own public functions that need none."""
    for name, function in vars(module).items():
        if name.startswith("_") or not inspect.isfunction(function):
            continue
        needed = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
        if all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in needed):
            yield name, function


@pytest.mark.parametrize(
    "module", [torch.cuda, torch.cuda.memory, torch.cuda.random, torch.accelerator, torch.accelerator.memory]
)
def test_every_function_that_needs_no_arguments_answers(module: ModuleType) -> None:
    failed: dict[str, str] = {}
    asked = []

    def forward(x: torch.Tensor) -> None:
        for name, function in without_arguments(module):
            asked.append(name)
            try:
                function()
            except Exception as error:
                failed[name] = str(error)

    stepping(forward)
    assert len(asked) > 5
    assert failed.keys() <= OF_THE_DRIVER | OF_HANDLES


def test_what_training_code_calls_in_passing() -> None:
    def forward(x: torch.Tensor) -> None:
        torch.cuda.nvtx.range_push("a layer")
        with torch.cuda.nvtx.range("inside"):
            assert torch.cuda.memory_stats()["allocated_bytes.all.peak"] == 0
        torch.cuda.nvtx.range_pop()
        torch.cuda.set_per_process_memory_fraction(0.5)
        torch.cuda.set_rng_state_all(torch.cuda.get_rng_state_all())
        torch.cuda.set_stream(torch.cuda.Stream())
        x.record_stream(torch.cuda.current_stream())
        assert torch.cuda.memory.max_memory_allocated() == torch.accelerator.max_memory_allocated() == 0

    stepping(forward)


def test_host_memory_can_be_pinned_and_the_gpus_cannot() -> None:
    def pinned(x: torch.Tensor) -> None:
        assert torch.zeros(8).pin_memory().to("cuda", non_blocking=True).is_cuda

    stepping(pinned)
    with pytest.raises(ForetraceError, match=r"cannot pin 'torch\.cuda\.FloatTensor' only dense CPU tensors"):
        stepping(lambda x: x.pin_memory())


@pytest.mark.parametrize(
    ("capability", "l2", "shared"),
    [("7.0", 6 << 20, 98_304), ("8.0", 40 << 20, 166_912), ("9.0", 50 << 20, 232_448), ("12.0", 96 << 20, 101_376)],
)
def test_properties_are_those_of_a_usual_gpu(capability: str, l2: int, shared: int) -> None:
    """The shared memory that a block may ask for: CUDA C++ Programming Guide, by compute capability."""
    found: list[Any] = []
    stepping(lambda x: found.append(torch.cuda.get_device_properties(x.device)), capability=capability)
    assert f"{found[0].major}.{found[0].minor}" == capability
    assert (found[0].L2_cache_size, found[0].shared_memory_per_block_optin) == (l2, shared)


@pytest.mark.parametrize("name", sorted(OF_CAPTURE))
def test_a_cuda_graph_is_refused_with_the_mend(name: str) -> None:
    with pytest.raises(ForetraceError, match="a CUDA graph is captured") as caught:
        stepping(lambda x: getattr(torch.cuda, name)(None))
    assert "Trace the step without it" in caught.value.mend


def test_all_is_as_it_was_afterwards() -> None:
    modules = (torch.cuda, torch.cuda.memory, torch.cuda.random, torch.accelerator, torch.cuda.nvtx, torch.Tensor)
    before = [dict(vars(module)) for module in modules]
    stepping(lambda x: None)
    assert [dict(vars(module)) for module in modules] == before
