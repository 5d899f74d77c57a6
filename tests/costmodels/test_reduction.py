"""Reductions: a count for each element that goes in."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opbuilder import new, work

from foretrace.costmodels import Work
from foretrace.costmodels.reduction import comparisons


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("sum.dim_IntList", 60),
        ("mean.dim", 60 + 6),
        ("amax.default", 60),
        ("var.correction", 4 * 60 + 2 * 6),
        ("std.correction", 4 * 60 + 3 * 6),
        ("linalg_vector_norm.default", 2 * 60 + 6),
        ("logsumexp.default", 4 * 60 + 2 * 6),
        ("any.dim", 60),
    ],
)
def test_reductions_over_rows(name: str, flops: int):
    assert work(f"aten.{name}", new(6), self=new(6, 10), dim=(1,)) == Work(
        vector_flops=flops, read_bytes=240, written_bytes=24
    )


@pytest.mark.parametrize(("order", "flops"), [(2, 21), (1, 20), (float("inf"), 20), (0, 20), (3, 31)])
def test_norms_by_order(order: float, flops: int):
    assert work("aten.linalg_vector_norm.default", new(), self=new(10), ord=order).vector_flops == flops


def test_norms_of_a_list():
    several = (new(10), new(20))
    assert work("aten._foreach_norm.Scalar", (new(), new()), self=several, ord=2) == Work(
        vector_flops=2 * 30 + 2, read_bytes=120, written_bytes=8
    )


def test_max_of_two_and_max_of_one():
    assert work("aten.max.other", new(6, 10), self=new(6, 1), other=new(10)).vector_flops == 60
    assert work("aten.max.dim", (new(6), new(6, dtype="int64")), self=new(6, 10), dim=1).vector_flops == 60


@given(st.integers(1, 10**6))
def test_comparisons_are_the_logarithm_rounded_up(count: int):
    assert comparisons(count) == math.ceil(math.log2(count))


def test_sort_places_each_element_in_its_row():
    made = (new(6, 1024), new(6, 1024, dtype="int64"))
    assert work("aten.sort.default", made, self=new(6, 1024), dim=-1) == Work(
        vector_flops=6 * 1024 * 10, read_bytes=4 * 6 * 1024, written_bytes=12 * 6 * 1024
    )


def test_topk_of_a_router():
    made = (new(100, 2), new(100, 2, dtype="int64"))
    assert work("aten.topk.default", made, self=new(100, 8), k=2, dim=-1) == Work(
        vector_flops=800 * 2, read_bytes=3200, written_bytes=100 * 2 * 12
    )


def test_median_of_all_and_median_of_rows():
    assert work("aten.median.default", new(), self=new(4, 4)).vector_flops == 16 * 4
    assert work("aten.median.dim", (new(4), new(4)), self=new(4, 4), dim=1).vector_flops == 16 * 2


def test_binary_search():
    given = {"sorted_sequence": new(1000), "self": new(7)}
    assert work("aten.searchsorted.Tensor", new(7, dtype="int64"), **given).vector_flops == 70


def test_a_running_sum_is_one_add_per_element():
    assert work("aten.cumsum.default", new(3, 4), self=new(3, 4), dim=1).vector_flops == 12


def test_reductions_with_defaults():
    assert work("aten.dist.default", new(), self=new(10), other=new(10)).vector_flops == 3 * 10 + 1
    assert work("aten.aminmax.default", (new(), new()), self=new(10)).vector_flops == 20
    assert work("aten.norm.Scalar", new(), self=new(10)).vector_flops == 21
    given = {"grad": new(10), "input": new(10), "dim": 0, "output": new(10)}
    assert work("aten.cumprod_backward.default", new(10), **given).vector_flops == 30
    assert work("aten.isin.Tensor_Tensor", new(10), elements=new(10), test_elements=new(8)).vector_flops == 30
