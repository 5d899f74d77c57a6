"""Which line calls a module, and what backward runs again."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from foretrace import load, save, trace
from foretrace.graph import Source, StepGraph


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.linear(x)


class Stack(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.second = Block(), nn.Sequential(Block(), Block())

    def again(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "module":
            return self.first(checkpoint(self.second, x, use_reentrant=False))
        if self.how == "reentrant":
            return self.first(checkpoint(self.second, self.first(x), use_reentrant=True))
        if self.how == "function":
            return checkpoint(self.again, x, use_reentrant=False)
        return self.again(x)


def traced(how: str) -> StepGraph:
    return trace(Stack(how), (torch.zeros(4, 8),), loss=lambda y: y.square().sum())


def line_of(text: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    (found,) = (number for number, line in enumerate(lines, 1) if line.strip() == text)
    return found


def test_what_backward_runs_again() -> None:
    assert {how: traced(how).facts.recomputed for how in ("module", "reentrant", "function", "none")} == {
        "module": {"second": 1},
        "reentrant": {"second": 1},
        "function": {"Stack.again()": 2},  # it calls two modules
        "none": {},
    }


def test_the_line_that_calls_a_module_is_that_of_the_user(tmp_path: Path) -> None:
    graph = traced("module")
    call = line_of("return self.first(checkpoint(self.second, x, use_reentrant=False))")
    inside = line_of("return x + self.linear(x)")
    places = {
        name: (source.line, source.function.rpartition(".")[0])
        for name, source in graph.facts.calls.items()
        if Path(source.file).name == Path(__file__).name
    }
    assert places == {
        "first": (call, "Stack"),
        "first.linear": (inside, "Block"),
        "second": (call, "Stack"),
        "second.0": (call, "Stack"),
        "second.0.linear": (inside, "Block"),
        "second.1": (call, "Stack"),
        "second.1.linear": (inside, "Block"),
    }
    save(graph, tmp_path / "step.foretrace")
    read = load(tmp_path / "step.foretrace").facts
    assert (read.calls, read.recomputed) == (graph.facts.calls, graph.facts.recomputed)
    assert all(isinstance(source, Source) for source in read.calls.values())
