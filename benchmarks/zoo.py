"""The scoreboard: hundreds of real modules, the predicted bytes of a training step beside the measured ones.

    python benchmarks/zoo.py [--suite oddities --suite causal ...] [--only REGEX] [--scoreboard docs/scoreboard.md]

Every model is built at reduced size and takes two AdamW steps, twice: once for real on the CPU, where the
allocator's own events are read, and once under the tracer with ``device="cpu"``. Both runs have a process of their
own with limits on time and memory, and begin with the same seed. The results go to a JSON Lines file as they come,
and models that are already there are not run again; the scoreboard in Markdown is written from that file. A suite
needs its library: transformers (causal, masked, seq2seq, vision), timm, or torchvision (torchvision, detection).

A model counts as exact when its live bytes at the end of a phase are those measured; the peak also holds what
kernels take inside, above all oneDNN's convolutions and LSTMs, which a trace does not see.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib.util
import inspect
import json
import multiprocessing
import os
import re
import signal
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import nn
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from foretrace.tracer import Step

Record = dict[str, Any]
Maker = Callable[[], Step]
BATCH, LENGTH, CLASSES = 2, 32, 10
KIB = 1024


# -- hand-written oddities ------------------------------------------------------------------------

ODDITIES: dict[str, Maker] = {}


def oddity(maker: Maker) -> Maker:
    ODDITIES[maker.__name__] = maker
    return maker


class Apply(nn.Module):
    """A module of some layers and a function of them and the inputs."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def mean_square(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def classify(logits: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.flatten(0, -2), torch.zeros(logits.flatten(0, -2).shape[0], dtype=torch.int64))


def mlp(width: int = 64, out: int | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, out or width))


def tokens(count: int = 100) -> torch.Tensor:
    return torch.randint(0, count, (4, LENGTH))


def applied(
    function: Callable[..., Any], *inputs: Any, loss: Any = mean_square, step: Any = None, **layers: Any
) -> Step:
    return Step(Apply(function, **layers), inputs, loss, step=step)


@oddity
def tied_weights() -> Step:
    embedding, head = nn.Embedding(100, 64), nn.Linear(64, 100, bias=False)
    head.weight = embedding.weight
    return applied(lambda m, x: m.head(m.body(m.embedding(x))), tokens(), loss=classify, embedding=embedding,
                   body=mlp(), head=head)  # fmt: skip


@oddity
def in_place_ops() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        h += 1.0
        h.mul_(2.0).sigmoid_()
        h = h * 2
        h[:, :8] = 0.5
        h[h.shape[0] // 2 :].add_(x[h.shape[0] // 2 :])
        return m.b(h.clamp_(max=3.0)).tanh_()

    return applied(forward, torch.randn(16, 64), a=nn.Linear(64, 64), b=nn.Linear(64, 64))


def _checkpointed(reentrant: bool) -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = m.first(x)
        for block in m.blocks:
            h = checkpoint(block, h, use_reentrant=reentrant)
        return h

    blocks = nn.ModuleList(nn.Sequential(mlp(), nn.Dropout(0.1)) for _ in range(3))
    return applied(forward, torch.randn(32, 64), first=nn.Linear(64, 64), blocks=blocks)


@oddity
def checkpoint_reentrant() -> Step:
    return _checkpointed(True)


@oddity
def checkpoint_without_reentry() -> Step:
    return _checkpointed(False)


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * grad


@oddity
def custom_function() -> Step:
    return applied(lambda m, x: m.b(Squared.apply(m.a(x))), torch.randn(32, 64), a=mlp(), b=mlp())


@oddity
def gradient_accumulation() -> Step:
    def step(model: nn.Module, optimizer: Any, x: torch.Tensor) -> None:
        for part in x.chunk(4):
            (model(part).square().mean() / 4).backward()
        optimizer.step()
        optimizer.zero_grad()

    return applied(lambda m, x: m.body(x), torch.randn(64, 64), step=step, body=mlp())


class Adversaries:
    """One step of each of two players, each with an optimizer of its own."""

    def __init__(self) -> None:
        self.optimizers: list[torch.optim.Optimizer] = []

    def __call__(self, model: Any, optimizer: Any, noise: torch.Tensor) -> torch.Tensor:
        if not self.optimizers:
            self.optimizers = [torch.optim.AdamW(part.parameters()) for part in (model.maker, model.judge)]
        maker, judge = self.optimizers
        made, real = model.maker(noise), torch.randn(noise.shape[0], 64)
        doubt = F.softplus(model.judge(made.detach())).mean() + F.softplus(-model.judge(real)).mean()
        judge.zero_grad()
        doubt.backward()
        judge.step()
        maker.zero_grad()
        F.softplus(-model.judge(made)).mean().backward()
        maker.step()
        return doubt.detach()


@oddity
def gan_with_two_optimizers() -> Step:
    return applied(lambda m, x: x, torch.randn(32, 64), step=Adversaries(), maker=mlp(), judge=mlp(out=1))


@oddity
def gradient_penalty() -> Step:
    def step(model: nn.Module, optimizer: Any, x: torch.Tensor) -> None:
        x = x.detach().requires_grad_()
        score = model(x)
        (grad,) = torch.autograd.grad(score.sum(), x, create_graph=True)
        (score.mean() + (grad.norm(dim=1) - 1).square().mean()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return applied(lambda m, x: m.body(x), torch.randn(32, 64), step=step, body=mlp(out=1))


@oddity
def gradient_clipping() -> Step:
    def step(model: nn.Module, optimizer: Any, x: torch.Tensor) -> float:
        loss = model(x).square().mean()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        return float(norm) + loss.item()

    return applied(lambda m, x: m.body(x), torch.randn(32, 64), step=step, body=mlp())


@oddity
def lstm() -> Step:
    layer = nn.LSTM(64, 64, 2, batch_first=True, dropout=0.1)
    return applied(lambda m, x: m.head(m.lstm(m.embedding(x))[0]), tokens(), loss=classify,
                   embedding=nn.Embedding(100, 64), lstm=layer, head=nn.Linear(64, 100))  # fmt: skip


@oddity
def lstm_packed() -> Step:
    def forward(m: Any, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(m.embedding(x), lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(m.lstm(packed)[0], batch_first=True)[0]

    lengths = torch.tensor([32, 9, 20, 4])
    return applied(forward, tokens(), lengths, embedding=nn.Embedding(100, 64), lstm=nn.LSTM(64, 64, batch_first=True))


@oddity
def gru() -> Step:
    return applied(lambda m, x: m.gru(x)[0], torch.randn(16, 4, 64), gru=nn.GRU(64, 64, 2, bidirectional=True))


@oddity
def rnn_cell_loop() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h, c = torch.zeros(x.shape[1], 64), torch.zeros(x.shape[1], 64)
        for part in x:
            h, c = m.cell(part, (h, c))
        return h

    return applied(forward, torch.randn(12, 4, 64), cell=nn.LSTMCell(64, 64))


@oddity
def multihead_attention() -> Step:
    return applied(lambda m, x: m.attention(x, x, x)[0], torch.randn(4, 16, 64),
                   attention=nn.MultiheadAttention(64, 4, dropout=0.1, batch_first=True))  # fmt: skip


@oddity
def transformer_encoder() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return m.encoder(x, mask=mask, is_causal=True)

    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    return applied(forward, torch.randn(4, 16, 64), encoder=nn.TransformerEncoder(layer, 2))


@oddity
def transformer_whole() -> Step:
    whole = nn.Transformer(64, 4, 2, 2, 128, batch_first=True)
    return applied(lambda m, x, y: m.whole(x, y), torch.randn(2, 16, 64), torch.randn(2, 12, 64), whole=whole)


def _embedded(sparse: bool) -> Step:
    def step(model: Any, optimizer: Any, x: torch.Tensor) -> None:
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    made = applied(lambda m, x: m.embedding(x), tokens(), step=step, embedding=nn.Embedding(100, 64, sparse=sparse))
    made.optimizer = "sparseadam" if sparse else "adamw"
    return made


@oddity
def embedding_dense() -> Step:
    return _embedded(False)


@oddity
def embedding_sparse() -> Step:
    return _embedded(True)


@oddity
def embedding_bag() -> Step:
    return applied(lambda m, x: m.bag(x), tokens(), bag=nn.EmbeddingBag(100, 64, mode="mean"))


@oddity
def complex_and_fft() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft(m.a(x), dim=1, norm="ortho") * torch.view_as_complex(m.filter.weight.view(9, 64, 2))
        return torch.fft.irfft(spectrum, n=x.shape[1], dim=1, norm="ortho")

    return applied(forward, torch.randn(4, 16, 64), a=nn.Linear(64, 64), filter=nn.Linear(64 * 2, 9))


@oddity
def weight_norm() -> Step:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(64, 64))
    other = nn.utils.parametrizations.spectral_norm(nn.Linear(64, 64))
    return applied(lambda m, x: m.b(m.a(x).relu()), torch.randn(32, 64), a=layer, b=other)


@oddity
def ema_of_weights() -> Step:
    def step(model: Any, optimizer: Any, x: torch.Tensor) -> torch.Tensor:
        loss = (model.student(x) - model.teacher(x)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for slow, fast in zip(model.teacher.parameters(), model.student.parameters(), strict=True):
                slow.mul_(0.99).add_(fast, alpha=0.01)
        return loss.detach()

    student = mlp()
    teacher = copy.deepcopy(student).requires_grad_(False)
    return applied(lambda m, x: x, torch.randn(32, 64), step=step, student=student, teacher=teacher)


@oddity
def frozen_parts() -> Step:
    return applied(lambda m, x: m.head(m.body(x)), torch.randn(32, 64), body=mlp().requires_grad_(False), head=mlp())


@oddity
def dict_in_and_out() -> Step:
    def forward(m: Any, batch: dict[str, Any]) -> dict[str, Any]:
        hidden = m.body(batch["x"]) + batch["nested"][0]
        return {"loss": hidden.square().mean(), "hidden": [hidden, hidden.detach().mean()]}

    batch = {"x": torch.randn(32, 64), "nested": [torch.randn(64), "a word"]}
    return Step(Apply(forward, body=mlp()), {"batch": batch})


@dataclasses.dataclass
class Batch:
    x: torch.Tensor
    scale: float = 2.0
    loss: torch.Tensor | None = None


@oddity
def dataclass_in_and_out() -> Step:
    def forward(m: Any, batch: Batch) -> Batch:
        y = m.body(batch.x) * batch.scale
        return Batch(y, loss=y.square().mean())

    return Step(Apply(forward, body=mlp()), (Batch(torch.randn(32, 64)),))


@oddity
def channels_last() -> Step:
    body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 8, 1))
    x = torch.randn(2, 3, 32, 32).to(memory_format=torch.channels_last)
    return applied(lambda m, x: m.body(x), x, body=body.to(memory_format=torch.channels_last))


@oddity
def mixed_dtypes() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.exact(m.rough(x.bfloat16()).float()).double()

    return applied(forward, torch.randn(32, 64), rough=mlp().bfloat16(), exact=nn.LayerNorm(64))


class Counting(nn.Module):
    """Buffers that forward updates, in place and by assignment."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()
        self.register_buffer("mean", torch.zeros(64))
        self.register_buffer("seen", torch.tensor(0))
        self.register_buffer("queue", torch.zeros(128, 64), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.body(x)
        self.mean.lerp_(h.detach().mean(0), 0.1)
        place = int(self.seen) % 128
        self.queue[place : place + len(x)] = h.detach()[: 128 - place]
        self.seen += len(x)
        self.mean = self.mean / self.mean.norm().clamp(min=1.0)
        return (h - self.mean) @ self.queue.T


@oddity
def buffers_updated_in_forward() -> Step:
    return Step(Counting(), torch.randn(32, 64), mean_square)


@oddity
def item_in_forward() -> Step:
    def forward(m: Any, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        longest = lengths.max().item()
        return m.body(x[:, :longest]) * (lengths.float().mean().item() / longest)

    return applied(forward, torch.randn(4, 32, 64), torch.tensor([7, 20, 11, 3]), body=mlp())


@oddity
def branch_on_a_sum() -> Step:
    def forward(m: Any, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        if x.sum() > 1e9:
            h = h.exp()
        return m.b(h) if mask.all() else m.b(h * mask[:, None])

    return applied(forward, torch.randn(32, 64), torch.ones(32, dtype=torch.bool), a=mlp(), b=mlp())


@oddity
def nonzero_and_unique() -> Step:
    def forward(m: Any, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        kinds, places, counts = torch.unique(ids, return_inverse=True, return_counts=True)
        sums = torch.zeros(len(kinds), 64).index_add_(0, places, m.body(x)) / counts[:, None]
        return sums[torch.nonzero(counts > 1).squeeze(1)]

    return applied(forward, torch.randn(64, 64), torch.arange(64) % 20, body=mlp())


@oddity
def masked_select_of_data() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = m.body(x)
        return torch.cat([h[h > 0].square().mean()[None], torch.masked_select(h, h < 0).mean()[None]])

    return applied(forward, torch.randn(64, 64), body=mlp())


class Experts(nn.Module):
    """Each token goes to two of four experts, in a loop over the experts."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(64, 4), nn.ModuleList(mlp() for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, chosen = self.router(x).softmax(-1).topk(2, dim=-1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, slots = torch.where(chosen == number)
            out.index_add_(0, rows, expert(x[rows]) * weights[rows, slots, None])
        return out


@oddity
def experts_in_a_loop() -> Step:
    return Step(Experts(), torch.randn(64, 64), mean_square)


@oddity
def deepcopy_in_init() -> Step:
    block = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    blocks = nn.ModuleList(copy.deepcopy(block) for _ in range(2))
    return applied(lambda m, x: m.blocks[1](m.blocks[0](x)), torch.randn(4, 16, 64), blocks=blocks)


@oddity
def vmap_over_an_ensemble() -> Step:
    members = [mlp(out=8) for _ in range(3)]
    shape = copy.deepcopy(members[0]).to("meta")

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        names = dict(m.members[0].named_parameters())
        stacked = {n: torch.stack([dict(k.named_parameters())[n] for k in m.members]) for n in names}
        return torch.func.vmap(lambda p: torch.func.functional_call(shape, p, (x,)))(stacked)

    return applied(forward, torch.randn(32, 64), members=nn.ModuleList(members))


@oddity
def grad_of_torch_func() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        def energy(row: torch.Tensor) -> torch.Tensor:
            return m.body(row).square().sum()

        return torch.func.vmap(torch.func.grad(energy))(x)

    return applied(forward, torch.randn(16, 64), body=nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)))


@oddity
def convolutions_1d_3d_transposed() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        flat = m.one(x.flatten(2)).unflatten(2, (8, 8, 8))
        return m.back(m.three(flat).mean(2))

    return applied(forward, torch.randn(2, 4, 8, 8, 8), one=nn.Conv1d(4, 8, 5, padding=2),
                   three=nn.Conv3d(8, 8, 3, padding=1), back=nn.ConvTranspose2d(8, 4, 4, 2, 1))  # fmt: skip


@oddity
def group_and_instance_norm() -> Step:
    body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.SiLU(), nn.InstanceNorm2d(16, affine=True))
    return applied(lambda m, x: m.body(x), torch.randn(2, 3, 16, 16), body=body)


@oddity
def shuffle_and_interpolate() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = F.pixel_shuffle(m.conv(x), 2)
        h = F.interpolate(h, scale_factor=1.5, mode="bilinear", align_corners=False)
        return F.interpolate(F.pad(h, (1, 1, 1, 1), mode="reflect"), size=20, mode="nearest")

    return applied(forward, torch.randn(2, 3, 16, 16), conv=nn.Conv2d(3, 16, 3, padding=1))


@oddity
def grid_sample() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        grid = F.affine_grid(m.pose(x.mean((2, 3))).view(-1, 2, 3), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)

    return applied(forward, torch.randn(2, 3, 16, 16), pose=nn.Linear(3, 6))


@oddity
def graph_network() -> Step:
    def forward(m: Any, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        source, target = edges
        messages = m.message(torch.cat([x[source], x[target]], -1)).relu()
        weights = messages.new_zeros(len(x), 64).scatter_reduce(
            0, target[:, None].expand(-1, 64), messages, "amax", include_self=False
        )
        total = torch.zeros_like(x).scatter_add(0, target[:, None].expand_as(messages), messages)
        return m.update(torch.cat([total, weights], -1)).gather(1, torch.arange(len(x))[:, None] % 64)

    edges = torch.randint(0, 40, (2, 200))
    return applied(forward, torch.randn(40, 64), edges, message=nn.Linear(128, 64), update=nn.Linear(128, 64))


@oddity
def low_rank_adapter() -> Step:
    base = mlp().requires_grad_(False)
    return applied(lambda m, x: m.base(x) + m.up(m.down(x)), torch.randn(32, 64), base=base,
                   down=nn.Linear(64, 4, bias=False), up=nn.Linear(4, 64, bias=False))  # fmt: skip


@oddity
def hooks_on_tensors_and_modules() -> Step:
    model = Apply(lambda m, x: m.b(m.a(x)), a=mlp(), b=mlp())
    model.a.register_forward_hook(lambda module, args, output: output * 0.5)
    model.b.register_full_backward_hook(lambda module, given, made: None)
    for parameter in model.b.parameters():
        parameter.register_hook(lambda grad: grad * 0.1)
    return Step(model, torch.randn(32, 64), mean_square)


@oddity
def optimizer_in_backward_hooks() -> Step:
    model = Apply(lambda m, x: m.body(x), body=mlp())
    own = {p: torch.optim.AdamW([p]) for p in model.parameters()}

    def update(parameter: torch.Tensor) -> None:
        own[parameter].step()
        own[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(update)
    return Step(model, torch.randn(32, 64), mean_square, optimizer=None)


@oddity
def scaler_and_schedule() -> Step:
    kept: dict[str, Any] = {}

    def step(model: nn.Module, optimizer: Any, x: torch.Tensor) -> None:
        if not kept:
            kept["scaler"] = torch.amp.GradScaler("cpu")
            kept["schedule"] = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(x).float().square().mean()
        kept["scaler"].scale(loss).backward()
        kept["scaler"].step(optimizer)
        kept["scaler"].update()
        kept["schedule"].step()
        optimizer.zero_grad()

    return applied(lambda m, x: m.body(x), torch.randn(32, 64), step=step, body=mlp())


@oddity
def flex_of_small_ops() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = torch.einsum("btd,bsd->bts", m.a(x), x).tril().cumsum(-1)
        values, order = h.sort(-1)
        h = torch.where(order % 2 == 0, values, values.roll(1, -1)).logsumexp(1)
        return torch.lerp(h, h.flip(0), 0.3) / h.std(dim=-1, keepdim=True).clamp(min=1e-3)

    return applied(forward, torch.randn(4, 16, 64), a=nn.Linear(64, 64))


@oddity
def returned_hidden_states() -> Step:
    def forward(m: Any, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        kept = [x]
        for layer in m.layers:
            kept.append(layer(kept[-1]))
        return kept[-1], kept

    return applied(forward, torch.randn(32, 64), loss=lambda out: out[0].square().mean(),
                   layers=nn.ModuleList(mlp() for _ in range(3)))  # fmt: skip


# -- transformers ---------------------------------------------------------------------------------

HEADS = {
    "causal": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "masked": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "seq2seq": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "vision": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
}

SIZES = {
    2: """num_experts_per_tok num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers
        num_encoder_layers num_decoder_layers num_hidden_groups""",
    4: "num_experts n_routed_experts num_local_experts moe_num_experts",
    512: "vocab_size",
    1: "pad_token_id n_group topk_group",
}
WIDTHS = {
    64: """hidden_size d_model n_embd dim emb_dim embed_dim embedding_size hidden_dim word_embed_proj_dim model_dim
        width attention_hidden_size lru_width""",
    128: """intermediate_size ffn_dim d_ff n_inner encoder_ffn_dim decoder_ffn_dim ffn_hidden_size mlp_dim inner_dim
        pooler_hidden_size max_position_embeddings n_positions n_ctx max_seq_len seq_length""",
    32: "moe_intermediate_size shared_expert_intermediate_size",
    16: "head_dim kv_channels d_kv attention_head_size",
    4: "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads",
    2: "num_key_value_heads num_kv_heads n_head_kv",
}
IMAGE = {"image_size": 64, "patch_size": 8}


def _by_key(table: dict[int, str]) -> dict[str, int]:
    return {key: size for size, keys in table.items() for key in keys.split()}


COUNTS = {**_by_key(SIZES), "bos_token_id": 2, "eos_token_id": 3}
ATTEMPTS: tuple[dict[str, int], ...] = (
    {**COUNTS, **_by_key(WIDTHS), **IMAGE},
    {**COUNTS, **_by_key(WIDTHS), **IMAGE, "use_cache": False},
    {**COUNTS, **_by_key(WIDTHS)},
    COUNTS,
)
"""Reductions of a config from strong to weak; the first with which the model runs is taken."""


def transformers_names(suite: str) -> Iterator[tuple[str, str]]:
    """Each model class of a head's table once, with its family (the model type)."""
    from transformers.models.auto import modeling_auto

    seen = set()
    for family, names in getattr(modeling_auto, HEADS[suite]).items():
        for name in [names] if isinstance(names, str) else names:
            if name not in seen:
                seen.add(name)
                yield name, family


def _family_of(suite: str, name: str) -> str:
    return next(family for found, family in transformers_names(suite) if found == name)


def reduced(config: Any, sizes: dict[str, int]) -> dict[str, Any]:
    """Arguments for the config's class: every number that it shares with `sizes` at the smaller value."""
    plain = config.to_dict()
    found: dict[str, Any] = {}
    for key, value in plain.items():
        wanted = sizes.get(config.attribute_map.get(key, key), sizes.get(key))
        unset = value is None and key in ("head_dim", "num_key_value_heads", "num_experts_per_tok")
        smaller = type(value) is int and wanted is not None and (value > wanted or key.endswith("token_id"))
        if wanted is not None and (smaller or unset or key == "use_cache"):
            found[key] = wanted
        elif key in config.sub_configs and hasattr(getattr(config, key, None), "to_dict"):
            inner = getattr(config, key)
            found[key] = {"model_type": inner.model_type, **reduced(inner, sizes)}
    if "num_key_value_heads" in found and plain.get("num_key_value_heads") == plain.get("num_attention_heads"):
        found["num_key_value_heads"] = found.get("num_attention_heads", found["num_key_value_heads"])
    return found


def transformers_step(suite: str, name: str, attempt: int) -> Step:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = getattr(transformers, name)
    config_class = kind.config_class or CONFIG_MAPPING[_family_of(suite, name)]
    config = config_class(**reduced(config_class(), ATTEMPTS[attempt]))
    if suite == "causal" and hasattr(config, "is_decoder"):
        config.is_decoder = True
    if suite == "seq2seq" and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = 1
    model = kind(config).train()
    accepted = inspect.signature(model.forward).parameters
    inputs = _image_inputs(config) if suite == "vision" else _text_inputs(config, model)
    inputs = {key: value for key, value in inputs.items() if key in accepted}
    return Step(model, inputs, None if "labels" in accepted else first_mean)


def _text_inputs(config: Any, model: Any) -> dict[str, torch.Tensor]:
    vocabulary = getattr(config.get_text_config(), "vocab_size", None) or 256
    ids = torch.randint(4, max(vocabulary, 8), (BATCH, LENGTH))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    if model.main_input_name not in inputs:
        inputs[model.main_input_name] = ids
    return inputs


def _image_inputs(config: Any) -> dict[str, torch.Tensor]:
    size = getattr(config, "image_size", None) or getattr(getattr(config, "vision_config", None), "image_size", 224)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    pixels = torch.randn(BATCH, getattr(config, "num_channels", 3), height, width)
    labels = torch.zeros(BATCH, dtype=torch.int64)
    return {"pixel_values": pixels, "inputs": pixels, "labels": labels}


def first_mean(output: Any) -> torch.Tensor:
    """A loss for outputs without one: the mean square of the first floating-point tensor."""
    values = output if isinstance(output, torch.Tensor) else None
    found = [values] if values is not None else output.values() if isinstance(output, dict) else output
    return next(v for v in found if isinstance(v, torch.Tensor) and v.is_floating_point()).float().square().mean()


# -- timm and torchvision -------------------------------------------------------------------------

SIZE_WORDS = "atto|femto|pico|nano|zepto|xxs|xxtiny|xs|xtiny|tiny|_t|_s|mini|small|050|_b|base|_m|_l"


def _smallness(name: str) -> tuple[int, int, str]:
    words = SIZE_WORDS.split("|")
    rank = next((place for place, word in enumerate(words) if word in name), len(words))
    numbers = [int(n) for n in re.findall(r"\d+", name)]
    return rank, sum(numbers), name


def timm_names() -> Iterator[tuple[str, str]]:
    import timm
    from timm.models import _registry

    families: dict[str, list[str]] = defaultdict(list)
    for name in timm.list_models():
        if not name.endswith("_enc") and not name.startswith("test_"):
            families[_registry._model_to_module[name]].append(name)
    for family, names in sorted(families.items()):
        yield min(names, key=_smallness), family


def timm_step(name: str, attempt: int) -> Step:
    import timm

    model = timm.create_model(name, num_classes=CLASSES).train()
    size = model.default_cfg.get("input_size", (3, 224, 224))
    return Step(model, torch.randn(BATCH, *size), _image_loss)


def _image_loss(output: Any) -> torch.Tensor:
    values = list(output.values()) if isinstance(output, dict) else output
    parts = values if isinstance(values, (tuple, list)) else [values]
    return sum(F.cross_entropy(part, torch.zeros(part.shape[0], dtype=torch.int64)) for part in parts)


def _torchvision_families(module: Any) -> Iterator[tuple[str, str]]:
    import torchvision

    families: dict[str, list[str]] = defaultdict(list)
    for name in torchvision.models.list_models(module=module):
        families[torchvision.models.get_model_builder(name).__module__.rpartition(".")[2]].append(name)
    for family, names in sorted(families.items()):
        yield min(names, key=_smallness), family


def torchvision_names() -> Iterator[tuple[str, str]]:
    import torchvision

    return _torchvision_families(torchvision.models)


def detection_names() -> Iterator[tuple[str, str]]:
    import torchvision

    return _torchvision_families(torchvision.models.detection)


def torchvision_step(name: str, attempt: int) -> Step:
    import torchvision

    model = torchvision.models.get_model(name, num_classes=CLASSES).train()
    size = 299 if "inception" in name else 224
    return Step(model, torch.randn(BATCH, 3, size, size), _image_loss)


def detection_step(name: str, attempt: int) -> Step:
    import torchvision

    sizes = {} if name.startswith("ssd") else {"min_size": 128, "max_size": 160}
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES, **sizes)
    images = [torch.rand(3, 128, 160) for _ in range(BATCH)]
    boxes = torch.tensor([[10.0, 10.0, 60.0, 70.0], [40.0, 30.0, 120.0, 100.0]])
    masks = torch.zeros(2, 128, 160, dtype=torch.uint8)
    masks[0, 10:70, 10:60] = masks[1, 30:100, 40:120] = 1
    points = torch.tensor([[[20.0, 20.0, 1.0]] * 17, [[50.0, 50.0, 1.0]] * 17])
    labels = torch.tensor([1, 1])
    targets = [{"boxes": boxes, "labels": labels, "masks": masks, "keypoints": points} for _ in range(BATCH)]
    return Step(model.train(), (images, targets), lambda losses: sum(losses.values()))


# -- suites ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Suite:
    """Models by name, each with its family, and how one is built; `attempts` reductions are tried."""

    library: str
    names: Callable[[], Iterator[tuple[str, str]]]
    step: Callable[[str, int], Step]
    attempts: int = 1


def _transformers_suite(suite: str) -> Suite:
    return Suite(
        "transformers",
        lambda: transformers_names(suite),
        lambda name, attempt: transformers_step(suite, name, attempt),
        len(ATTEMPTS),
    )


SUITES: dict[str, Suite] = {
    "oddities": Suite("torch", lambda: ((n, n) for n in ODDITIES), lambda name, attempt: ODDITIES[name]()),
    **{suite: _transformers_suite(suite) for suite in HEADS},
    "torchvision": Suite("torchvision", torchvision_names, torchvision_step),
    "detection": Suite("torchvision", detection_names, detection_step),
    "timm": Suite("timm", timm_names, timm_step),
}


def build(suite: str, name: str, attempt: int) -> Step:
    torch.manual_seed(0)
    return SUITES[suite].step(name, attempt)


# -- one model, in a process of its own -----------------------------------------------------------


def measured_run(suite: str, name: str, attempt: int) -> Record:
    """The real step: live bytes at phase ends, the peak, and every allocation."""
    from foretrace.tracer.measure import measure

    error: Exception | None = None
    for tried in range(SUITES[suite].attempts):
        try:
            found = measure(build(suite, name, tried))
        except Exception as raised:
            # The strongest reduction that builds says most; a size that clashes is not the model's failure.
            error = raised
            continue
        blocks = [(block.bytes, block.address, block.ops, block.calls) for block in found.blocks]
        ends = {str(phase): end for phase, end in found.ends.items()}
        return {"attempt": tried, "ends": ends, "peak": found.peak_bytes, "blocks": blocks}
    return {"error": one_line(error)}


def traced_run(suite: str, name: str, attempt: int) -> Record:
    """The predicted step: the same figures, and every birth with its op."""
    from foretrace.costmodels.timeline import timeline
    from foretrace.tracer import trace

    step = build(suite, name, attempt)
    start = time.perf_counter()
    try:
        graph = trace(step.model, step.inputs, loss=step.loss, optimizer=step.optimizer, step=step.step, device="cpu")
    except Exception as error:
        return {"error": one_line(error)}
    seconds = time.perf_counter() - start
    found = timeline(graph)
    births = [(graph.ops[e.op].name, e.bytes, graph.ops[e.op].module) for e in graph.events if e.bytes > 0]
    return {
        "seconds": round(seconds, 2),
        "ops": len(graph.ops),
        "start": found.start_bytes,
        "ends": {str(phase): memory.end_bytes - found.start_bytes for phase, memory in found.phases.items()},
        "peak": found.peak_bytes - found.start_bytes,
        "assumptions": [dict(a) for a in graph.facts.assumptions],
        "scratch": any(re.search("convolution|_rnn_|lstm", op.name) for op in graph.ops),
        "births": births,
    }


def one_line(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:400]


def _serve(pipe: Any, function: Callable[..., Record], args: tuple[Any, ...]) -> None:
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    pipe.send(function(*args))
    pipe.close()


def in_child(function: Callable[..., Record], args: tuple[Any, ...], seconds: float, memory: int) -> Record:
    """What `function` returns in a process of its own, or an ``error`` where it passes a limit or dies."""
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_serve, args=(there, function, args), daemon=True)
    child.start()
    there.close()
    deadline = time.monotonic() + seconds
    try:
        while not here.poll(0.1):
            if time.monotonic() > deadline:
                return {"error": f"takes more than {seconds:g} s"}
            if resident_bytes(child.pid) > memory:
                return {"error": f"takes more than {memory / 2**30:g} GiB"}
        return here.recv()
    except EOFError:
        child.join(5)
        code = child.exitcode or 0
        return {"error": f"died of {signal.Signals(-code).name}" if code < 0 else f"died with exit code {code}"}
    finally:
        child.kill()
        child.join()


def resident_bytes(pid: int | None) -> int:
    """Resident memory of a process; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


# -- predicted beside measured --------------------------------------------------------------------


def compare(suite: str, name: str, family: str, seconds: float, memory: int) -> Record:
    """Run one model both ways."""
    record: Record = {"suite": suite, "name": name, "family": family, "torch": torch.__version__}
    truth = in_child(measured_run, (suite, name, 0), seconds, memory)
    if "error" in truth:
        return {**record, "skipped": truth["error"]}
    record["attempt"] = truth["attempt"]
    told = in_child(traced_run, (suite, name, truth["attempt"]), seconds, memory)
    if "error" in told:
        return {**record, "error": told["error"]}
    keys = ("seconds", "ops", "start", "assumptions", "scratch")
    record.update({key: told[key] for key in keys})
    for phase in ("forward", "backward"):
        record[phase] = [told["ends"].get(phase), truth["ends"].get(phase)]
    record["peak"] = [told["peak"], truth["peak"]]
    if any(record[phase][0] != record[phase][1] for phase in ("forward", "backward")):
        record["difference"] = first_difference(told["births"], truth["blocks"])
    return record


def first_difference(births: list[Any], blocks: list[Any]) -> str:
    """The first predicted birth that did not happen, or the first allocation that lasts and was not predicted."""
    lasting = _lasting(blocks)
    at, unmatched = 0, ""
    groups = _grouped(births)
    for place, (size, _, ops, _) in enumerate(blocks):
        if size < 0:
            continue
        name, sizes, _ = groups[at] if at < len(groups) else ("", [], "")
        if name and "aten::" + name.split(".")[1] in ops and size in sizes:
            sizes.remove(size)
            at += not sizes
            continue
        if place in lasting and not unmatched:
            unmatched = f"measured {size:,} bytes in {' > '.join(ops) or 'no op'}, where no birth was predicted"
            unmatched += f" (next predicted: {name or 'none'} {sizes})"
    if at < len(groups):
        name, sizes, module = groups[at]
        return (
            f"predicted {', '.join(f'{s:,}' for s in sizes)} bytes in {name} at {module or 'top'} not met; {unmatched}"
        )
    return unmatched or "all births are as predicted; a storage is freed earlier or later"


def _grouped(births: list[Any]) -> list[tuple[str, list[int], str]]:
    return [(name, [size], module) for name, size, module in births]


def _lasting(blocks: list[Any]) -> set[int]:
    """Places of the allocations that outlive every op around them."""
    taken: dict[int, int] = {}
    found = {place for place, block in enumerate(blocks) if block[0] > 0}
    for place, (size, address, _, calls) in enumerate(blocks):
        if size > 0:
            taken[address] = place
        elif address in taken:
            birth = taken.pop(address)
            if set(blocks[birth][3]) & set(calls):
                found.discard(birth)
    return found


# -- the scoreboard -------------------------------------------------------------------------------


def verdict(pair: list[int | None]) -> str:
    predicted, measured = pair
    if predicted is None or measured is None:
        return "none" if predicted is measured else "off"
    gap = abs(predicted - measured)
    return "exact" if gap == 0 else "within 1 KiB" if gap <= KIB else f"off by {predicted - measured:+,}"


def peak_error(record: Record) -> float:
    """Predicted over measured peak, less one; both with what was live when the step began."""
    predicted, measured = (record["start"] + part for part in record["peak"])
    return predicted / measured - 1


def close(record: Record, phase: str) -> bool:
    return verdict(record[phase]) in ("exact", "within 1 KiB", "none")


def scoreboard(records: list[Record]) -> str:
    ran = [r for r in records if "skipped" not in r]
    traced = [r for r in ran if "error" not in r]
    parts = [
        "# Scoreboard",
        "Live bytes of one training step with AdamW on the CPU, predicted by a trace beside those that the allocator "
        "reported for a real run of the same step. Written by `python benchmarks/zoo.py`.",
        "## By suite",
        _summary(ran, "suite"),
        "## What was not traced",
        _reasons([(r["suite"], r["name"], r["error"]) for r in ran if "error" in r]),
        "## Where predicted and measured part",
        _differences(traced),
        "## Every model",
        _every(traced),
        "## By family",
        _summary(ran, "family"),
        "## What does not run in plain PyTorch at this size",
        _reasons([(r["suite"], r["name"], r["skipped"]) for r in records if "skipped" in r]),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(records: list[Record], key: str) -> str:
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record[key]].append(record)
    rows = [_counts(name, found) for name, found in groups.items()]
    if key == "suite":
        rows.append(_counts("all", records))
    head = [key, "models", "traced", "no assumption", "forward exact", "backward exact", "peak within 1 %"]
    return tabulate(rows, head, "github")


def _counts(name: str, records: list[Record]) -> list[Any]:
    traced = [r for r in records if "error" not in r]
    return [
        name,
        len(records),
        len(traced),
        sum(not r["assumptions"] for r in traced),
        sum(close(r, "forward") for r in traced),
        sum(close(r, "backward") for r in traced),
        sum(abs(peak_error(r)) <= 0.01 for r in traced),
    ]


def _every(records: list[Record]) -> str:
    rows = [
        [r["suite"], r["name"], verdict(r["forward"]), verdict(r["backward"]), f"{100 * peak_error(r):+.2f}",
         len(r["assumptions"]), "yes" if r["scratch"] else ""]
        for r in records
    ]  # fmt: skip
    head = ["suite", "model", "after forward", "after backward", "peak error (%)", "assumptions", "conv or RNN"]
    return tabulate(rows, head, "github", disable_numparse=True)


def _differences(records: list[Record]) -> str:
    rows = [[r["suite"], r["name"], r["difference"].replace("|", "/")] for r in records if "difference" in r]
    return tabulate(rows, ["suite", "model", "first difference"], "github") if rows else "Nowhere."


def _reasons(rows: list[tuple[str, str, str]]) -> str:
    if not rows:
        return "None."
    return tabulate([[s, n, e.replace("|", "/")] for s, n, e in rows], ["suite", "model", "reason"], "github")


# -- the program ----------------------------------------------------------------------------------


def main() -> None:
    options = _options()
    done = _read(options.results)
    todo = [
        (suite, name, family)
        for suite in options.suite or _installed()
        for name, family in SUITES[suite].names()
        if (suite, name) not in done and re.search(options.only, name)
    ][: options.first]
    _preload({SUITES[suite].library for suite, _, _ in todo})
    with options.results.open("a") as file, tqdm(todo, unit="model", file=sys.stderr) as bar:
        for suite, name, family in bar:
            bar.set_postfix_str(f"{suite} {name}")
            record = compare(suite, name, family, options.seconds, options.gib << 30)
            file.write(json.dumps(record) + "\n")
            file.flush()
            done[suite, name] = record
    records = list(done.values())
    options.scoreboard.parent.mkdir(parents=True, exist_ok=True)
    options.scoreboard.write_text(scoreboard(records))
    print(_summary([r for r in records if "skipped" not in r], "suite"))
    classes = Counter(r["error"].partition(":")[0] for r in records if "error" in r)
    print(*(f"{count:4} {kind}" for kind, count in classes.most_common()), sep="\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Predicted against measured bytes for hundreds of real modules.")
    parser.add_argument("--suite", action="append", choices=SUITES, help="may be repeated (default: all installed)")
    parser.add_argument("--only", default="", metavar="REGEX", help="only models whose name matches")
    parser.add_argument("--first", type=int, default=None, metavar="N", help="only the first N that remain")
    parser.add_argument("--results", type=Path, default=Path("zoo.jsonl"), help="results so far, one a line")
    parser.add_argument("--scoreboard", type=Path, default=Path("docs/scoreboard.md"))
    parser.add_argument("--seconds", type=float, default=60, help="time limit of each of a model's two runs")
    parser.add_argument("--gib", type=int, default=8, help="memory limit of each run")
    return parser.parse_args()


def _installed() -> list[str]:
    return [name for name, suite in SUITES.items() if importlib.util.find_spec(suite.library)]


def _read(path: Path) -> dict[tuple[str, str], Record]:
    lines = path.read_text().splitlines() if path.exists() else []
    return {(r["suite"], r["name"]): r for r in map(json.loads, lines)}


def _preload(libraries: set[str]) -> None:
    """Import once, in the process that the children are forked from, what all of them need."""
    modules = ["foretrace.costmodels.timeline", "foretrace.tracer.measure", *sorted(libraries)]
    if "transformers" in libraries:
        modules.append("transformers.modeling_utils")
    multiprocessing.set_forkserver_preload(modules)


if __name__ == "__main__":
    main()
