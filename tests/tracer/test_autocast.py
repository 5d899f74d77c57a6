"""CUDA's cast policies, op by op, against the lists by which PyTorch tests its own autocast, and its registrations."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from foretrace.graph import ForetraceError
from foretrace.tracer import trace
from foretrace.tracer.autocast import policies

WALK = Path(__file__).parent.parent / "support" / "autocast_walk.py"

KEEPS_FLOAT32 = {"_scaled_dot_product_flash_attention": "torch.float32"}
"""Results that no cast reaches: the logarithm of the sum of a row, which the kernel writes in float32."""


@pytest.fixture(scope="module")
def walked() -> dict[str, Any]:
    ran = subprocess.run([sys.executable, "-W", "ignore", str(WALK)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


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
