"""Fused attention: torch's own formulas in full, a brute-force count for what a causal mask hides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opbuilder import new, work
from torch.utils import flop_counter

from foretrace.costmodels import Work
from foretrace.costmodels.attention import hidden_pairs

SMALL = st.integers(1, 12)


def operands(b=2, h=6, q=5, k=7, d=4, v=3, kv=None):
    kv = kv or h
    return {"query": new(b, h, q, d), "key": new(b, kv, k, d), "value": new(b, kv, k, v)}


def test_the_whole_work_of_a_forward():
    b, h, q, k, d, v = 2, 6, 5, 7, 4, 3
    made = (new(b, h, q, v), new(b, h, q))
    scores = b * h * q * k
    assert work("aten._scaled_dot_product_flash_attention.default", made, **operands()) == Work(
        tensor_flops=2 * scores * (d + v),
        vector_flops=5 * scores + b * h * q * v,
        read_bytes=4 * b * h * (q * d + k * d + k * v),
        written_bytes=4 * b * h * (q * v + q),
    )


@given(SMALL, SMALL, SMALL, SMALL, SMALL, SMALL, st.integers(1, 4))
def test_the_peer_counts_the_same_grouped_queries_included(b, kv, q, k, d, v, group):
    h = kv * group
    given = operands(b, h, q, k, d, v, kv)
    made = new(b, h, q, v)
    forward = work("aten._scaled_dot_product_efficient_attention.default", made, **given)
    backward = work("aten._scaled_dot_product_efficient_attention_backward.default", made, grad_out_=made, **given)
    shapes = [t.shape for t in given.values()]
    assert forward.tensor_flops == flop_counter.sdpa_flop_count(*shapes)
    assert backward.tensor_flops == flop_counter.sdpa_backward_flop_count(made.shape, *shapes)


def test_kernels_that_keep_heads_behind_the_sequence_cost_the_same():
    b, h, q, k, d = 2, 6, 5, 7, 4
    swapped = {"query": new(b, q, h, d), "key": new(b, k, h, d), "value": new(b, k, h, d)}
    kernel = work("aten._flash_attention_forward.default", new(b, q, h, d), **swapped)
    assert kernel == work("aten._scaled_dot_product_flash_attention.default", new(b, h, q, d), **operands(v=d))


def test_packed_sequences_meet_the_longest_one():
    tokens, h, d = 30, 2, 4
    given = {name: new(tokens, h, d) for name in ("query", "key", "value")}
    kernel = work(
        "aten._flash_attention_forward.default",
        new(tokens, h, d),
        **given,
        cum_seq_q=new(4, dtype="int32"),
        cum_seq_k=new(4, dtype="int32"),
        max_q=10,
        max_k=10,
    )
    assert kernel.tensor_flops == 2 * tokens * 10 * h * 2 * d


@given(st.integers(0, 12), st.integers(1, 12))
def test_hidden_pairs_are_those_above_the_diagonal(queries: int, keys: int):
    top_left = sum(k > q for q in range(queries) for k in range(keys))
    bottom_right = sum(k - keys > q - queries for q in range(queries) for k in range(keys))
    assert hidden_pairs(queries, keys) == top_left
    assert hidden_pairs(queries, keys, bottom_right=True) == bottom_right


@pytest.mark.parametrize(
    "name", ["flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention"]
)
def test_a_causal_mask_makes_the_scores_it_hides_skippable_forward_and_backward(name: str):
    b, h, s, d = 2, 3, 8, 4
    given = operands(b, h, s, s, d, d)
    hidden = b * h * s * (s - 1) // 2
    forward = work(f"aten._scaled_dot_product_{name}.default", new(b, h, s, d), **given, is_causal=True)
    backward = work(f"aten._scaled_dot_product_{name}_backward.default", new(b, h, s, d), **given, is_causal=True)
    assert forward.skippable_flops == hidden * 2 * (d + d)
    assert backward.skippable_flops == hidden * 2 * 5 * d
    assert forward.causal_flops == forward.flops - forward.skippable_flops


def test_without_a_causal_flag_nothing_is_skippable():
    made = new(2, 6, 5, 3)
    assert work("aten._scaled_dot_product_flash_attention.default", made, **operands()).skippable_flops == 0


def test_a_mask_is_one_add_and_dropout_three_flops_per_score():
    b, h, q, k = 2, 6, 5, 7
    name, made = "aten._scaled_dot_product_efficient_attention.default", new(b, h, q, 3)
    plain = work(name, made, **operands())
    masked = work(name, made, **operands(), attn_bias=new(1, 1, q, k))
    dropped = work(name, made, **operands(), dropout_p=0.1)
    assert masked.vector_flops - plain.vector_flops == b * h * q * k
    assert masked.read_bytes - plain.read_bytes == 4 * q * k
    assert dropped.vector_flops - plain.vector_flops == 3 * b * h * q * k


def test_attention_written_out_moves_its_scores_and_skips_nothing():
    b, h, q, k, v = 2, 6, 5, 7, 3
    made = (new(b, h, q, v), new(b, h, q, k))
    math = work("aten._scaled_dot_product_attention_math.default", made, **operands(), is_causal=True)
    fused = work("aten._scaled_dot_product_flash_attention.default", made[0], **operands())
    scores = 4 * b * h * q * k
    assert math == Work(
        tensor_flops=fused.tensor_flops,
        vector_flops=fused.vector_flops,
        read_bytes=fused.read_bytes + 2 * scores,
        written_bytes=fused.written_bytes + 2 * scores,
    )
