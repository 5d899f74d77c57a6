"""Nothing that a usual model runs is assumed: real modules on the CPU, forward, backward and optimizer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from oprecorder import record
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from foretrace.costmodels import Kind, price_op


class RotaryBlock(nn.Module):
    """RMS norm, rotary grouped-query attention, SwiGLU."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Parameter(torch.ones(16))
        self.qkv = nn.Linear(16, 32, bias=False)
        self.gate, self.up, self.down = (nn.Linear(*s, bias=False) for s in ((16, 24), (16, 24), (24, 16)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.norm
        q, k, v = self.qkv(y).split((16, 8, 8), -1)
        q, k, v = (t.unflatten(-1, (-1, 4)).transpose(1, 2) for t in (q, k, v))
        angle = torch.outer(torch.arange(x.shape[1]).float(), torch.ones(4))
        q, k = (t * angle.cos() + torch.cat((-t[..., 2:], t[..., :2]), -1) * angle.sin() for t in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        y = x + y.transpose(1, 2).flatten(2)
        return y + self.down(F.silu(self.gate(y)) * self.up(y))


class EagerAttention(nn.Module):
    """GPT-2's attention written out, with its mask and dropout, and the tanh gelu."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.up, self.norm = nn.Linear(16, 48), nn.Linear(16, 16), nn.LayerNorm(16)
        self.register_buffer("mask", torch.ones(8, 8, dtype=torch.bool).tril())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.view(2, 8, 2, 8).transpose(1, 2) for t in self.qkv(self.norm(x)).split(16, 2))
        scores = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(~self.mask, float("-inf"))
        y = F.dropout(scores.softmax(-1), 0.1) @ v
        return x + F.gelu(self.up(y.transpose(1, 2).reshape(2, 8, 16)), approximate="tanh")


class Experts(nn.Module):
    """Top-2 routing by index_add, with the bookkeeping that other implementations use."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(16, 4), nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(0, 1)
        share = self.router(rows).softmax(-1)
        weight, chosen = share.topk(2)
        weight = weight / weight.sum(-1, keepdim=True)
        mask, made = F.one_hot(chosen, 4).permute(2, 1, 0), torch.zeros_like(rows)
        for expert, where in zip(self.experts, mask, strict=True):
            slot, row = torch.where(where)
            made.index_add_(0, row, expert(rows[row]) * weight[row, slot, None])
        order, load = chosen.flatten().argsort(), torch.bincount(chosen.flatten(), minlength=4).cumsum(0)
        dense = torch.zeros_like(share).scatter(1, chosen, weight).gather(1, chosen)
        summed = torch.zeros(4).scatter_add(0, chosen.flatten(), weight.flatten())
        return made.view_as(x) + dense.mean() + summed.std() + 0 * (order.float().mean() + load.max())


class Residual(nn.Module):
    """A ResNet stem and a grouped bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(True), nn.MaxPool2d(2)
        )
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=4), nn.GroupNorm(2, 8), nn.Hardswish())
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        return self.pool(y + self.body(y)).flatten(1)


WORDS, IMAGE = (2, 8, 16), (2, 3, 16, 16)
ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "rotary": (RotaryBlock, WORDS),
    "eager": (EagerAttention, WORDS),
    "experts": (Experts, WORDS),
    "residual": (Residual, IMAGE),
    "vision": (
        lambda: nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.Flatten(2), nn.TransformerEncoderLayer(16, 2, 32)),
        IMAGE,
    ),
    "lstm": (lambda: nn.LSTM(16, 8, 2, bidirectional=True), WORDS),
    "gru": (lambda: nn.GRU(16, 8), WORDS),
    "upsampling": (lambda: nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.PixelUnshuffle(2)), IMAGE),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3, 2), nn.AvgPool2d(2), nn.ReflectionPad2d(1)),
        IMAGE,
    ),
}


def train(module: nn.Module, shape: tuple[int, ...], foreach: bool) -> None:
    optimizer = torch.optim.AdamW(module.parameters(), foreach=foreach) if list(module.parameters()) else None
    made = module(torch.randn(shape, requires_grad=True))
    made = made[0] if isinstance(made, tuple) else made
    F.cross_entropy(made.flatten(1), torch.zeros(len(made), dtype=torch.long)).backward()
    if optimizer:
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("name", ZOO)
def test_no_op_is_assumed(name: str, foreach: bool):
    make, shape = ZOO[name]
    priced = [price_op(op) for op in record(lambda: train(make(), shape, foreach))]
    assert {p.op.name for p in priced if p.kind is Kind.ASSUMED} == set()
    assert sum(p.work.bytes for p in priced) > 0


@pytest.mark.parametrize("name", ["rotary", "eager", "experts", "vision"])
def test_matrix_work_is_what_the_peer_counts(name: str):
    """The peer prices matmuls and convolutions; the CPU's fused attention is outside its table, so it is left out."""
    make, shape = ZOO[name]
    module = make()
    torch.manual_seed(0)
    ops = record(lambda: train(module, shape, True))
    torch.manual_seed(0)
    with FlopCounterMode(display=False) as counter:
        train(module, shape, True)
    priced = [price_op(op).work.tensor_flops for op in ops if "scaled_dot_product" not in op.name]
    assert sum(priced) == counter.get_total_flops()
