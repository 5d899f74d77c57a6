"""An op that is bound by memory -> its *kind of traffic*, which says what share of the streaming bandwidth it reaches.

*Streaming* is reading and writing in order, as a copy or an addition does. Other kinds reach less, because they read
twice, wait for sums, or jump: the shares are constants of ``kernels.toml``, the streaming bandwidth is the profile's.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil

from ..graph.op import Op, Tensor

WORDS = (
    ("multi_tensor", ("_foreach_", "_fused_adam", "_fused_sgd", "_fused_adagrad")),
    ("batch_norm_backward", ("batch_norm_backward", "batch_norm_elemt_backward")),
    ("batch_norm", ("batch_norm",)),
    (
        "normalization_backward",
        ("layer_norm_backward", "rms_norm_backward", "group_norm_backward", "softmax_backward"),
    ),
    ("normalization", ("layer_norm", "rms_norm", "group_norm", "softmax", "logsumexp")),
    ("dropout", ("dropout", "bernoulli", "rand")),
    ("indexing", ("embedding", "index", "gather", "scatter", "take", "nonzero", "sort", "topk", "nll_loss", "one_hot")),
    ("pooling", ("pool", "upsample", "grid_sampl", "im2col", "col2im", "unfold")),
    ("reduction", (".sum", ".mean", ".max", ".min", ".amax", ".amin", ".var", ".std", ".norm", ".prod", ".arg", ".cum",
                   "linalg_vector_norm", ".any", ".all")),
)  # fmt: skip
"""The first kind one of whose words is in an op's name."""

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


def kind(op: Op) -> str:
    """One of the names under ``traffic_share`` in ``kernels.toml``."""
    named = _named(op.packet)
    return "strided" if named == "stream" and _turns(op) else named


@lru_cache(maxsize=4096)
def _named(packet: str) -> str:
    return next((kind for kind, words in WORDS if any(word in packet for word in words)), "stream")


def _turns(op: Op) -> bool:
    """Do its large tensors lie in memory in different orders, so that reading one in order jumps in another?"""
    orders = {_order(t) for t in (*op.inputs, *op.outputs) if len(t.shape) > 1 and t.numel >= CHUNK_ELEMENTS}
    return len(orders - {None}) > 1


def _order(tensor: Tensor) -> tuple[int, ...] | None:
    """The dimensions from the outermost to the innermost; None where one is repeated."""
    if 0 in tensor.strides:
        return None
    large = [place for place, size in enumerate(tensor.shape) if size > 1]
    return tuple(sorted(large, key=lambda place: -tensor.strides[place]))


def launches(op: Op) -> int:
    """How many kernels `op` is at the least: one, or for a list of tensors as many as their chunks need."""
    if "._foreach_" not in op.name and "._fused_" not in op.name:
        return KERNELS.get(op.packet, 1)
    lists = [value for value in op.args.values() if _is_list(value)]
    if not lists:
        return 1
    first = lists[0]
    assert isinstance(first, tuple)
    chunks = sum(ceil(t.numel / CHUNK_ELEMENTS) for t in first if isinstance(t, Tensor))
    most_tensors = MOST_TENSORS[min(len(lists), len(MOST_TENSORS)) - 1]
    return max(1, ceil(len(first) / most_tensors), ceil(chunks / MOST_BLOCKS))


def _is_list(value: object) -> bool:
    # A Tensor is itself a tuple; only a plain tuple is a list of tensors.
    return type(value) is tuple and bool(value) and all(isinstance(item, Tensor) for item in value)
