"""Folding repeated blocks changes nothing but the time that a trace takes: every graph is the same without."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from foretrace.graph import ForetraceError, StepGraph
from foretrace.graph.serde import save
from foretrace.tracer import Step, trace
from foretrace.tracer import unfold as unfolding

WIDTH, LENGTH, BATCH = 32, 64, 4
"""One activation has 32 KiB, too much for its values to be known."""


@pytest.fixture
def folds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Takes up how many blocks were folded, for every run of blocks and trace that succeeded with it."""
    found: list[int] = []
    stock = unfolding._Writer.write

    def write(self: Any) -> None:
        stock(self)
        found.extend(len(gap.places) for gap in self.gaps if not gap.backward and gap.deaths is None)

    monkeypatch.setattr(unfolding._Writer, "write", write)
    return found


class Block(nn.Module):
    """Attention and a feed-forward part, with dropout."""

    def __init__(self, drop: float = 0.1, number: int = 0) -> None:
        super().__init__()
        self.number = number
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down, self.drop = nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH), nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.drop(self.out(mixed))
        return x + 0.5 * self.drop(self.down(F.gelu(self.up(self.norm2(x)))))


class Stack(nn.Module):
    """An embedding, blocks and a head tied to it."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.tokens, self.h = nn.Embedding(101, WIDTH), nn.ModuleList(blocks)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 101, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        for block in self.h:
            x = block(x)
        return self.loss(x, ids)

    def loss(self, x: Tensor, ids: Tensor) -> Tensor:
        """The next word's."""
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), ids.flatten())


def step(make: Callable[[], nn.Module], **options: Any) -> Callable[[], Step]:
    """A target whose model has no memory."""

    def made() -> Step:
        with torch.device("meta"):
            model = make()
        return Step(model, (torch.zeros(BATCH, LENGTH, dtype=torch.int64),), **options)

    return made


def both(target: Callable[[], Step], path: Path, **options: Any) -> StepGraph:
    """The graph with folding, after a comparison with the one without: as nouns, and as bytes of a file."""
    graphs = [trace(target, fold=fold, **options) for fold in (True, False)]
    for part in ("ops", "storages", "events", "spans", "facts"):
        assert getattr(graphs[0], part) == getattr(graphs[1], part)
    assert graphs[0].kinds == graphs[1].kinds
    for name, graph in zip("ab", graphs, strict=True):
        save(graph, path / name)
    assert (path / "a").read_bytes() == (path / "b").read_bytes()
    return graphs[0]


def accumulated(model: Any, optimizer: Any, ids: Tensor) -> None:
    """Two batches a step."""
    for _ in range(2):
        model(ids).backward()
    optimizer.step()
    optimizer.zero_grad()


def clipped(model: Any, optimizer: Any, ids: Tensor) -> None:
    """Gradients clipped, and kept as zeros."""
    model(ids).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)


def kept(model: Any, optimizer: Any, ids: Tensor) -> None:
    """The graph stays after backward."""
    model(ids).backward(retain_graph=True)
    optimizer.step()
    optimizer.zero_grad()


def evaluated(model: Any, optimizer: Any, ids: Tensor) -> None:
    """No backward."""
    model(ids)


def stack(blocks: int = 8) -> nn.Module:
    """Blocks that are alike but for their number, which nobody reads."""
    return Stack([Block(number=i) for i in range(blocks)])


SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "adamw": ({}, {}),
    "on the cpu": ({}, {"device": "cpu"}),
    "first step": ({}, {"warmup": 0}),
    "third step": ({}, {"warmup": 2}),
    "fused": ({"optimizer": "adamw:fused"}, {}),
    "for loop": ({"optimizer": "adam:for-loop"}, {}),
    "momentum": ({"optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)}, {}),
    "clipped": ({"step": clipped}, {}),
    "inference": ({"step": "inference"}, {}),
    "half": ({}, {"autocast": "bfloat16"}),
}


@pytest.mark.parametrize("name", SAME)
def test_same_graph(name: str, folds: list[int], tmp_path: Path) -> None:
    of_step, of_trace = SAME[name]
    both(step(stack, **of_step), tmp_path, **of_trace)
    # A block that keeps nothing of what it is given until backward needs one more neighbour that runs.
    assert folds == [3 if name == "inference" else 4]


def _tiny(name: str, **options: Any) -> Callable[[], Step]:
    """A model of transformers with 8 layers, called as its users do: with labels, and with the cache it makes."""

    def made() -> Step:
        transformers = pytest.importorskip("transformers")
        sizes = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "vocab_size": 128}
        config = transformers.AutoConfig.for_model(name, num_hidden_layers=8, **sizes, **options)
        ids = torch.ones(BATCH, LENGTH, dtype=torch.int64)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
        return Step(model.train(), {"input_ids": ids, "labels": ids})

    return made


CACHED = {
    "llama": (_tiny("llama", num_key_value_heads=1), [4]),
    "gpt2": (_tiny("gpt2"), [4]),
    "window": (_tiny("mistral", num_key_value_heads=1, sliding_window=16), [4]),
    "every other with a window": (
        _tiny(
            "gemma3_text", num_key_value_heads=1, head_dim=32, layer_types=["sliding_attention", "full_attention"] * 4
        ),
        [],
    ),
}


@pytest.mark.parametrize("name", CACHED)
def test_caches_are_filled(name: str, folds: list[int], tmp_path: Path) -> None:
    target, folded = CACHED[name]
    both(target, tmp_path)
    assert folds == folded


UNFOLDED = {"accumulated": accumulated, "graph kept": kept, "no backward": evaluated}


@pytest.mark.parametrize("name", UNFOLDED)
def test_same_graph_of_other_steps(name: str, tmp_path: Path) -> None:
    both(step(stack, step=UNFOLDED[name]), tmp_path)


# -- blocks that differ -----------------------------------------------------------------------------


class ByNumber(Block):
    """Every other one has another activation."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return torch.tanh(x) if self.number % 2 else torch.relu(x)


class FifthByNumber(Block):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(super().forward(x)) if self.__dict__["number"] == 5 else super().forward(x)


class Counting(Block):
    """The fifth call of all is different."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        Counting.calls += 1
        return torch.tanh(super().forward(x)) if Counting.calls % 8 == 5 else super().forward(x)


_SEEN = [0]


class CountingOutside(Block):
    def forward(self, x: Tensor) -> Tensor:
        _SEEN.append(_SEEN.pop() + 1)
        return torch.tanh(super().forward(x)) if _SEEN[0] % 8 == 5 else super().forward(x)


class WithClosure(Block):
    """An activation with a memory."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


def _forgetful() -> Callable[[Tensor], Tensor]:
    calls = count()
    return lambda x: torch.tanh(x) if next(calls) % 8 == 5 else x * 2


class Drawing(Block):
    """Dropped as a whole now and then, by numbers drawn on the host."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if random.random() < 0.3 else super().forward(x)


class DrawingTensors(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if torch.rand(()) < 0.3 else super().forward(x)


class Reading(Block):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.register_buffer("depth", torch.tensor(float(number), device="cpu"))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(super().forward(x)) if self.get_buffer("depth") == 5 else super().forward(x)


class CountingTensors(Block):
    """Counts its steps in a buffer, and its calls in a tensor of all blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), device="cpu"))

    def forward(self, x: Tensor) -> Tensor:
        self.get_buffer("steps").add_(1)
        return super().forward(x)


class ReadingCounts(Stack):
    """The size of the last op depends on what a block in the middle has counted."""

    def forward(self, ids: Tensor) -> Tensor:
        loss = super().forward(ids)
        return loss + self.tokens.weight[: int(self.h[4].get_buffer("steps"))].sum()


class CountingTogether(Stack):
    def forward(self, ids: Tensor) -> Tensor:
        x, calls = self.tokens(ids), torch.zeros((), device="cpu")
        for block in self.h:
            x = block(x, calls)
        return self.loss(x, ids) + self.tokens.weight[: int(calls)].sum()


class CalledTogether(Block):
    def forward(self, x: Tensor, calls: Tensor) -> Tensor:
        calls.add_(1)
        return super().forward(x)


class ReadingBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 3 if gradient.sum().item() > 0 else gradient * 2


class LookingBack(Block):
    def forward(self, x: Tensor) -> Tensor:
        return ReadingBackward.apply(super().forward(x))


class Remembering(Block):
    """Keeps its result, which the next call takes up."""

    def __init__(self) -> None:
        super().__init__()
        self.past: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        result = super().forward(x)
        self.past.append(result.detach())
        return result + self.past[0]


def _changed(change: Callable[[Stack], Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = Stack([Block() for _ in range(8)])
        change(model)
        return model

    return make


def _frozen(model: Stack) -> None:
    model.h[4].requires_grad_(False)


def _shared(model: Stack) -> None:
    model.h[5].get_submodule("up").weight = model.h[2].get_submodule("up").weight


def _hooked(model: Stack) -> None:
    model.h[4].register_forward_hook(lambda module, args, output: output * 2)


def _hooked_inside(model: Stack) -> None:
    model.h[4].get_submodule("up").register_full_backward_hook(lambda module, inputs, outputs: None)


def _hooked_parameter(model: Stack) -> None:
    model.h[4].get_parameter("up.weight").register_hook(lambda gradient: gradient * 2)


def _patched(model: Stack) -> None:
    stock = model.h[4].forward
    model.h[4].forward = lambda x: torch.tanh(stock(x))


def _scaled(model: Stack) -> None:
    model.h[3].get_submodule("down").weight.data = torch.zeros(64, WIDTH, device="meta").t()


class Depths(Stack):
    """The parent tells blocks of their depth as it calls them."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        for number, block in enumerate(self.h):
            block.drop.p = number / 10
            x = block(x)
        return self.loss(x, ids)


class Between(Stack):
    """Something happens between the blocks."""

    def forward(self, ids: Tensor) -> Tensor:
        x = start = self.tokens(ids)
        for block in self.h:
            x = block(x) + start
        return self.loss(x, ids)


class OnceBetween(Stack):
    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        for number, block in enumerate(self.h):
            x = torch.tanh(block(x)) if number == 4 else block(x)
        return self.loss(x, ids)


class Skipping(Stack):
    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        for number, block in enumerate(self.h):
            x = x if number == 4 else block(x)
        return self.loss(x, ids)


class Twice(Stack):
    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        for block in self.h:
            x = block(block(x))
        return self.loss(x, ids)


class Frozen(Stack):
    """Part of the blocks run without a graph."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        for number, block in enumerate(self.h):
            with torch.set_grad_enabled(number > 4):
                x = block(x)
        return self.loss(x, ids)


class Collecting(Stack):
    """All results are kept, and used at the end."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        results = []
        for block in self.h:
            x = block(x)
            results.append(x)
        return self.loss(sum(results), ids)


class Holding(Stack):
    """All results are kept until the next step."""

    def forward(self, ids: Tensor) -> dict[str, Any]:
        x = self.tokens(ids)
        results = []
        for block in self.h:
            x = block(x)
            results.append(x)
        return {"loss": self.loss(x, ids), "results": results}


class Catching(Stack):
    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        for number, block in enumerate(self.h):
            try:
                x = block(x, *[number] * (number == 4))
            except TypeError:
                x = x * 2
        return self.loss(x, ids)


class Checkpointing(Stack):
    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        for block in self.h:
            x = checkpoint(block, x, use_reentrant=False)
        return self.loss(x, ids)


class Evaluating(Stack):
    def forward(self, ids: Tensor) -> Tensor:
        self.h[4].eval()
        return super().forward(ids)


class Overwriting(Stack):
    """A result is changed in place."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        for number, block in enumerate(self.h):
            x = block(x)
            if number == 4:
                x.mul_(2)
        return self.loss(x, ids)


class Watching(Stack):
    """One result has a hook."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        for number, block in enumerate(self.h):
            x = block(x)
            if number == 4:
                x.register_hook(lambda gradient: gradient * 2)
        return self.loss(x, ids)


class Teaching(Stack):
    """A copy of the blocks runs first, and teaches."""

    def forward(self, ids: Tensor) -> Tensor:
        x = taught = self.tokens(ids)
        for block in copy.deepcopy(self.h):
            block.get_submodule("up").bias = None
            taught = block(taught)
        for block in self.h:
            x = block(x)
        return self.loss(x - taught.detach(), ids)


class Views(nn.Module):
    """Results that are views, changed in place by the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).relu_().transpose(0, 1).transpose(0, 1).view(BATCH, LENGTH, WIDTH)


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x.add_(self.linear(x.clone()))


def _of(stacked: type[Stack], block: Callable[[], nn.Module] = Block) -> Callable[[], nn.Module]:
    return lambda: stacked([block() for _ in range(8)])


ODD: dict[str, Callable[[], nn.Module]] = {
    "drop rate by depth": lambda: Stack([Block(i / 10) for i in range(8)]),
    "by number": lambda: Stack([ByNumber(number=i) for i in range(8)]),
    "by number, read elsewhere": lambda: Stack([FifthByNumber(number=i) for i in range(8)]),
    "counting": _of(Stack, Counting),
    "counting outside": _of(Stack, CountingOutside),
    "closure": lambda: Stack([WithClosure(act) for act in [_forgetful()] for _ in range(8)]),
    "drawing": _of(Stack, Drawing),
    "drawing tensors": _of(Stack, DrawingTensors),
    "reading": lambda: Stack([Reading(i) for i in range(8)]),
    "remembering": _of(Stack, Remembering),
    "counting in tensors": _of(ReadingCounts, CountingTensors),
    "counting together": _of(CountingTogether, CalledTogether),
    "looking in backward": _of(Stack, LookingBack),
    "frozen": _changed(_frozen),
    "shared weight": _changed(_shared),
    "hooked": _changed(_hooked),
    "hooked inside": _changed(_hooked_inside),
    "hooked parameter": _changed(_hooked_parameter),
    "patched": _changed(_patched),
    "other strides": _changed(_scaled),
    "told its depth": _of(Depths),
    "between": _of(Between),
    "once between": _of(OnceBetween),
    "skipped": _of(Skipping),
    "twice": _of(Twice),
    "without a graph": _of(Frozen),
    "collected": _of(Collecting),
    "held": _of(Holding),
    "caught": _of(Catching),
    "checkpointed": _of(Checkpointing),
    "evaluating": _of(Evaluating),
    "taught by a copy": _of(Teaching),
    "overwritten": _of(Overwriting),
    "watched": _of(Watching),
    "views": _of(Stack, Views),
    "in place": _of(Stack, InPlace),
}


@pytest.mark.parametrize("name", ODD)
def test_same_graph_where_blocks_differ(name: str, tmp_path: Path) -> None:
    def target() -> Step:
        Counting.calls, _SEEN[0] = 0, 0
        return step(ODD[name])()

    both(target, tmp_path)


@settings(max_examples=12, deadline=None)
@given(
    kinds=st.lists(st.sampled_from("abc"), min_size=1, max_size=3),
    units=st.integers(4, 8),
    tail=st.lists(st.sampled_from("abc"), max_size=2),
)
def test_same_graph_of_any_stack(kinds: list[str], units: int, tail: list[str]) -> None:
    makers = {"a": Views, "b": lambda: nn.Linear(WIDTH, WIDTH), "c": lambda: Block(0.0)}

    def made() -> Step:
        with torch.device("meta"):
            model = Stack([makers[kind]() for kind in [*kinds * units, *tail]])
        return Step(model, (torch.zeros(BATCH, LENGTH, dtype=torch.int64),))

    folded, whole = (trace(made, fold=fold) for fold in (True, False))
    assert (folded.ops, folded.storages, folded.events) == (whole.ops, whole.storages, whole.events)
    assert folded.facts == whole.facts


# -- what it leaves behind --------------------------------------------------------------------------


def _attributes(model: nn.Module) -> list[tuple[str, int]]:
    return [(name, id(value)) for module in model.modules() for name, value in vars(module).items()]


class Failing(Stack):
    def forward(self, ids: Tensor) -> Tensor:
        super().forward(ids)
        raise ValueError("too late")


def test_a_module_is_left_as_it_was(folds: list[int]) -> None:
    with torch.device("meta"):
        model = stack()
    before, engine = _attributes(model), torch.autograd._engine_run_backward
    trace(model, (torch.zeros(BATCH, LENGTH, dtype=torch.int64),))
    assert folds == [4]
    assert _attributes(model) == before
    assert torch.autograd._engine_run_backward is engine
    assert all(parameter.is_meta and parameter.grad is None for parameter in model.parameters())


def test_an_error_is_the_same_and_leaves_the_module_as_it_was() -> None:
    with torch.device("meta"):
        model = Failing([Block() for _ in range(8)])
    before, said = _attributes(model), []
    for fold in (True, False):
        with pytest.raises(ForetraceError) as caught:
            trace(model, (torch.zeros(BATCH, LENGTH, dtype=torch.int64),), fold=fold)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "ValueError: too late" in said[0]
    assert _attributes(model) == before
