"""Turns matrix products into work: 2 * M * K * N FLOPs for an M x K by K x N product.

*Matmul* is every op whose result is a sum of products over one contracted dimension of length K. K multiplies
and K adds are counted for each result element (the first add is not left out), as is usual. Products with a
vector are vector work: they read each element of the matrix once, so a matrix unit does not help.
"""

from __future__ import annotations

from math import prod

from ..graph import Op, Tensor
from ..graph.op import Value, tensors
from .pointwise import GELU_TANH_FLOPS
from .rules import aten, rule
from .work import Work, argument, flags, moves


def product(left: Tensor, right: Tensor) -> int:
    """FLOPs of ``left @ right`` for matrices, or for batches of them of the same batch size."""
    return 2 * left.numel * right.shape[-1]


def scaling(op: Op) -> int:
    """FLOPs per result element of ``beta * self + alpha * product``: the add, and each factor that is not 1."""
    return 1 + sum(op.get(name, 1) != 1 for name in ("alpha", "beta"))


def is_sparse(value: Value) -> bool:
    """Whether an argument is a sparse matrix: the places of its elements, and the elements."""
    return type(value) is tuple


def sparse(op: Op, name: str) -> Work:
    """The sparse matrix `name` by a dense one: each stored element meets a whole row, and no matrix unit helps."""
    places, values = tensors(op.get(name))
    right = op.tensor("mat2")
    flops = 2 * values.numel * right.shape[-1]
    if name == "self" or op.get("beta", 1) == 0:
        return moves(op, vector_flops=flops, read=(places, values, right))
    return moves(op, vector_flops=flops + scaling(op) * op.outputs[0].numel)


@rule(*aten("mm bmm _int_mm"))
def plain(op: Op) -> Work:
    """A multiply and an add for each of K terms of every result element."""
    if is_sparse(op.get("self")):
        return sparse(op, "self")
    return moves(op, tensor_flops=product(op.tensor("self"), op.tensor("mat2")))


@rule(*aten("addmm baddbmm _sparse_addmm"))
def with_addend(op: Op) -> Work:
    """The product, and an add of `self` to each result element."""
    if is_sparse(op.get("mat1")):
        return sparse(op, "mat1")
    left, right = argument(op, "mat1", "batch1"), argument(op, "mat2", "batch2")
    made = op.outputs[0].numel
    # beta=0 says that self is not read: https://docs.pytorch.org/docs/stable/generated/torch.addmm.html
    if op.get("beta", 1) == 0:
        return moves(op, tensor_flops=product(left, right), read=(left, right))
    return moves(op, tensor_flops=product(left, right), vector_flops=scaling(op) * made)


@rule("aten.addbmm")
def summed_over_batch(op: Op) -> Work:
    """The products of the batch, which add up in one result: the sum is one long contraction."""
    flops = product(op.tensor("batch1"), op.tensor("batch2"))
    return moves(op, tensor_flops=flops, vector_flops=scaling(op) * op.outputs[0].numel)


@rule("aten._addmm_activation")
def with_activation(op: Op) -> Work:
    """A product whose epilogue adds the bias and applies relu, or gelu by its tanh formula."""
    activation = GELU_TANH_FLOPS if op.get("use_gelu", False) else 1
    flops = product(op.tensor("mat1"), op.tensor("mat2"))
    return moves(op, tensor_flops=flops, vector_flops=(scaling(op) + activation) * op.outputs[0].numel)


@rule(*aten("linear mkldnn_linear"))
def linear(op: Op) -> Work:
    """``input @ weight.T``: the weight's rows are contracted; the bias is one add per result element."""
    rows, weight = argument(op, "input", "self"), op.tensor("weight")
    bias = op.outputs[0].numel if isinstance(op.get("bias"), Tensor) else 0
    return moves(op, tensor_flops=2 * rows.numel * weight.shape[0], vector_flops=bias)


@rule(*aten("linear_backward mkldnn_linear_backward"))
def linear_backward(op: Op) -> Work:
    """One product as large as the forward's for each of input and weight that needs a gradient."""
    gradient, rows, weight = op.tensor("grad_output"), op.tensor("self"), op.tensor("weight")
    for_input, for_weight, for_bias = flags(op, "output_mask", 3)
    return moves(
        op,
        tensor_flops=2 * rows.numel * weight.shape[0] * (for_input + for_weight),
        vector_flops=gradient.numel if for_bias else 0,
        read=[gradient] + [rows] * for_weight + [weight] * for_input,
    )


@rule("aten.matmul")
def broadcast(op: Op) -> Work:
    """A matmul that reached the dispatcher whole: K products and adds for each result element."""
    return moves(op, tensor_flops=2 * op.tensor("self").shape[-1] * op.outputs[0].numel)


@rule(*aten("_scaled_mm _scaled_mm_v2"))
def scaled(op: Op) -> Work:
    """A product in eight bits or fewer; the epilogue multiplies by both scales and adds the bias."""
    epilogue = 2 + isinstance(op.get("bias"), Tensor)
    flops = product(op.tensor("self"), op.tensor("mat2"))
    return moves(op, tensor_flops=flops, vector_flops=epilogue * op.outputs[0].numel)


@rule(*aten("_grouped_mm _scaled_grouped_mm _scaled_grouped_mm_v2"))
def grouped(op: Op) -> Work:
    """A product per group, of sizes that `offs` says and that add up to the matrix's.

    Where one side is a matrix, every row of it (or column, or term) belongs to one group, so the groups
    together cost as much as one product with that matrix; two batches are a plain batched product.
    """
    left, right = op.tensor("self"), op.tensor("mat2")
    groups = left.shape[0] if len(left.shape) == len(right.shape) == 3 else 1
    rows, depth = left.shape[-2:]
    return moves(op, tensor_flops=2 * groups * rows * depth * right.shape[-1])


@rule("aten._foreach_mm")
def several(op: Op) -> Work:
    """One product for each pair of the two lists."""
    pairs = zip(tensors(op.get("self")), tensors(op.get("mat2")), strict=True)
    return moves(op, tensor_flops=sum(product(left, right) for left, right in pairs))


@rule(*aten("mv dot vdot"))
def with_vector(op: Op) -> Work:
    """A multiply and an add for each element of the matrix, or of the first vector."""
    return moves(op, vector_flops=2 * op.tensor("self").numel)


@rule("aten.addmv")
def vector_with_addend(op: Op) -> Work:
    """A matrix-vector product, and the add of `self`."""
    return moves(op, vector_flops=2 * op.tensor("mat").numel + scaling(op) * op.outputs[0].numel)


@rule("aten.addr")
def outer_with_addend(op: Op) -> Work:
    """One multiply and one add for each element of the result."""
    return moves(op, vector_flops=(1 + scaling(op)) * op.outputs[0].numel)


@rule("aten._trilinear")
def trilinear(op: Op) -> Work:
    """Two multiplies and an add for each point of the space that the three operands span.

    ``expand1`` to ``expand3`` say which dimensions an operand lacks.
    """
    sizes: dict[int, int] = {}
    for operand, expand in (("i1", "expand1"), ("i2", "expand2"), ("i3", "expand3")):
        lacking = op.get(expand, ())
        shape = list(op.tensor(operand).shape)
        for dimension in sorted(lacking if isinstance(lacking, tuple) else ()):
            shape.insert(dimension, 1)
        for dimension, size in enumerate(shape):
            sizes[dimension] = max(size, sizes.get(dimension, 1))
    return moves(op, vector_flops=3 * prod(sizes.values()))


@rule("aten._cdist_forward")
def distances(op: Op) -> Work:
    """For each pair of rows and each of their elements a difference, a power and an add; a root per pair."""
    made = op.outputs[0].numel
    return moves(op, vector_flops=(3 * op.tensor("x1").shape[-1] + 1) * made)


@rule("aten._cdist_backward")
def distances_backward(op: Op) -> Work:
    """For each pair and element a difference, a division by the distance, a multiply and an add."""
    return moves(op, vector_flops=4 * op.tensor("x1").shape[-1] * op.tensor("cdist").numel)


@rule("aten._pdist_forward")
def pair_distances(op: Op) -> Work:
    """As of two tables, for the pairs of one."""
    return moves(op, vector_flops=(3 * op.tensor("self").shape[-1] + 1) * op.outputs[0].numel)


@rule("aten._pdist_backward")
def pair_distances_backward(op: Op) -> Work:
    """As of two tables; each pair has two gradients, of which one is the other's negative."""
    return moves(op, vector_flops=5 * op.tensor("self").shape[-1] * op.tensor("pdist").numel)
