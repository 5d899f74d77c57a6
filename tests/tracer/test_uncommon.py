"""Uncommon roads through PyTorch that libraries take, predicted beside a real run of the same step on the CPU."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import distributions, nn
from torch.ao.quantization import FusedMovingAvgObsFakeQuantize, MovingAveragePerChannelMinMaxObserver

from foretrace.costmodels import price_ops, timeline
from foretrace.graph import Category, ForetraceError, StepGraph, laws
from foretrace.hardware.first_step import first_step
from foretrace.hardware.replay import replay_steps
from foretrace.tracer import Step, measure, trace
from zoo_oddities import applied, mlp

Lines = Callable[[list[nn.Parameter]], None]


def both(make: Callable[[], Step]) -> tuple[StepGraph, dict[str, tuple[int, int]]]:
    """The trace, and predicted beside measured bytes: live at the end of each phase, and at the peak."""
    torch.manual_seed(0)
    step = make()
    graph = trace(step.model, step.inputs, loss=step.loss, optimizer=step.optimizer, step=step.step, device="cpu")
    torch.manual_seed(0)
    real = measure(make())
    told = timeline(graph)
    pairs = {str(p): (told.phases[p].end_bytes - told.start_bytes, end) for p, end in real.ends.items()}
    return graph, {**pairs, "peak": (told.peak_bytes - told.start_bytes, real.peak_bytes)}


def parting(pairs: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Those that differ by more than the numbers which ops wrap and cast inside."""
    return {name: pair for name, pair in pairs.items() if abs(pair[0] - pair[1]) > (16 if name == "peak" else 0)}


class Writing(torch.optim.Optimizer):
    """Writes a quotient where ``out=`` says, and keeps its state in lists and under names of its own."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        self.state.setdefault("means", [torch.zeros(4096), torch.zeros(4096)])
        self.state.setdefault("scale", torch.ones(()))
        for parameter in self.param_groups[0]["params"]:
            size = parameter.grad.abs()
            torch.div(parameter.grad, size + 1.0, out=size)
            parameter.sub_(size.mul_(0.1))


class Keeping(torch.optim.Optimizer):
    """Keeps the last gradient as its state, and lets go of it before it does anything else."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["last"] = parameter.grad
            parameter.sub_(parameter.grad, alpha=0.1)


class Factored(torch.optim.Optimizer):
    """Two vectors for each matrix, multiplied out by an op on lists that broadcasts."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__([p for p in parameters if p.dim() == 2], {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        parameters = self.param_groups[0]["params"]
        rows = [p.grad.square().mean(1, keepdim=True) for p in parameters]
        columns = [p.grad.square().mean(0, keepdim=True) for p in parameters]
        torch._foreach_sub_(parameters, torch._foreach_mul(rows, columns))


@pytest.mark.parametrize("optimizer", [Writing, Factored])
def test_the_peak_in_an_optimizer_of_ones_own(optimizer: Any) -> None:
    def make() -> Step:
        return Step(nn.Linear(256, 256), torch.randn(4, 256), lambda y: y.square().mean(), optimizer)

    graph, pairs = both(make)
    assert parting(pairs) == {}
    kept = [s.bytes for s in graph.storages if s.category is Category.OPTIMIZER_STATE]
    assert kept == ([4096 * 4, 4096 * 4, 4] if optimizer is Writing else [])


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: float(torch.rand(()))])
def test_a_layer_that_is_skipped_at_random_is_skipped_in_both(draw: Callable[[], float]) -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        for block in m.blocks:
            x = block(x) if draw() < 0.5 else x
        return m.head(x)

    def make() -> Step:
        return applied(forward, torch.randn(8, 64), blocks=nn.ModuleList(mlp() for _ in range(8)), head=mlp())

    random.seed(1)
    first, pairs = both(make)
    random.seed(2)
    again, _ = both(make)
    assert parting(pairs) == {} and [op.name for op in first.ops] == [op.name for op in again.ops]


@pytest.mark.parametrize("name", ["mse_loss", "smooth_l1_loss", "soft_margin_loss", "binary_cross_entropy"])
@pytest.mark.parametrize("rows", [32, 256])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_loss_that_is_reduced_keeps_the_memory_of_what_it_is_of(name: str, reduction: str, rows: int) -> None:
    """Few rows have values, many have none."""

    def make() -> Step:
        def loss(y: torch.Tensor) -> torch.Tensor:
            apart = getattr(F, name)(y.sigmoid(), torch.ones_like(y), reduction=reduction)
            return apart.sum() + y.square().mean()

        return Step(nn.Linear(64, 64), torch.randn(rows, 64), loss)

    graph, pairs = both(make)
    assert parting(pairs) == {}
    (op,) = (op for op in graph.ops if op.packet == f"aten.{name}")
    assert graph.storages[op.outputs[0].storage].bytes == rows * 64 * 4


@pytest.mark.parametrize("autocast", [None, "bfloat16"])
def test_transforms_and_generators_on_a_gpu_that_is_not_there(autocast: str | None) -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator(x.device).manual_seed(0)
        assert generator.device == x.device and isinstance(torch.Generator(), torch.Generator)
        noise = torch.randn(x.shape, device=x.device, generator=generator)
        return torch.func.vmap(lambda row: m.body(row + row.new_zeros(64)))(x + noise).float()

    step = applied(forward, torch.randn(8, 64), body=mlp())
    graph = trace(step.model, step.inputs, loss=step.loss, device="cuda", autocast=autocast)
    products = [op for op in graph.ops if op.packet in ("aten.mm", "aten.addmm", "aten.bmm")]
    assert {op.inputs[-1].dtype for op in products} == {autocast or "float32"}
    assert torch.Generator is torch._C.Generator


def test_state_that_is_let_go_before_the_optimizer_runs_is_not_born_in_it() -> None:
    graph = trace(nn.Linear(64, 64), torch.randn(4, 64), loss=torch.sum, optimizer=Keeping, device="cuda")
    first = first_step(graph)
    laws.check(first)
    kept = [s.id for s in graph.at_start if s.category is Category.OPTIMIZER_STATE]
    assert [first.storages[number].bytes for number in kept] == [0, 64 * 4]
    assert replay_steps(graph).last.end == replay_steps([first, graph]).last.end


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_lower_triangle_of_unknown_numbers_is_one(device: str) -> None:
    """The check takes the least of tests along a dimension, and asks whether all of these are true."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        lower = m.net(x).view(-1, 64, 64).tril(-1) + torch.eye(64, device=x.device)
        return distributions.MultivariateNormal(x, scale_tril=lower, validate_args=True).rsample()

    step = applied(forward, torch.randn(32, 64), net=nn.Linear(64, 64 * 64))
    graph = trace(step.model, step.inputs, loss=step.loss, device=device)
    assert {said["assumed"] for said in graph.facts.assumptions} == {"a test of all numbers is passed"}


@pytest.mark.parametrize("by_name", [False, True])
def test_a_closure_is_no_part_of_the_optimizer_that_calls_it(by_name: bool) -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure=closure) if by_name else optimizer.step(closure)  # type: ignore[arg-type]

    adam = torch.optim.Adam
    graph = trace(nn.Linear(8, 8), torch.randn(2, 8), step=step, optimizer=adam, device="cpu")
    phases = {op.packet: str(op.phase) for op in graph.ops}
    assert {phases[name] for name in ("aten.addmm", "aten.mean")} == {"forward"}
    assert (phases["aten.mm"], phases["aten.addcdiv_"]) == ("backward", "optimizer")


def test_a_kernel_that_the_cpu_lacks_for_a_dtype_costs_the_values_and_no_more() -> None:
    """The CPU's kernel takes float32 alone and raises what a mistake would; a GPU's takes half precision, too."""
    step = applied(lambda m, x: m.watch(m.a(x).half()), torch.randn(2, 8), a=nn.Linear(8, 8), watch=_average())
    graph = trace(step.model, step.inputs, loss=step.loss, device="cuda")
    (op,) = (op for op in graph.ops if "_fused_moving_avg_obs_fq_helper." in op.name)
    assert op.inputs[0].dtype == op.outputs[0].dtype == "float16"
    with pytest.raises(ForetraceError, match="expected scalar type"):
        trace(step.model, step.inputs, loss=step.loss, device="cpu")


FIRST_COMPILED = """
import sys, torch
from torch import nn
from foretrace.tracer import trace

class Model(nn.Module):
    def __init__(self, compiled):
        super().__init__()
        self.layer, self.compiled = nn.Linear(8, 8), compiled

    def forward(self, x):
        if self.compiled:
            return torch.compile(mode="default")(torch.relu)(torch.compile(self.layer)(x)).sum()
        return torch.relu(self.layer(x)).sum()

assert "torch._dynamo" not in sys.modules
stock = torch.compile
graphs = [trace(Model(compiled), (torch.ones(2, 8),), loss=lambda y: y, device=sys.argv[1]) for compiled in (1, 0)]
assert torch.compile is stock
assert [op.name for op in graphs[0].ops] == [op.name for op in graphs[1].ops]
assert graphs[0].events == graphs[1].events
"""


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_a_step_compiles_first_runs_as_it_was_written(device: str) -> None:
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", FIRST_COMPILED, device], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def _halved(x: torch.Tensor) -> torch.Tensor:
    return x / 2


def _doubled(x: torch.Tensor) -> torch.Tensor:
    return x + torch.zeros([64], device=x.device) * x


def test_code_is_compiled_in_the_step_of_a_gpu_that_is_not_there() -> None:
    """The compiler reads the source of the functions that it finds, and knows torch's own alone."""
    torch.jit.script(_halved)  # now the compiler has a table of torch's own functions
    step = applied(lambda m, x: m.body(torch.jit.script(_doubled)(x)), torch.randn(8, 64), body=mlp())
    graph = trace(step.model, step.inputs, loss=step.loss, device="cuda")
    assert [op.packet for op in graph.ops][:3] == ["aten.zeros", "aten.mul", "aten.add"]


def _table(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.bag(x)


def _neighbours(m: Any, x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    near = torch.sparse_coo_tensor(places, torch.ones(places.shape[1]), (32, 32))
    return torch.sparse.mm(near, m.a(x))


def _sampled(m: Any, x: torch.Tensor) -> torch.Tensor:
    h = F.softplus(m.a(x)) + 0.1
    return distributions.Normal(h, h).rsample() + distributions.Dirichlet(h).rsample()


def _sequences(m: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    rows = torch.nested.nested_tensor([a, b], layout=torch.jagged)
    return m.a(rows).to_padded_tensor(0.0)


def _observed(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.watch(m.a(x))


def _average() -> nn.Module:
    watch = FusedMovingAvgObsFakeQuantize(
        observer=MovingAveragePerChannelMinMaxObserver, qscheme=torch.per_channel_symmetric, dtype=torch.qint8,
        quant_min=-128, quant_max=127,
    )  # fmt: skip
    return watch.train()


ROADS: dict[str, Callable[[], Step]] = {
    "sparse gradient of a bag": lambda: applied(
        _table, torch.randint(0, 50, (8, 4)), bag=nn.EmbeddingBag(50, 64, sparse=True)
    ),
    "sparse matrix": lambda: applied(
        _neighbours, torch.randn(32, 16), torch.randint(0, 32, (2, 64)), a=nn.Linear(16, 8)
    ),
    "distributions of many numbers": lambda: applied(_sampled, torch.randn(64, 64), a=nn.Linear(64, 512)),
    "sequences padded": lambda: applied(_sequences, torch.randn(5, 32), torch.randn(9, 32), a=nn.Linear(32, 16)),
    "buffers that grow": lambda: applied(_observed, torch.randn(8, 64), a=nn.Linear(64, 64), watch=_average()),
}


@pytest.mark.parametrize("name", ROADS)
def test_live_bytes_on_uncommon_roads(name: str) -> None:
    def make() -> Step:
        step = ROADS[name]()
        step.optimizer = torch.optim.SparseAdam if "bag" in name else "adamw"
        return step

    graph, pairs = both(make)
    assert {phase: pair for phase, pair in parting(pairs).items() if phase != "peak"} == {}
    assert price_ops(graph)


def test_a_layout_that_is_not_known_is_refused_by_name() -> None:
    step = applied(lambda m, x: torch.eye(32).to_sparse_csr() @ m.a(x), torch.randn(32, 16), a=nn.Linear(16, 16))
    with pytest.raises(ForetraceError, match=r"aten\._to_sparse_csr\.default cannot be traced at .*test_uncommon\.py"):
        trace(step.model, step.inputs, loss=step.loss, device="cpu")


INSIDE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "places of a mask": lambda y: y[torch.eye(64, dtype=torch.bool).logical_not()].square().sum(),
    "a mask that is counted": lambda y: y.square().mean() * (y.repeat(1, 8) > 0).sum(),
    "what is subtracted from": lambda y: y.repeat(1, 8).detach().logsumexp(1).mean() + y.mean(),
    "a decomposition": lambda y: torch.linalg.qr(y)[0].mean() + torch.linalg.inv(y @ y.mT + torch.eye(64)).mean(),
}


@pytest.mark.parametrize("name", INSIDE)
def test_what_kernels_take_inside_is_in_the_peak(name: str) -> None:
    def make() -> Step:
        return Step(nn.Linear(64, 64), torch.randn(64, 64), INSIDE[name], optimizer=None)

    graph, pairs = both(make)
    assert parting(pairs) == {}
    assert any(s.category is Category.WORKSPACE and s.bytes > 1024 for s in graph.storages)
