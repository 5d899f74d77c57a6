"""Pools and resampling: windows counted one by one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from opbuilder import new, work
from oprecorder import record

from foretrace.costmodels import Work, price_op
from foretrace.costmodels.pooling import adaptive_taps


def test_max_pool_compares_its_window_and_scatters_back():
    made = (new(1, 2, 4, 4), new(1, 2, 4, 4, dtype="int64"))
    forward = work("aten.max_pool2d_with_indices.default", made, self=new(1, 2, 8, 8), kernel_size=(2, 2))
    assert forward == Work(vector_flops=4 * 32, read_bytes=4 * 128, written_bytes=12 * 32)
    given = {"grad_output": made[0], "self": new(1, 2, 8, 8), "indices": made[1]}
    backward = work("aten.max_pool2d_with_indices_backward.default", new(1, 2, 8, 8), **given)
    assert backward == Work(vector_flops=32, read_bytes=12 * 32, written_bytes=4 * 128)


def test_average_pool_with_one_number_for_its_window():
    forward = work("aten.avg_pool2d.default", new(1, 2, 2, 2), self=new(1, 2, 6, 6), kernel_size=(3,))
    assert forward.vector_flops == (9 + 1) * 8


@given(st.integers(1, 12), st.integers(1, 12))
def test_adaptive_windows(length: int, count: int):
    """An average over ones of the window's indicator shows which elements each window holds."""
    pooled = torch.nn.functional.adaptive_avg_pool1d(torch.eye(length)[None], count)
    assert adaptive_taps(new(1, length), new(1, count), 1) == int((pooled > 0).sum())


def test_global_average_pool():
    forward = work("aten._adaptive_avg_pool2d.default", new(2, 3, 1, 1), self=new(2, 3, 7, 7))
    backward = work(
        "aten._adaptive_avg_pool2d_backward.default", new(2, 3, 7, 7), grad_output=new(2, 3, 1, 1), self=new(2, 3, 7, 7)
    )
    assert forward.vector_flops == backward.vector_flops == 6 * 49 + 6
    assert backward.read_bytes == 24


@pytest.mark.parametrize(("mode", "flops"), [("nearest", 0), ("bilinear", 8), ("bicubic", 32)])
def test_upsampling_weighs_its_neighbours(mode: str, flops: int):
    image = torch.randn(1, 2, 4, 4)
    ops = record(lambda: torch.nn.functional.interpolate(image, scale_factor=2, mode=mode))
    assert sum(price_op(op).work.vector_flops for op in ops) == flops * 128


def test_grid_sample_reads_at_most_the_image():
    image, grid = new(1, 3, 100, 100), new(1, 5, 5, 2)
    counted = work("aten.grid_sampler_2d.default", new(1, 3, 5, 5), input=image, grid=grid, interpolation_mode=0)
    assert counted == Work(
        # three to place each of two coordinates, two to weigh each of four neighbours; a multiply-add per channel
        vector_flops=25 * (3 * 2 + 2 * 4) + 2 * 4 * 75,
        read_bytes=4 * 50 + 4 * 4 * 75,
        written_bytes=4 * 75,
    )


def test_grid_sample_backward_gives_image_and_grid_their_gradients():
    image, grid, gradient = new(1, 3, 4, 4), new(1, 5, 5, 2), new(1, 3, 5, 5)
    given = {"grad_output": gradient, "input": image, "grid": grid, "interpolation_mode": 0}
    made = (new(1, 3, 4, 4), new(1, 5, 5, 2))
    both = work("aten.grid_sampler_2d_backward.default", made, **given, output_mask=(True, True))
    only = work("aten.grid_sampler_2d_backward.default", (None, made[1]), **given, output_mask=(False, True))
    placing = 25 * (3 * 2 + 2 * 4)
    assert both.vector_flops == placing + (2 + 4) * 4 * 75
    assert only.vector_flops == placing + 4 * 4 * 75
    assert both.written_bytes - only.written_bytes == 2 * image.bytes
    cudnns = work("aten.cudnn_grid_sampler_backward.default", made, self=image, grid=grid, grad_output=gradient)
    assert cudnns == both
