"""An op -> the matrix products that it is on the device, by size.

A *problem* is one batch of equal matrix products, M x K by K x N, which is what a library picks a kernel for: the
sizes, and how the operands lie in memory. A convolution is the product of its patches and its weights (implicit GEMM);
its gradients are two more. The sizes decide how well tiles fill a device; the FLOPs themselves come from the op's work.

Not covered: Winograd and FFT convolutions, and recurrent layers, whose time follows from their FLOPs alone.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import NamedTuple

from ..costmodels.attention import Heads, batch_head_sequence, batch_sequence_head
from ..graph.op import Op, Tensor

MATRIX = frozenset({"aten.mm", "aten._int_mm", "aten._scaled_mm"})
BATCHED = frozenset({"aten.bmm", "aten.baddbmm", "aten.addbmm"})
ADDED = frozenset({"aten.addmm", "aten._addmm_activation"})


class Problem(NamedTuple):
    """``batch`` products of M x K by K x N. Depthwise convolutions have ``depth`` 1 channel a group."""

    kind: str
    """matrix, batched, attention, convolution, or a convolution in groups: grouped, grouped_channels_last,
    grouped_direct, depthwise (one channel a group)."""
    batch: int
    m: int
    n: int
    k: int
    itemsize: int
    aligned: bool = True
    """True where every row of the operands starts at a multiple of 16 bytes, as tensor cores like it."""
    backward: bool = False

    @property
    def flops(self) -> int:
        """A multiply and an add for each term."""
        return 2 * self.batch * self.m * self.n * self.k

    @property
    def is_convolution(self) -> bool:
        """In groups or not."""
        return self.kind not in ("matrix", "batched", "attention")


def problems(op: Op) -> tuple[Problem, ...]:
    """The products that `op` runs, one kernel each; none where their sizes are not known."""
    try:
        return _problems(op, op.packet)
    except (TypeError, ValueError, IndexError):
        return ()  # operands of another shape than the op's schema has


def _problems(op: Op, packet: str) -> tuple[Problem, ...]:
    if packet in MATRIX or packet in ADDED:
        return _matrix(op, packet in ADDED)
    if packet in BATCHED:
        return _batched(op)
    if _is_convolution(packet):
        return _convolution(op)
    if _is_attention(packet):
        return _attention(op)
    return ()


def _matrix(op: Op, added: bool) -> tuple[Problem, ...]:
    left, right = op.tensor("mat1" if added else "self"), op.tensor("mat2")
    (m, k), n = left.shape, right.shape[1]
    return (Problem("matrix", 1, m, n, k, left.itemsize, _aligned(left) and _aligned(right)),)


def _batched(op: Op) -> tuple[Problem, ...]:
    first = "self" if op.packet == "aten.bmm" else "batch1"
    left, right = op.tensor(first), op.tensor("mat2" if first == "self" else "batch2")
    batch, m, k = left.shape
    # A batch of one is handed to the plain product: at::native::bmm_out_cuda_impl, ATen/native/cuda/Blas.cpp.
    return (
        Problem(
            "batched" if batch > 1 else "matrix",
            batch,
            m,
            right.shape[2],
            k,
            left.itemsize,
            _aligned(left) and _aligned(right),
        ),
    )


def _aligned(tensor: Tensor) -> bool:
    """Is the matrix dense in one direction, and each line of the other a multiple of 16 bytes?"""
    rows, columns = tensor.strides[-2:]
    line = rows if columns == 1 else columns
    return line * tensor.itemsize % 16 == 0


@lru_cache(maxsize=4096)
def _is_convolution(packet: str) -> bool:
    return "convolution" in packet or packet in ("aten.conv1d", "aten.conv2d", "aten.conv3d")


def _convolution(op: Op) -> tuple[Problem, ...]:
    """Forward: output positions x filters x taps. Backward: the input's gradient, then the weight's."""
    backward = "backward" in op.packet
    weight = op.tensor("weight")
    source = op.args.get("input", op.args.get("self"))
    made = op.args.get("grad_output") if backward else op.outputs[0]
    if not isinstance(source, Tensor) or not isinstance(made, Tensor):
        return ()
    if op.get("transposed", False):
        source, made = made, source
    groups = max(_groups(op), 1)
    filters, depth = weight.shape[0] // groups, prod(weight.shape[1:])
    channels, taps = weight.shape[1], prod(weight.shape[2:])
    positions = made.shape[0] * prod(made.shape[2:])
    kind = _kind(groups, channels, filters, source)
    aligned = _channels_aligned(weight, groups)
    forward = Problem(kind, groups, positions, filters, depth, source.itemsize, aligned)
    if not backward:
        return (forward,)
    # The input's gradient has as many terms as the forward, spread over the input's positions.
    wanted = op.get("output_mask", (True, True, True))
    by_input = Problem(kind, groups, positions, channels, filters * taps, source.itemsize, aligned, backward=True)
    by_weight = Problem(kind, groups, filters, depth, positions, source.itemsize, aligned, backward=True)
    chosen = wanted if isinstance(wanted, tuple) else (True, True, True)
    return tuple(problem for problem, asked in zip((by_input, by_weight), chosen, strict=False) if asked)


# Groups of 4, 8, 16 and 32 channels have kernels of their own, which pad nothing: "Deep Learning Performance",
# https://docs.nvidia.com/deeplearning/cudnn/archives/cudnn-897/release-notes/rel_7.html, 7.6
DIRECT = (4, 8, 16, 32)


def _kind(groups: int, channels: int, filters: int, source: Tensor) -> str:
    """Which kernels a convolution has: a plain product's, those of groups, or of one channel a group."""
    if groups == 1:
        return "convolution"
    if channels == 1:
        return "depthwise"
    if groups % 32 == 0 and channels in DIRECT and channels == filters:
        return "grouped_direct"
    return "grouped_channels_last" if len(source.shape) >= 4 and source.strides[1] == 1 else "grouped"


def _groups(op: Op) -> int:
    value = op.get("groups", 1)
    return value if isinstance(value, int) else 1


def _channels_aligned(weight: Tensor, groups: int) -> bool:
    """Tensor cores want channels and filters in multiples of 16 bytes."""
    return weight.shape[1] * weight.itemsize % 16 == 0 and weight.shape[0] // groups * weight.itemsize % 16 == 0


@lru_cache(maxsize=4096)
def _is_attention(packet: str) -> bool:
    return "attention" in packet and "math" not in packet


def _attention(op: Op) -> tuple[Problem, ...]:
    """Every head is a product of queries and keys; ``n`` is the keys and ``k`` the size of a head."""
    size: Heads = batch_head_sequence(op) if "scaled_dot" in op.packet else batch_sequence_head(op)
    backward = "backward" in op.packet
    itemsize = op.tensor("query").itemsize
    return (
        Problem(
            "attention", size.batch * size.heads, size.queries, size.keys, size.query_size, itemsize, True, backward
        ),
    )
