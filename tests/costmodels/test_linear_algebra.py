"""Factorizations and what is solved by them: LAPACK's counts, spelled out for small matrices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from opbuilder import new, work
from oprecorder import record

from foretrace.costmodels import Kind, Work, lookup, price_op
from foretrace.costmodels.linear_algebra import lu, multiplied_out, qr, singular_values

INFO = new(2, dtype="int32")


def test_a_cholesky_factor_of_each_matrix() -> None:
    made = work("aten.linalg_cholesky_ex.default", (new(2, 6, 6), INFO), self=new(2, 6, 6))
    assert made == Work(vector_flops=2 * 6**3 // 3, read_bytes=4 * 72, written_bytes=4 * 72 + 8)


def test_two_triangles_of_square_and_long_matrices() -> None:
    assert lu(6, 6) == 2 * 6**3 / 3
    assert lu(9, 6) == lu(6, 9) == 9 * 36 - 72
    made = (new(9, 6), new(6, dtype="int32"), new(dtype="int32"))
    assert work("aten.linalg_lu_factor_ex.default", made, A=new(9, 6)).vector_flops == 9 * 36 - 72


def test_a_solution_is_two_triangles_made_and_solved() -> None:
    made = (new(6, 5), new(6, 6), new(6, dtype="int32"), new(dtype="int32"))
    assert work("aten._linalg_solve_ex.default", made, A=new(6, 6), B=new(6, 5)).vector_flops == 144 + 2 * 36 * 5
    given = {"LU": new(6, 6), "pivots": new(6, dtype="int32"), "B": new(6, 5)}
    assert work("aten.linalg_lu_solve.default", new(6, 5), **given).vector_flops == 2 * 36 * 5
    triangle = {"self": new(6, 6), "B": new(6, 5), "upper": True}
    assert work("aten.linalg_solve_triangular.default", new(6, 5), **triangle).vector_flops == 36 * 5
    older = work("aten.triangular_solve.default", (new(6, 5), new(6, 6)), self=new(6, 5), A=new(6, 6))
    assert older.vector_flops == 36 * 5


def test_an_orthogonal_factor_is_multiplied_out_where_it_is_wanted() -> None:
    reflections = 2 * (9 * 36 - 72)
    reduced = 4 * 9 * 6 * 6 - 2 * 15 * 36 + 4 * 72
    complete = 4 * 9 * 9 * 6 - 2 * 18 * 36 + 4 * 72
    assert (qr(9, 6), multiplied_out(9, 6, 6), multiplied_out(9, 9, 6)) == (reflections, reduced, complete)
    counts = {"r": reflections, "reduced": reflections + reduced, "complete": reflections + complete}
    for mode, flops in counts.items():
        assert work("aten.linalg_qr.default", (new(9, 6), new(6, 6)), A=new(9, 6), mode=mode).vector_flops == flops
    given = {"self": new(9, 6), "input2": new(6), "input3": new(9, 5)}
    assert work("aten.ormqr.default", new(9, 5), **given).vector_flops == 4 * 9 * 5 * 6 - 2 * 5 * 36


def test_eigenvalues_and_singular_values() -> None:
    symmetric = {"A": new(3, 6, 6)}
    made = (new(3, 6), new(3, 6, 6))
    assert work("aten._linalg_eigh.default", made, **symmetric, compute_v=True).vector_flops == 3 * 9 * 216
    assert work("aten._linalg_eigh.default", made, **symmetric, compute_v=False).vector_flops == 3 * 4 * 72
    assert work("aten.linalg_eig.default", made, self=new(3, 6, 6)).vector_flops == 3 * 25 * 216
    values = {"A": new(9, 6), "compute_uv": False}
    assert work("aten._linalg_svd.default", (new(0), new(6), new(0)), **values).vector_flops == 4 * 9 * 36 - 4 * 72
    thin = 14 * 9 * 36 + 8 * 216
    assert work("aten._linalg_svd.default", (new(9, 6), new(6), new(6, 6)), A=new(9, 6)).vector_flops == thin
    inverse = thin + 2 * 9 * 6 * 6 + 9 * 6
    assert work("aten.linalg_pinv.atol_rtol_tensor", new(6, 9), self=new(9, 6)).vector_flops == inverse


@given(st.integers(0, 40), st.integers(0, 40))
def test_no_count_is_below_zero(rows: int, columns: int) -> None:
    least = min(rows, columns)
    assert min(lu(rows, columns), singular_values(rows, columns), multiplied_out(rows, least, least)) >= 0


def steps() -> dict[str, object]:
    square, right = torch.randn(2, 6, 6) + 6 * torch.eye(6), torch.randn(2, 6, 5)
    spd = square @ square.mT
    return {
        "inv": lambda: torch.linalg.inv(square),
        "det": lambda: torch.linalg.det(square),
        "slogdet": lambda: torch.linalg.slogdet(square),
        "lstsq": lambda: torch.linalg.lstsq(torch.randn(9, 6), torch.randn(9, 5)),
        "ldl": lambda: torch.linalg.ldl_solve(*torch.linalg.ldl_factor(spd), right),
        "eigvals": lambda: torch.linalg.eigvals(square),
        "exponential": lambda: torch.linalg.matrix_exp(square),
        "cholesky_inverse": lambda: torch.cholesky_inverse(torch.linalg.cholesky(spd)),
        "cholesky_solve": lambda: torch.cholesky_solve(right, torch.linalg.cholesky(spd)),
        "cross": lambda: torch.linalg.cross(torch.randn(4, 3), torch.randn(4, 3)),
        "householder": lambda: torch.linalg.householder_product(torch.randn(9, 6), torch.randn(6)),
        "pinv": lambda: torch.linalg.pinv(square),
        "lu": lambda: torch.linalg.lu(square),
        "unpacked": lambda: torch.lu_unpack(*torch.linalg.lu_factor(square)),
        "pdist": lambda: torch.pdist(torch.randn(5, 3)),
        "transform": lambda: torch.fft.irfft2(torch.fft.fft2(torch.fft.rfft2(torch.randn(8, 8)))),
        "unpooled": lambda: torch.nn.functional.max_unpool2d(
            *torch.nn.functional.max_pool2d(torch.randn(1, 2, 8, 8), 2, return_indices=True), 2
        ),
        "ldexp": lambda: torch.ldexp(torch.randn(4), torch.arange(4)),
        "gamma": lambda: torch.mvlgamma(torch.rand(4) + 4, 3),
        "close": lambda: torch.allclose(square, square),
    }


def test_roots_and_polar_factors_are_those_of_values_and_vectors() -> None:
    root = work("aten.linalg_matrix_sqrth.default", new(2, 6, 6), self=new(2, 6, 6))
    assert root.vector_flops == 2 * (11 * 6**3 + 6**2)
    polar = work("aten.linalg_polar.default", (new(9, 6), new(6, 6)), A=new(9, 6))
    assert polar.vector_flops == 14 * 9 * 6**2 + 8 * 6**3 + 2 * (9 + 6) * 6**2 + 6**2


@pytest.mark.parametrize("name", steps())
def test_nothing_here_is_assumed(name: str) -> None:
    for op in record(steps()[name]):  # type: ignore[arg-type]
        assert lookup(op).kind is not Kind.ASSUMED, op.name
        assert price_op(op).work.flops >= 0
