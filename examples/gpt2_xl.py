"""Two transformers of GPT-2 XL's size, built on the meta device: 48 layers, width 1600, 25 heads.

    foretrace run examples/gpt2_xl.py:gpt2_xl -p batch=8 -p seq=1024
    foretrace run examples/gpt2_xl.py:by_hand -p batch=1

`gpt2_xl` is GPT-2: LayerNorm, GELU, biases, learned positions, a head tied to the embedding.
`by_hand` is the model of textbook memory counts: RMSNorm, SiLU, no biases, no positions, an untied
head, and attention written out with its scores.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY = 50257


class Attention(nn.Module):
    """Causal self-attention: [B, T, width] -> [B, T, width]."""

    def __init__(self, width: int, heads: int, fused: bool, bias: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
            future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
            mixed = scores.masked_fill(future, float("-inf")).softmax(dim=-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, width: int, heads: int, norm: type[nn.Module], act: nn.Module, fused: bool, bias: bool) -> None:
        super().__init__()
        self.norm1, self.attn = norm(width), Attention(width, heads, fused, bias)
        self.norm2 = norm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width, bias=bias), act, nn.Linear(4 * width, width, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPT2(nn.Module):
    """GPT-2: token ids [B, T] -> logits [B, T, vocabulary]."""

    def __init__(self, vocab: int, context: int, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(context, width)
        blocks = (Block(width, heads, nn.LayerNorm, nn.GELU("tanh"), fused=True, bias=True) for _ in range(layers))
        self.h, self.norm = nn.ModuleList(blocks), nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.h:
            x = block(x)
        return self.head(self.norm(x))


class ByHand(nn.Module):
    """The transformer of the hand counts: token ids [B, T] -> logits [B, T, vocabulary]."""

    def __init__(self, vocab: int, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab, width)
        blocks = (Block(width, heads, nn.RMSNorm, nn.SiLU(), fused=False, bias=False) for _ in range(layers))
        self.h, self.norm = nn.ModuleList(blocks), nn.RMSNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        for block in self.h:
            x = block(x)
        return self.head(self.norm(x))


def _with_batch(model: nn.Module, batch: int, seq: int, vocab: int):
    ids = torch.randint(0, vocab, (batch, seq + 1))
    targets = ids[:, 1:].flatten()
    return model, (ids[:, :-1],), lambda logits: F.cross_entropy(logits.flatten(0, 1), targets.to(logits.device))


def gpt2_xl(
    batch: int = 8, seq: int = 1024, layers: int = 48, width: int = 1600, heads: int = 25, vocab: int = VOCABULARY
):
    """GPT-2 XL with its loss: 1,557,611,200 parameters."""
    with torch.device("meta"):
        model = GPT2(vocab, max(seq, 1024), layers, width, heads)
    return _with_batch(model, batch, seq, vocab)


def by_hand(
    batch: int = 1, seq: int = 1024, layers: int = 48, width: int = 1600, heads: int = 25, vocab: int = VOCABULARY
):
    """The textbook transformer at GPT-2 XL's size with its loss: 1,635,537,600 parameters."""
    with torch.device("meta"):
        model = ByHand(vocab, layers, width, heads)
    return _with_batch(model, batch, seq, vocab)
