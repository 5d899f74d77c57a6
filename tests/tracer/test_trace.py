"""The door: what a trace says of the step, what it leaves as it was, and what bad input gets."""

from __future__ import annotations

import copy
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import foretrace
from foretrace.costmodels import timeline
from foretrace.graph import Category, ForetraceError, Phase, StepGraph
from foretrace.tracer import Step, trace, trace_target
from small_models import GPT, MODELS, gpt

# -- what is recorded -----------------------------------------------------------------------------


def test_each_op_knows_its_phase_module_line_and_forward_op() -> None:
    graph = trace(*_model_and_inputs(), device="cpu")
    first = next(op for op in graph.ops if op.name == "aten.native_layer_norm.default")
    assert (first.phase, first.module) == (Phase.FORWARD, "h.0.norm1")
    assert first.source is not None and first.source.file.endswith("tests/support/small_models.py")
    gradient = [op for op in graph.ops if op.name == "aten.native_layer_norm_backward.default"]
    forward = [graph.ops[op.forward] for op in gradient]
    assert [op.name for op in forward] == ["aten.native_layer_norm.default"] * 7
    assert [op.module for op in gradient] == [op.module for op in forward]
    assert [op.source for op in gradient] == [op.source for op in forward]
    assert gradient[0].module == "norm"


def test_phases_follow_each_other() -> None:
    graph = trace(*_model_and_inputs(), device="cpu")
    assert [span.phase for span in graph.spans] == ["forward", "backward", "optimizer", "zero_grad"]


def test_bytes_of_parameters_gradients_and_state_are_those_of_the_module() -> None:
    model, inputs = _model_and_inputs()
    graph = trace(model, inputs, device="cpu")
    expected = sum(p.numel() * 4 for p in model.parameters())
    count = len(list(model.parameters()))
    found = dict.fromkeys(Category, 0)
    for storage in graph.storages:
        found[storage.category] += storage.bytes
    assert found[Category.PARAMETER] == expected
    assert found[Category.GRADIENT] == expected
    assert found[Category.OPTIMIZER_STATE] == 2 * expected + 4 * count  # two moments, and a float32 step count each
    assert found[Category.INPUT] == 4 * 32 * 8 * 2


def test_the_very_first_step_gives_birth_to_optimizer_state() -> None:
    model, inputs = _model_and_inputs()
    first, steady = (trace(model, inputs, device="cpu", warmup=n) for n in (0, 1))
    assert all(s.born is not None for s in first.storages if s.category is Category.OPTIMIZER_STATE)
    assert all(s.born is None for s in steady.storages if s.category is Category.OPTIMIZER_STATE)
    assert timeline(first).start_bytes < timeline(steady).start_bytes


@pytest.mark.parametrize(
    ("device", "choice", "implementation"),
    [("cpu", "adamw", "for-loop"), ("cuda", "adamw", "foreach"), ("cuda", "adamw:fused", "fused")],
)
def test_the_optimizer_runs_as_torch_would_choose(device: str, choice: str, implementation: str) -> None:
    graph = trace(*_model_and_inputs(), device=device, optimizer=choice)
    assert graph.facts.optimizer["implementation"] == implementation


def test_the_same_step_gives_the_same_trace() -> None:
    model, inputs = _model_and_inputs()
    first, second = (trace(model, inputs, device="cuda") for _ in range(2))
    assert (first.ops, first.storages, first.events) == (second.ops, second.storages, second.events)


def test_a_model_on_meta_traces_like_a_real_one() -> None:
    _, inputs = _model_and_inputs()
    with torch.device("meta"):
        meta = GPT()
    real, built = trace(GPT(), inputs, device="cuda"), trace(meta, inputs, device="cuda")
    assert [op.name for op in real.ops] == [op.name for op in built.ops]
    assert [e.bytes for e in real.events] == [e.bytes for e in built.events]
    assert all(p.is_meta for p in meta.parameters())


def test_a_callable_is_built_without_memory() -> None:
    """The weight alone would take 400 GB."""
    graph = trace(lambda: (nn.Linear(100_000, 1_000_000), "float32[2, 100000]", torch.sum), device="cuda")
    assert graph.facts.parameters[0].shape == (1_000_000, 100_000)
    assert timeline(graph).peak_bytes > 4 * 4 * 10**11


def test_an_own_step_function_is_followed() -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: dict) -> None:
        for _ in range(2):
            (model(**inputs) / 2).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    graph = trace(*_model_and_inputs(), step=step, device="cpu")
    assert [s.phase for s in graph.spans[:4]] == ["forward", "backward", "forward", "backward"]
    accumulated = [op for op in graph.ops if op.name == "aten.add_.Tensor" and op.phase is Phase.BACKWARD]
    gradients = {s.id for s in graph.storages if s.category is Category.GRADIENT}
    assert gradients <= {op.outputs[0].storage for op in accumulated}


@pytest.mark.parametrize("warmup", [1, 2, 3])
def test_gradients_that_a_step_drops_first_are_gradients_by_name(warmup: int) -> None:
    def step(model: nn.Module, optimizer: None, inputs: dict) -> None:
        model.zero_grad()
        model(**inputs).backward()

    graph = trace(*_model_and_inputs(), step=step, optimizer=None, device="cuda", warmup=warmup)
    dropped = {s.name: s.bytes for s in graph.at_start if s.category is Category.GRADIENT}
    kept = {s.name: s.bytes for s in graph.storages if s.category is Category.GRADIENT and s.died is None}
    assert dropped == kept and len(kept) == len(list(graph.facts.parameters))


def test_inference_keeps_nothing_for_backward() -> None:
    graph = trace(*_model_and_inputs(), step="inference", device="cuda")
    assert {s.category for s in graph.storages} <= {
        Category.PARAMETER,
        Category.INPUT,
        Category.TEMPORARY,
    }


# -- what the model is told -----------------------------------------------------------------------


class Curious(nn.Module):
    """Takes branches on values, devices and types, as library code does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))
        self.seen: list[object] = []

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        mask = torch.arange(4, device=x.device) < lengths.max()
        self.seen = [
            str(x.device),
            x.is_cuda,
            type(x) is torch.Tensor,
            isinstance(self.weight, nn.Parameter),
            int(lengths.max()),
            bool(mask.all()),
            lengths.tolist(),
            torch.cuda.is_available(),
            (x.to(x.device) is x, x.cpu().device.type),
            torch.zeros(2, device="cuda" if x.is_cuda else "cpu").device.type,
        ]
        _SEEN.append(self.seen)
        return (x @ self.weight).sum()


_SEEN: list[list[object]] = []


def test_the_model_sees_a_gpu_and_its_small_values() -> None:
    trace(Curious(), (torch.randn(2, 4), torch.tensor([3, 2])), device="cuda")
    assert _SEEN[-1] == ["cuda:0", True, True, True, 3, False, [3, 2], True, (True, "cpu"), "cuda"]


def test_the_model_sees_the_cpu_as_it_is() -> None:
    trace(Curious(), (torch.randn(2, 4), torch.tensor([4, 2])), device="cpu")
    available = torch.cuda.is_available()
    assert _SEEN[-1] == ["cpu", False, True, True, 4, True, [4, 2], available, (True, "cpu"), "cpu"]


def test_attention_runs_the_kernel_of_its_dtype_and_tells_why() -> None:
    model, inputs = _model_and_inputs()
    plain = trace(model, inputs, device="cuda")
    mixed = trace(model, inputs, device="cuda", autocast=torch.bfloat16)
    names = {op.name.split(".")[1] for op in plain.ops}, {op.name.split(".")[1] for op in mixed.ops}
    assert "_scaled_dot_product_efficient_attention" in names[0]
    assert "_scaled_dot_product_flash_attention" in names[1]
    assert plain.facts.notes == ("3 times: attention runs the efficient kernel (flash refused: float32)",)
    assert "native_dropout" in names[0]


def test_autocast_casts_each_weight_once_and_keeps_losses_wide() -> None:
    graph = trace(*_model_and_inputs(), device="cuda", autocast="bfloat16")
    casts = [op for op in graph.ops if op.name == "aten._to_copy.default" and op.phase is Phase.FORWARD]
    weights = {n.storage for n in graph.facts.parameters if n.name.endswith("weight")}
    cast = [op.inputs[0].storage for op in casts if op.inputs[0].storage in weights]
    assert len(cast) == len(set(cast)) == 3 * 4 + 1  # four linears in each of three blocks, and the tied head
    (loss,) = [op for op in graph.ops if op.name == "aten.nll_loss_forward.default"]
    assert loss.inputs[0].dtype == "float32"


# -- what is left as it was -----------------------------------------------------------------------


class Breaks(nn.Module):
    """Fails in the forward, with state half changed."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("count", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        self.extra = self.linear(x)
        raise ValueError("no such luck")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("make", [GPT, Breaks])
def test_the_module_and_the_process_are_left_as_they_were(make: Callable[[], nn.Module], device: str) -> None:
    model = make().eval()
    parameter = next(model.parameters())
    parameter.grad = torch.ones_like(parameter)
    parameter.mark = "kept"
    model.register_forward_hook(lambda *_: None)
    inputs = gpt().inputs if isinstance(model, GPT) else (torch.randn(2, 4),)
    before = _snapshot(model)
    if isinstance(model, Breaks):
        with pytest.raises(ForetraceError, match=r"the forward raised ValueError: no such luck .*test_trace\.py"):
            trace(model, inputs, device=device)
    else:
        trace(model, inputs, device=device)
    after = _snapshot(model)
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert torch.equal(value, after[key]) if isinstance(value, torch.Tensor) else value == after[key], key
    model(**inputs) if isinstance(inputs, dict) else None
    assert torch.zeros(2).device.type == "cpu"


def _snapshot(model: nn.Module) -> dict[str, object]:
    found: dict[str, object] = {f"value of {name}": t.detach().clone() for name, t in model.state_dict().items()}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        found[f"identity of {name}"] = (id(tensor), tensor.data_ptr(), tensor.requires_grad, dict(tensor.__dict__))
        found[f"gradient of {name}"] = None if tensor.grad is None else (id(tensor.grad), tensor.grad.sum().item())
    for name, module in model.named_modules():
        found[f"attributes of {name}"] = sorted(module.__dict__)
        found[f"flags of {name}"] = (module.training, len(module._forward_hooks))
    found["random"] = (random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist())
    found["path"] = list(sys.path)
    found["torch"] = (torch.zeros, torch.Tensor.to, torch.Tensor.__dict__.get("device"), torch.autograd.backward)
    found["modes"] = (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda"))
    return found


# -- saved traces ---------------------------------------------------------------------------------


def test_a_saved_trace_prices_identically_without_torch(tmp_path: Path) -> None:
    graph = trace(*_model_and_inputs(), device="cuda", autocast="bfloat16")
    path = tmp_path / "step.foretrace"
    foretrace.save(graph, path)
    assert _fields(foretrace.load(path)) == _fields(graph)
    expected = foretrace.price(graph, on="a100-sxm4-80gb").to_json()
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import foretrace\n"
        f"print(foretrace.price(foretrace.load({str(path)!r}), on='a100-sxm4-80gb').to_json(), end='')"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == expected


def _fields(graph: StepGraph) -> tuple[object, ...]:
    return (graph.ops, graph.storages, graph.events, graph.spans, graph.facts)


# -- bad input ------------------------------------------------------------------------------------


def _model_and_inputs() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    step = MODELS["gpt"]()
    return step.model, step.inputs


@torch.library.custom_op("foretrace_tests::opaque", mutates_args=())
def opaque(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


class Opaque(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.foretrace_tests.opaque(x).sum()


class Endless(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while x.sum().item() < 1:
            x = x * 0
        return x.sum()


class Host(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(x.numpy().mean())


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "wrong shape": (
        lambda: trace(nn.Linear(4, 4), (torch.randn(2, 5),)),
        "must have same reduction dim, but got [2, 5] X [4, 4]",
    ),
    "wrong dtype": (lambda: trace(nn.Embedding(4, 4), (torch.randn(2),)), "Expected tensor for argument #1 'indices'"),
    "no loss": (lambda: trace(nn.Linear(4, 4), (torch.randn(2, 4),)), "a tensor of shape (2, 4)"),
    "no module": (lambda: trace(3), "int is neither a module nor callable"),
    "unknown optimizer": (lambda: trace(*_model_and_inputs(), optimizer="adamm"), "Did you mean 'adam'?"),
    "unknown device": (lambda: trace(*_model_and_inputs(), device="tpu"), "no device 'tpu'"),
    "unknown autocast": (lambda: trace(*_model_and_inputs(), autocast="int8"), "Say bfloat16 or float16"),
    "unknown dtype in a spec": (lambda: trace(nn.Linear(4, 4), "x: float33[2, 4]"), "names no dtype of torch: float33"),
    "spec that is none": (lambda: trace(nn.Linear(4, 4), "two by four"), "cannot be read"),
    "spec with a name": (lambda: trace(nn.Linear(4, 4), "float32[batch, 4]"), "the size 'batch' is not set"),
    "spec with a fraction": (lambda: trace(nn.Linear(4, 4), "float32[0.5, 4]"), "a size that is no whole number"),
    "negative warmup": (lambda: trace(*_model_and_inputs(), warmup=-1), "Give 0 for the very first step"),
    "optimizer object": (
        lambda: trace(*_model_and_inputs(), optimizer=torch.optim.SGD([torch.zeros(1, requires_grad=True)])),
        "Give its class",
    ),
    "no meta kernel": (
        lambda: trace(Opaque(), (torch.randn(2, 4, requires_grad=True),)),
        "foretrace_tests.opaque.default cannot be traced",
    ),
    "no end": (lambda: trace(Endless(), (torch.zeros(2, 4),), max_ops=500), "the step goes on after 500 ops, at "),
    "no numpy on a GPU": (
        lambda: trace(Host(), (torch.randn(2, 4),)),
        "can't convert cuda:0 device type tensor to numpy",
    ),
    "no memory": (
        lambda: trace(lambda: np.empty((1 << 40, 64))),  # more than any machine has
        "building the model raised MemoryError: Unable to allocate 512. TiB",
    ),
    "no such file": (lambda: trace_target("nowhere.py:make"), "there is no file nowhere.py"),
    "no such module": (lambda: trace_target("nowhere.at_all:make"), "there is no module nowhere"),
    "no colon": (lambda: trace_target("nowhere"), "is not a target"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_line_and_the_mend(name: str) -> None:
    call, expected = BAD[name]
    with pytest.raises(ForetraceError) as raised:
        call()
    assert expected in str(raised.value)
    assert raised.value.mend
    assert "\n" not in str(raised.value)


def test_a_module_that_fails_in_eager_fails_with_its_own_error_and_line() -> None:
    with pytest.raises(ForetraceError, match=r"\[2, 4\] X \[5, 5\] at 1 \(") as raised:
        trace(nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 5)), (torch.randn(2, 4),), loss=torch.sum)
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_data_dependence_is_an_assumption_that_is_listed() -> None:
    class Picks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(512, 512)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            return F.relu(y)[y > 0].sum()

    graph = trace(Picks(), (torch.randn(2, 512),), device="cpu")
    (assumed,) = graph.facts.assumptions
    assert (assumed["op"], assumed["assumed"]) == ("aten.index.Tensor", "the mask keeps every row")
    assert "test_trace.py" in str(assumed["at"])


def test_a_traced_module_trains_on_afterwards() -> None:
    step = gpt()
    alone, traced = copy.deepcopy(step.model).eval(), copy.deepcopy(step.model).eval()
    trace(traced, step.inputs, device="cuda")
    for model in (alone, traced):
        optimizer = torch.optim.AdamW(model.parameters())
        model(**step.inputs).backward()
        optimizer.step()
    for one, other in zip(alone.parameters(), traced.parameters(), strict=True):
        assert torch.equal(one, other)
    assert isinstance(step, Step)


def test_the_largest_batch_is_found_by_tracing() -> None:
    def at(batch: int) -> StepGraph:
        wide = lambda: (nn.Linear(4096, 1 << 18), f"float32[{batch}, 4096]", torch.sum)  # noqa: E731
        return trace(wide, device="cuda", optimizer="sgd")

    report = foretrace.price(at(1), on="a100-sxm4-80gb")
    best = report.max_batch(at)
    fits = [foretrace.price(at(batch), on="a100-sxm4-80gb").fits for batch in (best, best + 1)]
    assert fits == [True, False]


def test_recurrent_layers_on_meta_are_traced_and_stay_there() -> None:
    """They hold weak references to their weights."""
    with torch.device("meta"):
        layer = nn.LSTM(16, 32, 2)
    weights = list(layer.parameters())
    for device in ("cpu", "cuda"):
        graph = trace(layer, (torch.randn(5, 2, 16),), loss=lambda output: output[0].sum(), device=device)
        assert timeline(graph).start_bytes >= sum(p.numel() * 4 for p in weights)
    assert all(p.is_meta and p is q for p, q in zip(layer.parameters(), weights, strict=True))


def test_a_failing_forward_leaves_meta_parameters_where_they_were() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(16, 32), nn.Linear(16, 4))
    with pytest.raises(ForetraceError, match=r"must have same reduction dim"):
        trace(model, (torch.randn(2, 16),), loss=torch.sum)
    assert all(p.is_meta for p in model.parameters())


class Shared(nn.Module):
    """Tied weights, and two parameters on one storage."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(50, 64), nn.Linear(64, 50, bias=False)
        self.head.weight = self.tokens.weight
        both = torch.randn(128, 64)
        self.one, self.other = nn.Parameter(both[:64]), nn.Parameter(both[64:].t())
        self.register_buffer("table", torch.randn(300, 300))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.tokens(ids) @ self.one @ self.other).sum() + self.table.sum()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_live_at_the_start_is_the_steps_own(device: str) -> None:
    """The tensors that the user gave, which stand aside meanwhile, are no part of it."""
    graph = trace(Shared(), (torch.randint(0, 50, (4, 3000)),), loss=lambda out: out, optimizer="sgd", device=device)
    found = {s.name: s.bytes for s in graph.at_start if s.bytes}
    loss = found.pop("kept from the step before")
    two = 4 * 128 * 64
    assert loss == 4
    assert sum(found.values()) == 4 * 50 * 64 + two + 4 * 300 * 300 + 8 * 4 * 3000
    assert all(s.device.startswith(device) for s in graph.at_start)


def test_what_one_trace_asked_does_not_mislead_the_next() -> None:
    """The same calls have other results where the default dtype is another."""

    class Made(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sum() + torch.linspace(0.0, 1.0, 50_000).sum()

    def made_bytes() -> list[int]:
        graph = trace(Made(), (torch.randn(3, dtype=torch.float32),), step="inference")
        return [op.outputs[0].bytes for op in graph.ops if op.name.startswith("aten.linspace")]

    assert made_bytes() == [200_000]
    torch.set_default_dtype(torch.float64)
    try:
        assert made_bytes() == [400_000]
    finally:
        torch.set_default_dtype(torch.float32)
    assert made_bytes() == [200_000]


def test_a_gradient_survives_a_parameter_that_no_address_is_left_for() -> None:
    model = nn.Module()
    model.small = nn.Parameter(torch.ones(3))
    model.large = nn.Parameter(torch.empty(1 << 42, device="meta"))
    gradients = [torch.ones_like(p) for p in model.parameters()]
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient
    with pytest.raises((MemoryError, ForetraceError)):
        trace(model, (torch.ones(3),), step="inference")
    assert all(p.grad is gradient for p, gradient in zip(model.parameters(), gradients, strict=True))
    assert model.large.is_meta and model.small.tolist() == [1.0, 1.0, 1.0]
