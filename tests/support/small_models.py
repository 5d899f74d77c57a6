"""Small models on which the trace is held against a real run: each a step of a few milliseconds."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretrace.tracer import Step


class Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down, self.dropout = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.out(mixed))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))


class GPT(nn.Module):
    """Tied embeddings, learned positions, dropout."""

    def __init__(
        self, vocab: int = 101, width: int = 64, layers: int = 3, heads: int = 4, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(64, width)
        self.h = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocab, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.h:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1, self.norm2, self.relu = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x))))) + x)


class ResNet(nn.Module):
    """A stem, two residual blocks, a grouped convolution, pooling and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        self.blocks = nn.Sequential(Residual(16), Residual(16), nn.Conv2d(16, 32, 3, 2, 1, groups=4))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.head(self.blocks(self.stem(images))), targets)


class LSTM(nn.Module):
    """An embedding, a two-layer LSTM with dropout between, and a classifier."""

    def __init__(self, vocab: int = 50) -> None:
        super().__init__()
        self.tokens, self.lstm = nn.Embedding(vocab, 32), nn.LSTM(32, 64, 2, batch_first=True, dropout=0.1)
        self.head = nn.Linear(64, vocab)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.head(self.lstm(self.tokens(ids))[0]).flatten(0, 1), targets.flatten())


class MoE(nn.Module):
    """A router that sends each token to two of four experts, without a loop over tokens."""

    def __init__(self, width: int = 32, experts: int = 4) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts)
        self.up = nn.Parameter(torch.randn(experts, width, 2 * width))
        self.down = nn.Parameter(torch.randn(experts, 2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x).softmax(-1).topk(2, dim=-1)
        gates = torch.zeros(*x.shape[:-1], self.up.shape[0], device=x.device).scatter(-1, chosen, weights)
        hidden = F.silu(torch.einsum("btd,edf->btef", x, self.up))
        return torch.einsum("btef,efd,bte->btd", hidden, self.down, gates).square().mean()


def gpt() -> Step:
    ids = torch.randint(0, 101, (4, 32))
    return Step(GPT(), {"ids": ids, "targets": ids.roll(-1, 1)})


def gpt_without_dropout() -> Step:
    ids = torch.randint(0, 101, (4, 32))
    return Step(GPT(dropout=0.0), {"ids": ids, "targets": ids.roll(-1, 1)})


def resnet() -> Step:
    return Step(ResNet(), {"images": torch.randn(2, 3, 64, 64), "targets": torch.randint(0, 10, (2,))})


def lstm() -> Step:
    ids = torch.randint(0, 50, (4, 20))
    return Step(LSTM(), {"ids": ids, "targets": ids.roll(-1, 1)})


def moe() -> Step:
    return Step(MoE(), {"x": torch.randn(2, 16, 32)})


MODELS: dict[str, Callable[[], Step]] = {
    "gpt": gpt,
    "gpt_without_dropout": gpt_without_dropout,
    "resnet": resnet,
    "lstm": lstm,
    "moe": moe,
}
