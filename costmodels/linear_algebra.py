"""Turns factorizations of matrices, and what is solved by them, into work: the counts that go with LAPACK.

*Linear algebra* is what takes a matrix apart: triangles (LU, Cholesky, LDL), an orthogonal factor (QR), eigenvalues,
singular values. The leading terms are those of LAPACK Working Note 41, appendix C
(https://www.netlib.org/lapack/lawnspdf/lawn41.pdf), and for eigenvalues and singular values those of Golub and Van
Loan, Matrix Computations (sections 7.5, 8.3 and 8.6), whose iterations are as many as are usual. They are vector
work: most of it is done in panels too narrow for a matrix unit. Complex numbers are priced as real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from ..graph import Op, Tensor
from .rules import Rule, aten, free, rule
from .work import Work, argument, moves, produced

POLYNOMIAL_PRODUCTS = 5
"""Of ``matrix_exp``: the polynomial of degree 18, for matrices that are not small (ATen/native/LinearAlgebra.cpp,
compute_T18). Squarings after it, whose number follows from the norm, are not counted."""

free("aten._linalg_check_errors", because="looks at a few numbers on the host")


def lu(rows: int, columns: int) -> float:
    """Two triangles."""
    most, least = max(rows, columns), min(rows, columns)
    return most * least**2 - least**3 / 3


def qr(rows: int, columns: int) -> float:
    """Householder reflections, not yet multiplied out."""
    return 2 * lu(rows, columns)


def multiplied_out(rows: int, columns: int, count: int) -> float:
    """The orthogonal matrix of `count` reflections."""
    return 4 * rows * columns * count - 2 * (rows + columns) * count**2 + 4 * count**3 / 3


def reflected(rows: int, columns: int, count: int) -> float:
    """`count` reflections of length `rows`, applied to as many columns."""
    return 4 * rows * columns * count - 2 * columns * count**2


def singular_values(rows: int, columns: int) -> float:
    """Without vectors."""
    most, least = max(rows, columns), min(rows, columns)
    return 4 * most * least**2 - 4 * least**3 / 3


def singular_vectors(rows: int, columns: int, full: bool) -> float:
    """With as many vectors as there are values, or with all of both sides."""
    most, least = max(rows, columns), min(rows, columns)
    return 4 * most**2 * least + 8 * most * least**2 + 9 * least**3 if full else 14 * most * least**2 + 8 * least**3


def solved(order: int, columns: int) -> float:
    """One triangle."""
    return order**2 * columns


# -- ops ------------------------------------------------------------------------------------------


def _of_each(count: Callable[[int, int], float]) -> Rule:
    """A rule for an op on a batch of matrices, from the FLOPs of one of so many rows and columns."""

    def price(op: Op) -> Work:
        matrix = argument(op, "A", "self", "LD")
        return moves(op, vector_flops=round(_batch(matrix) * count(*_sizes(matrix))))

    return price


def _batch(matrix: Tensor) -> int:
    return prod(matrix.shape[:-2])


def _sizes(matrix: Tensor) -> tuple[int, int]:
    rows, columns = matrix.shape[-2:]
    return rows, columns


rule(*aten("linalg_lu_factor_ex linalg_lu _linalg_det _linalg_slogdet"))(_of_each(lu))
rule(*aten("linalg_cholesky_ex cholesky linalg_ldl_factor_ex"))(_of_each(lambda rows, _: rows**3 / 3))
rule("aten.cholesky_inverse")(_of_each(lambda rows, _: 2 * rows**3 / 3))
rule("aten.linalg_inv_ex")(_of_each(lambda rows, _: 2 * rows**3))
rule("aten.geqrf")(_of_each(qr))
rule("aten.linalg_eig")(_of_each(lambda rows, _: 25 * rows**3))
rule("aten._linalg_eigvals")(_of_each(lambda rows, _: 10 * rows**3))


@rule("aten.linalg_matrix_exp")
def exponential(op: Op) -> Work:
    """A polynomial of matrices."""
    matrix = op.tensor("self")
    return moves(op, tensor_flops=POLYNOMIAL_PRODUCTS * 2 * matrix.shape[-1] * matrix.numel)


@rule("aten._linalg_eigh")
def symmetric(op: Op) -> Work:
    """To three diagonals, and with vectors the products of all that was rotated."""
    vectors = bool(op.get("compute_v", True))
    return _of_each(lambda rows, _: 9 * rows**3 if vectors else 4 * rows**3 / 3)(op)


@rule("aten.linalg_matrix_sqrth")
def square_root(op: Op) -> Work:
    """Eigenvalues with their vectors, and the product of these with the roots between them."""
    return _of_each(lambda rows, _: 9 * rows**3 + 2 * rows**3 + rows**2)(op)


@rule("aten.linalg_polar")
def polar(op: Op) -> Work:
    """Singular values with their vectors, the product of both sides, and that of one side with the values between."""
    return _of_each(
        lambda rows, columns: singular_vectors(rows, columns, False) + 2 * (rows + columns) * columns**2 + columns**2
    )(op)


@rule("aten._linalg_svd")
def singular(op: Op) -> Work:
    """Singular values, and vectors if they are wanted."""
    full, vectors = bool(op.get("full_matrices", False)), bool(op.get("compute_uv", True))
    return _of_each(lambda rows, columns: _singular(rows, columns, vectors, full))(op)


def _singular(rows: int, columns: int, vectors: bool, full: bool) -> float:
    return singular_vectors(rows, columns, full) if vectors else singular_values(rows, columns)


@rule("aten.linalg_pinv")
def pseudo_inverse(op: Op) -> Work:
    """Singular values or eigenvalues with their vectors, a division of the ones and a product with the others."""
    hermitian = bool(op.get("hermitian", False))

    def count(rows: int, columns: int) -> float:
        least = min(rows, columns)
        apart = 9 * rows**3 if hermitian else singular_vectors(rows, columns, False)
        return apart + 2 * rows * columns * least + rows * least

    return _of_each(count)(op)


@rule("aten.linalg_qr")
def orthogonal(op: Op) -> Work:
    """The reflections, and where the orthogonal factor is wanted their product."""
    mode = op.get("mode", "reduced")

    def count(rows: int, columns: int) -> float:
        least = min(rows, columns)
        width = {"r": 0, "complete": rows}.get(str(mode), least)
        return qr(rows, columns) + (multiplied_out(rows, width, least) if width else 0)

    return _of_each(count)(op)


@rule("aten.linalg_householder_product")
def product_of_reflections(op: Op) -> Work:
    """The orthogonal matrix of the reflections that are given."""
    matrix, count = op.tensor("input"), op.tensor("tau").shape[-1]
    return moves(op, vector_flops=round(_batch(matrix) * multiplied_out(*_sizes(matrix), count)))


@rule("aten.ormqr")
def reflections_of(op: Op) -> Work:
    """The reflections that are given, applied to a matrix from the left or the right."""
    count, other = op.tensor("input2").shape[-1], op.tensor("input3")
    rows, columns = _sizes(other) if op.get("left", True) else _sizes(other)[::-1]
    return moves(op, vector_flops=round(_batch(other) * reflected(rows, columns, count)))


@rule(*aten("linalg_solve_triangular triangular_solve"))
def triangle(op: Op) -> Work:
    """One triangle, for each element of the result a row of it."""
    matrix = op.tensor("A") if op.packet == "aten.triangular_solve" else op.tensor("self")
    return moves(op, vector_flops=matrix.shape[-1] * op.outputs[0].numel)


@rule(*aten("linalg_lu_solve cholesky_solve linalg_ldl_solve"))
def triangles(op: Op) -> Work:
    """Two triangles, one after the other."""
    matrix = argument(op, "LU", "LD", "input2")
    return moves(op, vector_flops=2 * matrix.shape[-1] * op.outputs[0].numel)


@rule("aten._linalg_solve_ex")
def solution(op: Op) -> Work:
    """Two triangles are made, and then solved."""
    matrix = op.tensor("A")
    order = matrix.shape[-1]
    made = _batch(matrix) * lu(order, order)
    return moves(op, vector_flops=round(made + 2 * order * op.outputs[0].numel))


@rule("aten.linalg_lstsq")
def least_squares(op: Op) -> Work:
    """The reflections that make a triangle, the same of the right-hand sides, and the triangle solved."""
    matrix, right = op.tensor("self"), op.tensor("b")
    rows, columns = _sizes(matrix)
    width = right.shape[-1] if len(right.shape) == len(matrix.shape) else 1
    least = min(rows, columns)
    each = qr(rows, columns) + reflected(rows, width, least) + solved(least, width)
    return moves(op, vector_flops=round(_batch(matrix) * each))


@rule("aten.lu_unpack")
def unpacked(op: Op) -> Work:
    """Each element goes into one of the triangles; the permutation is written as a matrix."""
    return moves(op)


@rule("aten.linalg_cross")
def cross(op: Op) -> Work:
    """Two multiplies and a difference for each element."""
    return moves(op, vector_flops=3 * produced(op))
