"""The hand-written GPT of many published timings and of a published GPU recording, and its training step.

Written from its description (pre-norm blocks, RMSNorm, rotary positions, attention with its scores written out,
SwiGLU, no biases, an untied head): the ops and their order matter, since every allocation is compared; so do local
names, since each keeps a tensor alive until it is rebound or its function returns.
"""

from __future__ import annotations

from contextlib import nullcontext
from math import sqrt
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor, nn

from foretrace.tracer import Step

VOCABULARY = 10_000


class Size(NamedTuple):
    width: int
    hidden: int
    layers: int
    heads: int


SIZES = {
    "small": Size(768, 3072, 12, 12),
    "medium": Size(1024, 4096, 24, 16),
    "xl-2025": Size(1600, 6400, 48, 25),
    "xl-2026": Size(2560, 10_240, 32, 32),
}
"""By the names of the course that set them, whose largest model changed from one year to the next."""


class Linear(nn.Module):
    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width_out, width_in))

    def forward(self, x: Tensor) -> Tensor:
        return einsum(x, self.weight, "... d_in, d_out d_in -> ... d_out")


class Embedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(VOCABULARY, width))

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight[ids, :]


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        dtype, x = x.dtype, x.to(torch.float32)
        inverse = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)
        x = x * inverse
        return (self.weight * x).to(dtype)


class Rotary(nn.Module):
    def __init__(self, context: int, head_width: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.empty(2, context, head_width // 2), persistent=False)

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
    scores = einsum(q, k, "... q d, ... k d -> ... q k") / sqrt(q.shape[-1])
    scores = torch.where(seen, scores, float("-inf"))
    weights = softmax(scores)
    return einsum(weights, v, "... q k, ... k d -> ... q d")


def silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class Attention(nn.Module):
    def __init__(self, size: Size, rotary: Rotary) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (Linear(size.width, size.width) for _ in range(4))
        self.heads, self.rotary = size.heads, rotary

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        q, k, v = (rearrange(t, "b t (h d) -> b h t d", h=self.heads) for t in (q, k, v))
        q = self.rotary(q)
        k = self.rotary(k)
        place = torch.arange(x.shape[1], device=x.device)
        seen = (place[:, None] >= place[None, :])[None, None]
        mixed = attend(q, k, v, seen)
        mixed = rearrange(mixed, "b h t d -> b t (h d)").contiguous()
        out = self.out(mixed)
        return out


class FeedForward(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        width, hidden = size.width, size.hidden
        self.w1, self.w2, self.w3 = Linear(width, hidden), Linear(hidden, width), Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    def __init__(self, size: Size, rotary: Rotary) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(size, rotary), FeedForward(size)
        self.norm1, self.norm2 = RMSNorm(size.width), RMSNorm(size.width)

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attention(self.norm1(x))
        middle = x + attended
        fed = self.mlp(self.norm2(middle))
        result = middle + fed
        return result


class Transformer(nn.Module):
    def __init__(self, size: Size, context: int) -> None:
        super().__init__()
        rotary = Rotary(context, size.width // size.heads)
        self.tokens = Embedding(size.width)
        self.layers = nn.ModuleList(Block(size, rotary) for _ in range(size.layers))
        self.norm, self.head = RMSNorm(size.width), Linear(size.width, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        embedded = self.tokens(x)
        x = embedded
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return self.head(x)


class TextbookAdamW(torch.optim.Optimizer):
    """AdamW as its pseudocode reads, one parameter after the other, every operation a kernel of its own.

    https://arxiv.org/abs/1711.05101, algorithm 2.
    """

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"rate": 1e-3, "decay": 0.01, "first": 0.9, "second": 0.95, "tiny": 1e-8})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            rate, decay, first, second, tiny = (group[k] for k in ("rate", "decay", "first", "second", "tiny"))
            for p in group["params"]:
                state = self.state[p]
                m, v = state.get("m"), state.get("v")
                m, v = (torch.zeros_like(p) if t is None else t for t in (m, v))
                state["m"] = m = first * m + (1 - first) * p.grad
                state["v"] = v = second * v + (1 - second) * p.grad**2
                p -= rate * m / (torch.sqrt(v) + tiny)
                p -= rate * decay * p


def training_step(size: Size, batch: int, context: int, autocast: torch.dtype | None, optimizer: Any = "adamw") -> Step:
    """The full step: zero_grad, forward (under autocast), cross-entropy in float32, backward, AdamW."""

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: tuple[Tensor, Tensor]) -> None:
        ids, targets = inputs
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", autocast) if autocast else nullcontext():
            logits = model(ids)
        loss = F.cross_entropy(logits.float().reshape(-1, VOCABULARY), targets.reshape(-1))
        loss.backward()
        optimizer.step()

    ids, targets = (torch.randint(0, VOCABULARY, (batch, context)) for _ in range(2))
    return Step(Transformer(size, context), (ids, targets), step=step, optimizer=optimizer)
