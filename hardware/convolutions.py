"""A convolution on CUDA -> copies of its operands, and an estimate of the workspace that cuDNN asks for.

PyTorch asks cuDNN for a plan and takes the plan's *workspace* from the caching allocator for the length of the call
(https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cudnn/Conv_v8.cpp, run_conv_plan). Which plan that
is comes from heuristics inside cuDNN, so what stands here is an **estimate**: a count of what the usual plan copies.

Kernels for tensor cores work in channels-last order on whole vectors of 16 bytes, so what lies otherwise is copied
before and after, and so are groups of other widths than there are kernels for; on compute capability 8.x float32
operands are also rounded to TF32 in a copy. The gradient of the weight is added up in parts besides. Plans that use no
tensor cores (float32 before 8.0 or without TF32, and float64) take next to nothing, and so do depthwise convolutions,
which have kernels of PyTorch's.

``benchmarks/cudnn_workspaces.py`` asks cuDNN itself, which answers without a GPU, and compares;
``docs/accuracy_memory.md`` has the result. The numbers of `PARTS` and `GROUP_WIDTHS` were chosen on its first part.

Not covered: ``torch.backends.cudnn.benchmark``, with which every plan is tried once and the fastest kept; the fallback
to a smaller plan where memory is short; ``CUDNN_CONV_WSCAP_DBG``; depthwise convolutions that cuDNN does run
(channels-last or half precision).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

from ..graph import Op, Tensor
from .extra_rules import Setting, rule
from .gpu import Gpu
from .operands import is_contiguous
from .script import Extra, Return, Scratch

CUDNN = "cuDNN workspace (estimate)"
ORDERED = "{} in order"
FORWARD = "aten.convolution"

VECTOR_BYTES = 16
GROUP_WIDTHS, GROUP_LANE = (4, 8, 16, 32), 32
"""Channels of a group for which half precision has kernels of its own; others are gathered, in lanes of so many."""
PARTS = {4: (16 * 1024, 8), 2: (32 * 1024, 24)}
"""Partial sums of a weight's gradient, by an element's bytes: bytes for each multiprocessor, and whole
gradients at most."""


class Sizes(NamedTuple):
    """Bytes of a convolution's tensors with their channels filled up to whole vectors."""

    input: int
    weight: int
    result: int


class Convolution(NamedTuple):
    """What the estimate asks about; of a transposed convolution input and result are those of the plain one."""

    sizes: Sizes
    dtype: str
    is_channels_last: bool
    """Of input and result."""
    has_whole_vectors: bool
    """Of the input's and the result's channels."""
    is_pointwise: bool
    """True for windows of one element, whose weight lies the same in both orders."""
    is_depthwise: bool
    is_gathered: bool
    """True where each group's channels are copied beside each other, filled up to whole lanes."""
    weight_elements: int


@rule("convolution")
def forward(op: Op, setting: Setting) -> Iterator[Extra]:
    """One call of cuDNN; the forward of a transposed convolution is the gradient of the input of the plain one.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cudnn/ConvShared.cpp
    (cudnn_convolution_forward, cudnn_convolution_transpose_forward).
    """
    found = convolution_of(op)
    if found is not None:
        asked = input_gradient_bytes if op.get("transposed", False) else forward_bytes
        yield from operand_copies(op, "input", "weight")
        yield Scratch(asked(found, setting.gpu, tf32=setting.cudnn_tf32), CUDNN)


@rule("convolution_backward")
def backward(op: Op, setting: Setting) -> Iterator[Extra]:
    """The gradients of input and weight that are wanted, one after the other (ConvShared.cpp, as above)."""
    found, mask = convolution_of(op), op.args["output_mask"]
    assert isinstance(mask, tuple)
    if found is None:
        return
    yield from operand_copies(op, *(("grad_output",) if any(mask[:2]) else ()), *(("input",) if mask[1] else ()))
    if mask[0]:
        copies = list(operand_copies(op, "weight"))
        yield from copies
        asked = forward_bytes if op.get("transposed", False) else input_gradient_bytes
        yield Scratch(asked(found, setting.gpu, tf32=setting.cudnn_tf32), CUDNN)
        yield Return(CUDNN)
        yield from (Return(copy.name) for copy in copies)
    if mask[1]:
        yield Scratch(weight_gradient_bytes(found, setting.gpu, tf32=setting.cudnn_tf32), CUDNN)


def operand_copies(op: Op, *names: str) -> Iterator[Scratch]:
    """Copies of operands that do not lie in the order in which the convolution works, one after another.

    That is channels-last where the input or the weight is, and never for sequences and float64.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/Convolution.cpp, _convolution and
    convolution_backward; ConvUtils.h, cudnn_conv_suggest_memory_format; cudnn/ConvShared.cpp.
    """
    deciding = op.tensor("input"), op.tensor("weight")
    last = deciding[0].dtype != "float64" and any(suggests_channels_last(tensor) for tensor in deciding)
    for name in names:
        operand = op.tensor(name)
        if not is_contiguous(_by_places(operand) if last else operand):
            yield Scratch(operand.bytes, ORDERED.format(name), before_outputs=name != "weight" or op.packet == FORWARD)


def suggests_channels_last(tensor: Tensor) -> bool:
    """``suggest_memory_format``: strides grow from the channels over the places to the images, and it is not plain.

    >>> suggests_channels_last(Tensor(0, "float32", (64, 64, 1, 1), (64, 1, 1, 1)))
    False

    https://github.com/pytorch/pytorch/blob/v2.13.0/c10/core/MemoryFormat.h, is_channels_last_strides_2d_s4.
    """
    rank = len(tensor.shape)
    if rank not in (4, 5) or not tensor.strides[1]:
        return False
    least = 0
    for place in (1, *range(rank - 1, 1, -1), 0):
        size, stride = tensor.shape[place], tensor.strides[place]
        if not size or stride < least or (place == 0 and least == tensor.strides[1]):
            return False
        least = stride * max(size, 1)
    return True


def _by_places(tensor: Tensor) -> Tensor:
    """The same elements with the channels as the last dimension."""
    shape, strides = ((*sizes[:1], *sizes[2:], sizes[1]) for sizes in (tensor.shape, tensor.strides))
    return Tensor(tensor.storage, tensor.dtype, shape, strides)


def forward_bytes(convolution: Convolution, gpu: Gpu, *, tf32: bool = True) -> int:
    """The workspace of a forward; of a transposed convolution that is `input_gradient_bytes`."""
    if not uses_tensor_cores(convolution, gpu, tf32=tf32):
        return 0
    sizes = convolution.sizes
    if _rounds(convolution, gpu):
        return sizes.input + sizes.weight
    return _reordered(convolution)


def input_gradient_bytes(convolution: Convolution, gpu: Gpu, *, tf32: bool = True) -> int:
    """The workspace of the gradient of the input."""
    if not uses_tensor_cores(convolution, gpu, tf32=tf32):
        return 0
    sizes = convolution.sizes
    if _rounds(convolution, gpu):
        return sizes.result + sizes.weight + (0 if convolution.is_channels_last else sizes.input)
    return _reordered(convolution)


def weight_gradient_bytes(convolution: Convolution, gpu: Gpu, *, tf32: bool = True) -> int:
    """The workspace of the gradient of the weight, its partial sums included."""
    if not uses_tensor_cores(convolution, gpu, tf32=tf32):
        return 0
    sizes = convolution.sizes
    copies = _reordered(convolution)
    if _rounds(convolution, gpu):
        copies = sizes.input + sizes.result + (0 if convolution.is_channels_last else sizes.weight)
    return copies + partial_sums(convolution, gpu)


def partial_sums(convolution: Convolution, gpu: Gpu) -> int:
    """Bytes of the float32 parts that a weight's gradient is added up in."""
    part_bytes, most = PARTS[2 if convolution.dtype in ("float16", "bfloat16") else 4]
    return min(part_bytes * gpu.sm_count, most * 4 * convolution.weight_elements)


def uses_tensor_cores(convolution: Convolution, gpu: Gpu, *, tf32: bool = True) -> bool:
    """Half precision from Volta on, float32 as TF32 from Ampere on (``torch.backends.cudnn.allow_tf32`` is on)."""
    if convolution.is_depthwise:
        return False
    if convolution.dtype == "float32":
        return tf32 and gpu.capability >= (8, 0)
    return convolution.dtype in ("float16", "bfloat16") and gpu.capability >= (7, 0)


def _rounds(convolution: Convolution, gpu: Gpu) -> bool:
    """Whether float32 operands are rounded in copies, as plans of compute capability 8.x do."""
    return convolution.dtype == "float32" and gpu.capability[0] == 8


def _reordered(convolution: Convolution) -> int:
    """Copies of what does not lie in channels-last order, or not in whole vectors."""
    sizes = convolution.sizes
    if convolution.is_channels_last and convolution.is_gathered:
        return sizes.input + sizes.result + (0 if convolution.has_whole_vectors else sizes.weight)
    if convolution.is_channels_last:
        return 0 if convolution.has_whole_vectors else sizes.input + sizes.weight
    return sizes.input + sizes.result + (0 if convolution.is_pointwise else sizes.weight)


def convolution_of(op: Op) -> Convolution | None:
    """What an ``aten.convolution`` or ``aten.convolution_backward`` convolves; None for an empty one."""
    value, weight = op.tensor("input"), op.tensor("weight")
    backward = op.packet == "aten.convolution_backward"
    result = op.tensor("grad_output") if backward else op.outputs[0]
    if bool(op.get("transposed", False)):
        value, result = result, value
    groups = op.get("groups", 1)
    assert isinstance(groups, int)
    return convolution(value, weight, result, groups) if value.numel and weight.numel and result.numel else None


def convolution(value: Tensor, weight: Tensor, result: Tensor, groups: int = 1) -> Convolution:
    """The convolution of these tensors."""
    width = weight.shape[1]
    is_depthwise = groups > 1 and width == 1
    is_gathered = groups > 1 and not is_depthwise and value.itemsize == 2 and width not in GROUP_WIDTHS
    vector = max(VECTOR_BYTES // value.itemsize, 1)
    lane, apart = (GROUP_LANE, groups) if is_gathered else (vector, 1)
    filled = _filled(value.shape, lane, apart), _filled(weight.shape, lane, 1), _filled(result.shape, lane, apart)
    return Convolution(
        sizes=Sizes(*(prod(shape) * value.itemsize for shape in filled)),
        dtype=value.dtype,
        is_channels_last=is_channels_last(value),
        has_whole_vectors=value.shape[1] % (lane * apart) == 0,
        is_pointwise=prod(weight.shape[2:]) == 1,
        is_depthwise=is_depthwise,
        is_gathered=is_gathered,
        weight_elements=prod(_filled(weight.shape, vector, 1)),
    )


def _filled(shape: tuple[int, ...], lane: int, groups: int) -> tuple[int, ...]:
    """A shape with the channels of each group filled up to whole lanes."""
    return (shape[0], groups * -(-shape[1] // (lane * groups)) * lane, *shape[2:])


def is_channels_last(tensor: Tensor) -> bool:
    """Whether the channels of an image lie beside each other; sequences are copied into rows first.

    >>> is_channels_last(Tensor(0, "float32", (2, 8, 4, 4), (128, 1, 32, 8)))
    True
    """
    return len(tensor.shape) > 3 and tensor.shape[1] > 1 and tensor.strides[1] == 1
