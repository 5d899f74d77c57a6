"""OPT's attention as transformers had it when the published rows were measured; newer versions run other kernels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def write_out_opt_attention() -> None:
    """OPT's attention as transformers had it when the rows were measured (version 4.45, 2024).

    Heads were made contiguous, which costs a copy of what the fused attention returns, and keys and values went into
    the output as they were; the eager one kept its scores for the maximum with the smallest number, and took the
    softmax in float32.
    """
    from transformers.models.opt import modeling_opt

    def forward(
        self: Any,
        hidden_states: Tensor,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        **others: Any,
    ) -> tuple[Tensor, None]:
        batch, length, width = hidden_states.shape
        fused = self.config._attn_implementation == "sdpa"
        query = self.q_proj(hidden_states)
        query = query if fused else query * self.scaling
        key, value = self.k_proj(hidden_states), self.v_proj(hidden_states)
        query, key, value = (
            t.view(batch, length, self.num_heads, self.head_dim).transpose(1, 2).contiguous()
            for t in (query, key, value)
        )
        if past_key_values is not None:
            vars(past_key_values).setdefault("as_they_are", []).append((key, value))
        if fused:
            causal = attention_mask is None and length > 1
            mixed = F.scaled_dot_product_attention(query, key, value, attention_mask, is_causal=causal)
        else:
            mixed = _eager_opt(query, key, value, attention_mask)
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, length, width)), None

    modeling_opt.OPTAttention.forward = forward


def _eager_opt(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    batch, heads, length, width = query.shape
    query, key, value = (t.view(batch * heads, length, width) for t in (query, key, value))
    scores = torch.bmm(query, key.transpose(1, 2))
    if mask is not None:
        scores = scores.view(batch, heads, length, length) + mask
        scores = torch.max(scores, torch.tensor(torch.finfo(scores.dtype).min, device=scores.device))
        scores = scores.view(batch * heads, length, length)
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(torch.float16)
    return torch.bmm(weights, value).view(batch, heads, length, width)
