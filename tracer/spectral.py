"""Fourier transforms in half precision, which CUDA has and the CPU has not.

The composite ops refuse float16 where they see a CPU tensor (``promote_type_fft`` in ATen/native/SpectralOps.cpp), so
that their few lines are written here again, for float16 on a GPU alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn.functional import pad

from .record import Recorder
from .signature import decompose

aten = torch.ops.aten
Transform = Callable[..., torch.Tensor]

_BY_ROOT, _BY_SIZE = 1, 2
"""``fft_norm_mode`` of ATen/native/SpectralOpsUtils.h; 0 is none."""


def _mode(norm: str | None, forward: bool) -> int:
    if norm == "ortho":
        return _BY_ROOT
    return _BY_SIZE if (norm == "forward") is forward else 0


def _resized(x: torch.Tensor, dims: Sequence[int], sizes: Sequence[int | None]) -> torch.Tensor:
    """Cut, or filled with zeros, to these sizes."""
    for dim, size in zip(dims, sizes, strict=True):
        if size is not None and size < x.shape[dim]:
            x = x.narrow(dim, 0, size)
        elif size is not None and size > x.shape[dim]:
            x = pad(x, [0, 0] * (x.dim() - 1 - dim) + [0, size - x.shape[dim]])
    return x


def _complex(x: torch.Tensor) -> torch.Tensor:
    return x if x.is_complex() else x.to(x.dtype.to_complex())


def _one(x: torch.Tensor, n: int | None, dim: int, norm: str | None, *, forward: bool) -> torch.Tensor:
    """``fft`` and ``ifft``."""
    dim %= x.dim()
    resized = _resized(x, [dim], [n])
    if x.is_complex():
        return aten._fft_c2c(resized, [dim], _mode(norm, forward), forward)
    found = aten._fft_r2c(resized, [dim], _mode(norm, forward), False)
    return found if forward else found.conj().resolve_conj()


def _real(x: torch.Tensor, n: int | None, dim: int, norm: str | None, *, forward: bool) -> torch.Tensor:
    """``rfft`` and ``ihfft``."""
    dim %= x.dim()
    found = aten._fft_r2c(_resized(x, [dim], [n]), [dim], _mode(norm, forward), True)
    return found if forward else found.conj().resolve_conj()


def _to_real(x: torch.Tensor, n: int | None, dim: int, norm: str | None, *, forward: bool) -> torch.Tensor:
    """``irfft`` and ``hfft``."""
    x, dim = _complex(x), dim % x.dim()
    size = 2 * (x.shape[dim] - 1) if n is None else n
    x = _resized(x, [dim], [None if n is None else n // 2 + 1])
    return aten._fft_c2r(x.conj() if forward else x, [dim], _mode(norm, forward), size)


def _dims(x: torch.Tensor, sizes: Sequence[int] | None, dims: Sequence[int] | None) -> tuple[list[int], list[Any]]:
    count = len(sizes) if sizes is not None else x.dim()
    found = [dim % x.dim() for dim in (dims if dims is not None else range(-count, 0))]
    return found, list(sizes) if sizes is not None else [None] * len(found)


def _several(
    x: torch.Tensor, sizes: Sequence[int] | None, dims: Sequence[int] | None, norm: str | None, *, forward: bool
) -> torch.Tensor:
    """``fftn`` and ``ifftn``."""
    places, wanted = _dims(x, sizes, dims)
    return aten._fft_c2c(_resized(_complex(x), places, wanted), places, _mode(norm, forward), forward)


def _several_real(
    x: torch.Tensor, sizes: Sequence[int] | None, dims: Sequence[int] | None, norm: str | None
) -> torch.Tensor:
    """``rfftn``."""
    places, wanted = _dims(x, sizes, dims)
    return aten._fft_r2c(_resized(x, places, wanted), places, _mode(norm, True), True)


def _several_to_real(
    x: torch.Tensor, sizes: Sequence[int] | None, dims: Sequence[int] | None, norm: str | None
) -> torch.Tensor:
    """``irfftn``."""
    x = _complex(x)
    places, wanted = _dims(x, sizes, dims)
    size = 2 * (x.shape[places[-1]] - 1) if wanted[-1] is None else wanted[-1]
    if wanted[-1] is not None:
        wanted[-1] = size // 2 + 1
    return aten._fft_c2r(_resized(x, places, wanted), places, _mode(norm, False), size)


TRANSFORMS: dict[str, tuple[Transform, tuple[Any, ...]]] = {
    "fft_fft": (partial(_one, forward=True), (None, -1, None)),
    "fft_ifft": (partial(_one, forward=False), (None, -1, None)),
    "fft_rfft": (partial(_real, forward=True), (None, -1, None)),
    "fft_ihfft": (partial(_real, forward=False), (None, -1, None)),
    "fft_irfft": (partial(_to_real, forward=False), (None, -1, None)),
    "fft_hfft": (partial(_to_real, forward=True), (None, -1, None)),
    "fft_fftn": (partial(_several, forward=True), (None, None, None)),
    "fft_ifftn": (partial(_several, forward=False), (None, None, None)),
    "fft_rfftn": (_several_real, (None, None, None)),
    "fft_irfftn": (_several_to_real, (None, None, None)),
    "fft_fft2": (partial(_several, forward=True), (None, (-2, -1), None)),
    "fft_ifft2": (partial(_several, forward=False), (None, (-2, -1), None)),
    "fft_rfft2": (_several_real, (None, (-2, -1), None)),
    "fft_irfft2": (_several_to_real, (None, (-2, -1), None)),
}
"""Each transform, and what its arguments are where they are left out."""


def transform(name: str) -> Callable[[Recorder, Counter[str]], Transform]:
    """What makes the CUDA kernel of one of them."""
    run, left_out = TRANSFORMS[name]
    stock = getattr(aten, name).default

    def make(recorder: Recorder, choices: Counter[str]) -> Transform:
        def transformed(self: torch.Tensor, *given: Any) -> torch.Tensor:
            if self.dtype in (torch.float16, torch.complex32) and recorder.on_gpu(self):
                return run(self, *given, *left_out[len(given) :])
            found: torch.Tensor = decompose(stock, self, *given)
            return found

        return transformed

    return make


KERNELS = {name: transform(name) for name in TRANSFORMS}
"""By the names of the composite ops."""
