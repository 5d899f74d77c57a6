"""Elementwise ops: the count for each element, broadcasting, and variants in place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opbuilder import new, work

from foretrace.costmodels import Work

PER_ELEMENT = {
    "mul": 1, "div": 1, "exp": 1, "rsqrt": 1, "where": 1, "relu": 1, "masked_fill": 1, "gt": 1, "clamp": 2,
    "lerp": 3, "sigmoid": 4, "sigmoid_backward": 3, "tanh": 1, "tanh_backward": 3, "silu": 4, "silu_backward": 9,
    "gelu": 5, "gelu_backward": 11, "native_dropout_backward": 2, "add": 1, "sub": 1, "addcmul": 2, "addcdiv": 2,
}  # fmt: skip


@pytest.mark.parametrize(("name", "flops"), PER_ELEMENT.items())
def test_flops_per_element(name: str, flops: int):
    x = new(3, 7)
    assert work(f"aten.{name}.default", new(3, 7), self=x) == Work(
        vector_flops=flops * 21, read_bytes=84, written_bytes=84
    )


def test_gelu_by_tanh_costs_more_than_by_erf():
    assert work("aten.gelu.default", new(10), self=new(10), approximate="tanh").vector_flops == 90
    assert work("aten.gelu_backward.default", new(10), self=new(10), approximate="tanh").vector_flops == 180


@pytest.mark.parametrize(
    ("name", "given", "flops"),
    [
        ("add.Tensor", {"alpha": 1}, 1),
        ("add.Tensor", {"alpha": -0.1}, 2),
        ("sub.Tensor", {"alpha": 2}, 2),
        ("addcmul.default", {"value": 0.1}, 3),
        ("_foreach_addcdiv_.ScalarList", {"scalars": (-0.1,)}, 3),
        ("_foreach_addcdiv_.Scalar", {"value": 1}, 2),
    ],
)
def test_a_factor_other_than_one_is_a_multiply(name: str, given: dict[str, object], flops: int):
    assert work(f"aten.{name}", new(10), self=new(10), **given).vector_flops == flops * 10


@given(st.lists(st.integers(0, 30), min_size=1, max_size=5))
def test_an_op_over_lists_is_the_sum_of_its_tensors(sizes: list[int]):
    mine, others = tuple(new(n) for n in sizes), tuple(new(n) for n in sizes)
    listed = work("aten._foreach_mul_.List", None, mutates=("self",), self=mine, other=others)
    singles = [
        work("aten.mul_.Tensor", a, mutates=("self",), self=a, other=b) for a, b in zip(mine, others, strict=True)
    ]
    assert listed == sum(singles, Work())


def test_flops_follow_the_result_not_the_operands():
    assert work("aten.mul.Tensor", new(5, 4), self=new(5, 1), other=new(4)) == Work(
        vector_flops=20, read_bytes=20 + 16, written_bytes=80
    )


def test_a_square_written_as_a_product_reads_once():
    x = new(10)
    assert work("aten.mul.Tensor", new(10), self=x, other=x).read_bytes == 40


def test_dropout_counts_its_mask_once():
    made = (new(10), new(10, dtype="bool"))
    assert work("aten.native_dropout.default", made, input=new(10), p=0.1, train=True) == Work(
        vector_flops=30, read_bytes=40, written_bytes=50
    )


def test_glu_halves():
    assert work("aten.glu.default", new(2, 3), self=new(2, 6)).vector_flops == 5 * 6
    backward = work("aten.glu_backward.default", new(2, 6), grad_output=new(2, 3), self=new(2, 6), dim=-1)
    assert backward.vector_flops == 8 * 6
