"""Twenty small models, each a target of ``batch`` and ``size``: twelve written here, eight of transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Case = tuple[nn.Module, Any, Callable[[Any], Tensor]]


def _mean(output: Any) -> Tensor:
    return (output[0] if isinstance(output, tuple) else output).square().mean()


class Residual(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            mixed = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


def _transformer(layers: int, width: int, fused: bool, norm: Callable[[int], nn.Module], act: nn.Module) -> nn.Module:
    def block() -> nn.Sequential:
        mlp = (nn.Linear(width, 4 * width), act, nn.Linear(4 * width, width))
        return nn.Sequential(Residual(norm(width), Attention(width, 4, fused)), Residual(norm(width), *mlp))

    return nn.Sequential(*(block() for _ in range(layers)))


def _sequence(batch: int, size: int, width: int) -> Tensor:
    return torch.zeros(batch, 16 * size, width)


def _image(batch: int, size: int) -> Tensor:
    return torch.zeros(batch, 3, 16 * size, 16 * size)


def perceptron(batch: int = 2, size: int = 2) -> Case:
    widths = [32 * size] * 8
    return (
        nn.Sequential(*(nn.Sequential(nn.Linear(w, w), nn.ReLU()) for w in widths)),
        torch.zeros(batch, 32 * size),
        _mean,
    )


def autoencoder(batch: int = 2, size: int = 2) -> Case:
    width = 64 * size
    down, up = nn.Linear(width, width // 8), nn.Linear(width // 8, width)
    return (
        nn.Sequential(down, nn.GELU(), nn.Linear(width // 8, width // 8), nn.GELU(), up),
        torch.zeros(batch, width),
        _mean,
    )


def mixer(batch: int = 2, size: int = 2) -> Case:
    def block() -> nn.Module:
        return Residual(nn.LayerNorm(64), nn.Linear(64, 256), nn.GELU(), nn.Dropout(0.1), nn.Linear(256, 64))

    return nn.Sequential(*(block() for _ in range(6))), _sequence(batch, size, 64), _mean


def plain_convolutions(batch: int = 2, size: int = 2) -> Case:
    def layer(a: int, b: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))

    return nn.Sequential(layer(3, 16), layer(16, 32), layer(32, 64)), _image(batch, size), _mean


def residual_convolutions(batch: int = 2, size: int = 2) -> Case:
    def block() -> nn.Module:
        return Residual(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))

    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *(block() for _ in range(6))), _image(batch, size), _mean


def separable_convolutions(batch: int = 2, size: int = 2) -> Case:
    def block() -> nn.Module:
        return Residual(nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.BatchNorm2d(24), nn.SiLU(), nn.Conv2d(24, 24, 1))

    return nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1), *(block() for _ in range(6))), _image(batch, size), _mean


def recurrent(batch: int = 2, size: int = 2) -> Case:
    return nn.LSTM(32, 64, 2, batch_first=True), _sequence(batch, size, 32), _mean


def gated_recurrent(batch: int = 2, size: int = 2) -> Case:
    return nn.GRU(32, 64, 2, batch_first=True), _sequence(batch, size, 32), _mean


def written_out_attention(batch: int = 2, size: int = 2) -> Case:
    return _transformer(4, 64, False, nn.LayerNorm, nn.GELU()), _sequence(batch, size, 64), _mean


def fused_attention(batch: int = 2, size: int = 2) -> Case:
    return _transformer(4, 64, True, nn.RMSNorm, nn.SiLU()), _sequence(batch, size, 64), _mean


def deep_attention(batch: int = 2, size: int = 2) -> Case:
    return _transformer(8, 32, True, nn.LayerNorm, nn.ReLU()), _sequence(batch, size, 32), _mean


def encoder(batch: int = 2, size: int = 2) -> Case:
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), _sequence(batch, size, 64), _mean


def _of_transformers(kind: str, batch: int, size: int, **config: int) -> Case:
    import transformers

    common = {"vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    settings = transformers.AutoConfig.for_model(kind, **{**common, "intermediate_size": 128, **config})
    ids = torch.zeros(batch, 16 * size, dtype=torch.int64)
    model = transformers.AutoModel.from_config(settings)
    return model, {"input_ids": ids}, lambda output: output.last_hidden_state.square().mean()


def gpt2(batch: int = 2, size: int = 2) -> Case:
    return _of_transformers("gpt2", batch, size, bos_token_id=0, eos_token_id=0)


def llama(batch: int = 2, size: int = 2) -> Case:
    return _of_transformers("llama", batch, size)


def mistral(batch: int = 2, size: int = 2) -> Case:
    return _of_transformers("mistral", batch, size, num_key_value_heads=2)


def qwen2(batch: int = 2, size: int = 2) -> Case:
    return _of_transformers("qwen2", batch, size, num_key_value_heads=2)


def bert(batch: int = 2, size: int = 2) -> Case:
    return _of_transformers("bert", batch, size)


def roberta(batch: int = 2, size: int = 2) -> Case:
    return _of_transformers("roberta", batch, size, pad_token_id=1)


def opt(batch: int = 2, size: int = 2) -> Case:
    return _of_transformers("opt", batch, size, ffn_dim=128, word_embed_proj_dim=64, pad_token_id=1)


def electra(batch: int = 2, size: int = 2) -> Case:
    return _of_transformers("electra", batch, size, embedding_size=64)


MODELS = (
    "perceptron",
    "autoencoder",
    "mixer",
    "plain_convolutions",
    "residual_convolutions",
    "separable_convolutions",
    "recurrent",
    "gated_recurrent",
    "written_out_attention",
    "fused_attention",
    "deep_attention",
    "encoder",
    "gpt2",
    "llama",
    "mistral",
    "qwen2",
    "bert",
    "roberta",
    "opt",
    "electra",
)
