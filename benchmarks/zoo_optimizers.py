"""One small model under every optimizer of several libraries, for the scoreboard: an optimizer is the subject here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from foretrace.tracer import Step

Factory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class Parts(nn.Module):
    """Parameters of the shapes that optimizers tell apart: a convolution, a table, matrices, vectors and a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(8, 16, 3, padding=1)
        self.table = nn.Embedding(50, 64)
        self.wide, self.square = nn.Linear(64, 256), nn.Linear(64, 64)
        self.norm, self.narrow = nn.LayerNorm(256), nn.Linear(256, 64)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        h = self.convolution(x) + self.table(ids)
        return self.narrow(self.norm(self.wide(self.square(h)).relu())).tanh() * self.scale


def optimizer_step(factory: Factory) -> Step:
    """A step of `Parts` with the optimizer that `factory` makes."""
    inputs = (torch.randn(4, 8, 64), torch.randint(0, 50, (4, 16)))
    return Step(Parts(), inputs, lambda y: y.square().mean(), factory)


def torch_names() -> Iterator[tuple[str, str]]:
    """Those of PyTorch in their implementations: as they come, one tensor at a time, and fused."""
    for name in sorted(n for n, c in vars(torch.optim).items() if isinstance(c, type) and n != "Optimizer"):
        if name not in ("LBFGS", "SparseAdam", "Muon"):
            yield name, "torch.optim"
            yield f"{name}:for-loop", "torch.optim"
        if name in ("Adam", "AdamW", "SGD", "Adagrad"):
            yield f"{name}:fused", "torch.optim"


def timm_names() -> Iterator[tuple[str, str]]:
    from timm.optim import list_optimizers

    for name in list_optimizers():
        if not name.startswith(("bnb", "fused", "adahessian")):
            yield name, "timm.optim"


def pytorch_optimizer_names() -> Iterator[tuple[str, str]]:
    import pytorch_optimizer

    for name in pytorch_optimizer.get_supported_optimizers():
        yield name, "pytorch_optimizer"


def torch_optimizer_names() -> Iterator[tuple[str, str]]:
    import torch_optimizer

    for name in torch_optimizer._NAME_OPTIM_MAP:
        yield name, "torch_optimizer"


def torch_step(name: str, attempt: int) -> Step:
    kind, _, way = name.partition(":")
    options: dict[str, Any] = {"for-loop": {"foreach": False}, "fused": {"fused": True}}.get(way, {})
    return optimizer_step(lambda p: getattr(torch.optim, kind)(p, lr=1e-3, **options))


def timm_step(name: str, attempt: int) -> Step:
    from timm.optim import create_optimizer_v2

    return optimizer_step(lambda p: create_optimizer_v2(p, name, lr=1e-3, weight_decay=0.01))


def pytorch_optimizer_step(name: str, attempt: int) -> Step:
    import pytorch_optimizer

    kind = pytorch_optimizer.load_optimizer(name)
    return optimizer_step(lambda p: kind(p))


def torch_optimizer_step(name: str, attempt: int) -> Step:
    import torch_optimizer

    return optimizer_step(lambda p: torch_optimizer.get(name)(p))
