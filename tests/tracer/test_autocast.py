"""CUDA's cast policies, op by op, against the lists by which PyTorch tests its own autocast."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.testing._internal.autocast_test_lists import AutocastTestLists

from foretrace.tracer import trace
from foretrace.tracer.autocast import policies

UNSEEN = ("cudnn_convolution", "cudnn_convolution_transpose", "einsum")
"""Only cuDNN's own road calls the first two; they have no meta kernel, so that a trace refuses them by name. The list's
entry for the third is no call that can be made; it is made of ``bmm``, which is in the list."""

WHERE = {"torch": torch, "nn": torch._C._nn}


def _found(value: Any) -> set[torch.dtype]:
    """The floating dtypes of a result."""
    items = value if isinstance(value, (tuple, list)) else (value,)
    return {t.dtype for t in items if isinstance(t, torch.Tensor) and t.is_floating_point()}


class Walk(nn.Module):
    """Calls every op of one list of PyTorch's."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.scale = name, nn.Parameter(torch.ones(()))
        self.found: dict[str, Any] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lists = AutocastTestLists(torch.device("cuda"))
        home = WHERE[self.name.partition("_")[0]]
        for op, args, *options in getattr(lists, self.name):
            if hasattr(home, op) and op not in UNSEEN:
                named = next((option for option in options if isinstance(option, dict)), {})
                with torch.no_grad():
                    self.found[op] = _found(getattr(home, op)(*args, **named))
        return (x * self.scale).sum()


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("torch_fp16", torch.float16),
        ("nn_fp16", torch.float16),
        ("torch_fp32", torch.float32),
        ("nn_fp32", torch.float32),
        ("torch_need_autocast_promote", torch.float32),
    ],
)
def test_every_op_of_a_list_is_cast_as_cuda_casts_it(name: str, dtype: torch.dtype) -> None:
    walk = Walk(name)
    trace(walk, (torch.ones(2),), loss=lambda out: out, autocast="float16", device="cuda", warmup=0)
    assert walk.found and {op: dtypes for op, dtypes in walk.found.items() if dtypes not in ({dtype}, set())} == {}


def test_the_header_lists_ops_of_every_policy() -> None:
    assert {policy for policy, names in policies().items() if names} == {"lower", "float32", "float32_dtype", "promote"}
    names = {name.partition(".")[0] for ops in policies().values() for name in ops}
    assert not [name for name in names if not hasattr(torch.ops.aten, name)]
