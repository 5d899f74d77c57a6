"""Copies, fills, views and draws: bytes, and hardly a FLOP."""

import pytest
from opbuilder import call, new, work

from foretrace.costmodels import Kind, Work, price_op


@pytest.mark.parametrize("name", ["view", "t", "transpose.int", "expand", "slice.Tensor", "detach", "unbind.int"])
def test_views_are_free(name: str):
    x = new(4, 4)
    priced = price_op(call(name if name.startswith("lib") else f"aten.{name}", x, self=x))
    assert (priced.kind, priced.work) == (Kind.FREE, Work())


def test_a_cast_reads_one_type_and_writes_the_other():
    assert work("aten._to_copy.default", new(10, dtype="bfloat16"), self=new(10)) == Work(
        read_bytes=40, written_bytes=20
    )


def test_copy_does_not_read_what_it_overwrites():
    target = new(10, dtype="bfloat16")
    assert work("aten.copy_.default", target, mutates=("self",), self=target, src=new(10)) == Work(
        read_bytes=40, written_bytes=20
    )


def test_copies_of_lists():
    targets = (new(10), new(20))
    assert work("aten._foreach_copy_.default", None, mutates=("self",), self=targets, src=(new(10), new(20))) == Work(
        read_bytes=120, written_bytes=120
    )


def test_a_copy_that_could_be_a_view_is_nothing():
    x = new(4, 4)
    assert work("aten.reshape.default", x._replace(shape=(16,), strides=(1,)), self=x, shape=(16,)) == Work()
    assert work("aten.reshape.default", new(16), self=x, shape=(16,)) == Work(read_bytes=64, written_bytes=64)


def test_cat_reads_all_and_writes_all():
    assert work("aten.cat.default", new(9), tensors=(new(4), new(5))) == Work(read_bytes=36, written_bytes=36)


def test_fills_only_write():
    x = new(10)
    filled = Work(written_bytes=40)
    assert work("aten.zero_.default", x, mutates=("self",), self=x) == filled
    assert work("aten.zeros_like.default", new(10), self=x) == filled
    assert work("aten.full.default", new(10), size=(10,), fill_value=1) == filled
    assert work("aten._foreach_zero_.default", None, mutates=("self",), self=(x, new(5))) == Work(written_bytes=60)


def test_an_allocation_touches_nothing():
    assert work("aten.empty.memory_format", new(10), size=(10,)) == Work()


def test_draws_are_written_and_probabilities_read():
    x = new(10)
    assert work("aten.uniform_.default", x, mutates=("self",), self=x) == Work(vector_flops=20, written_bytes=40)
    assert work("aten.bernoulli_.float", x, mutates=("self",), self=x, p=0.5) == Work(vector_flops=10, written_bytes=40)
    assert work("aten.bernoulli.default", new(10), self=x) == Work(vector_flops=10, read_bytes=40, written_bytes=40)
    assert work("aten.randn_like.default", new(10), self=x) == Work(vector_flops=70, written_bytes=40)


def test_the_gradient_of_a_slice_is_zeros_and_the_slice():
    given = {"grad_output": new(2, 4), "input_sizes": (10, 4), "dim": 0, "start": 0, "end": 2, "step": 1}
    assert work("aten.slice_backward.default", new(10, 4), **given) == Work(read_bytes=32, written_bytes=160 + 32)


def test_the_gradient_of_padding_does_not_read_the_input():
    given = {"grad_output": new(1, 1, 6, 6), "self": new(1, 1, 4, 4), "padding": (1, 1, 1, 1)}
    assert work("aten.reflection_pad2d_backward.default", new(1, 1, 4, 4), **given) == Work(
        vector_flops=36, read_bytes=144, written_bytes=64
    )


def test_counting_up_is_a_multiply_and_an_add():
    assert work("aten.arange.default", new(10, dtype="int64"), end=10) == Work(vector_flops=20, written_bytes=80)


def test_draws_by_weight_add_the_weights_up_and_draws_by_rejection_take_ten():
    assert work("aten.multinomial.default", new(3, dtype="int64"), self=new(10), num_samples=3).vector_flops == 20
    assert work("aten.poisson.default", new(10), self=new(10)).vector_flops == 100
