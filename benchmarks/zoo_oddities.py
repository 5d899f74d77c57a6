"""Hand-written steps for the scoreboard: everything about a training step that is not a plain stack of layers."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from foretrace.tracer import Step

Maker = Callable[[], Step]
BATCH, LENGTH, CLASSES = 2, 32, 10

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


@oddity
def checkpoint_nested() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        def inner(h: torch.Tensor) -> torch.Tensor:
            return checkpoint(m.second, h, use_reentrant=False) + h

        def outer(h: torch.Tensor) -> torch.Tensor:
            return m.third(checkpoint(inner, m.first(h), use_reentrant=False))

        return checkpoint(outer, x, use_reentrant=False)

    return applied(forward, torch.randn(32, 64), first=mlp(), second=mlp(), third=mlp())


def _saves_products(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    is_product = op in (torch.ops.aten.addmm.default, torch.ops.aten.mm.default)
    return CheckpointPolicy.MUST_SAVE if is_product else CheckpointPolicy.PREFER_RECOMPUTE


@oddity
def checkpoint_selective() -> Step:
    context = functools.partial(create_selective_checkpoint_contexts, _saves_products)

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        for block in m.blocks:
            x = checkpoint(block, x, use_reentrant=False, context_fn=context)
        return x

    return applied(forward, torch.randn(32, 64), blocks=nn.ModuleList(mlp() for _ in range(3)))


@oddity
def zero_grad_to_zeros() -> Step:
    def step(model: Any, optimizer: Any, x: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=False)
        loss = mean_square(model(x))
        loss.backward()
        optimizer.step()
        return loss

    return Step(mlp(), (torch.randn(32, 64),), step=step)


@oddity
def spectral_norm() -> Step:
    return Step(nn.utils.parametrizations.spectral_norm(nn.Linear(64, 64)), (torch.randn(32, 64),), mean_square)


@oddity
def orthogonal_weights() -> Step:
    return Step(nn.utils.parametrizations.orthogonal(nn.Linear(64, 64)), (torch.randn(32, 64),), mean_square)


@oddity
def saved_tensors_on_the_host() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        with torch.autograd.graph.save_on_cpu():
            return m.body(x)

    return applied(forward, torch.randn(32, 64), body=mlp())


@oddity
def averaged_model() -> Step:
    model = mlp()
    average = AveragedModel(model)

    def step(model: Any, optimizer: Any, x: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = mean_square(model(x))
        loss.backward()
        optimizer.step()
        average.update_parameters(model)
        return loss

    return Step(model, (torch.randn(32, 64),), step=step)


@oddity
def sharpness_aware() -> Step:
    def step(model: Any, optimizer: Any, x: torch.Tensor) -> torch.Tensor:
        mean_square(model(x)).backward()
        with torch.no_grad():
            norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
            ascent = [p.grad * (0.05 / (norm + 1e-12)) for p in model.parameters()]
            for p, e in zip(model.parameters(), ascent, strict=True):
                p.add_(e)
        optimizer.zero_grad()
        loss = mean_square(model(x))
        loss.backward()
        with torch.no_grad():
            for p, e in zip(model.parameters(), ascent, strict=True):
                p.sub_(e)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return Step(mlp(), (torch.randn(32, 64),), step=step)


@oddity
def functional_call() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        halves = {name: value * 0.5 for name, value in m.body.named_parameters()}
        return torch.func.functional_call(m.body, halves, (x,))

    return applied(forward, torch.randn(32, 64), body=mlp())


@oddity
def jacobian_vector_product() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        output, tangent = torch.func.jvp(m.body, (x,), (torch.ones_like(x),))
        return output + tangent

    return applied(forward, torch.randn(32, 64), body=mlp())


@oddity
def hessian_vector_product() -> Step:
    def step(model: Any, optimizer: Any, x: torch.Tensor) -> torch.Tensor:
        weights = list(model.parameters())
        loss = mean_square(model(x))
        gradients = torch.autograd.grad(loss, weights, create_graph=True)
        products = torch.autograd.grad(sum((g * g.detach()).sum() for g in gradients), weights)
        for weight, product in zip(weights, products, strict=True):
            weight.grad = product
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return Step(mlp(), (torch.randn(32, 64),), step=step)


@oddity
def ctc_loss() -> Step:
    def loss(scores: torch.Tensor) -> torch.Tensor:
        targets = torch.ones(4, 8, dtype=torch.int64)
        return F.ctc_loss(scores, targets, torch.full((4,), 30), torch.full((4,), 8))

    return applied(lambda m, x: m.body(x).log_softmax(-1), torch.randn(30, 4, 64), loss=loss, body=mlp(out=20))


@oddity
def gumbel_softmax() -> Step:
    return applied(lambda m, x: F.gumbel_softmax(m.body(x), hard=True), torch.randn(32, 64), body=mlp())


@oddity
def sampled_actions() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        logits = m.body(x)
        return logits.gather(1, torch.multinomial(logits.softmax(-1), 1))

    return applied(forward, torch.randn(32, 64), body=mlp())


@oddity
def adaptive_softmax() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.head(m.body(x), torch.arange(32) % 90).loss

    head = nn.AdaptiveLogSoftmaxWithLoss(64, 100, [10, 50])
    return applied(forward, torch.randn(32, 64), loss=lambda loss: loss, body=mlp(), head=head)


@oddity
def paddings_and_pixel_shuffle() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        modes = ("reflect", "circular", "replicate")
        return sum(F.pixel_shuffle(m.conv(F.pad(x, (1, 1, 1, 1), mode=mode)), 2) for mode in modes)

    return applied(forward, torch.randn(2, 4, 16, 16), conv=nn.Conv2d(4, 16, 3))


@oddity
def rolled_windows() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        windows = torch.roll(x, (2, 2), (1, 2)).unfold(1, 4, 4).unfold(2, 4, 4)
        return m.body(windows.flatten(-2).transpose(-1, -2))

    return applied(forward, torch.randn(2, 16, 16, 64), body=mlp())


@oddity
def gated_units() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        return F.glu(m.wide(x)) + F.logsigmoid(m.body(x))

    return applied(forward, torch.randn(32, 64), wide=mlp(out=128), body=mlp())


@oddity
def spectrogram() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        spectrum = torch.stft(x, 64, 16, window=torch.hann_window(64), return_complex=True)
        return m.head(spectrum.abs().transpose(1, 2))

    return applied(forward, torch.randn(2, 512), head=nn.Linear(33, 8))


@oddity
def linear_algebra() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.body(x)
        gram = y.T @ y + torch.eye(64)
        solved = torch.linalg.solve(gram, y.T).sum() + torch.linalg.lstsq(y, x).solution.sum()
        return solved + torch.linalg.cholesky(gram).sum() + torch.linalg.svdvals(gram).sum()

    return applied(forward, torch.randn(80, 64), body=nn.Linear(64, 64))


@oddity
def sorting_and_cumulating() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.body(x)
        ordered = y.sort(-1).values.sum() + y.topk(5, -1).values.sum() + y.kthvalue(3, -1).values.sum()
        return ordered + y.cumsum(-1).sum() + y.logcumsumexp(-1).sum()

    return applied(forward, torch.randn(32, 64), body=mlp())


@oddity
def scattering() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        y, places = m.body(x), torch.arange(32) % 7
        means = torch.zeros(7, 64).scatter_reduce(0, places[:, None].expand(32, 64), y, "mean")
        sums = torch.zeros(7, 64).index_add(0, places, y)
        return means + sums + y.new_zeros(7, 64).index_put((places,), y, accumulate=True)

    return applied(forward, torch.randn(32, 64), body=mlp())


@oddity
def unfold_and_fold() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        patches = m.body(F.unfold(x, 4, stride=2).transpose(1, 2))
        return F.fold(patches.transpose(1, 2), (16, 16), 4, stride=2)

    return applied(forward, torch.randn(2, 4, 16, 16), body=nn.Linear(64, 64))


@oddity
def pooling_and_unpooling() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        pooled, places = F.max_pool2d(m.conv(x), 2, return_indices=True)
        return F.max_unpool2d(pooled, places, 2)

    return applied(forward, torch.randn(2, 4, 16, 16), conv=nn.Conv2d(4, 8, 3, padding=1))


@oddity
def distances_and_margins() -> Step:
    def loss(output: torch.Tensor) -> torch.Tensor:
        near = F.triplet_margin_loss(output[:10], output[10:20], output[20:30])
        return (
            near
            + F.cosine_embedding_loss(output[:10], output[10:20], torch.ones(10))
            + torch.cdist(output, output).sum()
        )

    return applied(
        lambda m, x: m.pair(x, m.body(x)), torch.randn(32, 64), loss=loss, body=mlp(), pair=nn.Bilinear(64, 64, 8)
    )


class SignOfMomentum(torch.optim.Optimizer):
    """An optimizer of the user's own."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 1e-3})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                momentum = state.setdefault("momentum", torch.zeros_like(p))
                p.add_((momentum * 0.9 + p.grad * 0.1).sign_(), alpha=-group["lr"])
                momentum.mul_(0.99).add_(p.grad, alpha=0.01)


@oddity
def own_optimizer() -> Step:
    return Step(mlp(), (torch.randn(32, 64),), mean_square, optimizer=SignOfMomentum)


@oddity
def adafactor() -> Step:
    return Step(mlp(), (torch.randn(32, 64),), mean_square, optimizer=torch.optim.Adafactor)


@oddity
def muon() -> Step:
    body = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 32, bias=False))
    return Step(body, (torch.randn(32, 64),), mean_square, optimizer=torch.optim.Muon)


@oddity
def quantisation_aware() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, torch.fake_quantize_per_tensor_affine(m.body.weight, 0.1, 0, -128, 127))

    return applied(forward, torch.randn(32, 64), body=nn.Linear(64, 64))


@oddity
def data_parallel() -> Step:
    return applied(lambda m, x: m.body(x), torch.randn(32, 64), body=nn.DataParallel(mlp()))


@oddity
def partly_on_meta() -> Step:
    return applied(lambda m, x: m.there(m.here(x)), torch.randn(32, 64), here=mlp(), there=mlp().to("meta"))


@oddity
def full_backward_hooks() -> Step:
    body = mlp()
    body[0].register_full_backward_hook(lambda module, inputs, outputs: tuple(g and g * 2 for g in inputs))
    body[2].register_full_backward_pre_hook(lambda module, outputs: (outputs[0] * 1.0,))
    return applied(lambda m, x: m.body(x), torch.randn(32, 64), body=body)


@oddity
def jagged_nested_tensors() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.body(torch.nested.nested_tensor([x[:3], x[:7]], layout=torch.jagged)).values()

    return applied(forward, torch.randn(32, 64), body=mlp())


@oddity
def compiled_inside() -> Step:
    return applied(lambda m, x: torch.compile(m.body)(x), torch.randn(32, 64), body=mlp())


@oddity
def unique_words() -> Step:
    def forward(m: Any, ids: torch.Tensor) -> torch.Tensor:
        words, places = torch.unique(ids, return_inverse=True)
        return m.embedding(words)[places]

    return applied(forward, tokens(), embedding=nn.Embedding(100, 64))


@oddity
def embedding_bags_of_all_kinds() -> Step:
    bags = {mode: nn.EmbeddingBag(100, 64, mode=mode) for mode in ("sum", "mean", "max")}
    return applied(lambda m, ids: sum(bag(ids) for bag in m.bags.values()), tokens(), bags=nn.ModuleDict(bags))


@oddity
def half_precision_parameters() -> Step:
    return Step(mlp().to(torch.bfloat16), (torch.randn(32, 64, dtype=torch.bfloat16),), mean_square)


@oddity
def autocast_of_the_cpu() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return m.body(x).float()

    return applied(forward, torch.randn(32, 64), body=mlp())
