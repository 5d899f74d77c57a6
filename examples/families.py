"""Four families of models as targets, every size a keyword argument: Llama, vision transformer, ResNet and LSTM.

They are what closed forms are asked about:

    foretrace formula examples/families.py:llama --over batch,seq,layers,width,heads,kv_heads,hidden,vocab
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupedAttention(nn.Module):
    """Causal self-attention with fewer heads for keys and values: [B, T, width] -> [B, T, width]."""

    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = heads, kv_heads, width // heads
        self.q = nn.Linear(width, heads * self.size, bias=False)
        self.k = nn.Linear(width, kv_heads * self.size, bias=False)
        self.v = nn.Linear(width, kv_heads * self.size, bias=False)
        self.o = nn.Linear(heads * self.size, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q = turned(self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2), cos, sin)
        k = turned(self.k(x).unflatten(-1, (self.kv_heads, -1)).transpose(1, 2), cos, sin)
        v = self.v(x).unflatten(-1, (self.kv_heads, -1)).transpose(1, 2)
        groups = self.heads // self.kv_heads
        k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(mixed.transpose(1, 2).flatten(2))


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


class GatedLinear(nn.Module):
    """SwiGLU: [B, T, width] -> [B, T, width]."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class LlamaLayer(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.RMSNorm(width), GroupedAttention(width, heads, kv_heads)
        self.norm2, self.mlp = nn.RMSNorm(width), GatedLinear(width, hidden)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class Llama(nn.Module):
    """Token ids [B, T] -> logits [B, T, vocab]."""

    def __init__(self, layers: int, width: int, heads: int, kv_heads: int, hidden: int, vocab: int) -> None:
        super().__init__()
        self.size = width // heads
        self.tokens = nn.Embedding(vocab, width)
        self.layers = nn.ModuleList(LlamaLayer(width, heads, kv_heads, hidden) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, vocab, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        rates = 10_000 ** (-torch.arange(0, self.size, 2, device=ids.device) / self.size)
        angles = torch.outer(torch.arange(ids.shape[1], device=ids.device), rates).repeat(1, 2)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.head(self.norm(x))


def llama(
    batch: int = 1,
    seq: int = 4096,
    layers: int = 80,
    width: int = 8192,
    heads: int = 64,
    kv_heads: int = 8,
    hidden: int = 28672,
    vocab: int = 128256,
):
    """Llama 3 70B with its loss: 70,553,706,496 parameters."""
    model = Llama(layers, width, heads, kv_heads, hidden, vocab)
    ids = torch.randint(0, vocab, (batch, seq))
    targets = ids.flatten()
    return model, (ids,), lambda logits: F.cross_entropy(logits.flatten(0, 1), targets.to(logits.device))


class VisionLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Images [B, 3, image, image] -> logits [B, classes]."""

    def __init__(self, image: int, layers: int, width: int, heads: int, classes: int, patch: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, (image // patch) ** 2 + 1, width))
        self.layers = nn.Sequential(*(VisionLayer(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat((self.first.expand(x.shape[0], -1, -1), x), dim=1) + self.positions
        return self.head(self.norm(self.layers(x))[:, 0])


def _labelled(model: nn.Module, batch: int, image: int, classes: int):
    images, labels = torch.empty(batch, 3, image, image), torch.randint(0, classes, (batch,))
    return model, (images,), lambda logits: F.cross_entropy(logits, labels.to(logits.device))


def vit(batch: int = 64, image: int = 224, layers: int = 12, width: int = 768, heads: int = 12, classes: int = 1000):
    """ViT-B/16 with its loss: 86,567,656 parameters."""
    model = VisionTransformer(image, layers, width, heads, classes)
    return _labelled(model, batch, image, classes)


class Bottleneck(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        sizes = ((before, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1))
        self.convs = nn.ModuleList(nn.Conv2d(i, o, k, s, k // 2, bias=False) for i, o, k, s in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for _, o, _, _ in sizes)
        self.short = None
        if before != 4 * width or stride > 1:
            self.short = nn.Sequential(nn.Conv2d(before, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norms[0](self.convs[0](x)), inplace=True)
        y = F.relu(self.norms[1](self.convs[1](y)), inplace=True)
        y = self.norms[2](self.convs[2](y))
        return F.relu(y + (x if self.short is None else self.short(x)), inplace=True)


class ResNet(nn.Module):
    """Images [B, 3, image, image] -> logits [B, classes]. The third stage has `depth` blocks."""

    def __init__(self, depth: int, width: int, classes: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        stages, before = [], width
        for stage, blocks in enumerate((3, 4, depth, 3)):
            made = []
            for block in range(blocks):
                made.append(Bottleneck(before, width << stage, 2 if stage and not block else 1))
                before = 4 * (width << stage)
            stages.append(nn.Sequential(*made))
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        self.head = nn.Linear(before, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.stem(images)), inplace=True), 3, 2, 1)
        x = self.stage4(self.stage3(self.stage2(self.stage1(x))))
        return self.head(x.mean((2, 3)))


def resnet(batch: int = 64, image: int = 224, depth: int = 6, width: int = 64, classes: int = 1000):
    """ResNet-50 with its loss (25,557,032 parameters); ResNet-101 is a depth of 23, ResNet-152's third stage 36."""
    model = ResNet(depth, width, classes)
    return _labelled(model, batch, image, classes)


class Language(nn.Module):
    """Token ids [B, T] -> logits [B, T, vocab], through an LSTM."""

    def __init__(self, layers: int, width: int, vocab: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.head = nn.Linear(width, vocab)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.tokens(ids))[0])


def lstm(batch: int = 64, time: int = 256, layers: int = 2, width: int = 1024, vocab: int = 33278):
    """An LSTM language model with its loss."""
    model = Language(layers, width, vocab)
    ids = torch.randint(0, vocab, (batch, time))
    targets = ids.flatten()
    return model, (ids,), lambda logits: F.cross_entropy(logits.flatten(0, 1), targets.to(logits.device))


class Unrolled(nn.Module):
    """Token ids [B, T] -> logits [B, T, vocab], through an LSTM cell called once for every token."""

    def __init__(self, width: int, vocab: int) -> None:
        super().__init__()
        self.tokens, self.cell = nn.Embedding(vocab, width), nn.LSTMCell(width, width)
        self.head = nn.Linear(width, vocab)

    def forward(self, ids: Tensor) -> Tensor:
        x, state, found = self.tokens(ids), None, []
        for step in range(ids.shape[1]):
            state = self.cell(x[:, step], state)
            found.append(state[0])
        return self.head(torch.stack(found, dim=1))


def lstm_cells(batch: int = 64, time: int = 128, width: int = 1024, vocab: int = 33278):
    """The LSTM written as a loop over time, with its loss."""
    model = Unrolled(width, vocab)
    ids = torch.randint(0, vocab, (batch, time))
    targets = ids.flatten()
    return model, (ids,), lambda logits: F.cross_entropy(logits.flatten(0, 1), targets.to(logits.device))
