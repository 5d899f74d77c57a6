"""The hand-written GPT again, as the author of the H100's published timings wrote it, and what was timed of it.

It differs from `gpt_by_hand.py` in what makes its time: rotary positions are applied head by head in a loop, to one
head of the queries and one of the keys at a time, with the sines and cosines gathered anew for each; so a layer's
forward pass has hundreds of small kernels. The root mean square is a division, the mask is made in every layer, and
the loss is the sum of the logits, inside the forward pass that was timed. Written from the description of the
sources that the rows name.
"""

from __future__ import annotations

from contextlib import nullcontext
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from foretrace.tracer import Step
from gpt_by_hand import VOCABULARY, Embedding, FeedForward, Linear, Size, softmax


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.float32)
        root = (wide * wide).mean(dim=-1, keepdim=True).add(1e-5).sqrt()
        return (wide / root * self.weight).to(x.dtype)


class Rotary(nn.Module):
    """Turns the pairs of one head."""

    def __init__(self, context: int, width: int) -> None:
        super().__init__()
        self.register_buffer("cosines", torch.empty(context, width // 2), persistent=False)
        self.register_buffer("sines", torch.empty(context, width // 2), persistent=False)

    def forward(self, head: Tensor, places: Tensor) -> Tensor:
        cosine, sine = self.cosines[places], self.sines[places]
        even, odd = head[..., 0::2], head[..., 1::2]
        turned_even = cosine * even - sine * odd
        turned_odd = sine * even + cosine * odd
        turned = torch.empty_like(head)
        turned[..., 0::2] = turned_even
        turned[..., 1::2] = turned_odd
        return turned


class Attention(nn.Module):
    def __init__(self, size: Size, context: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (Linear(size.width, size.width) for _ in range(4))
        self.heads, self.head_width = size.heads, size.width // size.heads
        self.rotary = Rotary(context, self.head_width)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        split = (*x.shape[:2], self.heads, self.head_width)
        q, k, v = (project(x).view(split) for project in (self.q, self.k, self.v))
        queries, keys = [], []
        for head in range(self.heads):
            queries.append(self.rotary(q[:, :, head], places))
            keys.append(self.rotary(k[:, :, head], places))
        q, k = torch.stack(queries, dim=2), torch.stack(keys, dim=2)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        seen = torch.tril(torch.ones(x.shape[1], x.shape[1], device=x.device, dtype=torch.bool))
        scores = torch.matmul(q, k.transpose(-2, -1)) / sqrt(self.head_width)
        weights = softmax(scores.masked_fill(~seen.expand(scores.shape), -1e9))
        mixed = torch.matmul(weights, v).transpose(1, 2).contiguous()
        return self.out(mixed.view(x.shape))


class Block(nn.Module):
    def __init__(self, size: Size, context: int) -> None:
        super().__init__()
        self.norm1, self.attention = RMSNorm(size.width), Attention(size, context)
        self.norm2, self.mlp = RMSNorm(size.width), FeedForward(size)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), places)
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    def __init__(self, size: Size, context: int) -> None:
        super().__init__()
        self.tokens = Embedding(size.width)
        self.layers = nn.ModuleList(Block(size, context) for _ in range(size.layers))
        self.norm, self.head = RMSNorm(size.width), Linear(size.width, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0).expand(ids.shape)
        x = self.tokens(ids)
        for layer in self.layers:
            x = layer(x, places)
        return self.head(self.norm(x))


def timed_step(size: Size, batch: int, context: int, autocast: torch.dtype | None) -> Step:
    """zero_grad, forward and sum of the logits (under autocast), backward; no optimizer."""

    def step(model: nn.Module, optimizer: Any, inputs: dict[str, Tensor]) -> None:
        model.zero_grad()
        with torch.autocast("cuda", autocast) if autocast else nullcontext():
            loss = model(**inputs).sum()
        loss.backward()

    ids = torch.randint(0, VOCABULARY, (batch, context))
    return Step(Transformer(size, context), {"ids": ids}, step=step, optimizer=None)
