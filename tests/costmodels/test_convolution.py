"""Convolutions: counted tap by tap, and torch's formulas where they are right."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opbuilder import new, work
from oprecorder import record
from torch.utils import flop_counter

from foretrace.costmodels import Kind, Work, price_op


def taps_one_by_one(batch, c_in, c_out, length, kernel, stride, padding, dilation, groups, transposed) -> int:
    """Multiply-adds of a one-dimensional convolution, by walking over everything that meets."""
    reach = dilation * (kernel - 1)
    positions = length if transposed else (length + 2 * padding - reach - 1) // stride + 1
    count = 0
    for _, _, out, inside, _ in product(range(batch), range(positions), range(c_out), range(c_in), range(kernel)):
        count += out // (c_out // groups) == inside // (c_in // groups)
    return count


CASES = {
    "batch": st.integers(1, 2),
    "group_in": st.integers(1, 3),
    "group_out": st.integers(1, 3),
    "length": st.integers(7, 9),
    "kernel": st.integers(1, 3),
    "stride": st.integers(1, 2),
    "padding": st.integers(0, 2),
    "dilation": st.integers(1, 2),
    "groups": st.integers(1, 3),
    "transposed": st.booleans(),
}


@settings(deadline=None, max_examples=40)
@given(**CASES)
def test_forward_and_both_gradients_take_every_tap_once(
    batch, group_in, group_out, length, kernel, stride, padding, dilation, groups, transposed
):
    c_in, c_out = group_in * groups, group_out * groups
    padding = min(padding, dilation * (kernel - 1))
    module = (torch.nn.ConvTranspose1d if transposed else torch.nn.Conv1d)(
        c_in, c_out, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    source = torch.randn(batch, c_in, length, requires_grad=True)
    forward, *rest = [op for op in record(lambda: module(source).sum().backward()) if "convolution" in op.name]
    (backward,) = rest
    taps = taps_one_by_one(batch, c_in, c_out, length, kernel, stride, padding, dilation, groups, transposed)
    assert price_op(forward).work.tensor_flops == 2 * taps
    assert price_op(forward).work.vector_flops == forward.outputs[0].numel
    assert price_op(backward).work.tensor_flops == 2 * 2 * taps
    assert price_op(backward).work.vector_flops == forward.outputs[0].numel


@given(st.integers(1, 4), st.integers(1, 8), st.integers(1, 8), st.integers(3, 9), st.integers(1, 3))
def test_the_peer_counts_the_same_without_groups(b: int, c_in: int, c_out: int, side: int, kernel: int):
    made = new(b, c_out, side - kernel + 1, side - kernel + 1)
    source, weight = new(b, c_in, side, side), new(c_out, c_in, kernel, kernel)
    counted = work("aten.convolution.default", made, input=source, weight=weight, groups=1, transposed=False)
    assert counted.tensor_flops == flop_counter.conv_flop_count(source.shape, weight.shape, made.shape)


def backward(mask: tuple[bool, bool, bool]) -> Work:
    gradients = (new(2, 4, 6, 6), new(8, 2, 3, 3), new(8))
    made = tuple(tensor if wanted else None for tensor, wanted in zip(gradients, mask, strict=True))
    return work(
        "aten.convolution_backward.default",
        made,
        grad_output=new(2, 8, 4, 4),
        input=new(2, 4, 6, 6),
        weight=new(8, 2, 3, 3),
        transposed=False,
        groups=2,
        output_mask=mask,
    )


def test_backward_does_what_its_mask_asks():
    gradient, source, weight, bias = 4 * 2 * 8 * 16, 4 * 2 * 4 * 36, 4 * 8 * 2 * 9, 4 * 8
    products = 2 * 2 * 16 * 8 * 2 * 9
    assert backward((True, True, True)) == Work(
        tensor_flops=2 * products,
        vector_flops=2 * 8 * 16,
        read_bytes=2 * gradient + source + weight,
        written_bytes=source + weight + bias,
    )
    assert backward((True, False, False)) == Work(
        tensor_flops=products, read_bytes=gradient + weight, written_bytes=source
    )
    assert backward((False, True, False)) == Work(
        tensor_flops=products, read_bytes=gradient + source, written_bytes=weight
    )
    assert backward((False, False, True)) == Work(vector_flops=256, read_bytes=gradient, written_bytes=bias)


def test_depthwise_has_no_sum_over_channels():
    depthwise = work(
        "aten.convolution.default", new(2, 8, 4, 4), input=new(2, 8, 6, 6), weight=new(8, 1, 3, 3), groups=8
    )
    assert depthwise.tensor_flops == 2 * 2 * 8 * 16 * 9


def test_a_transposed_op_is_known_by_name_and_counts_its_input():
    counted = work(
        "aten.cudnn_convolution_transpose.default", new(2, 3, 9, 9), self=new(2, 4, 4, 4), weight=new(4, 3, 3, 3)
    )
    assert counted.tensor_flops == 2 * 2 * 16 * 4 * 3 * 9


def test_a_fused_epilogue_counts_bias_sum_and_relu():
    given = {"self": new(2, 4, 6, 6), "weight": new(8, 4, 3, 3)}
    made = new(2, 8, 4, 4)
    relu = work("aten.cudnn_convolution_relu.default", made, **given, bias=new(8))
    added = work("aten.cudnn_convolution_add_relu.default", made, **given, bias=new(8), z=new(2, 8, 4, 4))
    assert (relu.vector_flops, added.vector_flops) == (2 * made.numel, 4 * made.numel)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_convolutions_of_any_rank_have_a_rule(dimensions: int):
    module = getattr(torch.nn, f"Conv{dimensions}d")(3, 4, 2)
    ops = [op for op in record(lambda: module(torch.randn(2, 3, *(5,) * dimensions))) if "conv" in op.name]
    assert [price_op(op).kind for op in ops] == [Kind.RULE]
    assert price_op(ops[0]).work.tensor_flops == 2 * 2 * 4**dimensions * 4 * 3 * 2**dimensions
