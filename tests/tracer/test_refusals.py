"""Dtypes that kernels refuse: the calls of PyTorch's test lists with one tensor in another dtype, and those of CUDA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from programs import printed
from torch import nn

from foretrace.graph import ForetraceError, StepGraph
from foretrace.tracer import trace

MISSED = {
    *("_batch_norm_with_update", "_native_batch_norm_legit", "_segment_reduce", "_softmax_backward_data"),
    *("_unsafe_masked_index_put_accumulate", "cdist", "nn.functional.embedding_bag", "nn.functional.ctc_loss"),
    *("allclose", "index_copy", "masked_select", "nn.functional.conv_transpose3d"),
    *("nn.functional.linear_cross_entropy", "normal", "put"),
}
"""Ops that end in one of PyTorch's inner ones, which are not tried, or whose small call fails in any dtype."""
FALSE = {"_unsafe_masked_index", "_unsafe_masked_index_put_accumulate"}
"""Ops whose meta kernels are stricter than the real ones; only compilers call them."""


def test_a_trace_refuses_the_dtypes_that_kernels_of_the_cpu_refuse() -> None:
    found = printed("mixed_dtypes.py")
    assert found["both"] > 400
    assert set(found["false"]) <= FALSE
    assert {name for name in found["missed"] if not name.startswith("torch.ops")} <= MISSED


class Model(nn.Module):
    def __init__(self, forward: Callable[[Model, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer, self.norm, self.called = nn.Linear(64, 64), nn.LayerNorm(64), forward
        self.groups, self.batch = nn.GroupNorm(4, 64), nn.BatchNorm1d(64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.called(self, x).float().sum()


def traced(forward: Callable[[Model, torch.Tensor], torch.Tensor], **options: Any) -> StepGraph:
    """The step on 512 rows, which are too many for values."""
    return trace(Model(forward), (torch.ones(512, 64),), loss=lambda out: out, warmup=0, **options)


REFUSED: dict[str, tuple[Callable[[Model, torch.Tensor], torch.Tensor], str]] = {
    "a half into float32 weights": (lambda m, x: m.layer(x.half()), "mat1 and mat2 must have the same dtype"),
    "numbers of words into a layer": (lambda m, x: m.layer(x.long()), "mat1 and mat2 must have the same dtype"),
    "a product of two dtypes": (lambda m, x: m.layer(x) @ m.layer.weight.half(), "same dtype"),
    "targets of int32": (
        lambda m, x: F.cross_entropy(m.layer(x), torch.zeros(512, dtype=torch.int32, device=x.device)),
        "expected target dtype|expected scalar type",
    ),
    "attention of two dtypes": (
        lambda m, x: F.scaled_dot_product_attention(*(3 * [m.layer(x)[None]])[:2], m.layer(x)[None].half()),
        "dtype",
    ),
}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", REFUSED)
def test_the_step_ends_with_the_words_of_pytorch(name: str, device: str) -> None:
    forward, words = REFUSED[name]
    with pytest.raises(ForetraceError, match=words):
        traced(forward, device=device)


NORMS: dict[str, Callable[[Model, torch.Tensor], torch.Tensor]] = {
    "layer norm": lambda m, x: m.norm(m.layer(x).half()),
    "group norm": lambda m, x: m.groups(m.layer(x).half().T[None]),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_of_halves_with_float32_weights_are_for_the_cpu_only(name: str) -> None:
    traced(NORMS[name], device="cpu")
    with pytest.raises(ForetraceError, match="expected scalar type Half but found Float"):
        traced(NORMS[name], device="cuda")
    traced(NORMS[name], device="cuda", autocast="float16")


TAKEN: dict[str, Callable[[Model, torch.Tensor], torch.Tensor]] = {
    "sums of two dtypes": lambda m, x: m.layer(x) + x.half(),
    "a batch norm of halves": lambda m, x: m.batch(m.layer(x).half()),
    "a group norm of one element a channel": lambda m, x: m.groups(m.layer(x).detach().half()) + m.layer(x),
    "a layer of halves": lambda m, x: m.norm.bfloat16()(m.layer(x).bfloat16()),
    "float64 targets of a loss": lambda m, x: F.mse_loss(m.layer(x), x.double()),
    "an index of int32": lambda m, x: m.layer(x).index_select(0, torch.zeros(3, dtype=torch.int32, device=x.device)),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_a_gpu_takes_goes_on(name: str) -> None:
    assert traced(TAKEN[name], device="cuda").ops
