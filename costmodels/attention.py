"""Turns fused attention ops into work: the products of queries, keys and values, in full and causal.

A *score* is one query against one key in one head. Forward each score takes one dot product with the query
(length D) and one multiply-add into the output (length Dv); backward takes five such products, because the
kernels do not keep the scores and compute them again (FlashAttention, https://arxiv.org/abs/2205.14135,
section 3.1 and appendix B; torch.utils.flop_counter counts the same five).

The scores that a causal mask hides are counted one by one as ``skippable_flops``. Kernels leave out whole
tiles, so they save somewhat less. Grouped queries: heads are the query's, each key head is read once.
Queries, keys and values count as read once; what a kernel reads again for its next tile comes from cache.

Not covered: sliding windows (priced in full), and sequences packed with their lengths, which live in a tensor
(priced as if every query met the longest sequence).
"""

from __future__ import annotations

from typing import NamedTuple

from ..graph import Op, Tensor
from .pointwise import DROPOUT_FLOPS
from .rules import aten, free, rule
from .work import Work, integer, moves

SOFTMAX_FLOPS = 5
"""Per score: scale it, compare with the running maximum, subtract that, exp, add to the sum."""

SOFTMAX_BACKWARD_FLOPS = 6
"""Per score: scale, subtract the log-sum, exp; then subtract the row's delta, multiply by the probability, scale."""


class Heads(NamedTuple):
    """The sizes of an attention: how many queries meet how many keys in how many heads."""

    batch: int
    heads: int
    queries: int
    keys: int
    query_size: int
    value_size: int

    @property
    def scores(self) -> int:
        """Number of query-key pairs, hidden ones included."""
        return self.batch * self.heads * self.queries * self.keys


def batch_head_sequence(op: Op) -> Heads:
    """Sizes of an op whose operands are ``[batch, heads, sequence, size]``."""
    batch, heads, queries, size = op.tensor("query").shape
    return Heads(batch, heads, queries, op.tensor("key").shape[2], size, op.tensor("value").shape[3])


def batch_sequence_head(op: Op) -> Heads:
    """Sizes of an op whose operands are ``[batch, sequence, heads, size]``, or packed ``[tokens, heads, size]``."""
    query, key, value = op.tensor("query"), op.tensor("key"), op.tensor("value")
    if isinstance(op.get("cum_seq_q", op.get("cu_seqlens_q")), Tensor):
        return packed(op, query, value)
    batch, queries, heads, size = query.shape
    return Heads(batch, heads, queries, key.shape[1], size, value.shape[-1])


def packed(op: Op, query: Tensor, value: Tensor) -> Heads:
    """Sequences laid end to end: as many of the longest length as the tokens fill, and at least one."""
    heads, size = query.shape[-2:]
    tokens = query.numel // max(heads * size, 1)
    longest_query = integer(op, "max_q", integer(op, "max_seqlen_q", tokens))
    longest_key = integer(op, "max_k", integer(op, "max_seqlen_k", longest_query))
    batch = max(-(-tokens // max(longest_query, 1)), 1)
    return Heads(batch, heads, min(longest_query, tokens), longest_key, size, value.shape[-1])


def hidden_pairs(queries: int, keys: int, *, bottom_right: bool = False) -> int:
    """How many of the query-key pairs of one head a causal mask hides.

    The mask's diagonal starts in the top left corner, as ``scaled_dot_product_attention`` documents, or ends
    in the bottom right one.

    >>> hidden_pairs(3, 3), hidden_pairs(2, 4), hidden_pairs(2, 4, bottom_right=True)
    (3, 5, 1)
    """
    if bottom_right:
        blind = max(queries - keys, 0)
        seeing = queries - blind
        return blind * keys + seeing * (seeing - 1) // 2
    rows = min(queries, keys)
    return rows * (keys - 1) - rows * (rows - 1) // 2 if rows else 0


def is_given(op: Op, *names: str) -> bool:
    """True when one of the arguments `names` is a tensor with elements."""
    return any(isinstance(value := op.get(name), Tensor) and value.numel > 0 for name in names)


def extra(op: Op) -> int:
    """FLOPs per score for what not every attention has: the add of a mask or bias, and dropout."""
    mask = 1 if is_given(op, "attn_mask", "attn_bias", "bias") else 0
    return mask + (DROPOUT_FLOPS if op.get("dropout_p", 0) else 0)


def hidden(op: Op, size: Heads) -> int:
    """The scores of all heads that a causal mask hides; zero without one."""
    mask_type = op.get("custom_mask_type", 1 if op.get("is_causal", False) else 0)
    if not mask_type:
        return 0
    # 1 is causal from the top left, 2 from the bottom right: ATen/native/transformers/cuda/mem_eff_attention.
    # The flash kernel itself aligns at the bottom right since its version 2.1.
    bottom_right = mask_type == 2 or op.packet.startswith("aten._flash_attention")
    return size.batch * size.heads * hidden_pairs(size.queries, size.keys, bottom_right=bottom_right)


def forward(op: Op, size: Heads) -> Work:
    """Two products, a softmax between them, and one division for each element of the output."""
    products = 2 * (size.query_size + size.value_size)
    made = size.batch * size.heads * size.queries * size.value_size
    return moves(
        op,
        tensor_flops=products * size.scores,
        vector_flops=(SOFTMAX_FLOPS + extra(op)) * size.scores + made,
        skippable_flops=products * hidden(op, size),
    )


def backward(op: Op, size: Heads) -> Work:
    """Five products: scores again, then the gradients of probabilities, values, queries and keys.

    The row's delta is the dot product of the output and its gradient: two FLOPs for each of their elements.
    """
    products = 2 * (3 * size.query_size + 2 * size.value_size)
    made = size.batch * size.heads * size.queries * size.value_size
    return moves(
        op,
        tensor_flops=products * size.scores,
        vector_flops=(SOFTMAX_BACKWARD_FLOPS + extra(op)) * size.scores + 2 * made,
        skippable_flops=products * hidden(op, size),
    )


@rule(
    *aten(
        "_scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
        "_scaled_dot_product_fused_attention_overrideable _cudnn_attention_forward"
    )
)
def attention(op: Op) -> Work:
    """Fused attention over ``[batch, heads, sequence, size]``."""
    return forward(op, batch_head_sequence(op))


@rule(
    *aten(
        "_scaled_dot_product_flash_attention_backward _scaled_dot_product_flash_attention_for_cpu_backward "
        "_scaled_dot_product_efficient_attention_backward _scaled_dot_product_cudnn_attention_backward "
        "_scaled_dot_product_fused_attention_overrideable_backward _cudnn_attention_backward"
    )
)
def attention_backward(op: Op) -> Work:
    """The derivative of `attention`."""
    return backward(op, batch_head_sequence(op))


@rule(*aten("_flash_attention_forward _efficient_attention_forward"))
def kernel(op: Op) -> Work:
    """The kernels that the ops above call, over ``[batch, sequence, heads, size]``."""
    return forward(op, batch_sequence_head(op))


@rule(*aten("_flash_attention_backward _efficient_attention_backward"))
def kernel_backward(op: Op) -> Work:
    """The derivative of `kernel`."""
    return backward(op, batch_sequence_head(op))


@rule(
    *aten("_scaled_dot_product_attention_math _scaled_dot_product_attention_math_for_mps scaled_dot_product_attention")
)
def written_out(op: Op) -> Work:
    """Attention as separate matmul, softmax and matmul: nothing is left out, and scores go through memory.

    Scores and probabilities are each written once and read once; the probabilities are also a result of the op,
    whose bytes `moves` has counted as written.
    """
    size = batch_head_sequence(op)
    in_memory = size.scores * op.tensor("query").itemsize
    fused = forward(op, size)
    return Work(
        tensor_flops=fused.tensor_flops,
        vector_flops=fused.vector_flops,
        read_bytes=fused.read_bytes + 2 * in_memory,
        written_bytes=fused.written_bytes + in_memory,
    )


free("aten._fused_sdp_choice", because="asks on the host which kernel to take")
