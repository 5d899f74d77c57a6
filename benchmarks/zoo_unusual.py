"""Steps of plain PyTorch that go unusual ways, for the scoreboard: wrappers, transforms, inner loops, closures."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune, weight_norm
from torch.utils.checkpoint import checkpoint_sequential

from foretrace.tracer import Step
from zoo_oddities import Apply, applied, classify, mean_square, mlp, tokens

UNUSUAL: dict[str, Callable[[], Step]] = {}


def unusual(maker: Callable[[], Step]) -> Callable[[], Step]:
    UNUSUAL[maker.__name__] = maker
    return maker


# -- optimizers and closures ----------------------------------------------------------------------


def by_closure(**options: Any) -> Step:
    """An optimizer that asks for the loss as often as it likes."""

    def step(model: Any, optimizer: Any, x: torch.Tensor) -> None:
        if not hasattr(step, "optimizer"):
            step.optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3, **options)

        def closure() -> torch.Tensor:
            step.optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            return loss

        step.optimizer.step(closure)

    return applied(lambda m, x: m.body(x), torch.randn(32, 64), step=step, body=mlp())


@unusual
def lbfgs_with_a_closure() -> Step:
    return by_closure(history_size=4)


@unusual
def lbfgs_with_line_search() -> Step:
    return by_closure(line_search_fn="strong_wolfe")


@unusual
def sparse_adam() -> Step:
    model = nn.EmbeddingBag(100, 64, sparse=True)
    return Step(model, (tokens(),), mean_square, lambda p: torch.optim.SparseAdam(p))


@unusual
def parameter_groups_and_schedulers() -> Step:
    def factory(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            [{"params": parameters[:2], "lr": 1e-2}, {"params": parameters[2:], "weight_decay": 0.0}]
        )

    def step(model: Any, optimizer: Any, x: torch.Tensor) -> None:
        if not hasattr(step, "schedule"):
            step.schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=10)
        model(x).square().mean().backward()
        optimizer.step()
        step.schedule.step()
        optimizer.zero_grad()

    model = Apply(lambda m, x: m.body(x), body=mlp())
    return Step(model, (torch.randn(32, 64),), None, factory, step)


@unusual
def learning_rate_as_a_tensor() -> Step:
    return Step(mlp(), (torch.randn(8, 64),), mean_square, lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-3)))


@unusual
def amsgrad_and_maximize() -> Step:
    return Step(mlp(), (torch.randn(8, 64),), mean_square, lambda p: torch.optim.AdamW(p, amsgrad=True, maximize=True))


@unusual
def differentiable_optimizer() -> Step:
    """An update that is itself differentiated: a learning rate that is learnt."""

    def step(model: Any, optimizer: Any, x: torch.Tensor) -> None:
        rate = torch.tensor(0.1, requires_grad=True)
        weights = {k: v.detach().clone().requires_grad_() for k, v in model.named_parameters()}
        loss = torch.func.functional_call(model, weights, (x,)).square().mean()
        grads = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        moved = {k: w - rate * g for (k, w), g in zip(weights.items(), grads, strict=True)}
        torch.func.functional_call(model, moved, (x,)).square().mean().backward()

    return applied(lambda m, x: m.body(x), torch.randn(32, 64), step=step, body=mlp())


@unusual
def maml_inner_loop() -> Step:
    def step(model: Any, optimizer: Any, tasks: torch.Tensor) -> None:
        total = torch.zeros(())
        for task in tasks:
            weights = dict(model.named_parameters())
            for _ in range(2):
                loss = torch.func.functional_call(model, weights, (task,)).square().mean()
                grads = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
                weights = {k: w - 0.01 * g for (k, w), g in zip(weights.items(), grads, strict=True)}
            total = total + torch.func.functional_call(model, weights, (task,)).square().mean()
        total.backward()
        optimizer.step()
        optimizer.zero_grad()

    return applied(lambda m, x: m.body(x), torch.randn(3, 8, 64), step=step, body=mlp())


@unusual
def second_derivatives_of_a_network() -> Step:
    """A physics-informed loss: the Laplacian of a network by its inputs."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        x = x.requires_grad_()
        u = m.net(x)
        (first,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        laplacian = sum(torch.autograd.grad(first[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2))
        return (laplacian - u.squeeze(-1)).square().mean()

    net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1))
    return Step(Apply(forward, net=net), (torch.randn(64, 2),))


@unusual
def laplacian_by_transforms() -> Step:
    from torch.func import functional_call, hessian, vmap

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        weights = dict(m.net.named_parameters())
        curve = vmap(hessian(lambda p: functional_call(m.net, weights, (p,)).squeeze()))(x)
        return curve.diagonal(dim1=-2, dim2=-1).sum(-1).square().mean()

    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
    return Step(Apply(forward, net=net), (torch.randn(8, 2),))


@unusual
def gradients_of_each_sample() -> Step:
    from torch.func import functional_call, grad, vmap

    def step(model: Any, optimizer: Any, x: torch.Tensor) -> None:
        weights = {k: v.detach() for k, v in model.named_parameters()}
        each = vmap(grad(lambda w, s: functional_call(model, w, (s[None],)).square().mean()), in_dims=(None, 0))(
            weights, x
        )
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in each.values()], 1).norm(dim=1)
        scale = (1.0 / (norms + 1e-6)).clamp(max=1.0)
        for name, parameter in model.named_parameters():
            parameter.grad = torch.einsum("b,b...->...", scale, each[name])
        optimizer.step()
        optimizer.zero_grad()

    return applied(lambda m, x: m.body(x), torch.randn(16, 64), step=step, body=mlp())


@unusual
def jacobian_penalty() -> Step:
    from torch.func import jacrev, vmap

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.body(x).square().mean() + vmap(jacrev(m.body))(x).square().mean()

    return Step(Apply(forward, body=mlp(16)), (torch.randn(8, 16),))


@unusual
def forward_mode() -> Step:
    import torch.autograd.forward_ad as fwd

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        with fwd.dual_level():
            y = m.body(fwd.make_dual(x, torch.ones_like(x)))
            value, tangent = fwd.unpack_dual(y)
            return value.square().mean() + tangent.square().mean()

    return Step(Apply(forward, body=mlp(16)), (torch.randn(8, 16),))


# -- wrappers and utilities -----------------------------------------------------------------------


@unusual
def pruned_weights() -> Step:
    body = mlp()
    for layer in (body[0], body[2]):
        prune.l1_unstructured(layer, "weight", 0.3)
    return Step(body, (torch.randn(8, 64),), mean_square)


@unusual
def old_weight_norm() -> Step:
    return Step(
        nn.Sequential(weight_norm(nn.Linear(64, 64)), weight_norm(nn.Conv1d(1, 4, 3))),
        (torch.randn(8, 1, 64),),
        mean_square,
    )


@unusual
def old_spectral_norm() -> Step:
    return Step(
        nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(3, 8, 3)), nn.ReLU()), (torch.randn(2, 3, 16, 16),), mean_square
    )


@unusual
def own_parametrization() -> Step:
    class Symmetric(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.triu() + x.triu(1).transpose(-1, -2)

    layer = nn.Linear(64, 64)
    nn.utils.parametrize.register_parametrization(layer, "weight", Symmetric())
    return Step(nn.Sequential(layer, nn.Linear(64, 8)), (torch.randn(8, 64),), mean_square)


@unusual
def fake_quantised_convolution() -> Step:
    from torch.ao.quantization import get_default_qat_qconfig, prepare_qat

    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 196, 10)).train()
    net.qconfig = get_default_qat_qconfig("fbgemm")
    return Step(prepare_qat(net), (torch.randn(2, 3, 16, 16),), mean_square)


@unusual
def sequential_checkpoints() -> Step:
    blocks = nn.Sequential(*(mlp() for _ in range(6)))
    return applied(
        lambda m, x: checkpoint_sequential(m.blocks, 3, x, use_reentrant=False), torch.randn(16, 64), blocks=blocks
    )


@unusual
def reversible_residuals() -> Step:
    class Reversible(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, f: nn.Module, g: nn.Module) -> torch.Tensor:
            a, b = x.chunk(2, -1)
            with torch.no_grad():
                c = a + f(b)
                d = b + g(c)
            ctx.f, ctx.g = f, g
            out = torch.cat([c, d], -1)
            ctx.save_for_backward(out)
            return out

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> Any:
            (out,) = ctx.saved_tensors
            c, d = out.chunk(2, -1)
            gc, gd = grad.chunk(2, -1)
            with torch.enable_grad():
                c = c.detach().requires_grad_()
                gg = ctx.g(c)
            gg.backward(gd)
            with torch.no_grad():
                b = d - gg
            gc = gc + c.grad
            with torch.enable_grad():
                b = b.detach().requires_grad_()
                ff = ctx.f(b)
            ff.backward(gc)
            return torch.cat([gc, gd + b.grad], -1), None, None

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = m.first(x)
        for f, g in zip(m.fs, m.gs, strict=True):
            h = Reversible.apply(h, f, g)
        return h

    make = functools.partial(mlp, 32)
    return applied(
        forward,
        torch.randn(16, 64),
        first=nn.Linear(64, 64),
        fs=nn.ModuleList(make() for _ in range(3)),
        gs=nn.ModuleList(make() for _ in range(3)),
    )


@unusual
def straight_through() -> Step:
    class Sign(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.mark_dirty()
            return x.sign()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return grad.clamp(-1, 1)

    return applied(lambda m, x: m.b(Sign.apply(m.a(x))), torch.randn(8, 64), a=nn.Linear(64, 64), b=nn.Linear(64, 8))


@unusual
def function_with_setup_context() -> Step:
    class Cube(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x**3, 3 * x**2

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.mark_non_differentiable(output[1])
            ctx.save_for_backward(output[1])

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor, _: Any) -> torch.Tensor:
            return grad * ctx.saved_tensors[0]

    return applied(lambda m, x: Cube.apply(m.a(x))[0], torch.randn(8, 64), a=nn.Linear(64, 64))


@unusual
def hypernetwork() -> Step:
    def forward(m: Any, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        weight, bias = m.hyper(z).split([64 * 32, 32])
        return F.linear(x, weight.view(32, 64), bias)

    return applied(forward, torch.randn(8, 64), torch.randn(16), hyper=nn.Linear(16, 64 * 32 + 32))


@unusual
def fixed_point_by_hooks() -> Step:
    """A deep-equilibrium layer: the fixed point is found without a graph, its gradient by another loop."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            z = torch.zeros_like(x)
            for _ in range(8):
                z = torch.tanh(m.f(z) + x)
        z = torch.tanh(m.f(z) + x)
        start = z.detach().requires_grad_()
        value = torch.tanh(m.f(start) + x)

        def solve(grad: torch.Tensor) -> torch.Tensor:
            g = grad
            for _ in range(4):
                g = torch.autograd.grad(value, start, g, retain_graph=True)[0] + grad
            return g

        if z.requires_grad:
            z.register_hook(solve)
        return z

    return applied(forward, torch.randn(8, 64), f=nn.Linear(64, 64))


# -- distributions and policies -------------------------------------------------------------------


@unusual
def ppo_loss() -> Step:
    from torch.distributions import Normal

    def forward(
        m: Any, state: torch.Tensor, action: torch.Tensor, old: torch.Tensor, gain: torch.Tensor
    ) -> torch.Tensor:
        mean = m.actor(state)
        policy = Normal(mean, m.spread.weight.exp().squeeze().expand_as(mean))
        ratio = (policy.log_prob(action).sum(-1) - old).exp()
        clipped = torch.min(ratio * gain, ratio.clamp(0.8, 1.2) * gain)
        value = m.critic(state).squeeze(-1)
        return -clipped.mean() + 0.5 * F.smooth_l1_loss(value, gain) - 0.01 * policy.entropy().mean()

    return Step(
        Apply(forward, actor=mlp(16, 4), critic=mlp(16, 1), spread=nn.Embedding(1, 4)),
        (torch.randn(64, 16), torch.randn(64, 4), torch.randn(64), torch.randn(64)),
    )


@unusual
def transformed_distribution() -> Step:
    from torch import distributions as D

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        mean, scale = m.net(x).chunk(2, -1)
        base = D.Independent(D.Normal(mean, F.softplus(scale)), 1)
        squashed = D.TransformedDistribution(
            base, [D.transforms.TanhTransform(cache_size=1), D.transforms.AffineTransform(0.0, 2.0, event_dim=1)]
        )
        sample = squashed.rsample()
        return (
            squashed.log_prob(sample).mean()
            + D.kl_divergence(base, D.Independent(D.Normal(torch.zeros_like(mean), 1.0), 1)).mean()
        )

    return Step(Apply(forward, net=nn.Linear(16, 8)), (torch.randn(32, 16),))


@unusual
def many_distributions() -> Step:
    from torch import distributions as D

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = m.net(x)
        positive = F.softplus(h) + 0.1
        parts = [
            D.Gamma(positive, positive).rsample(),
            D.Beta(positive, positive).rsample(),
            D.Dirichlet(positive).rsample(),
            D.Laplace(h, positive).rsample(),
            D.StudentT(positive + 2).rsample(),
            D.Gumbel(h, positive).rsample(),
            D.LogNormal(h, positive).rsample(),
            D.Weibull(positive, positive).rsample(),
            D.RelaxedOneHotCategorical(torch.tensor(0.5), logits=h).rsample(),
            D.VonMises(h, positive).log_prob(h),
            D.Poisson(positive).log_prob(torch.ones_like(h)),
            D.Categorical(logits=h).entropy(),
        ]
        return sum(p.square().mean() for p in parts)

    return Step(Apply(forward, net=nn.Linear(16, 8)), (torch.randn(32, 16),))


@unusual
def low_rank_normal() -> Step:
    from torch import distributions as D

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = m.net(x)
        low = D.LowRankMultivariateNormal(h[:, :8], h[:, 8:24].view(-1, 8, 2), F.softplus(h[:, 24:]) + 0.1)
        full = D.MultivariateNormal(h[:, :8], scale_tril=torch.diag_embed(F.softplus(h[:, 8:16]) + 0.1))
        return low.log_prob(low.rsample()).mean() + full.log_prob(full.rsample()).mean()

    return Step(Apply(forward, net=nn.Linear(16, 32)), (torch.randn(32, 16),))


@unusual
def mixture_density() -> Step:
    from torch import distributions as D

    def forward(m: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        weights, means, scales = m.net(x).chunk(3, -1)
        mixture = D.MixtureSameFamily(D.Categorical(logits=weights), D.Normal(means, scales.exp()))
        return -mixture.log_prob(y).mean()

    return Step(Apply(forward, net=nn.Linear(16, 12)), (torch.randn(32, 16), torch.randn(32)))


# -- shapes and dtypes ----------------------------------------------------------------------------


@unusual
def complex_network() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = m.a(torch.complex(x, -x))
        h = torch.polar(h.abs(), h.angle()) * h.conj()
        return m.b(torch.fft.ifft2(torch.fft.fft2(h)).tanh()).abs()

    return applied(
        forward,
        torch.randn(8, 64),
        a=nn.Linear(64, 64, dtype=torch.complex64),
        b=nn.Linear(64, 8, dtype=torch.complex64),
    )


@unusual
def doubles() -> Step:
    return Step(mlp().double(), (torch.randn(8, 64, dtype=torch.float64),), mean_square)


@unusual
def state_space_by_fft() -> Step:
    def forward(m: Any, u: torch.Tensor) -> torch.Tensor:
        length = u.shape[-1]
        steps = m.rate.weight.exp() * torch.view_as_complex(m.poles.weight.view(-1, 32, 2))
        kernel = 2 * torch.einsum("hn,hnl->hl", steps, torch.exp(steps[..., None] * torch.arange(length))).real
        spread = torch.fft.rfft(kernel, n=2 * length) * torch.fft.rfft(u, n=2 * length)
        return torch.fft.irfft(spread, n=2 * length)[..., :length] + u

    return applied(forward, torch.randn(2, 16, 64), poles=nn.Embedding(16, 64), rate=nn.Embedding(16, 32))


@unusual
def long_convolution_gated() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        a, b, v = m.inner(x).chunk(3, -1)
        filters = m.filter(torch.linspace(0, 1, x.shape[1])[:, None]).t()
        seen = torch.fft.irfft(
            torch.fft.rfft((a * v).transpose(1, 2), n=2 * x.shape[1]) * torch.fft.rfft(filters, n=2 * x.shape[1])
        )
        return m.out(seen[..., : x.shape[1]].transpose(1, 2) * b)

    return applied(
        forward,
        torch.randn(2, 32, 16),
        inner=nn.Linear(16, 48),
        filter=nn.Sequential(nn.Linear(1, 16), nn.SiLU(), nn.Linear(16, 16)),
        out=nn.Linear(16, 16),
    )


@unusual
def recurrent_weighted_keys() -> Step:
    """The recurrence of RWKV's time mixing, step by step."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        r, k, v = m.r(x), m.k(x), m.v(x)
        state = x.new_zeros(x.shape[0], 16, 16)
        decay, out = torch.exp(-torch.exp(m.w.weight)), []
        for t in range(x.shape[1]):
            outer = k[:, t, :, None] * v[:, t, None, :]
            out.append(torch.einsum("bi,bij->bj", r[:, t].sigmoid(), state + outer))
            state = state * decay.view(1, 16, 1) + outer
        return torch.stack(out, 1)

    layers = {name: nn.Linear(16, 16) for name in "rkv"}
    return applied(forward, torch.randn(2, 24, 16), w=nn.Embedding(1, 16), **layers)


@unusual
def transformer_with_all_masks() -> Step:
    def forward(m: Any, a: torch.Tensor, b: torch.Tensor, pad: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(b.shape[1])
        return m.net(a, b, tgt_mask=mask, src_key_padding_mask=pad, memory_key_padding_mask=pad, tgt_is_causal=True)

    pad = torch.zeros(2, 12, dtype=torch.bool)
    pad[1, 8:] = True
    return applied(
        forward,
        torch.randn(2, 12, 32),
        torch.randn(2, 10, 32),
        pad,
        net=nn.Transformer(32, 4, 2, 2, 64, batch_first=True),
    )


@unusual
def attention_of_torch_with_weights() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(16, 16, dtype=torch.bool).triu(1)
        y, weights = m.attention(x, x, x, attn_mask=mask, need_weights=True, average_attn_weights=False)
        return y.mean() + weights.square().mean() * y

    attention = nn.MultiheadAttention(
        32, 4, dropout=0.1, bias=False, add_bias_kv=False, add_zero_attn=False, kdim=32, vdim=32
    )
    return applied(forward, torch.randn(16, 2, 32), attention=attention)


@unusual
def attention_with_bias_rows() -> Step:
    attention = nn.MultiheadAttention(32, 4, add_bias_kv=True, add_zero_attn=True, batch_first=True)
    return applied(
        lambda m, x, y: m.attention(x, y, y)[0], torch.randn(2, 8, 32), torch.randn(2, 12, 32), attention=attention
    )


@unusual
def nested_padded() -> Step:
    def forward(m: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        packed = torch.nested.nested_tensor([a, b], layout=torch.jagged)
        return m.net(packed).to_padded_tensor(0.0)

    return applied(forward, torch.randn(5, 32), torch.randn(9, 32), net=nn.Linear(32, 16))


@unusual
def packed_gru_both_ways() -> Step:
    from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

    def forward(m: Any, *parts: torch.Tensor) -> torch.Tensor:
        return pad_packed_sequence(m.gru(pack_sequence(list(parts), enforce_sorted=False))[0])[0]

    return applied(forward, *(torch.randn(n, 16) for n in (5, 9, 3)), gru=nn.GRU(16, 32, 2, bidirectional=True))


@unusual
def projected_lstm() -> Step:
    return applied(
        lambda m, x: m.lstm(x)[0], torch.randn(12, 2, 16), lstm=nn.LSTM(16, 32, 2, proj_size=8, bidirectional=True)
    )


@unusual
def lstm_cells_with_attention() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = c = x.new_zeros(x.shape[0], 32)
        out: list[torch.Tensor] = []
        for t in range(x.shape[1]):
            h, c = m.cell(x[:, t], (h, c))
            if out:
                past = torch.stack(out, 1)
                h = h + (torch.softmax((past @ h[..., None]).squeeze(-1), -1)[:, None] @ past).squeeze(1)
            out.append(h)
        return torch.stack(out, 1)

    return applied(forward, torch.randn(2, 12, 16), cell=nn.LSTMCell(16, 32))


@unusual
def tree_recursion() -> Step:
    def forward(m: Any, leaves: torch.Tensor) -> torch.Tensor:
        def build(lo: int, hi: int) -> torch.Tensor:
            if hi - lo == 1:
                return leaves[lo]
            middle = (lo + hi) // 2
            return torch.tanh(m.join(torch.cat([build(lo, middle), build(middle, hi)])))

        return build(0, leaves.shape[0])

    return applied(forward, torch.randn(32, 16), join=nn.Linear(32, 16))


@unusual
def thousand_small_layers() -> Step:
    return Step(nn.Sequential(*(nn.Linear(8, 8) for _ in range(400))), (torch.randn(4, 8),), mean_square)


@unusual
def deep_python_recursion() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        def go(h: torch.Tensor, depth: int) -> torch.Tensor:
            return h if not depth else go(torch.tanh(m.f(h)), depth - 1)

        return go(x, 200)

    return applied(forward, torch.randn(4, 16), f=nn.Linear(16, 16))


@unusual
def neural_ode_loop_with_numpy() -> Step:
    import numpy as np

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        for t in np.linspace(0.0, 1.0, 6):
            x = x + 0.2 * m.f(torch.cat([x, torch.full_like(x[:, :1], float(t))], 1))
        return x + torch.from_numpy(np.ones(8, dtype=np.float32))

    return applied(forward, torch.randn(16, 8), f=nn.Linear(9, 8))


@unusual
def dataclass_of_lists() -> Step:
    def forward(m: Any, graph: dict[str, Any]) -> torch.Tensor:
        h = m.embed(graph["nodes"])
        for source, target in graph["edges"]:
            h = h.index_add(0, target, m.message(h[source]))
        return h

    edges = [(torch.randint(0, 10, (20,)), torch.randint(0, 10, (20,))) for _ in range(2)]
    return applied(
        forward, {"nodes": torch.arange(10), "edges": edges}, embed=nn.Embedding(10, 16), message=nn.Linear(16, 16)
    )


@unusual
def scatter_of_all_kinds() -> Step:
    def forward(m: Any, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        out = torch.zeros(8, 16)
        wide = index[:, None].expand(-1, 16)
        parts = [out.scatter_reduce(0, wide, h, kind, include_self=False) for kind in ("sum", "mean", "amax", "prod")]
        parts += [torch.segment_reduce(h, "mean", lengths=torch.tensor([8, 8, 16]))]
        return torch.cat([p.flatten() for p in parts])

    return applied(forward, torch.randn(32, 16), torch.arange(32) % 8, a=nn.Linear(16, 16))


@unusual
def sparse_matrix_products() -> Step:
    def forward(m: Any, x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        adjacency = torch.sparse_coo_tensor(places, torch.ones(places.shape[1]), (32, 32))
        return torch.sparse.mm(adjacency, m.a(x))

    return applied(forward, torch.randn(32, 16), torch.randint(0, 32, (2, 64)), a=nn.Linear(16, 16))


@unusual
def sparse_rows() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        matrix = torch.eye(32).to_sparse_csr()
        return matrix @ m.a(x)

    return applied(forward, torch.randn(32, 16), a=nn.Linear(16, 16))


@unusual
def einsums_and_tensordots() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = torch.einsum("bij,bkj,bkl->bil", x, m.a(x), m.b(x))
        return torch.tensordot(h, x, dims=([1, 2], [1, 2])) + torch.kron(x[0, :2, :2], x[0, :2, :1]).sum()

    return applied(forward, torch.randn(4, 8, 16), a=nn.Linear(16, 16), b=nn.Linear(16, 16))


@unusual
def linear_algebra_of_all_kinds() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        a = m.a(x)
        s = a @ a.mT + torch.eye(8)
        u, sv, _ = torch.linalg.svd(a)
        parts = [
            torch.linalg.cholesky(s),
            torch.linalg.inv(s),
            torch.linalg.eigh(s)[1],
            torch.linalg.qr(a)[0],
            u,
            sv,
            torch.linalg.solve(s, x),
            torch.linalg.matrix_exp(a * 0.1),
            torch.linalg.slogdet(s)[1],
            torch.logdet(s),
            torch.linalg.pinv(s),
            torch.linalg.matrix_power(s, 3),
            torch.linalg.lstsq(s, x)[0],
            torch.linalg.solve_triangular(s, x, upper=True),
        ]
        return sum(p.square().mean() for p in parts)

    return Step(Apply(forward, a=nn.Linear(8, 8)), (torch.randn(4, 8, 8),))


@unusual
def losses_of_all_kinds() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        p, label, sign = h.sigmoid(), torch.arange(8) % 4, torch.ones(8)
        return sum(
            [
                F.huber_loss(h, x),
                F.smooth_l1_loss(h, x),
                F.kl_div(h.log_softmax(-1), x.softmax(-1), reduction="batchmean"),
                F.binary_cross_entropy(p, x.sigmoid()),
                F.binary_cross_entropy_with_logits(h, p.detach()),
                F.poisson_nll_loss(h, p.detach()),
                F.gaussian_nll_loss(h, x, p),
                F.hinge_embedding_loss(h[:, 0], sign),
                F.soft_margin_loss(h, x.sign()),
                F.cosine_embedding_loss(h, x, sign),
                F.margin_ranking_loss(h[:, 0], h[:, 1], sign),
                F.triplet_margin_loss(h, x, x.flip(0)),
                F.multilabel_soft_margin_loss(h, p.detach().round()),
                F.cross_entropy(h, label, label_smoothing=0.1),
                F.cross_entropy(h, x.softmax(-1)),
                F.nll_loss(h.log_softmax(-1), label, weight=torch.rand(4)),
                F.l1_loss(h, x),
            ]
        )

    return Step(Apply(forward, a=nn.Linear(4, 4)), (torch.randn(8, 4),))


@unusual
def activations_of_all_kinds() -> Step:
    kinds = [
        nn.ELU(),
        nn.SELU(),
        nn.CELU(),
        nn.PReLU(64),
        nn.RReLU(),
        nn.LeakyReLU(inplace=True),
        nn.Hardswish(),
        nn.Hardtanh(),
        nn.Hardsigmoid(),
        nn.Mish(),
        nn.Softsign(),
        nn.Softshrink(),
        nn.Hardshrink(),
        nn.Tanhshrink(),
        nn.LogSigmoid(),
        nn.Threshold(0.1, 0.0),
        nn.SiLU(inplace=True),
        nn.ReLU6(),
        nn.Softplus(),
        nn.Softmin(-1),
        nn.GLU(),
        nn.AlphaDropout(0.1),
        nn.FeatureAlphaDropout(0.1),
    ]
    return Step(nn.Sequential(nn.Linear(64, 64), *kinds), (torch.randn(8, 64),), mean_square)


@unusual
def norms_of_all_kinds() -> Step:
    kinds = [
        nn.BatchNorm2d(8),
        nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
        nn.GroupNorm(2, 8),
        nn.LocalResponseNorm(3),
        nn.LayerNorm([8, 16, 16]),
        nn.RMSNorm(16),
        nn.Dropout2d(0.1),
        nn.SyncBatchNorm(8),
    ]
    return Step(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *kinds[:-1]), (torch.randn(2, 3, 16, 16),), mean_square)


@unusual
def pools_of_all_kinds() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        parts = [
            F.avg_pool2d(h, 3, 2, 1),
            F.max_pool2d(h, 2),
            F.adaptive_avg_pool2d(h, 5),
            F.adaptive_max_pool2d(h, 3),
            F.lp_pool2d(h, 2.0, 2),
            F.fractional_max_pool2d(h, 2, output_size=5),
            F.pad(h, (1, 2, 0, 0), mode="circular"),
            F.pad(h, (1, 1, 1, 1), mode="reflect"),
            F.interpolate(h, scale_factor=2, mode="bicubic"),
            F.interpolate(h, size=7, mode="nearest-exact"),
            F.pixel_unshuffle(h, 2),
        ]
        return sum(p.square().mean() for p in parts)

    return Step(Apply(forward, a=nn.Conv2d(3, 8, 3, padding=1)), (torch.randn(2, 3, 16, 16),))


@unusual
def lazy_layers() -> Step:
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
    model(torch.randn(2, 3, 8, 8))
    return Step(model, (torch.randn(2, 3, 8, 8),), mean_square)


@unusual
def spatial_transformer() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        theta = m.place(x.flatten(1)).view(-1, 2, 3)
        return F.grid_sample(
            x, F.affine_grid(theta, list(x.shape), align_corners=False), padding_mode="border", align_corners=False
        )

    return applied(forward, torch.randn(2, 3, 16, 16), place=nn.Linear(768, 6))


@unusual
def teacher_and_student() -> Step:
    student = mlp()
    teacher = copy.deepcopy(student).requires_grad_(False)

    def step(model: Any, optimizer: Any, x: torch.Tensor) -> None:
        with torch.no_grad():
            target = model.teacher(x)
        F.kl_div(model.student(x).log_softmax(-1), target.softmax(-1), reduction="batchmean").backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(model.teacher.parameters()), list(model.student.parameters()), 0.01)
        optimizer.zero_grad()

    return applied(lambda m, x: x, torch.randn(16, 64), step=step, student=student, teacher=teacher)


@unusual
def mixed_up_batches() -> Step:
    def forward(m: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        weight = torch.distributions.Beta(1.0, 1.0).sample()
        order = torch.randperm(x.shape[0])
        logits = m.net(weight * x + (1 - weight) * x[order])
        return weight * F.cross_entropy(logits, y) + (1 - weight) * F.cross_entropy(logits, y[order])

    return Step(Apply(forward, net=mlp(64, 10)), (torch.randn(16, 64), torch.arange(16) % 10))


@unusual
def contrastive_with_a_queue() -> Step:
    class Queue(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(64, 16)
            self.slow = copy.deepcopy(self.net).requires_grad_(False)
            self.register_buffer("queue", F.normalize(torch.randn(16, 64), dim=0))
            self.register_buffer("place", torch.zeros(1, dtype=torch.long))

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            q = F.normalize(self.net(x), dim=1)
            with torch.no_grad():
                for a, b in zip(self.slow.parameters(), self.net.parameters(), strict=True):
                    a.data = a.data * 0.99 + b.data * 0.01
                k = F.normalize(self.slow(y), dim=1)
            logits = torch.cat([(q * k).sum(1, keepdim=True), q @ self.queue.clone().detach()], 1) / 0.07
            at = int(self.place)
            self.queue[:, at : at + k.shape[0]] = k.T
            self.place[0] = (at + k.shape[0]) % 64
            return F.cross_entropy(logits, torch.zeros(x.shape[0], dtype=torch.long))

    return Step(Queue(), (torch.randn(8, 64), torch.randn(8, 64)))


@unusual
def rotary_language_model() -> Step:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.qkv, self.out, self.gate = (
                nn.RMSNorm(64),
                nn.Linear(64, 192, bias=False),
                nn.Linear(64, 64, bias=False),
                nn.Linear(64, 256, bias=False),
            )
            self.down = nn.Linear(128, 64, bias=False)

        def forward(self, x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
            q, k, v = (p.view(*x.shape[:2], 4, 16) for p in self.qkv(self.norm(x)).chunk(3, -1))
            q, k = (
                torch.view_as_real(torch.view_as_complex(p.float().reshape(*p.shape[:-1], 8, 2)) * turn)
                .flatten(3)
                .type_as(x)
                for p in (q, k)
            )
            y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
            x = x + self.out(y.transpose(1, 2).flatten(2))
            a, b = self.gate(self.norm(x)).chunk(2, -1)
            return x + self.down(F.silu(a) * b)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.blocks, self.head = (
                nn.Embedding(100, 64),
                nn.ModuleList(Block() for _ in range(2)),
                nn.Linear(64, 100, bias=False),
            )
            angles = torch.outer(torch.arange(32), 1.0 / 10000 ** (torch.arange(0, 16, 2) / 16))
            self.register_buffer("turn", torch.polar(torch.ones_like(angles), angles)[None, :, None], persistent=False)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            h = self.table(ids)
            for block in self.blocks:
                h = block(h, self.turn[:, : ids.shape[1]])
            return self.head(h)

    return Step(Model(), (tokens(),), classify)


@unusual
def gpt_with_initialisation_scaled() -> Step:
    layer = nn.TransformerEncoderLayer(64, 4, 128, activation="gelu", batch_first=True, norm_first=True)
    for name, parameter in layer.named_parameters():
        if name.endswith("weight") and parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.02 / math.sqrt(4))
    mask = nn.Transformer.generate_square_subsequent_mask(32)
    return applied(
        lambda m, x: m.head(m.layer(m.table(x), src_mask=mask, is_causal=True)),
        tokens(),
        loss=classify,
        table=nn.Embedding(100, 64),
        layer=layer,
        head=nn.Linear(64, 100),
    )


@unusual
def compiled_whole_model() -> Step:
    return Step(torch.compile(mlp()), (torch.randn(8, 64),), mean_square)


@unusual
def set_to_channels_last_3d() -> Step:
    model = nn.Sequential(nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8), nn.ReLU(), nn.ConvTranspose3d(8, 4, 2, 2)).to(
        memory_format=torch.channels_last_3d
    )
    return Step(model, (torch.randn(1, 3, 8, 8, 8).to(memory_format=torch.channels_last_3d),), mean_square)
