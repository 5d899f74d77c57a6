"""Ops that PyTorch writes as several kernels under one name -> what lies between them.

Losses with a reduction compute every element first; ``logsumexp``, distances and norms of lists hold what they add up,
``roll`` what is rolled in part.
A trace has one op there, whose temporaries no other op shows. The C++ of most is the same for all devices, so a run on
the CPU shows the same sequence; a test holds these rules against one. Softmax, gradients of
distances, norms of lists and cuDNN's grids are CUDA's.

Not covered: the small copies that complex numbers and integers take; ``soft_margin_loss``, ``_trilinear``, ``renorm``,
``linalg_pinv`` and ``linalg_matrix_exp``, which reports name.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from ..graph import Op, Tensor
from ..graph.op import tensors
from .extra_rules import WIDE, Setting, rule
from .operands import is_contiguous
from .reductions import Kernel, reduction
from .script import Extra, Return, Scratch

NO_REDUCTION = 0
"""``at::Reduction::None``."""
ELEMENTS = "loss of each element"
CHUNK = 64 * 1024
"""Elements that one block takes (``kChunkSize`` in MultiTensorApply.cuh)."""
SHORT_ROADS = (1, 2, float("inf"))
"""The norms that have a kernel for lists."""


@rule("mse_loss", "smooth_l1_loss")
def structured_loss(op: Op, setting: Setting) -> Iterator[Extra]:
    """The losses, beside an output that was allocated as large and is cut to a number.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/BinaryOps.cpp, TORCH_META_FUNC(mse_loss);
    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/Loss.cpp, TORCH_IMPL_FUNC(mse_loss_out).
    """
    if _reduces(op):
        losses = _elements(op)
        yield Scratch(losses.bytes, ELEMENTS)
        yield from _added_up(losses, setting)


@rule("huber_loss")
def huber_loss(op: Op, setting: Setting) -> Iterator[Extra]:
    """The losses, before the output (Loss.cpp, huber_loss)."""
    if _reduces(op):
        losses = _elements(op)
        yield Scratch(losses.bytes, ELEMENTS, True)
        yield from _added_up(losses, setting)


@rule("binary_cross_entropy_with_logits")
def with_logits(op: Op, setting: Setting) -> Iterator[Extra]:
    """The logarithms of the sigmoid, weighted if positive ones are, and the losses, which are the output unreduced.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/Loss.cpp, binary_cross_entropy_with_logits.
    """
    losses, positive = _elements(op), op.get("pos_weight")
    yield Scratch(losses.bytes, "logarithms of the sigmoid", True)
    if isinstance(positive, Tensor):
        yield Scratch(positive.bytes, "weight less one", True)
        yield Scratch(losses.bytes, "weight of each element", True)
        yield Return("weight less one", True)
        yield Return("weight of each element", True)
    if _reduces(op):
        yield Scratch(losses.bytes, ELEMENTS, True)
        yield from _added_up(losses, setting)


@rule("logsumexp")
def logsumexp(op: Op, setting: Setting) -> Iterator[Extra]:
    """The maxima, and where they are infinite; then an exponential for each element, before the output.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/ReduceOps.cpp, logsumexp_out_impl.
    """
    value, result = op.tensor("self"), op.outputs[0]
    if not value.numel:
        return
    yield Scratch(result.bytes, "maxima", True)
    yield Scratch(result.bytes, "their size", True)
    yield Scratch(result.numel, "whether they are infinite", True)
    yield Return("their size", True)
    yield Return("whether they are infinite", True)
    yield Scratch(value.numel * result.itemsize, "exponentials", True)


@rule("_softmax", "_log_softmax")
def softmax(op: Op, setting: Setting) -> Iterator[Extra]:
    """A copy of an input whose elements do not lie in row-major order: the kernels know no other.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/SoftMax.cu, host_softmax.
    """
    yield from _in_one_piece(op.tensor("self"), "input")


@rule("_log_softmax_backward_data")
def log_softmax_backward(op: Op, setting: Setting) -> Iterator[Extra]:
    """Copies as in the forward, of gradient and output (SoftMax.cu, host_softmax_backward)."""
    yield from _in_one_piece(op.tensor("grad_output"), "gradient")
    yield from _in_one_piece(op.tensor("output"), "output")


@rule("_softmax_backward_data")
def softmax_backward(op: Op, setting: Setting) -> Iterator[Extra]:
    """Gradient times output, a tensor as large as the attention's scores; then copies as for the logarithm.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/SoftMax.cu,
    TORCH_IMPL_FUNC(softmax_backward_cuda_out). The product lies as the gradient does.
    """
    grad, output = op.tensor("grad_output"), op.tensor("output")
    yield Scratch(max(grad.bytes, output.bytes), "gradient times output")
    if not _in_row_order(grad):
        yield Scratch(max(grad.bytes, output.bytes), "product in one piece")
    yield from _in_one_piece(output, "output")


@rule("_safe_softmax")
def safe_softmax(op: Op, setting: Setting) -> Iterator[Extra]:
    """Where the scores are minus infinity, and which rows are so throughout; before that as for any softmax.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/transformers/attention.cpp, _safe_softmax.
    """
    scores, dim = op.tensor("self"), op.args["dim"]
    assert isinstance(dim, int)
    row = scores.shape[dim] if scores.shape else 1
    for copy in _in_one_piece(scores, "input"):
        yield from (copy, Return("input in one piece"))
    yield Scratch(scores.numel, "whether they are infinite")
    yield Scratch(scores.numel // max(row, 1), "rows of nothing else")


@rule("roll")
def roll(op: Op, setting: Setting) -> Iterator[Extra]:
    """The input in one piece; rolled along several dimensions, a tensor as large for each of them but the last.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/TensorTransformations.h, roll_common;
    cuda/TensorTransformations.cu, roll_cuda.
    """
    value, dims = op.tensor("self"), op.get("dims")
    if not is_contiguous(value):
        yield Scratch(value.bytes, "input in one piece", True)
    for place in range(1, len(dims) if isinstance(dims, tuple) else 0):
        yield Scratch(value.bytes, f"rolled along {place}", True)
        if place == 1 and not is_contiguous(value):
            yield Return("input in one piece", True)


@rule("_cdist_backward", "_pdist_backward")
def distances_backward(op: Op, setting: Setting) -> Iterator[Extra]:
    """The gradient of each pair's distance, before they are added up; nothing where no norm has one.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/DistanceKernel.cu,
    cdist_backward_kernel_impl and pdist_backward_kernel_impl.
    """
    result = op.outputs[0]
    pairs = op.get("x2")
    others = pairs.shape[-2] if isinstance(pairs, Tensor) else result.shape[0] - 1
    if op.args["p"] and result.numel and others > 0:
        yield Scratch(others * result.bytes, "gradient of each pair")


@rule("cudnn_grid_sampler", "cudnn_grid_sampler_backward")
def sampled(op: Op, setting: Setting) -> Iterator[Extra]:
    """Copies of an expanded image or gradient, and of a grid that is not in row-major order.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cudnn/GridSampler.cpp.
    """
    for name in ("self", "grid", "grad_output"):
        value = op.get(name)
        if isinstance(value, Tensor) and (not is_contiguous(value) if name == "grid" else 0 in value.strides):
            yield Scratch(value.bytes, f"{name} in one piece", True)


@rule("_foreach_norm", "_foreach_max")
def of_each(op: Op, setting: Setting) -> Iterator[Extra]:
    """A number for each chunk of the longest tensor, for as many tensors as there are; taken by ``clip_grad_norm_``.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/ForeachReduceOp.cu,
    foreach_tensor_norm_cuda. Lists of several dtypes, and other norms, go tensor by tensor and are not covered.
    """
    listed = [*tensors(op.args["self"])]
    if op.get("ord", 2) not in SHORT_ROADS or len({tensor.dtype for tensor in listed}) != 1:
        return
    chunks = max(-(-tensor.numel // CHUNK) for tensor in listed)
    result = op.outputs[0]
    size = WIDE.get(result.dtype, result.itemsize) if op.packet == "aten._foreach_norm" else result.itemsize
    yield Scratch(len(listed) * chunks * size, "parts of each tensor", True)


@rule("dist")
def dist(op: Op, setting: Setting) -> Iterator[Extra]:
    """The difference (https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/Distance.cpp, dist)."""
    shapes = op.tensor("self").shape, op.tensor("other").shape
    yield Scratch(prod(_broadcast(*shapes)) * op.outputs[0].itemsize, "difference", True)


@rule("_euclidean_dist")
def euclidean_dist(op: Op, setting: Setting) -> Iterator[Extra]:
    """Squares of both, one after the other; then both with two columns more, so that one product gives all distances.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/Distance.cpp, _euclidean_dist.
    """
    left, right = op.tensor("x1"), op.tensor("x2")
    for value, name in ((left, "left"), (right, "right")):
        yield Scratch(value.bytes, f"squares of the {name}", True)
        yield Scratch(_row_bytes(value), f"norms of the {name}", True)
        yield Return(f"squares of the {name}", True)
        yield Scratch(_row_bytes(value), f"ones beside the {name}", True)
    yield Scratch(left.bytes, "minus twice the left", True)
    yield Scratch(left.bytes + 2 * _row_bytes(left), "wide left", True)
    for name in ("norms of the left", "ones beside the left", "minus twice the left"):
        yield Return(name, True)
    yield Scratch(right.bytes + 2 * _row_bytes(right), "wide right", True)
    yield Return("norms of the right", True)
    yield Return("ones beside the right", True)


def _in_one_piece(value: Tensor, name: str) -> Iterator[Extra]:
    if not is_contiguous(value):
        yield Scratch(value.bytes, f"{name} in one piece")


def _in_row_order(value: Tensor) -> bool:
    """Whether no later dimension steps further than an earlier one; a repeated one takes any place."""
    steps = [step for size, step in zip(value.shape, value.strides, strict=True) if size > 1 and step]
    return steps == sorted(steps, reverse=True)


def _row_bytes(value: Tensor) -> int:
    return prod(value.shape[:-1]) * value.itemsize


def _reduces(op: Op) -> bool:
    return op.get("reduction", 1) != NO_REDUCTION


def _elements(op: Op) -> Tensor:
    """A dense tensor of the losses, before they are reduced."""
    value, target = op.tensor("self"), op.tensor("target")
    shape = _broadcast(value.shape, target.shape)
    return Tensor(0, op.outputs[0].dtype, shape, tuple(prod(shape[i + 1 :]) for i in range(len(shape))))


def _broadcast(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    count = max(len(one), len(other))
    padded = ((1,) * (count - len(shape)) + shape for shape in (one, other))
    return tuple(0 if 0 in sizes else max(sizes) for sizes in zip(*padded, strict=True))


def _added_up(value: Tensor, setting: Setting) -> Iterator[Extra]:
    """The buffers of the sum or mean of all elements."""
    halves = value.itemsize == 2
    kernel = Kernel(
        value_bytes=value.itemsize,
        partial_bytes=WIDE.get(value.dtype, value.itemsize),
        result_bytes=value.itemsize,
        vector=8 if halves else 4,
        accumulates_in_result=not halves,
    )
    if value.numel > 1:
        yield from reduction(value, frozenset(range(len(value.shape))), kernel, setting)
