"""Fourier transforms in half precision on a GPU: the composite lines written again do what PyTorch's do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from foretrace.graph import ForetraceError
from foretrace.tracer import trace
from foretrace.tracer.spectral import TRANSFORMS

LINE: list[tuple[Any, ...]] = [(), (8,), (20, 1), (None, -2, "ortho"), (7, -1, "forward"), (None, 0, "backward")]
PLANE: list[tuple[Any, ...]] = [(), ((8, 20),), ((5, 9), (0, 2)), (None, (-1, -3), "ortho"), (None, (0, 1), "forward")]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_each_is_what_pytorch_makes_of_float32(name: str) -> None:
    torch.manual_seed(0)
    run, left_out = TRANSFORMS[name]
    stock = getattr(torch.fft, name.removeprefix("fft_"))
    takes_complex = name not in ("fft_rfft", "fft_ihfft", "fft_rfftn", "fft_rfft2")
    for x in [torch.randn(6, 10, 12), *([torch.randn(6, 10, 12, dtype=torch.complex64)] if takes_complex else [])]:
        for given in PLANE if name[-1] in "n2" else LINE:
            torch.testing.assert_close(run(x, *given, *left_out[len(given) :]), stock(x, *given))


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.fft.irfft(torch.fft.rfft(self.layer(x)) * 2)
        return (torch.fft.fftn(y, dim=(0, 1)).real + y).float().sum()


def test_a_gpu_transforms_float16_and_no_bfloat16() -> None:
    how: dict[str, Any] = {"loss": lambda out: out, "device": "cuda"}
    graph = trace(Mixer(), (torch.randn(8, 16),), autocast="float16", **how)
    made = {op.packet: op.outputs[0].dtype for op in graph.ops if op.packet.startswith("aten._fft")}
    assert made == {"aten._fft_r2c": "complex32", "aten._fft_c2r": "float16", "aten._fft_c2c": "complex32"}
    with pytest.raises(ForetraceError, match="Unsupported dtype BFloat16"):
        trace(Mixer(), (torch.randn(8, 16),), autocast="bfloat16", **how)
    with pytest.raises(ForetraceError, match="Unsupported dtype Half"):
        trace(Mixer().half(), (torch.randn(8, 16).half(),), loss=lambda out: out, device="cpu")
