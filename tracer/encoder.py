"""A transformer's encoder layer in evaluation -> the ops that CUDA's kernel for the whole layer runs inside.

``nn.TransformerEncoderLayer`` and ``nn.MultiheadAttention`` hand a whole layer to one op where no gradient is asked
for. That op's kernel is C++ that calls others without the dispatcher in between; here they are called one by one.

Sources: ATen/native/transformers/transformer.cpp (transformer_encoder_layer_forward), ATen/native/transformers/cuda/
attention.cu (native_multi_head_attention_cuda), ATen/native/transformers/attention.cpp (its helpers).
Not covered: nested tensors, and different tensors for query, key and value, of which the op itself is recorded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from .attention import MATH, Attention, choose_attention
from .record import Recorder

aten = torch.ops.aten
Chooser = Callable[..., Any]


def encoder_layer(recorder: Recorder, choices: Counter[str]) -> Chooser:
    """Attention, addition, norm and the two products with the activation fused into the first."""
    attend = self_attention(recorder, choices)

    def layer(
        src: torch.Tensor,
        embed_dim: int,
        num_heads: int,
        qkv_weight: torch.Tensor,
        qkv_bias: torch.Tensor,
        proj_weight: torch.Tensor,
        proj_bias: torch.Tensor,
        use_gelu: bool,
        norm_first: bool,
        eps: float,
        *rest: Any,
    ) -> torch.Tensor:
        norms, first, second, masks = (rest[0:2], rest[2:4]), rest[4:6], rest[6:8], rest[8:]
        mask, mask_type = (*masks, None, None)[:2]

        def norm(x: torch.Tensor, number: int) -> torch.Tensor:
            return F.layer_norm(x, [embed_dim], norms[number][0], norms[number][1], eps)

        x = norm(src, 0) if norm_first else src
        weights = num_heads, qkv_weight, qkv_bias, proj_weight, proj_bias
        x = attend(x, x, x, embed_dim, *weights, mask, False, True, mask_type)[0]
        x.add_(src)
        x = x if norm_first else norm(x, 0)
        before = x
        x = norm(x, 1) if norm_first else x
        inner = aten._addmm_activation.default(first[1], x.reshape(-1, embed_dim), first[0].t(), use_gelu=use_gelu)
        x = torch.addmm(second[1], inner, second[0].t()).view(src.shape)
        x.add_(before)
        return x if norm_first else norm(x, 1)

    return layer


def self_attention(recorder: Recorder, choices: Counter[str]) -> Chooser:
    """By a fused kernel where there is one for the call; else products and softmax over one packed buffer."""
    whole = aten._native_multi_head_attention.default

    def attention(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        embed_dim: int,
        num_head: int,
        qkv_weight: torch.Tensor,
        qkv_bias: torch.Tensor,
        proj_weight: torch.Tensor,
        proj_bias: torch.Tensor,
        mask: torch.Tensor | None = None,
        need_weights: bool = True,
        average_attn_weights: bool = True,
        mask_type: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if query is not key or key is not value or query.is_nested:
            with torch._C._AutoDispatchBelowAutograd():
                made = whole(query, key, value, embed_dim, num_head, qkv_weight, qkv_bias, proj_weight, proj_bias,
                             mask, need_weights, average_attn_weights, mask_type)  # fmt: skip
            return made[0], made[1]
        split = _heads(query, num_head)
        backend = choose_attention(Attention(split, split, split), recorder.capability)[0]
        if mask is None and not need_weights and (embed_dim // num_head) % 8 == 0 and backend != MATH:
            packed = F.linear(query, qkv_weight, qkv_bias)
            q, k, v = (_heads(part, num_head) for part in packed.chunk(3, -1))
            found = F.scaled_dot_product_attention(q, k, v)
            return F.linear(found.transpose(1, 2).reshape(query.shape), proj_weight, proj_bias), None
        weights = qkv_weight, qkv_bias, proj_weight, proj_bias
        made, scores = _unfused(recorder, query, num_head, weights, mask, mask_type)
        if not need_weights:
            return made, None
        return made, scores.sum(1).div_(num_head) if average_attn_weights else scores

    return attention


def _heads(x: torch.Tensor, count: int) -> torch.Tensor:
    return x.view(x.shape[0], -1, count, x.shape[2] // count).transpose(1, 2)


def _unfused(
    recorder: Recorder,
    x: torch.Tensor,
    heads: int,
    weights: tuple[torch.Tensor, ...],
    mask: torch.Tensor | None,
    mask_type: int | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The packed buffer is written over: what attention reads of it becomes its result."""
    qkv_weight, qkv_bias, proj_weight, proj_bias = weights
    batch, length, width = x.shape
    shape = batch, heads, length, width // heads
    projected = torch.matmul(x, qkv_weight.t())
    args = projected, qkv_bias, heads
    q, k, v = recorder.emit(aten._transform_bias_rescale_qkv.default, args, [(shape, x.dtype)] * 3)
    del projected, args
    flat = batch * heads, length, width // heads
    scores = torch.bmm(q.view(flat), k.view(flat).transpose(1, 2)).view(batch, heads, length, length)
    if mask is not None:
        masked = (scores, mask, 3, mask_type)
        (scores,) = recorder.emit(aten._masked_softmax.default, masked, [(tuple(scores.shape), x.dtype)])
        del masked
    else:
        aten._softmax.out(scores, -1, False, out=scores)
    torch.bmm(scores.view(batch * heads, length, length), v.view(flat), out=q.view(flat))
    joined = q.permute(0, 2, 1, 3).contiguous().view(x.shape)
    return F.linear(joined, proj_weight, proj_bias), scores
