"""Hand-written steps whose sizes or branches depend on data: what a trace must assume, and a real run decides."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical, Normal

from foretrace.tracer import Step
from zoo_oddities import Maker, applied, classify, mean_square, mlp

DATA: dict[str, Maker] = {}


def decided_by_data(maker: Maker) -> Maker:
    DATA[maker.__name__] = maker
    return maker


# -- routing --------------------------------------------------------------------------------------


@decided_by_data
def experts_with_gathered_rows() -> Step:
    """Each expert takes the rows that the router sends it, found by ``torch.where``."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        weights, chosen = m.router(x).softmax(-1).topk(2, dim=-1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(m.experts):
            rows, slots = torch.where(chosen == number)
            out = out.index_add(0, rows, expert(x[rows]) * weights[rows, slots, None])
        return out

    experts = nn.ModuleList(mlp() for _ in range(8))
    return applied(forward, torch.randn(300, 64), router=nn.Linear(64, 8), experts=experts)


@decided_by_data
def experts_that_are_hit() -> Step:
    """Only experts with a token run; a list of Python numbers says how many tokens each has."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        chosen = m.router(x).argmax(-1)
        order = chosen.argsort()
        counts = torch.bincount(chosen, minlength=len(m.experts)).tolist()
        parts = x[order].split(counts)
        done = [expert(part) for expert, part in zip(m.experts, parts, strict=True) if len(part)]
        return torch.cat(done)[order.argsort()]

    experts = nn.ModuleList(mlp() for _ in range(16))
    return applied(forward, torch.randn(120, 64), router=nn.Linear(64, 16), experts=experts)


@decided_by_data
def experts_with_capacity() -> Step:
    """What an expert has no room for is dropped."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        gate, chosen = m.router(x).softmax(-1).max(-1)
        place = F.one_hot(chosen, 4).cumsum(0).gather(1, chosen[:, None])[:, 0]
        kept = place <= 40
        return m.body(x[kept]) * gate[kept][:, None]

    return applied(forward, torch.randn(200, 64), router=nn.Linear(64, 4), body=mlp())


@decided_by_data
def mixture_of_depths() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        score = m.score(x)[:, 0]
        busy = (score > 0).nonzero()[:, 0]
        return x.index_copy(0, busy, m.body(x[busy]) * score[busy, None])

    return applied(forward, torch.randn(150, 64), score=nn.Linear(64, 1), body=mlp())


# -- masks and sets -------------------------------------------------------------------------------


@decided_by_data
def online_hard_examples() -> Step:
    """Only samples with a loss above a threshold count, at least ten of them."""

    def loss(output: torch.Tensor) -> torch.Tensor:
        losses = F.cross_entropy(output, torch.arange(128) % 10, reduction="none")
        hard = losses[losses > 2.3]
        return (hard if hard.numel() >= 10 else losses.topk(10).values).mean()

    return applied(lambda m, x: m.head(m.body(x)), torch.randn(128, 64), loss=loss, body=mlp(), head=nn.Linear(64, 10))


@decided_by_data
def codebook() -> Step:
    """Vectors are replaced by their nearest codes; codes that nobody takes are drawn anew."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = m.body(x)
        nearest = torch.cdist(h, m.codes.weight).argmin(-1)
        used = torch.unique(nearest)
        dead = (torch.bincount(nearest, minlength=256) == 0).nonzero()[:, 0]
        if dead.numel():
            with torch.no_grad():
                m.codes.weight[dead] = h[torch.randint(0, len(h), (len(dead),))]
        return m.body(m.codes(nearest)) + m.codes(used).mean(0)

    return applied(forward, torch.randn(100, 64), body=mlp(), codes=nn.Embedding(256, 64))


@decided_by_data
def voxels() -> Step:
    """Points in the same cell are averaged; neighbouring cells are joined."""

    def forward(m: Any, points: torch.Tensor) -> torch.Tensor:
        cells, places = torch.unique((m.move(points) * 2).floor().long(), dim=0, return_inverse=True)
        pooled = torch.zeros(len(cells), 64).index_add_(0, places, m.lift(points))
        near = (torch.cdist(cells.float(), cells.float()) < 1.5).nonzero()
        return m.body(pooled[near[:, 0]] + pooled[near[:, 1]])

    return applied(forward, torch.randn(120, 3), move=nn.Linear(3, 3), lift=nn.Linear(3, 64), body=mlp())


@decided_by_data
def runs_of_labels() -> Step:
    """Neighbours with the same label are merged (``unique_consecutive``), then padded and masked."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        labels = m.head(x).argmax(-1)
        parts = []
        for row, line in zip(labels, x, strict=True):
            kinds, counts = torch.unique_consecutive(row, return_counts=True)
            parts.append(torch.stack([part.mean(0) for part in line.split(counts.tolist())]) + m.embed(kinds))
        padded = nn.utils.rnn.pad_sequence(parts, batch_first=True)
        mask = padded.abs().sum(-1) > 0
        return m.body(padded)[mask]

    return applied(forward, torch.randn(4, 40, 64), head=nn.Linear(64, 3), embed=nn.Embedding(3, 64), body=mlp())


@decided_by_data
def masks_of_every_kind() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = m.body(x)
        mask = h > 0
        filled = torch.zeros_like(h).masked_scatter(mask, h[mask] * 2)
        rows = mask.sum(-1) > 32
        picked = torch.cat([filled[rows], h[~rows].square(), torch.masked_select(h, h > 1)[:0].view(0, 64)])
        return picked + torch.argwhere(rows).sum() * 0

    return applied(forward, torch.randn(90, 64), body=mlp())


@decided_by_data
def pruned_tokens() -> Step:
    """After each layer the tokens that matter least leave, as many as score low, down to eight."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        for layer in m.layers:
            x = x + layer(x)
            score = m.score(x)[..., 0].softmax(-1).mean(0)
            keep = max(8, int((score > 1 / x.shape[1]).sum()))
            x = x[:, score.topk(keep).indices.sort().values]
        return x

    layers = nn.ModuleList(mlp() for _ in range(3))
    return applied(forward, torch.randn(3, 60, 64), layers=layers, score=nn.Linear(64, 1))


# -- loops and branches ---------------------------------------------------------------------------


@decided_by_data
def adaptive_computation() -> Step:
    """A cell runs until every sample has halted."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        halted = torch.zeros(len(x))
        for _ in range(20):
            x = torch.tanh(m.cell(x))
            halted = halted + torch.sigmoid(m.halt(x))[:, 0]
            if bool((halted > 2).all()):
                break
        return x

    return applied(forward, torch.randn(150, 64), cell=nn.Linear(64, 64), halt=nn.Linear(64, 1))


@decided_by_data
def fixed_point() -> Step:
    """Iterated until it moves no more (``allclose``)."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        z = torch.zeros_like(x)
        for _ in range(30):
            new = torch.tanh(m.cell(z) * 0.3 + x)
            if torch.allclose(new, z, atol=1e-2):
                break
            z = new
        return m.body(z)

    return applied(forward, torch.randn(150, 64), cell=nn.Linear(64, 64), body=mlp())


@decided_by_data
def loss_that_is_skipped() -> Step:
    """A branch on a loss, one on a NumPy array, and one on a list."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = m.body(x)
        if h.square().mean().item() > 1e-3:
            h = m.more(h)
        if np.abs(h.detach().cpu().numpy()).max() > 1e-3:
            h = m.more(h)
        if sorted(h[0].tolist())[0] < 0:
            h = h * 2
        return h

    return applied(forward, torch.randn(50, 64), body=mlp(), more=mlp())


@decided_by_data
def layers_left_out() -> Step:
    """Drawn by three generators: whether a layer runs."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        for number, layer in enumerate(m.layers):
            drawn = (lambda: torch.rand([]).item(), random.random, np.random.rand)[number % 3]()
            if drawn > 0.5:
                x = x + layer(x)
        return x

    return applied(forward, torch.randn(50, 64, requires_grad=True), layers=nn.ModuleList(mlp() for _ in range(9)))


@decided_by_data
def scaled_loss_with_overflow() -> Step:
    """A scaler that skips the optimizer's step where gradients overflow."""

    def step(model: Any, optimizer: Any, inputs: Any) -> None:
        loss = mean_square(model(inputs[0])) * 1e38
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if torch.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad()

    return applied(lambda m, x: m.body(x), torch.randn(50, 64) * 1e3, step=step, body=mlp())


# -- sampling -------------------------------------------------------------------------------------


@decided_by_data
def policy_gradient() -> Step:
    """Actions are drawn from distributions that check their arguments."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        acts, moves = Categorical(logits=m.act(x)), Normal(m.mean(x), m.mean(x).exp())
        act, move = acts.sample(), moves.rsample()
        good = act == 1
        return acts.log_prob(act)[good].sum() + moves.log_prob(move)[good].sum() + acts.entropy().mean()

    return applied(forward, torch.randn(80, 64), loss=torch.sum, act=nn.Linear(64, 4), mean=nn.Linear(64, 8))


@decided_by_data
def nucleus_sampling() -> Step:
    """A sequence is drawn token by token from the most likely ones until it ends, and is then learnt from."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        drawn = x
        with torch.no_grad():
            while drawn.shape[1] < 20:
                chances, order = m.head(m.embed(drawn[:, -1])).softmax(-1).sort(descending=True)
                chances = chances.masked_fill(chances.cumsum(-1) - chances > 0.8, 0.0)
                token = order.gather(1, torch.multinomial(chances, 1))
                drawn = torch.cat([drawn, token], 1)
                if (token < 20).any():
                    break
        return m.head(m.embed(drawn))

    return applied(forward, torch.randint(0, 100, (2, 3)), loss=classify, embed=nn.Embedding(100, 64),
                   head=nn.Linear(64, 100))  # fmt: skip


@decided_by_data
def negatives_by_rejection() -> Step:
    """Random pairs are drawn; those that are near enough count."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = m.body(x)
        pairs = torch.randint(0, len(x), (400, 2))
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        near = (h[pairs[:, 0]] - h[pairs[:, 1]]).norm(dim=-1) < h.norm(dim=-1).median()
        return F.cosine_similarity(h[pairs[near][:, 0]], h[pairs[near][:, 1]])

    return applied(forward, torch.randn(100, 64), body=mlp())


@decided_by_data
def edges_left_out() -> Step:
    """A graph whose edges are nearest neighbours, some of them dropped at random."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        near = torch.cdist(x, x).topk(6, largest=False).indices
        edges = torch.stack([torch.arange(len(x)).repeat_interleave(6), near.flatten()])
        edges = edges[:, torch.rand(edges.shape[1]) > 0.3]
        edges = edges[:, edges[0] != edges[1]]
        h = m.body(x)
        return torch.zeros_like(h).index_add_(0, edges[0], m.body(h[edges[1]]))

    return applied(forward, torch.randn(90, 64), body=mlp())


# -- sequences ------------------------------------------------------------------------------------


@decided_by_data
def durations() -> Step:
    """Each phoneme is repeated for as many frames as the model says."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        frames = (m.duration(x)[..., 0].exp() * 2).round().long().clamp(min=1)
        rows = [line.repeat_interleave(count, dim=0) for line, count in zip(x, frames, strict=True)]
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return m.body(padded)

    return applied(forward, torch.randn(4, 15, 64), duration=nn.Linear(64, 1), body=mlp())


@decided_by_data
def packed_by_predicted_length() -> Step:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        lengths = (m.end(x)[..., 0] > 0).sum(-1).clamp(min=1)
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(m.rnn(packed)[0], batch_first=True)[0]

    return applied(forward, torch.randn(6, 30, 64), end=nn.Linear(64, 1), rnn=nn.GRU(64, 64, batch_first=True))


@decided_by_data
def time_masks() -> Step:
    """Spans of frames are masked, where NumPy's generator says; CTC aligns what is left to targets."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        starts = np.random.choice(x.shape[1] - 5, 4, replace=False)
        mask = torch.zeros(x.shape[1], dtype=torch.bool)
        for start in starts:
            mask[start : start + 1 + np.random.randint(4)] = True
        logits = m.head(m.body(x[:, ~mask])).log_softmax(-1).transpose(0, 1)
        best = logits.argmax(-1).flatten()
        said = best[best != 0]
        targets = torch.randint(1, 12, (len(x), 5))
        lengths = torch.full((len(x),), logits.shape[0])
        return F.ctc_loss(logits, targets, lengths, torch.full((len(x),), 5)) + m.embed(said).square().mean()

    return applied(forward, torch.randn(3, 40, 64), loss=torch.sum, body=mlp(), head=nn.Linear(64, 12),
                   embed=nn.Embedding(12, 64))  # fmt: skip


# -- matching -------------------------------------------------------------------------------------


@decided_by_data
def greedy_matching() -> Step:
    """Queries and targets are matched in NumPy; what is matched well enough counts."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h, targets = m.body(x), torch.linspace(-1, 1, 10 * 64).view(10, 64)
        costs = torch.cdist(h, targets).detach().cpu().numpy().copy()
        pairs = []
        for _ in range(10):
            row, column = np.unravel_index(costs.argmin(), costs.shape)
            pairs.append((int(row), int(column)))
            costs[row], costs[:, column] = math.inf, math.inf
        rows = torch.tensor([row for row, column in pairs if (row + column) % 3])
        return m.body(h[rows])

    return applied(forward, torch.randn(40, 64), body=mlp())


@decided_by_data
def boxes() -> Step:
    """Proposals are labelled by overlap, sampled half and half, and pooled by level."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        corner = m.box(x)
        boxes = torch.cat([corner[:, :2], corner[:, :2] + corner[:, 2:].exp()], 1)
        targets = torch.tensor([[0.0, 0.0, 1.0, 1.0], [-1.0, -1.0, 0.0, 0.0], [0.5, 0.5, 2.0, 2.0]])
        overlap = _overlap(targets, boxes.detach())
        value, match = overlap.max(0)
        match[value < 0.3] = -1
        found, rest = torch.where(match >= 0)[0], torch.where(match == -1)[0]
        found = found[torch.randperm(found.numel())[:64]]
        rest = rest[torch.randperm(rest.numel())[: 128 - found.numel()]]
        chosen = torch.cat([found, rest])
        areas = (boxes[chosen, 2:] - boxes[chosen, :2]).prod(-1)
        levels = torch.floor(areas.log2()).clamp(min=-1, max=1).long()
        parts = [m.pool(x[chosen][levels == level]) for level in (-1, 0, 1)]
        return torch.cat(parts).square().mean() + F.l1_loss(boxes[found], targets[match[found]])

    return applied(forward, torch.randn(400, 64), loss=torch.sum, box=nn.Linear(64, 4), pool=mlp())


def _overlap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of every box of one with every box of the other."""
    inside = (torch.min(a[:, None, 2:], b[:, 2:]) - torch.max(a[:, None, :2], b[:, :2])).clamp(min=0).prod(-1)
    return inside / ((a[:, 2:] - a[:, :2]).prod(-1)[:, None] + (b[:, 2:] - b[:, :2]).prod(-1) - inside)
