"""The transformer of a published GPU recording, and the training step that was recorded (see tests/data/README.md).

Written from its description: the ops and their order matter, since every allocation is compared; so do local names,
since each keeps a tensor alive until it is rebound or its function returns.
"""

from __future__ import annotations

from contextlib import nullcontext
from math import sqrt

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor, nn

from foretrace.tracer import Step

VOCABULARY, WIDTH, HIDDEN, LAYERS, HEADS, BATCH = 10_000, 2560, 10_240, 32, 32, 4


class Linear(nn.Module):
    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width_out, width_in))

    def forward(self, x: Tensor) -> Tensor:
        return einsum(x, self.weight, "... d_in, d_out d_in -> ... d_out")


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(VOCABULARY, WIDTH))

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight[ids, :]


class RMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        dtype, x = x.dtype, x.to(torch.float32)
        inverse = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)
        x = x * inverse
        return (self.weight * x).to(dtype)


class Rotary(nn.Module):
    def __init__(self, context: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.empty(2, context, WIDTH // HEADS // 2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        even, odd = rearrange(x, "... (pairs two) -> two ... pairs", two=2).unbind(0)
        cos, sin = self.table.unbind(0)
        turned_even = cos * even - sin * odd
        turned_odd = sin * even + cos * odd
        result = torch.stack((turned_even, turned_odd), dim=-1).flatten(-2)
        return result


def softmax(x: Tensor) -> Tensor:
    shifted = x - x.max(dim=-1, keepdim=True).values
    exponentials = torch.exp(shifted)
    return exponentials / exponentials.sum(dim=-1, keepdim=True)


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    scores = einsum(q, k, "... q d, ... k d -> ... q k") / sqrt(WIDTH // HEADS)
    scores = torch.where(seen, scores, float("-inf"))
    weights = softmax(scores)
    return einsum(weights, v, "... q k, ... k d -> ... q d")


class Attention(nn.Module):
    def __init__(self, rotary: Rotary) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (Linear(WIDTH, WIDTH) for _ in range(4))
        self.rotary = rotary

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        q, k, v = (rearrange(t, "b t (h d) -> b h t d", h=HEADS) for t in (q, k, v))
        q = self.rotary(q)
        k = self.rotary(k)
        place = torch.arange(x.shape[1], device=x.device)
        seen = (place[:, None] >= place[None, :])[None, None]
        mixed = attend(q, k, v, seen)
        mixed = rearrange(mixed, "b h t d -> b t (h d)").contiguous()
        out = self.out(mixed)
        return out


def silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = Linear(WIDTH, HIDDEN), Linear(HIDDEN, WIDTH), Linear(WIDTH, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    def __init__(self, rotary: Rotary) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(rotary), FeedForward()
        self.norm1, self.norm2 = RMSNorm(), RMSNorm()

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attention(self.norm1(x))
        middle = x + attended
        fed = self.mlp(self.norm2(middle))
        result = middle + fed
        return result


class Transformer(nn.Module):
    def __init__(self, context: int) -> None:
        super().__init__()
        rotary = Rotary(context)
        self.tokens = Embedding()
        self.layers = nn.ModuleList(Block(rotary) for _ in range(LAYERS))
        self.norm, self.head = RMSNorm(), Linear(WIDTH, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        embedded = self.tokens(x)
        x = embedded
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return self.head(x)


def recorded_step(context: int, bfloat16: bool) -> Step:
    """The full step: zero_grad, forward (under autocast), cross-entropy in float32, backward, AdamW."""

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: tuple[Tensor, Tensor]) -> None:
        ids, targets = inputs
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16) if bfloat16 else nullcontext():
            logits = model(ids)
        loss = F.cross_entropy(logits.float().reshape(-1, VOCABULARY), targets.reshape(-1))
        loss.backward()
        optimizer.step()

    ids, targets = (torch.randint(0, VOCABULARY, (BATCH, context)) for _ in range(2))
    return Step(Transformer(context), (ids, targets), step=step)


def recorded_forward(context: int, bfloat16: bool) -> Step:
    """The forward alone, without gradients."""

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: tuple[Tensor, Tensor]) -> None:
        with torch.no_grad():
            with torch.autocast("cuda", torch.bfloat16) if bfloat16 else nullcontext():
                logits = model(inputs[0])
            del logits

    ids, targets = (torch.randint(0, VOCABULARY, (BATCH, context)) for _ in range(2))
    return Step(Transformer(context), (ids, targets), step=step, optimizer=None)
