"""Turns Fourier transforms into work: 5 N log2 N FLOPs for a complex transform of N numbers.

*Spectral* is what goes from places to frequencies and back. The count is that of the radix-2 algorithm, by which
libraries are compared whatever they do; where one side is real, half of it: http://www.fftw.org/speed/method.html.
"""

from __future__ import annotations

from math import log2, prod

from ..graph import Op, Tensor
from .rules import rule
from .work import Work, moves

COMPLEX_FLOPS = 5
"""For each number and each halving of the length."""


@rule("aten._fft_c2c")
def complex_to_complex(op: Op) -> Work:
    """Every number takes part once for each halving of the lengths that are transformed."""
    return moves(op, vector_flops=_flops(op, op.tensor("self")))


@rule("aten._fft_r2c")
def real_to_complex(op: Op) -> Work:
    """Half of a complex transform of the input."""
    return moves(op, vector_flops=_flops(op, op.tensor("self")) // 2)


@rule("aten._fft_c2r")
def complex_to_real(op: Op) -> Work:
    """Half of a complex transform of the result."""
    return moves(op, vector_flops=_flops(op, op.outputs[0]) // 2)


def _flops(op: Op, value: Tensor) -> int:
    dims = op.args["dim"]
    assert isinstance(dims, tuple)
    length = prod(value.shape[dim] for dim in dims if isinstance(dim, int))
    return round(COMPLEX_FLOPS * value.numel * log2(length)) if length > 1 else 0
