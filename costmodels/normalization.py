"""Turns normalizations into work: layer, RMS, batch and group norm, softmax, weight norm.

To *normalize* is to compute a statistic over a group of elements (a row, or a channel) and to rescale each
element by it. FLOPs are counted per element, from the terms listed beside each constant, plus a few per group.

A row of a layer norm or softmax stays on the chip between statistic and rescaling, so it is read once. A channel
of a batch norm, and a group of a group norm, does not, so what the statistic needs is read twice.
"""

from __future__ import annotations

from math import prod

from ..graph import Op, Tensor
from .rules import aten, rule
from .work import Work, argument, flags, moves, touched

MOMENTS_FLOPS = 4
"""Per element: add to the mean; subtract the mean, square, add to the variance."""
RESCALE_FLOPS = 2
"""Per element: subtract the mean, multiply by the reciprocal deviation."""
MOMENTS_GROUP_FLOPS = 4
"""Per group: divide the mean, divide the variance, add epsilon, reciprocal square root."""
RUNNING_FLOPS = 6
"""Per channel: two running statistics, each (1 - momentum) * old + momentum * new."""

NORM_INPUT_FLOPS = 5
"""Backward, per element: multiply gradient and normalized element and add to the row's sum; then scale that sum by
the normalized element, subtract, and multiply by the reciprocal deviation."""
CENTRE_FLOPS = 2
"""Backward, per element: add the gradient to the row's mean, subtract that. RMS norm has no mean and does neither."""


def affine(op: Op) -> int:
    """FLOPs per element of the learned scale (a multiply) and shift (an add), where there are any."""
    return sum(isinstance(op.get(name), Tensor) for name in ("weight", "bias"))


def groups_of_row(op: Op) -> int:
    """How many rows a layer norm normalizes one by one."""
    shape = op.get("normalized_shape", ())
    row = prod(size for size in shape if isinstance(size, int)) if isinstance(shape, tuple) else 1
    return op.tensor("input").numel // max(row, 1)


@rule("aten.native_layer_norm")
def layer_norm(op: Op) -> Work:
    """Moments of each row, then rescale, scale and shift each element."""
    per_element = MOMENTS_FLOPS + RESCALE_FLOPS + affine(op)
    flops = per_element * op.tensor("input").numel + MOMENTS_GROUP_FLOPS * groups_of_row(op)
    return moves(op, vector_flops=flops)


def norm_backward(op: Op, centred: bool, for_input: bool, for_weight: bool, for_bias: bool) -> int:
    """FLOPs per element of a norm's derivative, from which gradients are asked for.

    The normalized element is rebuilt once (subtract the mean, multiply), the learned scale multiplied in once;
    a gradient of the scale is a multiply and an add, one of the shift an add.
    """
    rebuild = (RESCALE_FLOPS if centred else 1) if for_input or for_weight else 0
    scale = 1 if for_input and isinstance(op.get("weight"), Tensor) else 0
    source = NORM_INPUT_FLOPS + (CENTRE_FLOPS * centred) if for_input else 0
    return rebuild + scale + source + 2 * for_weight + 1 * for_bias


@rule("aten.native_layer_norm_backward")
def layer_norm_backward(op: Op) -> Work:
    """Two sums over each row, from which each element's gradient follows; sums over rows for scale and shift."""
    for_input, for_weight, for_bias = flags(op, "output_mask", 3)
    per_element = norm_backward(op, True, for_input, for_weight, for_bias)
    return moves(op, vector_flops=per_element * op.tensor("input").numel)


@rule(*aten("_fused_rms_norm rms_norm"))
def rms_norm(op: Op) -> Work:
    """Square and add over each row; multiply each element by the reciprocal root, and by the scale.

    Per row: divide, add epsilon, reciprocal square root.
    """
    per_element = 2 + 1 + affine(op)
    return moves(op, vector_flops=per_element * op.tensor("input").numel + 3 * groups_of_row(op))


@rule("aten._fused_rms_norm_backward")
def rms_norm_backward(op: Op) -> Work:
    """As a layer norm's, without the mean."""
    for_input, for_weight = flags(op, "output_mask", 2)
    per_element = norm_backward(op, False, for_input, for_weight, False)
    return moves(op, vector_flops=per_element * op.tensor("input").numel)


def running(op: Op) -> list[Tensor]:
    """The running statistics that a batch norm in training updates, whether or not its schema says so."""
    return [t for name in ("running_mean", "running_var") if isinstance(t := op.get(name), Tensor)]


def batch_norm_training(op: Op) -> Work:
    """Moments of each channel, then a second pass over the input to rescale it; running statistics move along."""
    source = op.tensor("input")
    channels = source.shape[1]
    per_element = MOMENTS_FLOPS + RESCALE_FLOPS + affine(op)
    per_channel = MOMENTS_GROUP_FLOPS + (RUNNING_FLOPS if running(op) else 0)
    work = moves(op, vector_flops=per_element * source.numel + per_channel * channels)
    stated = touched(op.written)
    again = 0 if keeps_channels(source) else source.touched_bytes
    return work + Work(read_bytes=again, written_bytes=max(touched(running(op)) - stated, 0))


def keeps_channels(source: Tensor) -> bool:
    """In channels last, cuDNN's persistent kernels keep what they have read on the chip for the second pass.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cudnn/BatchNorm.cpp, getCudnnBatchNormMode
    """
    return len(source.shape) >= 4 and source.shape[1] > 1 and source.strides[1] == 1


def batch_norm_inference(op: Op) -> Work:
    """Rescale each element by the running statistics; per channel add epsilon and take the reciprocal root."""
    source = op.tensor("input")
    per_element = RESCALE_FLOPS + affine(op)
    return moves(op, vector_flops=per_element * source.numel + 2 * source.shape[1])


@rule(
    *aten(
        "native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit _batch_norm_with_update "
        "_native_batch_norm_legit_functional _batch_norm_with_update_functional"
    )
)
def batch_norm(op: Op) -> Work:
    """Batch norm, which in training computes its statistics and otherwise is given them."""
    return batch_norm_training(op) if op.get("training", True) else batch_norm_inference(op)


@rule(*aten("_native_batch_norm_legit_no_training _batch_norm_no_update"))
def batch_norm_frozen(op: Op) -> Work:
    """Batch norm by its running statistics."""
    return batch_norm_inference(op)


@rule(*aten("native_batch_norm_backward cudnn_batch_norm_backward miopen_batch_norm_backward batch_norm_backward"))
def batch_norm_backward(op: Op) -> Work:
    """Two sums over each channel, then a second pass over input and gradient.

    In inference the statistics are constants: the input's gradient is two multiplies per element.
    """
    source, gradient = op.tensor("input"), argument(op, "grad_out", "grad_output")
    for_input, for_weight, for_bias = flags(op, "output_mask", 3)
    if op.get("train", True):
        flops = norm_backward(op, True, for_input, for_weight, for_bias) * source.numel
        second = for_input and not keeps_channels(source)
        again = source.touched_bytes + gradient.touched_bytes if second else 0
        return moves(op, vector_flops=flops) + Work(read_bytes=again)
    per_element = 2 * for_input + (RESCALE_FLOPS + 2) * for_weight + for_bias
    return moves(op, vector_flops=per_element * source.numel)


@rule("aten.batch_norm_stats")
def batch_norm_statistics(op: Op) -> Work:
    """The moments alone, for batch norm over several devices."""
    source = op.tensor("input")
    return moves(op, vector_flops=MOMENTS_FLOPS * source.numel + MOMENTS_GROUP_FLOPS * source.shape[1])


@rule("aten.batch_norm_elemt")
def batch_norm_apply(op: Op) -> Work:
    """Rescale, scale and shift by statistics that are given."""
    return moves(op, vector_flops=(RESCALE_FLOPS + affine(op)) * op.tensor("input").numel)


@rule("aten.batch_norm_gather_stats_with_counts")
def batch_norm_gather(op: Op) -> Work:
    """Join the moments of several devices: per channel and device some eight FLOPs, and the running statistics.

    Weigh the mean and add (2), deviation of the mean, square, weigh, weigh the variance, add twice (6).
    """
    mean = op.tensor("mean")
    return moves(op, vector_flops=8 * mean.numel + RUNNING_FLOPS * mean.shape[-1])


@rule("aten.batch_norm_backward_reduce")
def batch_norm_reduce(op: Op) -> Work:
    """The two sums per channel: add the gradient; subtract the mean, multiply, add."""
    return moves(op, vector_flops=4 * op.tensor("input").numel)


@rule("aten.batch_norm_backward_elemt")
def batch_norm_apply_backward(op: Op) -> Work:
    """Each element's gradient from the sums: centre it, scale by the sum, subtract twice, scale."""
    return moves(op, vector_flops=5 * op.tensor("input").numel)


@rule("aten.native_group_norm")
def group_norm(op: Op) -> Work:
    """Moments of each group, then a second pass to rescale, scale and shift."""
    source, mean = op.tensor("input"), op.outputs[1]
    flops = (MOMENTS_FLOPS + RESCALE_FLOPS + affine(op)) * source.numel + MOMENTS_GROUP_FLOPS * mean.numel
    return moves(op, vector_flops=flops) + Work(read_bytes=source.touched_bytes)


@rule("aten.native_group_norm_backward")
def group_norm_backward(op: Op) -> Work:
    """Two sums over each group, then a second pass over input and gradient."""
    source, gradient = op.tensor("input"), op.tensor("grad_out")
    for_input, for_weight, for_bias = flags(op, "output_mask", 3)
    flops = norm_backward(op, True, for_input, for_weight, for_bias) * source.numel
    again = source.touched_bytes + gradient.touched_bytes if for_input else 0
    return moves(op, vector_flops=flops) + Work(read_bytes=again)


@rule(*aten("_softmax _log_softmax softmax log_softmax"))
def softmax(op: Op) -> Work:
    """Per element: compare with the maximum, subtract it, exp, add to the sum, divide.

    The logarithm subtracts the log of the sum in place of the division; that log is one more per row.
    """
    source = argument(op, "self", "input")
    rows = source.numel // max(size_along(source, op.get("dim")), 1)
    return moves(op, vector_flops=5 * source.numel + (rows if "log" in op.packet else 0))


@rule(*aten("_safe_softmax _masked_softmax"))
def masked_softmax(op: Op) -> Work:
    """A softmax with one selection more per element: masked out, or a row with nothing in it."""
    return moves(op, vector_flops=6 * op.tensor("self").numel)


@rule(*aten("_softmax_backward_data _log_softmax_backward_data"))
def softmax_backward(op: Op) -> Work:
    """Per element four: for softmax multiply by the probability, add up, subtract the sum, multiply again.

    For its logarithm: add the gradient up, exp, multiply by the sum, subtract.
    """
    return moves(op, vector_flops=4 * op.tensor("grad_output").numel)


@rule("aten._masked_softmax_backward")
def masked_softmax_backward(op: Op) -> Work:
    """A softmax's derivative with one selection more per element."""
    return moves(op, vector_flops=5 * op.tensor("grad_output").numel)


def size_along(tensor: Tensor, dimension: object) -> int:
    """The tensor's size along `dimension`, which may be negative; 1 for a scalar."""
    return tensor.shape[dimension] if tensor.shape and isinstance(dimension, int) else 1


@rule("aten._weight_norm_interface")
def weight_norm(op: Op) -> Work:
    """Square and add for the norm of each row, then multiply each element by the row's scale over its norm."""
    return moves(op, vector_flops=3 * op.tensor("v").numel + 2 * op.tensor("g").numel)


@rule("aten._weight_norm_interface_backward")
def weight_norm_backward(op: Op) -> Work:
    """Multiply and add for each row's dot product; then two multiplies and a subtract for each element."""
    return moves(op, vector_flops=5 * op.tensor("saved_v").numel + 4 * op.tensor("saved_g").numel)


@rule("aten.renorm")
def renorm(op: Op) -> Work:
    """A power and an add for each slice's norm, then a multiply for each element."""
    return moves(op, vector_flops=3 * op.tensor("self").numel)
