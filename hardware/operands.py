"""A matrix product -> the contiguous copies that PyTorch makes of operands which cuBLAS cannot take as they lie.

cuBLAS takes a matrix by rows or by columns: one stride is 1, the other at least as long as a row. Anything else is
copied for the call. The usual case is the gradient of a ``sum()``: one number, expanded to the shape of the logits,
whose strides are all 0; both products of the layer below copy it whole.

Sources: https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/Blas.cpp, prepare_matrix_for_cublas
and prepare_batch_matrix_for_cublas.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..costmodels.matmul import is_sparse
from ..graph import Op, Tensor
from .script import Scratch

OPERANDS = {
    "aten.mm": ("self", "mat2"),
    "aten.addmm": ("mat1", "mat2"),
    "aten.bmm": ("self", "mat2"),
    "aten.baddbmm": ("batch1", "batch2"),
}
"""The matrices of each product."""


def has_sparse_operand(op: Op) -> bool:
    """Whether a product is one for cuSPARSE: then one of its matrices is the places of its elements, and these."""
    return any(is_sparse(op.get(name)) for name in OPERANDS.get(op.packet, ()))


def operand_copies(op: Op) -> Iterator[Scratch]:
    """The copies that `op` makes; none for other ops than these products."""
    for name in OPERANDS.get(op.packet, ()):
        operand = op.tensor(name)
        if not taken_as_it_lies(operand):
            yield Scratch(operand.bytes, f"contiguous copy of {name}")


def taken_as_it_lies(operand: Tensor) -> bool:
    """Whether cuBLAS can read a matrix, or a batch of them, without a copy.

    >>> taken_as_it_lies(Tensor(0, "float32", (4, 8), (8, 1))), taken_as_it_lies(Tensor(0, "float32", (4, 8), (0, 0)))
    (True, False)
    """
    if is_contiguous(operand):
        return True
    (rows, columns), (down, across) = operand.shape[-2:], operand.strides[-2:]
    return (across == 1 and down >= max(1, columns)) or (down == 1 and across >= max(1, rows))


def is_contiguous(tensor: Tensor) -> bool:
    """Whether the elements lie in row-major order without gaps."""
    if not tensor.numel:
        return True
    expected = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
