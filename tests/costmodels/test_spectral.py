"""Fourier transforms: 5 N log2 N, and half of it where one side is real."""

from __future__ import annotations

from opbuilder import new, work

from foretrace.costmodels import Work

COMPLEX, HALF = new(3, 8, 16, dtype="complex64"), new(3, 8, 9, dtype="complex64")


def test_complex_transforms_of_one_and_two_dimensions() -> None:
    one = work("aten._fft_c2c.default", COMPLEX, self=new(3, 8, 16, dtype="complex64"), dim=(2,))
    assert one == Work(vector_flops=5 * 384 * 4, read_bytes=8 * 384, written_bytes=8 * 384)
    assert work("aten._fft_c2c.default", COMPLEX, self=COMPLEX, dim=(1, -1)).vector_flops == 5 * 384 * 7


def test_real_transforms_are_half_as_much() -> None:
    assert work("aten._fft_r2c.default", HALF, self=new(3, 8, 16), dim=(2,)).vector_flops == 5 * 384 * 4 // 2
    assert work("aten._fft_c2r.default", new(3, 8, 16), self=HALF, dim=(2,)).vector_flops == 5 * 384 * 4 // 2


def test_a_transform_of_one_number_is_none() -> None:
    assert work("aten._fft_c2c.default", new(3, 1), self=new(3, 1), dim=(1,)).vector_flops == 0
