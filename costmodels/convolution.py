"""Turns convolutions into work: one multiply and one add for each *tap*.

A *tap* is one weight meeting one input element for one output element. Taps that fall on padding count, since
kernels multiply by the zeros. Every output position of a plain convolution, and every input position of a
transposed one, meets each weight once, so there are positions x weights taps in a sample; groups are already in
the weight's shape. Either gradient takes the same taps again.

Counted as the direct method; transforms (Winograd, FFT) that a library may choose do less.
"""

from __future__ import annotations

from math import prod

from ..graph import Op, Tensor
from .rules import aten, rule
from .work import Work, argument, flags, moves

TRANSPOSED = aten(
    "cudnn_convolution_transpose miopen_convolution_transpose slow_conv_transpose2d slow_conv_transpose3d "
    "conv_transpose1d conv_transpose2d conv_transpose3d"
)


def taps(positions: Tensor, weight: Tensor) -> int:
    """Number of taps, given the tensor whose positions each meet every weight: output, or input if transposed."""
    spatial = len(weight.shape) - 2
    batch = positions.shape[0] if len(positions.shape) == len(weight.shape) else 1
    return batch * prod(positions.shape[len(positions.shape) - spatial :]) * weight.numel


def is_transposed(op: Op) -> bool:
    """True for the op that goes from few positions to many."""
    return bool(op.get("transposed", False)) or op.packet in TRANSPOSED


@rule(
    *aten(
        "convolution _convolution convolution_overrideable conv1d conv2d conv3d cudnn_convolution mkldnn_convolution "
        "miopen_convolution miopen_depthwise_convolution _slow_conv2d_forward thnn_conv2d slow_conv3d "
        "slow_conv3d_forward slow_conv_dilated2d slow_conv_dilated3d _conv_depthwise2d conv_depthwise3d "
        "_nnpack_spatial_convolution _mps_convolution"
    ),
    *TRANSPOSED,
)
def convolution(op: Op) -> Work:
    """A multiply and an add per tap; the bias is one add per output element."""
    source, weight = argument(op, "input", "self"), op.tensor("weight")
    positions = source if is_transposed(op) else op.outputs[0]
    bias = op.outputs[0].numel if isinstance(op.get("bias"), Tensor) else 0
    return moves(op, tensor_flops=2 * taps(positions, weight), vector_flops=bias)


@rule(*aten("cudnn_convolution_relu miopen_convolution_relu cudnn_convolution_add_relu miopen_convolution_add_relu"))
def with_activation(op: Op) -> Work:
    """A convolution whose epilogue adds the bias, adds ``alpha * z`` where there is one, and applies relu."""
    made = op.outputs[0].numel
    epilogue = 1 + isinstance(op.get("bias"), Tensor) + 2 * isinstance(op.get("z"), Tensor)
    return moves(op, tensor_flops=2 * taps(op.outputs[0], op.tensor("weight")), vector_flops=epilogue * made)


@rule(*aten("convolution_backward convolution_backward_overrideable _slow_conv2d_backward mps_convolution_backward"))
def convolution_backward(op: Op) -> Work:
    """Every tap once more for each of input and weight that needs a gradient; the bias sums the gradient.

    Two kernels, so the gradient of the output is read for each.
    """
    gradient, source, weight = op.tensor("grad_output"), argument(op, "input", "self"), op.tensor("weight")
    for_input, for_weight, for_bias = flags(op, "output_mask", 3)
    each = taps(source if is_transposed(op) else gradient, weight)
    work = moves(
        op,
        tensor_flops=2 * each * (for_input + for_weight),
        vector_flops=gradient.numel if for_bias else 0,
        read=[source] * for_weight + [weight] * for_input,
    )
    return work + Work(read_bytes=gradient.touched_bytes * (for_input + for_weight or for_bias))
