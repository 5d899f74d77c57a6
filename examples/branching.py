"""Three layers that are another program from size to size: closed forms are asked about them piece by piece.

foretrace formula examples/branching.py:attention --over batch,width,heads --autocast bfloat16 --pieces
foretrace formula examples/branching.py:padded --over batch,seq --pieces
foretrace formula examples/branching.py:windowed --over batch,seq --pieces
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Causal self-attention by PyTorch's fused function, whose kernel depends on how wide a head is."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Padded(nn.Module):
    """A feed-forward layer that pads its sequence to a multiple of 64, where it is none."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        if length % 64:
            x = F.pad(x, (0, 0, 0, 64 - length % 64))
        return self.down(F.gelu(self.up(x)))[:, :length]


class Windowed(nn.Module):
    """Scores over the whole sequence, or where it is longer than the window, in each window, which divides it."""

    def __init__(self, width: int, window: int) -> None:
        super().__init__()
        self.qkv, self.window = nn.Linear(width, 3 * width), window

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if x.shape[1] > self.window:
            q, k, v = (t.unflatten(1, (-1, self.window)) for t in (q, k, v))
        return (q @ k.transpose(-2, -1)).softmax(dim=-1) @ v


def _of(layer, batch: int, seq: int, width: int):
    with torch.device("meta"):
        model = nn.Sequential(layer(), layer())
    return model, (torch.empty(batch, seq, width),), torch.sum


def attention(batch: int = 4, seq: int = 512, width: int = 1024, heads: int = 8):
    """Two layers of attention."""
    return _of(lambda: Attention(width, heads), batch, seq, width)


def padded(batch: int = 4, seq: int = 1024, width: int = 256):
    """Two padded feed-forward layers."""
    return _of(lambda: Padded(width), batch, seq, width)


def windowed(batch: int = 4, seq: int = 4096, width: int = 256, window: int = 512):
    """A layer with a window."""
    with torch.device("meta"):
        model = Windowed(width, window)
    return model, (torch.empty(batch, seq, width),), torch.sum
