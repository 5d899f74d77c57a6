"""CUDA's cast policies, op by op, against the lists by which PyTorch tests its own autocast, and its registrations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from programs import printed
from torch import nn

from foretrace.graph import ForetraceError, StepGraph
from foretrace.tracer import trace
from foretrace.tracer.autocast import policies

KEEPS_FLOAT32 = {"_scaled_dot_product_flash_attention": "torch.float32"}
"""Results that no cast reaches: the logarithm of the sum of a row, which the kernel writes in float32."""


@pytest.fixture(scope="module")
def walked() -> dict[str, Any]:
    return printed("autocast_walk.py")


def test_every_op_is_cast_as_cuda_casts_it(walked: dict[str, Any]) -> None:
    wrong = []
    for op, wanted, found in walked["cast"]:
        expected = {wanted, KEEPS_FLOAT32[op]} if op in KEEPS_FLOAT32 else {wanted}
        if found and set(found) != expected:
            wrong.append((op, wanted, found))
    assert len(walked["cast"]) > 130 and wrong == []


def test_the_walk_calls_every_op_that_has_a_policy(walked: dict[str, Any]) -> None:
    called = {op for op, _, _ in walked["cast"]}
    names = [name for ops in policies().values() for name in ops]
    assert len(names) > 100
    assert [name for name in names if name not in called and name.partition(".")[0] not in called] == []


def test_the_policies_are_those_for_which_torch_has_a_kernel_of_cuda() -> None:
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    ours = {f"aten::{name}" for ops in policies().values() for name in ops}
    theirs = {name for name in torch._C._dispatch_get_all_op_names() if has(name, "AutocastCUDA")}
    own_road = {"aten::cudnn_convolution", "aten::cudnn_convolution_transpose"}  # no step calls them but inside cuDNN's
    own_rule = {"aten::binary_cross_entropy", "aten::_cudnn_rnn"}
    only_there = {"aten::_cudnn_rnn"}  # a CPU build of torch has no kernel of it
    assert theirs - ours - own_road | only_there == own_rule
    assert ours <= theirs


def test_what_autocast_refuses_on_cuda_is_refused_in_its_words(walked: dict[str, Any]) -> None:
    assert list(walked["refused"]) == ["binary_cross_entropy"]
    assert "unsafe to autocast" in walked["refused"]["binary_cross_entropy"]


class Scored(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy(torch.sigmoid(self.layer(x)), torch.rand_like(x))


def test_a_model_with_that_loss_gets_one_line_and_the_mend() -> None:
    options: dict[str, Any] = {"loss": lambda out: out, "device": "cuda", "warmup": 0}
    with pytest.raises(ForetraceError, match="unsafe to autocast"):
        trace(Scored(), (torch.ones(2, 4),), autocast="float16", **options)
    trace(Scored(), (torch.ones(2, 4),), **options)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(64, 128, num_layers=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.layer(x)[0]
        assert out.dtype is (torch.float16 if torch.is_autocast_enabled("cuda") else torch.float32)
        return out.float().sum()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_recurrent_layers_run_in_float16_with_their_weights_in_one_buffer(dtype: str) -> None:
    model = Recurrent()
    count = sum(p.numel() for p in model.parameters())
    step = trace(model, (torch.ones(20, 4, 64),), loss=lambda out: out, autocast=dtype, device="cuda", warmup=0)
    layer = next(op for op in step.ops if op.name == "aten._cudnn_rnn.default")
    assert {tensor.dtype for tensor in layer.inputs} == {"float16"}
    buffers = {tensor.storage for tensor in layer.inputs if tensor.shape == (512, 128)}
    assert [step.storages[number].bytes for number in buffers] == [2 * count]
    casts = [op for op in step.ops if op.phase == "backward" and op.name == "aten._to_copy.default"]
    made = [tensor for op in casts for tensor in op.outputs if tensor.dtype == "float32"]
    assert sum(tensor.numel for tensor in made) == count


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_heading_tells_the_regions_that_a_step_opens_itself(device: str) -> None:
    class Model(Recurrent):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast(device, dtype=torch.bfloat16), torch.autocast(device, enabled=False):
                return self.layer(x)[0].sum()

    def told(**options: Any) -> tuple[tuple[str, ...], str]:
        facts = trace(Model(), (torch.ones(2, 2, 64),), loss=lambda out: out, device=device, **options).facts
        return facts.own_autocast, facts.precision

    assert told() == (("bfloat16",), "bfloat16 autocast of its own")
    assert told(autocast="bfloat16") == ((), "bfloat16 autocast")
    if device == "cuda":
        assert told(autocast="float16") == (("bfloat16",), "float16 autocast")


def _casts(step: StepGraph, phase: str = "forward") -> list[tuple[tuple[int, ...], str]]:
    """Shape and dtype of what each cast made."""
    made = [op.outputs[0] for op in step.ops if op.phase == phase and op.name == "aten._to_copy.default"]
    return [(tensor.shape, tensor.dtype) for tensor in made]


def _traced(forward: Callable[[nn.Linear, torch.Tensor], torch.Tensor], **options: Any) -> StepGraph:
    """The step of a layer of weight 8 x 8 on an input of 2 x 8, in float16 autocast on CUDA."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return forward(self.layer, x).float().sum()

    given: dict[str, Any] = {"loss": lambda out: out, "autocast": "float16", "device": "cuda", "warmup": 0} | options
    return trace(Model(), (torch.ones(2, 8),), **given)


WEIGHT = (8, 8)


def test_a_weight_is_cast_once_in_a_region() -> None:
    step = _traced(lambda layer, x: layer(layer(layer(x))))
    assert _casts(step).count((WEIGHT, "float16")) == 1


def test_a_weight_is_cast_again_in_the_next_region_but_not_after_an_inner_one() -> None:
    def inner(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cuda", dtype=torch.float16):
            x = layer(x)
        return layer(x)

    def after(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            with torch.autocast("cuda", dtype=torch.float16):
                x = layer(x)
        return x

    assert _casts(_traced(inner)).count((WEIGHT, "float16")) == 1
    assert _casts(_traced(after, autocast=None)).count((WEIGHT, "float16")) == 2


def test_without_the_cache_every_use_casts() -> None:
    def forward(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cuda", dtype=torch.float16, cache_enabled=False):
            return layer(layer(x))

    assert _casts(_traced(forward, autocast=None)).count((WEIGHT, "float16")) == 2


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("first", [True, False])
def test_uses_without_a_gradient_are_cast_as_the_cpu_really_casts_them(mode: Any, first: bool) -> None:
    """The copy of a weight serves uses with a gradient, too; in inference mode there is no cache at all."""

    def forward(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        y = layer(x) if not first else x
        with mode():
            layer(x)
        return layer(x) + y

    cpu, gpu = (_traced(forward, device=device, autocast="bfloat16") for device in ("cpu", "cuda"))
    for phase in ("forward", "backward"):
        assert _casts(gpu, phase) == _casts(cpu, phase)
        assert _casts(gpu, phase)


CALLS: dict[str, Callable[[nn.Linear, torch.Tensor], torch.Tensor]] = {
    "linear": lambda layer, x: nn.functional.linear(x, layer.weight, x[0].exp()),
    "addmm": lambda layer, x: torch.addmm(x[0].exp(), x, layer.weight),
    "baddbmm": lambda layer, x: torch.baddbmm(x[None, :1].exp(), x[None], layer.weight[None]),
    "matmul": lambda layer, x: x.exp() @ layer.weight,
    "conv1d": lambda layer, x: nn.functional.conv1d(x[None, :, :7].exp(), layer.weight[None, :2, :3], x[0, :1].exp()),
    "by name": lambda layer, x: torch.addmm(x[0].exp(), mat1=x, mat2=layer.weight),
}


@pytest.mark.parametrize("name", CALLS)
def test_arguments_are_cast_in_the_order_of_pytorchs_builds(name: str) -> None:
    """From the last to the first, as the CPU's casts are: one template makes both."""
    cpu, gpu = (_traced(CALLS[name], device=device, autocast="bfloat16") for device in ("cpu", "cuda"))
    assert _casts(gpu) == _casts(cpu)
    assert len(_casts(gpu)) >= 3


def test_an_inner_region_may_be_off_or_of_another_dtype() -> None:
    found: list[torch.dtype] = []

    def forward(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        x = layer(x)
        found.append(x.dtype)
        with torch.autocast("cuda", enabled=False):
            x = layer(x.float())
            found.append(x.dtype)
            with torch.autocast("cuda", dtype=torch.bfloat16):
                found.append((x @ x.T).dtype)  # the cache would give the weight in float16, and PyTorch would refuse it
        x = layer(x)
        found.append(x.dtype)
        return x

    _traced(forward)
    assert found == [torch.float16, torch.float32, torch.bfloat16, torch.float16]


class Doubled(torch.autograd.Function):
    """Twice its input, in float32 whatever the region says."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda", cast_inputs=torch.float32)
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight * 2

    @staticmethod
    @torch.amp.custom_bwd(device_type="cuda")
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return grads[0] @ weight.T * 2, x.T @ grads[0] * 2


def test_a_function_of_the_users_has_its_inputs_cast_and_autocast_off() -> None:
    step = _traced(lambda layer, x: Doubled.apply(layer(x), layer.weight))
    products = [(op.phase, op.inputs[0].dtype) for op in step.ops if op.packet == "aten.mm"]
    assert products == [
        ("forward", "float16"),
        ("forward", "float32"),
        ("backward", "float32"),
        ("backward", "float32"),
        ("backward", "float16"),
    ]


def _scaled(fused: bool) -> StepGraph:
    """A float16 step with a gradient scaler, which is made in the warm-up step."""
    kept: dict[str, torch.amp.GradScaler] = {}

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
        scaler = kept.setdefault("scaler", torch.amp.GradScaler("cuda"))
        with torch.autocast("cuda", dtype=torch.float16):
            loss = model(x).float().mean() / 100  # so that the scaled gradients are finite in float16
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    made = partial(torch.optim.AdamW, fused=fused)
    return trace(nn.Linear(8, 8), (torch.ones(2, 8),), step=step, optimizer=made, device="cuda", warmup=1)


def test_a_gradient_scaler_unscales_before_the_step_that_it_takes() -> None:
    step = _scaled(fused=False)
    names = [op.name for op in step.ops]
    unscale = names.index("aten._amp_foreach_non_finite_check_and_unscale_.default")
    update = next(i for i, name in enumerate(names) if "addcdiv" in name)
    assert unscale < update < names.index("aten._amp_update_scale_.default")
    assert [tensor.shape for tensor in step.ops[unscale].inputs[:2]] == [(8, 8), (8,)]


def test_a_fused_optimizer_unscales_by_itself() -> None:
    step = _scaled(fused=True)
    update = next(op for op in step.ops if op.name == "aten._fused_adamw_.default")
    assert update.tensor("grad_scale").shape == () and update.tensor("found_inf").shape == ()
