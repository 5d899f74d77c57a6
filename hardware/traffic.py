"""An op that is bound by memory -> its *kind of traffic*, which says what share of the streaming bandwidth it reaches.

*Streaming* is reading and writing in order, as a copy or an addition does. Other kinds reach less, because they read
twice, wait for sums, or jump: the shares are constants of ``kernels.toml``, the streaming bandwidth is the profile's.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, prod
from typing import NamedTuple

from ..graph.op import Op, Tensor

WORDS = (
    ("multi_tensor", ("_foreach_", "_fused_adam", "_fused_sgd", "_fused_adagrad")),
    ("batch_norm_backward", ("batch_norm_backward", "batch_norm_elemt_backward")),
    ("batch_norm", ("batch_norm",)),
    ("softmax_backward", ("softmax_backward",)),
    ("softmax", ("softmax", "logsumexp")),
    ("normalization_backward", ("layer_norm_backward", "rms_norm_backward", "group_norm_backward")),
    ("normalization", ("layer_norm", "rms_norm", "group_norm")),
    ("dropout_backward", ("dropout_backward",)),
    ("dropout", ("dropout", "bernoulli", "rand")),
    ("indexing", ("embedding", "index", "gather", "scatter", "take", "nonzero", "sort", "topk", "nll_loss", "one_hot")),
    ("pooling", ("pool", "upsample", "grid_sampl", "im2col", "col2im", "unfold")),
    ("reduction", (".sum", ".mean", ".max", ".min", ".amax", ".amin", ".var", ".std", ".norm", ".prod", ".arg", ".cum",
                   "linalg_vector_norm", ".any", ".all")),
)  # fmt: skip
"""The first kind one of whose words is in an op's name."""

POINTWISE = frozenset({"aten.maximum", "aten.minimum"})
"""Ops of two operands whose names have one of these words for another reason."""

KERNELS = {
    "aten.native_layer_norm_backward": 2,
    "aten._fused_rms_norm_backward": 2,
    "aten.native_group_norm_backward": 3,
    "aten.native_batch_norm_backward": 2,
    "aten.cudnn_batch_norm_backward": 2,
    "aten.embedding_dense_backward": 8,
    "aten.index_put_": 8,
    "aten._index_put_impl_": 8,
    "aten.sort": 4,
    "aten.nonzero": 4,
    "aten.convolution_backward": 2,
}
"""Kernels of one call, where it is more than one: sorts of indices, sums in two steps, a gradient for each operand."""

# A multi-tensor kernel takes at most so many tensors by the number of lists, 2,240 blocks, 65,536 elements a block
# (CUDA 13 and later): https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/MultiTensorApply.cuh
CHUNK_ELEMENTS = 65_536
MOST_BLOCKS = 2_240
MOST_TENSORS = (770, 448, 336, 252, 210)

SMALL = 65_536
"""Elements below which how an op steps through memory does not show."""

WARP_ROW = 1024


class Traffic(NamedTuple):
    """How an op's bytes move: the kind, and how many elements and rows its kernel steps through."""

    kind: str
    elements: int = 0
    rows: int = 0
    blocks: int = 0
    """Blocks of its grid, where they may be fewer than there are multiprocessors; 0 where they are as many as fit."""


def traffic(op: Op) -> Traffic:
    """The traffic of `op`. Its kind is one of the names under ``traffic_share`` in ``kernels.toml``."""
    named = _named(op.packet)
    tensors = op.inputs + op.outputs
    if not tensors:
        return Traffic(named)
    sizes = [prod(t.shape) for t in tensors]
    largest = tensors[sizes.index(max(sizes))]
    if named == "stream":
        return Traffic(_pointwise(op, largest), largest.numel)
    if named in ("softmax", "softmax_backward"):
        return _softmax(op, named, largest)
    if named == "reduction":
        return _reduction(op, largest)
    if named.startswith("batch_norm"):
        return _batch_norm(op, named, largest)
    if named == "indexing":
        return Traffic(named, _picked(op, largest))
    row = max(largest.shape[-1], 1) if largest.shape else 1
    return Traffic(named, largest.numel, largest.numel // row if "normalization" in named else 0)


def _picked(op: Op, largest: Tensor) -> int:
    """How many elements are picked or put, whatever the size of what they are picked from or put into."""
    for name in ("index", "values", "src", "grad_output"):
        value = op.args.get(name)
        if isinstance(value, Tensor) and (op.mutates or name == "grad_output"):
            return value.numel
    return max((t.numel for t in op.outputs), default=largest.numel)


def _batch_norm(op: Op, named: str, largest: Tensor) -> Traffic:
    """Channels last, a channel stays on the chip; else each is a block of its own, in cuDNN and in PyTorch's kernels.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/Normalization.cuh
    """
    if _innermost(largest) == 1 - len(largest.shape):
        return Traffic(named.replace("batch_norm", "channels_last_norm"), largest.numel)
    trains = op.get("training", op.get("train", True))
    if op.packet.startswith("aten.native_batch_norm") and trains:
        return Traffic(named.replace("batch_norm", "native_batch_norm"), largest.numel, 0, largest.shape[1])
    return Traffic(named, largest.numel, 0, largest.shape[1] if trains else 0)


@lru_cache(maxsize=4096)
def _named(packet: str) -> str:
    if packet in POINTWISE:
        return "stream"
    return next((kind for kind, words in WORDS if any(word in packet for word in words)), "stream")


def _pointwise(op: Op, largest: Tensor) -> str:
    """Kernels load several elements at a time only where all operands lie alike; else each needs its own address."""
    if largest.numel < SMALL:
        return "stream"
    operands = [t for t in (*op.inputs, *op.outputs) if t.numel > 1]
    if all(t.shape == largest.shape and t.strides == largest.strides for t in operands) and _is_dense(largest):
        return "stream" if len({t.itemsize for t in operands if t.dtype != "bool"}) <= 1 else "converting"
    inner = {_innermost(t) for t in operands if t.numel == largest.numel}
    return "turning" if len(inner - {None}) > 1 else "indexed"


def _is_dense(tensor: Tensor) -> bool:
    return tensor.touched_bytes == tensor.bytes and _span(tensor) == tensor.numel


def _span(tensor: Tensor) -> int:
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))


def _innermost(tensor: Tensor) -> int | None:
    """The dimension, counted from the last, whose neighbours are closest in memory; None where one is repeated."""
    if 0 in tensor.strides:
        return None
    steps = [
        (stride, place - len(tensor.shape)) for place, stride in enumerate(tensor.strides) if tensor.shape[place] > 1
    ]
    return min(steps)[1] if steps else None


def _softmax(op: Op, named: str, largest: Tensor) -> Traffic:
    """Rows of up to 1,024 stay in a warp's registers; longer ones are read again, and unaligned ones one by one.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/SoftMax.cu
    """
    row = max(largest.shape[-1], 1) if largest.shape else 1
    if row > WARP_ROW:
        unaligned = row * largest.itemsize % 16 != 0
        named = f"unaligned_{named}" if unaligned and named == "softmax" else f"long_{named}"
    return Traffic(named, largest.numel, largest.numel // row)


def _reduction(op: Op, largest: Tensor) -> Traffic:
    """Sums along rows read in order; sums over all rows, as of a bias's gradient, wait for each other."""
    dims = op.args.get("dim")
    given = dims if isinstance(dims, tuple) else (dims,)
    last = len(largest.shape) - 1
    along = any(isinstance(d, int) and d in (last, -1) for d in given) or dims is None
    if not along:
        return Traffic("column_sum", largest.numel)
    made = max((t.numel for t in op.outputs), default=1)
    return Traffic("reduction", largest.numel, made)


def launches(op: Op) -> int:
    """How many kernels `op` is at the least: one, or for a list of tensors as many as their chunks need."""
    if "._foreach_" not in op.name and "._fused_" not in op.name:
        return KERNELS.get(op.packet, 1)
    lists = [value for value in op.args.values() if _is_list(value)]
    if not lists:
        return 1
    first = lists[0]
    assert isinstance(first, tuple)
    chunks = sum([-(-prod(t.shape) // CHUNK_ELEMENTS) for t in first if isinstance(t, Tensor)])
    most_tensors = MOST_TENSORS[min(len(lists), len(MOST_TENSORS)) - 1]
    return max(1, ceil(len(first) / most_tensors), ceil(chunks / MOST_BLOCKS))


def _is_list(value: object) -> bool:
    # A Tensor is itself a tuple; only a plain tuple is a list of tensors.
    return type(value) is tuple and bool(value) and all(isinstance(item, Tensor) for item in value)
