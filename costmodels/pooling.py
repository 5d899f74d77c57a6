"""Turns pooling and resampling of images into work.

A *pool* makes one element of a window of them: by their mean or their maximum. *Resampling* (upsample, grid sample)
makes one element of its nearest neighbours, each with a weight. Both cost so much per neighbour.
"""

from __future__ import annotations

from math import prod

from ..graph import Op, Tensor
from .rules import aten, rule
from .work import Work, argument, flags, integer, moves, touched


def window(op: Op, spatial: int) -> int:
    """Elements of the pooling window; one number stands for all dimensions."""
    kernel = op.get("kernel_size", 1)
    sizes = [size for size in (kernel if isinstance(kernel, tuple) else (kernel,)) if isinstance(size, int)]
    return prod(sizes * spatial if len(sizes) == 1 else sizes)


def spatial_dimensions(op: Op) -> int:
    """1, 2 or 3, from the op's name."""
    return next(int(digit) for digit in "123" if f"{digit}d" in op.packet)


@rule(
    *aten(
        "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices max_pool2d mkldnn_max_pool2d "
        "fractional_max_pool2d fractional_max_pool3d"
    )
)
def max_pool(op: Op) -> Work:
    """A comparison for each element of the window."""
    return moves(op, vector_flops=window(op, spatial_dimensions(op)) * op.outputs[0].numel)


@rule(*aten("avg_pool1d avg_pool2d avg_pool3d"))
def average_pool(op: Op) -> Work:
    """An add for each element of the window and one division."""
    return moves(op, vector_flops=(window(op, spatial_dimensions(op)) + 1) * op.outputs[0].numel)


@rule(*aten("avg_pool2d_backward avg_pool3d_backward"))
def average_pool_backward(op: Op) -> Work:
    """One division, then an add into each element of the window. The input is there only for its shape."""
    gradient = op.tensor("grad_output")
    return moves(op, vector_flops=(window(op, spatial_dimensions(op)) + 1) * gradient.numel, read=[gradient])


@rule(
    *aten(
        "max_pool2d_with_indices_backward max_pool3d_with_indices_backward adaptive_max_pool2d_backward "
        "adaptive_max_pool3d_backward fractional_max_pool2d_backward fractional_max_pool3d_backward"
    )
)
def max_pool_backward(op: Op) -> Work:
    """An add into the element that was the maximum. The input is there only for its shape."""
    gradient = op.tensor("grad_output")
    return moves(op, vector_flops=gradient.numel, read=[gradient, op.tensor("indices")])


def adaptive_taps(wide: Tensor, narrow: Tensor, spatial: int) -> int:
    """How many elements all windows of an adaptive pool hold together, windows that overlap included.

    Window i of n over a length L spans floor(i * L / n) to ceil((i + 1) * L / n).
    """
    result = prod(narrow.shape[: len(narrow.shape) - spatial])
    for length, count in zip(wide.shape[-spatial:], narrow.shape[-spatial:], strict=True):
        result *= sum(-(-(i + 1) * length // count) - i * length // count for i in range(count))
    return result


@rule(*aten("_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_max_pool2d adaptive_max_pool3d"))
def adaptive_pool(op: Op) -> Work:
    """An add or comparison for each element of each window; a division for each mean."""
    made = op.outputs[0]
    division = made.numel if "avg" in op.packet else 0
    return moves(op, vector_flops=adaptive_taps(op.tensor("self"), made, spatial_dimensions(op)) + division)


@rule(*aten("_adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward"))
def adaptive_pool_backward(op: Op) -> Work:
    """A division for each window and an add into each of its elements."""
    gradient, made = op.tensor("grad_output"), op.outputs[0]
    taps = adaptive_taps(made, gradient, spatial_dimensions(op))
    return moves(op, vector_flops=taps + gradient.numel, read=[gradient])


NEIGHBOURS = {"nearest": 1, "linear": 2, "bicubic": 4, "lanczos": 6}
"""Neighbours along one dimension, by the word in the op's name."""


def neighbours(op: Op, spatial: int) -> int:
    """Neighbours of one result element in all dimensions together."""
    along: int = next(count for word, count in NEIGHBOURS.items() if word in op.packet)
    return prod([along] * spatial)


UPSAMPLES = (
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d "
    "_upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d "
    "_upsample_bilinear2d_aa _upsample_bicubic2d_aa _upsample_lanczos2d_aa"
)


@rule(*aten(UPSAMPLES))
def upsample(op: Op) -> Work:
    """A multiply and an add for each neighbour; the nearest one is only copied.

    With antialiasing (``_aa``) the neighbours of a smaller result are more by the ratio of the lengths, which is
    left out.
    """
    count = neighbours(op, spatial_dimensions(op))
    return moves(op, vector_flops=(2 * count if count > 1 else 0) * op.outputs[0].numel)


@rule(*(f"{name}_backward" for name in aten(UPSAMPLES)))
def upsample_backward(op: Op) -> Work:
    """A multiply and an add into each neighbour; into the nearest one only an add."""
    count = neighbours(op, spatial_dimensions(op))
    return moves(op, vector_flops=(2 * count if count > 1 else 1) * op.tensor("grad_output").numel)


@rule(*aten("affine_grid_generator cudnn_affine_grid_generator"))
def affine_grid(op: Op) -> Work:
    """Each coordinate is the dot product of a row of the matrix and the point, with a one behind it."""
    return moves(op, vector_flops=2 * op.tensor("theta").shape[-1] * op.outputs[0].numel)


COORDINATE_FLOPS = 3
"""From [-1, 1] to pixels: add, multiply, subtract, for each coordinate."""


def sampled(op: Op) -> tuple[int, int, int]:
    """For a grid sample: points of the grid, coordinates of a point, neighbours of a point."""
    grid = op.tensor("grid")
    coordinates = grid.shape[-1]
    # 0 is linear, 1 nearest, 2 bicubic: torch.nn.functional.grid_sample
    along = (2, 1, 4)[integer(op, "interpolation_mode", 0)]
    return grid.numel // max(coordinates, 1), coordinates, prod([along] * coordinates)


@rule(*aten("grid_sampler_2d grid_sampler_3d cudnn_grid_sampler _grid_sampler_2d_cpu_fallback"))
def grid_sample(op: Op) -> Work:
    """Place each point, weigh its neighbours (a multiply per coordinate); a multiply-add per channel and neighbour.

    What is read of the image is at most all of it, and at most the neighbours.
    """
    points, coordinates, near = sampled(op)
    image, made = argument(op, "input", "self"), op.outputs[0]
    flops = points * (COORDINATE_FLOPS * coordinates + coordinates * near) + 2 * near * made.numel
    work = moves(op, vector_flops=flops, read=[op.tensor("grid")])
    return work + Work(read_bytes=min(image.touched_bytes, near * made.bytes))


@rule(*aten("grid_sampler_2d_backward grid_sampler_3d_backward cudnn_grid_sampler_backward"))
def grid_sample_backward(op: Op) -> Work:
    """For the image a multiply-add per channel and neighbour; for the grid two for each coordinate as well.

    The image's gradient is filled with zeros and then added to.
    """
    points, coordinates, near = sampled(op)
    gradient = op.tensor("grad_output")
    for_image, for_grid = flags(op, "output_mask", 2)
    per_tap = 2 * for_image + 2 * coordinates * for_grid
    flops = points * (COORDINATE_FLOPS * coordinates + coordinates * near) + per_tap * near * gradient.numel
    changed = min(argument(op, "input", "self").touched_bytes, near * touched([gradient])) if for_image else 0
    return moves(op, vector_flops=flops) + Work(read_bytes=changed, written_bytes=changed)
