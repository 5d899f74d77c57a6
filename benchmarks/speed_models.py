"""Large models for timing the tool: each a module without memory, its inputs and its loss, written with torch alone.

Built under ``torch.device("meta")``, so that bare PyTorch can dispatch them too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Case(NamedTuple):
    """A training step: ``loss(model(*inputs))``."""

    model: nn.Module
    inputs: tuple[Tensor, ...]
    loss: Callable[[Any], Tensor]


class Attention(nn.Module):
    """Self-attention with fewer heads for keys and values, and rotary positions where it is causal."""

    def __init__(self, width: int, heads: int, kv_heads: int, causal: bool, bias: bool) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size, self.causal = heads, kv_heads, width // heads, causal
        self.q = nn.Linear(width, width, bias=bias)
        self.k = nn.Linear(width, kv_heads * self.size, bias=bias)
        self.v = nn.Linear(width, kv_heads * self.size, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (self.heads, self.size)).transpose(1, 2)
        k = self.k(x).unflatten(-1, (self.kv_heads, self.size)).transpose(1, 2)
        v = self.v(x).unflatten(-1, (self.kv_heads, self.size)).transpose(1, 2)
        if self.causal:
            q, k = self.rotated(q), self.rotated(k)
        grouped = self.kv_heads != self.heads
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, enable_gqa=grouped)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def rotated(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[-2], device=x.device, dtype=torch.float32)
        rates = 10_000 ** (-torch.arange(0, self.size, 2, device=x.device, dtype=torch.float32) / self.size)
        angles = torch.outer(places, rates)
        one, other = x.chunk(2, -1)
        return torch.cat((one * angles.cos() - other * angles.sin(), one * angles.sin() + other * angles.cos()), -1)


class Gated(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Experts(nn.Module):
    """Every expert takes an equal share of the tokens: what balanced routing of two in eight comes to."""

    def __init__(self, width: int, hidden: int, count: int = 8, chosen: int = 2) -> None:
        super().__init__()
        self.router, self.chosen = nn.Linear(width, count, bias=False), chosen
        self.experts = nn.ModuleList(Gated(width, hidden) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)
        weights = self.router(tokens).softmax(-1)
        share = tokens.shape[0] * self.chosen // len(self.experts)
        result = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            rows = torch.arange(share, device=x.device)
            result = result.index_add(0, rows, expert(tokens[rows]) * weights[rows, number, None])
        return result.view_as(x)


class Block(nn.Module):
    def __init__(self, norm: Callable[[], nn.Module], attention: nn.Module, feed: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2, self.feed = norm(), attention, norm(), feed

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.feed(self.norm2(x))


class Decoder(nn.Module):
    def __init__(self, vocab: int, width: int, blocks: list[nn.Module], norm: nn.Module, positions: int = 0) -> None:
        super().__init__()
        self.tokens, self.h, self.norm = nn.Embedding(vocab, width), nn.ModuleList(blocks), norm
        self.positions = nn.Embedding(positions, width) if positions else None
        self.head = nn.Linear(width, vocab, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        if self.positions is not None:
            x = x + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.h:
            x = block(x)
        return self.head(self.norm(x))


class Patches(nn.Module):
    def __init__(self, width: int, blocks: list[nn.Module], patch: int) -> None:
        super().__init__()
        self.embed, self.h = nn.Conv2d(3, width, patch, patch), nn.ModuleList(blocks)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        for block in self.h:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class Bottleneck(nn.Module):
    def __init__(self, before: int, inner: int, stride: int) -> None:
        super().__init__()
        after = 4 * inner
        self.conv1, self.norm1 = nn.Conv2d(before, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.norm2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv3, self.norm3 = nn.Conv2d(inner, after, 1, bias=False), nn.BatchNorm2d(after)
        same = before == after and stride == 1
        shortcut = (nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        self.shortcut = nn.Identity() if same else nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)), inplace=True))), inplace=True)
        return F.relu(self.norm3(self.conv3(y)) + self.shortcut(x), inplace=True)


class Recurrence(nn.Module):
    """One gated cell, called for every place of a sequence."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(width, width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        state = x[:, 0] * 0
        for place in range(x.shape[1]):
            state = self.cell(x[:, place], state)
        return self.head(state)


def _next_word(model: nn.Module, batch: int, length: int) -> Case:
    ids = torch.zeros(batch, length, dtype=torch.int64)
    return Case(
        model, (ids,), lambda logits: F.cross_entropy(logits.flatten(0, 1), logits.new_zeros(batch * length).long())
    )


def _classes(model: nn.Module, inputs: Tensor) -> Case:
    return Case(model, (inputs,), lambda logits: F.cross_entropy(logits, _zeros(logits, len(inputs))))


def _zeros(like: Tensor, count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int64, device=like.device)


def gpt2(layers: int, width: int, heads: int, batch: int = 8, length: int = 1024) -> Case:
    def feed() -> nn.Module:
        return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def norm() -> nn.Module:
        return nn.LayerNorm(width)

    blocks = [Block(norm, Attention(width, heads, heads, True, True), feed()) for _ in range(layers)]
    return _next_word(Decoder(50257, width, blocks, norm(), length), batch, length)


def llama(layers: int, width: int, hidden: int, heads: int, kv_heads: int, experts: bool = False) -> Case:
    def norm() -> nn.Module:
        return nn.RMSNorm(width)

    def feed() -> nn.Module:
        return Experts(width, hidden) if experts else Gated(width, hidden)

    blocks = [Block(norm, Attention(width, heads, kv_heads, True, False), feed()) for _ in range(layers)]
    return _next_word(Decoder(128_256, width, blocks, norm()), 1, 8192)


def vit_g() -> Case:
    """Width 1,664, hidden 8,192, 48 layers, 16 heads, patch 14 (arXiv 2106.04560, table 2)."""
    blocks = [
        Block(
            lambda: nn.LayerNorm(1664),
            Attention(1664, 16, 16, False, True),
            nn.Sequential(nn.Linear(1664, 8192), nn.GELU(), nn.Linear(8192, 1664)),
        )
        for _ in range(48)
    ]
    return _classes(Patches(1664, blocks, 14), torch.zeros(32, 3, 224, 224))


def resnet152() -> Case:
    """Bottlenecks 3, 8, 36, 3 (arXiv 1512.03385, table 1)."""
    parts: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    before = 64
    for stage, count in enumerate((3, 8, 36, 3)):
        for number in range(count):
            parts.append(Bottleneck(before, 64 << stage, 2 if stage and not number else 1))
            before = 256 << stage
    model = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))
    return _classes(model, torch.zeros(64, 3, 224, 224))


CASES: dict[str, Callable[[], Case]] = {
    "gpt2": lambda: gpt2(12, 768, 12),
    "gpt2-xl": lambda: gpt2(48, 1600, 25),
    "llama3-8b": lambda: llama(32, 4096, 14_336, 32, 8),
    "llama3-70b": lambda: llama(80, 8192, 28_672, 64, 8),
    "llama3-405b": lambda: llama(126, 16_384, 53_248, 128, 8),
    "mixtral-8x7b": lambda: llama(32, 4096, 14_336, 32, 8, experts=True),
    "vit-g": vit_g,
    "resnet152": resnet152,
    "recurrence-2000": lambda: _classes(Recurrence(256), torch.zeros(8, 2000, 256)),
}
"""By name; sizes of Llama 3 from arXiv 2407.21783, table 3, and of Mixtral from arXiv 2401.04088, table 1."""

DEPTHS = (12, 24, 48, 96, 192)
"""Layers of the models of one width, that of GPT-2 XL, which are called ``gpt-12`` and so on."""


def case(name: str) -> Case:
    """The step of that name, on meta."""
    with torch.device("meta"):
        return CASES[name]() if name in CASES else gpt2(int(name.removeprefix("gpt-")), 1600, 25)
