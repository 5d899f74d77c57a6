"""Calls, inside a traced module, every op for which the installed torch has a cast policy on CUDA; prints JSON.

A program of its own, since importing PyTorch's test lists freezes the flags of ``torch.backends`` for a whole process.
Most calls are those by which PyTorch tests its own autocast (``AutocastTestLists``); the rest are written here.

It prints ``{"cast": [[op, wanted, found], ...], "refused": {op: message}}``; `wanted` is the name of a dtype, `found`
those of the floating results.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import nn
from torch.testing._internal.autocast_test_lists import AutocastTestLists

from foretrace.tracer import trace

LISTS = {
    "torch_fp16": (torch, torch.float16),
    "nn_fp16": (torch._C._nn, torch.float16),
    "linalg_fp16": (torch._C._linalg, torch.float16),
    "methods_fp16": (torch.Tensor, torch.float16),
    "torch_fp32": (torch, torch.float32),
    "nn_fp32": (torch._C._nn, torch.float32),
    "methods_fp32": (torch.Tensor, torch.float32),
    "torch_need_autocast_promote": (torch, torch.float32),
    "torch_expect_builtin_promote": (torch, torch.float32),
    "methods_expect_builtin_promote": (torch.Tensor, torch.float32),
}
"""Where the ops of each of PyTorch's lists are called, and the dtype that its test wants of them."""

NO_CALL = ("einsum", "__div__", "cudnn_convolution", "cudnn_convolution_transpose")
"""Entries that cannot be called: the first two in no program (the entry of the one is no call, Python 3 has no such
method), the others in no trace (only cuDNN's own road calls them, and they have no meta kernel)."""


def _rest() -> list[tuple[str, tuple[Any, ...], dict[str, Any], torch.dtype]]:
    """Ops with a policy that are not called from PyTorch's test lists, with a call of each and the dtype wanted."""
    half, single = torch.float16, torch.float32

    def low(*shape: int) -> torch.Tensor:
        return torch.ones(shape, dtype=half, device="cuda")

    def high(*shape: int) -> torch.Tensor:
        return torch.ones(shape, device="cuda")

    line, plane, cube = low(1, 1, 4), low(1, 1, 4, 4), low(1, 1, 4, 4, 4)
    return [
        ("einsum", ("ij,jk->ik", [high(4, 4), high(4, 4)]), {}, half),
        ("_thnn_fused_lstm_cell", (high(2, 16), high(2, 16), high(2, 4)), {}, half),
        ("_thnn_fused_gru_cell", (high(2, 12), high(2, 12), high(2, 4)), {}, half),
        ("_scaled_dot_product_flash_attention", (high(1, 2, 8, 16),) * 3, {}, half),
        ("scaled_dot_product_attention", (high(1, 2, 8, 16),) * 3, {}, half),
        ("native_layer_norm", (low(2, 4), [4], None, None, 1e-5), {}, single),
        ("frobenius_norm.dim", (low(4, 4), [0, 1]), {}, single),
        ("nuclear_norm", (low(4, 4),), {}, single),
        ("nuclear_norm.dim", (low(4, 4), [0, 1]), {}, single),
        ("huber_loss", (low(4), low(4)), {}, single),
        ("upsample_nearest1d", (line, [8]), {}, single),
        ("_upsample_nearest_exact1d", (line, [8]), {}, single),
        ("upsample_nearest2d", (plane, [8, 8]), {}, single),
        ("_upsample_nearest_exact2d", (plane, [8, 8]), {}, single),
        ("upsample_nearest3d", (cube, [8, 8, 8]), {}, single),
        ("_upsample_nearest_exact3d", (cube, [8, 8, 8]), {}, single),
        ("upsample_linear1d", (line, [8], False), {}, single),
        ("upsample_bilinear2d", (plane, [8, 8], False), {}, single),
        ("_upsample_bilinear2d_aa", (plane, [8, 8], False), {}, single),
        ("upsample_trilinear3d", (cube, [8, 8, 8], False), {}, single),
        ("upsample_bicubic2d", (plane, [8, 8], False), {}, single),
        ("_upsample_bicubic2d_aa", (plane, [8, 8], False), {}, single),
        ("linalg_vector_norm", (low(4),), {}, single),
        ("linalg_matrix_norm", (high(4, 4), 1), {}, single),  # PyTorch refuses float16 here, on CUDA as well
        ("linalg_matrix_norm.str_ord", (high(4, 4), "fro"), {}, single),
        ("linalg_matrix_sqrth", (high(4, 4),), {}, single),
    ]


def _floats(value: Any) -> list[str]:
    """The names of the floating dtypes in a result."""
    items = value if isinstance(value, (tuple, list)) else (value,)
    return sorted({str(t.dtype) for t in items if isinstance(t, torch.Tensor) and t.is_floating_point()})


class Walk(nn.Module):
    """Its forward calls them all."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.cast: list[tuple[str, str, list[str]]] = []
        self.refused: dict[str, str] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            lists = AutocastTestLists(torch.device("cuda"))
            for name, (home, dtype) in LISTS.items():
                for op, args, *more in getattr(lists, name):
                    if op not in NO_CALL:
                        named = next((option for option in more if isinstance(option, dict)), {})
                        self.note(op, dtype, getattr(home, op)(*args, **named))
            for op, args, named, dtype in _rest():
                packet, _, overload = op.partition(".")
                if hasattr(torch.ops.aten, packet):  # an older torch lacks the newest
                    call = getattr(getattr(torch.ops.aten, packet), overload or "default")
                    self.note(op, dtype, call(*args, **named))
            for op, args, home in lists.banned:
                try:
                    getattr(home, op)(*args)
                except RuntimeError as error:
                    self.refused[op] = str(error)
        return (x * self.scale).sum()

    def note(self, op: str, wanted: torch.dtype, result: Any) -> None:
        """Keep what came of one call."""
        self.cast.append((op, str(wanted), _floats(result)))


if __name__ == "__main__":
    walk = Walk()
    trace(walk, (torch.ones(2),), loss=lambda out: out, autocast="float16", device="cuda", warmup=0)
    print(json.dumps({"cast": walk.cast, "refused": walk.refused}))
