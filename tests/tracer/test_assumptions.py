"""What truly depends on data: the default, what the user says instead, and the refusal to assume."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foretrace.graph import ForetraceError, StepGraph
from foretrace.tracer import trace

WIDTH = 512


class Picks(nn.Module):
    """Keeps the positive numbers of what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        return y[y > 0].sum()


LINE = f"test_assumptions.py:{Picks.forward.__code__.co_firstlineno + 2}"


def picked(**options: object) -> StepGraph:
    return trace(Picks(), (torch.randn(2, WIDTH),), device="cpu", **options)


@pytest.mark.parametrize(
    ("assume", "kept"),
    [(None, 2 * WIDTH), ({"index": 0.25}, WIDTH // 2), ({"index": 7}, 7), ({"index": 7, LINE: 0.5}, WIDTH)],
)
def test_a_size_is_assumed_by_kind_or_by_line(assume: dict[str, float] | None, kept: int) -> None:
    graph = picked(assume=assume)
    (found,) = graph.facts.assumptions
    assert (found["op"], found["bytes"], found["count"]) == ("aten.index.Tensor", 4 * kept, 1)
    assert str(found["at"]).endswith(LINE)
    (index,) = [op for op in graph.ops if op.name == "aten.index.Tensor"]
    assert index.outputs[0].shape == (kept,)


def test_strict_refuses_what_no_setting_covers() -> None:
    with pytest.raises(ForetraceError, match=r"aten\.index\.Tensor needs an assumption at .*the mask keeps every row"):
        picked(strict=True)
    assert len(picked(strict=True, assume={"index": 0.5}).facts.assumptions) == 1


@pytest.mark.parametrize(("key", "mend"), [("indx", "Did you mean 'index'"), ("whatever", "Name a line")])
def test_an_unknown_kind_is_an_error(key: str, mend: str) -> None:
    with pytest.raises(ForetraceError, match=mend):
        picked(assume={key: 1})


def test_a_negative_size_is_an_error() -> None:
    with pytest.raises(ForetraceError, match="no count and no fraction"):
        picked(assume={"index": -1})


class Reads(nn.Module):
    """Branches on what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x).square().mean()
        return y * 2 if y.item() > 1 else y


def test_an_unknown_scalar_is_zero_unless_said() -> None:
    inputs = (torch.randn(2, WIDTH),)
    small = trace(Reads(), inputs, device="cpu")
    large = trace(Reads(), inputs, device="cpu", assume={"item": 3.0})
    assert small.facts.assumptions[0]["assumed"] == "the value is 0.0"
    assert large.facts.assumptions[0]["assumed"] == "the value is 3.0"
    doubled = [op.name for op in large.ops].count("aten.mul.Tensor") - [op.name for op in small.ops].count(
        "aten.mul.Tensor"
    )
    assert doubled == 2  # the product, and its gradient


class Guards(nn.Module):
    """Refuses to go on with numbers that are not finite, and reads others as an array."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        if not torch.isfinite(y).all() or y.isnan().any() or not y.isfinite().all():
            raise FloatingPointError("the activations exploded")
        return y.square().mean() * float(1 + y.detach().numpy().sum())


def test_unknown_numbers_are_finite_and_said_to_be_when_read() -> None:
    graph = trace(Guards(), (torch.randn(2, WIDTH),), device="cpu")
    assert [found["assumed"] for found in graph.facts.assumptions] == [
        "the value is 0.0",
        "all numbers are finite",
        "no number is NaN",
    ]


class Routes(nn.Module):
    """A loop over experts, each of which takes the tokens that the router sends it."""

    def __init__(self, experts: int = 4) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, experts)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(experts))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, chosen = F.softmax(self.router(x), dim=-1).topk(2)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, slots = torch.where(chosen == number)
            out = out.index_add(0, rows, expert(x[rows]) * weights[rows, slots, None])
        return out.square().mean()


def test_a_router_is_balanced() -> None:
    graph = trace(Routes(), (torch.randn(64, WIDTH),), device="cuda")
    products = [op for op in graph.ops if op.name == "aten.addmm.default" and op.module.startswith("experts.")]
    assert [op.outputs[0].shape for op in products] == [(32, WIDTH)] * 4  # 64 tokens, two choices each, four experts
    (found,) = graph.facts.assumptions
    assert found["assumed"] == "all choices are made equally often"


@torch.library.custom_op("foretrace_tests::unshaped", mutates_args=())
def unshaped(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


class Unshaped(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.foretrace_tests.unshaped(x).sum()


def test_an_op_of_which_nothing_is_known_can_be_assumed() -> None:
    inputs = (torch.randn(2, WIDTH * 64),)
    with pytest.raises(ForetraceError, match=r"--assume-unknown"):
        trace(Unshaped(), inputs, device="cpu", step="inference")
    graph = trace(Unshaped(), inputs, device="cpu", step="inference", assume={"unknown": True})
    (found,) = graph.facts.assumptions
    assert found["assumed"] == "its results are like its first input"


class Pools(nn.Module):
    """Boxes of unknown size are pooled from the level that suits them, each level's boxes together."""

    def __init__(self) -> None:
        super().__init__()
        self.size, self.body = nn.Linear(8, 1), nn.Linear(8, 256)

    def forward(self, boxes: torch.Tensor) -> torch.Tensor:
        levels = torch.clamp(torch.floor(self.size(boxes).squeeze(1)), min=2, max=5).to(torch.int64) - 2
        rows = [torch.where(levels == level)[0] for level in range(4)]
        return torch.stack([self.body(boxes[row]).sum() for row in rows]).sum()


def test_levels_between_two_bounds_are_chosen_equally_often() -> None:
    graph = trace(Pools(), (torch.randn(4_000, 8),), device="cpu")
    pooled = [op.outputs[0].shape for op in graph.ops if op.packet == "aten.addmm" and op.outputs[0].shape[1] == 256]
    assert pooled == [(1_000, 256)] * 4
    assert {a["assumed"] for a in graph.facts.assumptions} == {"all levels are chosen equally often"}


class Keeps(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [part[part > 0] for part in x.mul(2).chunk(3)]  # three masks on one line
        return torch.stack([part.sum() for part in parts]).sum()


def test_several_values_are_taken_in_turn_and_from_the_first_again_in_every_step() -> None:
    x = torch.randn(30_000, requires_grad=True)
    line = Keeps.forward.__code__.co_firstlineno + 1
    graph = trace(Keeps(), (x,), device="cpu", assume={f"test_assumptions.py:{line}": (5, 0.5, 7)})
    kept = [op.outputs[0].shape[0] for op in graph.ops if op.packet == "aten.index"]
    assert kept == [5, 5_000, 7]


class DropsLayers(nn.Module):
    """Each layer is left out at random, as some encoders do in training."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            if torch.rand([]) >= 0.05:
                x = layer(x)
        return x


def test_a_branch_on_a_random_number_is_said() -> None:
    graph = trace(DropsLayers(), (torch.randn(4, 8),), loss=torch.sum, device="cpu")
    assert {(a["op"], a["count"]) for a in graph.facts.assumptions} == {("aten.rand.default", 4)}
    assert "a real run may draw otherwise" in str(graph.facts.assumptions[0]["assumed"])
    inputs = lambda: (nn.Embedding(50, 8), (torch.randint(0, 50, (4,)).unique(),), torch.sum)  # noqa: E731
    assert trace(inputs, device="cpu").facts.assumptions == ()
