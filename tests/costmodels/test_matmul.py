"""Matrix products: exact work, and the same FLOPs as torch's own formulas."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from opbuilder import new, work
from torch.utils import flop_counter

from foretrace.costmodels import Work
from foretrace.graph import Tensor

aten = torch.ops.aten
SIZES = st.integers(0, 65)


def test_mm():
    assert work("aten.mm.default", new(2, 5), self=new(2, 3), mat2=new(3, 5)) == Work(
        tensor_flops=2 * 2 * 3 * 5, read_bytes=4 * (6 + 15), written_bytes=4 * 10
    )


def test_addmm_reads_the_broadcast_bias_once_and_adds_it_to_each_element():
    bias = Tensor(new(5).storage, "bfloat16", (2, 5), (0, 1))
    args = {"mat1": new(2, 3, dtype="bfloat16"), "mat2": new(3, 5, dtype="bfloat16")}
    made = work("aten.addmm.default", new(2, 5, dtype="bfloat16"), self=bias, **args)
    assert made == Work(tensor_flops=60, vector_flops=10, read_bytes=2 * (5 + 6 + 15), written_bytes=20)


def test_addmm_with_factors():
    given = {"self": new(2, 5), "mat1": new(2, 3), "mat2": new(3, 5)}
    assert work("aten.addmm.default", new(2, 5), **given, alpha=0.5, beta=2).vector_flops == 3 * 10
    assert work("aten.addmm.default", new(2, 5), **given, beta=0) == Work(
        tensor_flops=60, read_bytes=4 * (6 + 15), written_bytes=40
    )


@given(SIZES, SIZES, SIZES, SIZES)
def test_the_peer_counts_the_same(b: int, m: int, k: int, n: int):
    left, right, made = new(m, k), new(k, n), new(m, n)
    lefts, rights, mades = new(b, m, k), new(b, k, n), new(b, m, n)
    counted = {
        "mm": work("aten.mm.default", made, self=left, mat2=right),
        "addmm": work("aten.addmm.default", made, self=made, mat1=left, mat2=right),
        "bmm": work("aten.bmm.default", mades, self=lefts, mat2=rights),
        "baddbmm": work("aten.baddbmm.default", mades, self=mades, batch1=lefts, batch2=rights),
    }
    assert {name: w.tensor_flops for name, w in counted.items()} == {
        "mm": flop_counter.mm_flop((m, k), (k, n)),
        "addmm": flop_counter.addmm_flop((m, n), (m, k), (k, n)),
        "bmm": flop_counter.bmm_flop((b, m, k), (b, k, n)),
        "baddbmm": flop_counter.baddbmm_flop((b, m, n), (b, m, k), (b, k, n)),
    }


@given(SIZES, SIZES, SIZES, st.integers(1, 9))
def test_linear_in_the_batch(m: int, k: int, n: int, times: int):
    one = work("aten.bmm.default", new(1, m, n), self=new(1, m, k), mat2=new(1, k, n))
    many = work("aten.bmm.default", new(times, m, n), self=new(times, m, k), mat2=new(times, k, n))
    assert many == Work(
        tensor_flops=times * one.tensor_flops,
        read_bytes=times * one.read_bytes,
        written_bytes=times * one.written_bytes,
    )


@pytest.mark.parametrize(
    ("left", "right", "made", "flops"),
    [
        ((12, 3), (4, 3, 5), (12, 5), 2 * 12 * 3 * 5),  # rows belong to groups
        ((4, 6, 3), (3, 20), (6, 20), 2 * 6 * 3 * 20),  # columns belong to groups
        ((6, 12), (12, 5), (4, 6, 5), 2 * 6 * 12 * 5),  # terms belong to groups
        ((4, 6, 3), (4, 3, 5), (4, 6, 5), 2 * 4 * 6 * 3 * 5),  # a plain batch
    ],
)
def test_grouped_mm_is_the_sum_of_its_groups(left, right, made, flops):
    counted = work(
        "aten._grouped_mm.default", new(*made), self=new(*left), mat2=new(*right), offs=new(4, dtype="int32")
    )
    assert counted.tensor_flops == flops


def test_linear_backward_does_what_its_mask_asks():
    gradient, rows, weight = new(7, 5), new(7, 3), new(5, 3)
    given = {"self": rows, "grad_output": gradient, "weight": weight}
    both = work("aten.linear_backward.default", (new(7, 3), new(5, 3), new(5)), **given, output_mask=(True, True, True))
    one = work("aten.linear_backward.default", (None, new(5, 3), None), **given, output_mask=(False, True, False))
    assert both.tensor_flops == 2 * 2 * 7 * 3 * 5 and both.vector_flops == 35
    assert one == Work(tensor_flops=2 * 7 * 3 * 5, read_bytes=4 * (35 + 21), written_bytes=4 * 15)


def test_a_matrix_times_a_vector_is_vector_work():
    assert work("aten.mv.default", new(4), self=new(4, 3), vec=new(3)) == Work(
        vector_flops=24, read_bytes=4 * (12 + 3), written_bytes=16
    )


def test_bilinear_spans_the_space_of_all_three_operands():
    # out[b, o] = sum over i, j of x1[b, i] * weight[o, i, j] * x2[b, j]
    batch, rows, columns, made = 6, 5, 4, 3
    given = {"i1": new(batch, rows), "i2": new(made, rows, columns), "i3": new(batch, columns)}
    counted = work(
        "aten._trilinear.default",
        new(batch, made),
        **given,
        expand1=(1, 3),
        expand2=(0,),
        expand3=(1, 2),
        sumdim=(2, 3),
    )
    assert counted.vector_flops == 3 * batch * made * rows * columns


def test_linear_contracts_the_rows_of_its_weight():
    given = {"input": new(7, 3), "weight": new(5, 3)}
    assert work("aten.linear.default", new(7, 5), **given, bias=new(5)) == Work(
        tensor_flops=2 * 7 * 3 * 5, vector_flops=35, read_bytes=4 * (21 + 15 + 5), written_bytes=4 * 35
    )


def test_distances_are_three_flops_a_term_and_a_root():
    assert work("aten._cdist_forward.default", new(4, 6), x1=new(4, 5), x2=new(6, 5)).vector_flops == 24 * (15 + 1)
    given = {"grad": new(4, 6), "x1": new(4, 5), "x2": new(6, 5), "cdist": new(4, 6)}
    assert work("aten._cdist_backward.default", new(4, 5), **given).vector_flops == 24 * 5 * 4


def test_a_sparse_matrix_multiplies_its_stored_elements_alone():
    """3 stored elements of a 4 x 6 matrix, each by a row of 5; their places are two numbers of 8 bytes each."""
    matrix, right, made = (new(2, 3, dtype="int64"), new(3)), new(6, 5), new(4, 5)
    read = 8 * 6 + 4 * (3 + 30)
    product = Work(vector_flops=2 * 3 * 5, read_bytes=read, written_bytes=4 * 20)
    assert work("aten.mm.default", made, self=matrix, mat2=right) == product
    assert work("aten._sparse_addmm.default", made, self=new(4, 5), mat1=matrix, mat2=right, beta=0) == product
    added = work("aten.addmm.default", made, self=new(4, 5), mat1=matrix, mat2=right)
    assert added == Work(vector_flops=2 * 3 * 5 + 20, read_bytes=read + 4 * 20, written_bytes=4 * 20)
