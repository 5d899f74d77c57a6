"""What lies between the kernels of one op, against a run of the same C++ on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretrace.graph import Category, Op, StepGraph
from foretrace.hardware import load
from foretrace.hardware.script import Extra, Return
from foretrace.hardware.workspaces import extras
from foretrace.tracer import trace
from foretrace.tracer.scratch import _peaks

A100 = load("a100-sxm4-80gb")
FEW = 2048
"""Bytes of single numbers, semaphores and partial sums, which differ from device to device."""


class Ends(nn.Module):
    """A layer whose outputs are compared with a target."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.layer = function, nn.Linear(16, 256)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return self.function(self.layer(x), target).sum()


def traced(function: Callable[[Tensor, Tensor], Tensor], device: str) -> StepGraph:
    inputs = torch.rand(512, 16), torch.rand(512, 256)
    return trace(Ends(function), inputs, device=device, optimizer=None)


def peak_beyond_results(op: Op) -> int:
    """The most that is live while the kernels of an op run on CUDA, beyond what stays."""
    extra, results = list(extras(A100)(op)), sum(result.bytes for result in op.outputs)
    before = peak_of([one for one in extra if one.before_outputs], 0)
    held = live_after([one for one in extra if one.before_outputs])
    return max(before - results, held, peak_of([one for one in extra if not one.before_outputs], held))


def levels(extra: list[Extra], start: int) -> list[int]:
    live, held = [start], dict[str, list[int]]()
    for one in extra:
        if isinstance(one, Return):
            live.append(live[-1] - held[one.name].pop())
        else:
            held.setdefault(one.name, []).append(one.bytes)
            live.append(live[-1] + one.bytes)
    return live


def peak_of(extra: list[Extra], start: int) -> int:
    return max(levels(extra, start))


def live_after(extra: list[Extra]) -> int:
    return levels(extra, 0)[-1]


CASES: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "mse": ("mse_loss", F.mse_loss),
    "mse, unreduced": ("mse_loss", lambda y, t: F.mse_loss(y, t, reduction="none")),
    "smooth": ("smooth_l1_loss", F.smooth_l1_loss),
    "huber": ("huber_loss", F.huber_loss),
    "huber, unreduced": ("huber_loss", lambda y, t: F.huber_loss(y, t, reduction="none")),
    "logits": ("binary_cross_entropy_with_logits", F.binary_cross_entropy_with_logits),
    "logits, unreduced": (
        "binary_cross_entropy_with_logits",
        lambda y, t: F.binary_cross_entropy_with_logits(y, t, reduction="none"),
    ),
    "logits, weighted": (
        "binary_cross_entropy_with_logits",
        lambda y, t: F.binary_cross_entropy_with_logits(y, t, pos_weight=y[0].detach()),
    ),
    "logsumexp": ("logsumexp", lambda y, t: y.logsumexp(-1)),
    "logsumexp over rows": ("logsumexp", lambda y, t: y.logsumexp(0, keepdim=True)),
    "dist": ("dist", torch.dist),
    "safe softmax": ("_safe_softmax", lambda y, t: torch.ops.aten._safe_softmax(y, -1)),
    "roll": ("roll", lambda y, t: y.detach().roll(3, 0) * y),
    "roll along two dimensions": ("roll", lambda y, t: y.detach().roll((3, 5), (0, 1)) * y),
    "roll along three dimensions": (
        "roll",
        lambda y, t: y.detach().view(4, 128, 256).roll((1, 3, 5), (0, 1, 2)) * y[0],
    ),
    "euclidean": ("_euclidean_dist", torch.cdist),
}


@pytest.mark.parametrize("case", CASES)
def test_what_lies_between_the_kernels_is_what_the_cpu_takes(case: str) -> None:
    name, function = CASES[case]
    (op,) = (op for op in traced(function, "cuda").ops if op.packet == f"aten.{name}")
    assert peak_beyond_results(op) == pytest.approx(_peaks([op])[0], abs=FEW)


@pytest.mark.parametrize("case", ["mse", "huber", "logits", "dist"])
def test_a_step_on_the_cpu_has_them_as_workspaces(case: str) -> None:
    graph = traced(CASES[case][1], "cpu")
    (size,) = {s.bytes for s in graph.storages if s.category is Category.WORKSPACE and s.bytes > FEW}
    elements = 512 * 256 * 4
    assert size == pytest.approx(elements * (2 if case == "logits" else 1), abs=FEW)
