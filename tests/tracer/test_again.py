"""A trace remembers how it was made: at another batch it is the trace that the other batch would have had."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import foretrace
from foretrace.costmodels import timeline
from foretrace.graph import ForetraceError, StepGraph

MODEL = """
import torch
from torch import nn

def make(batch_size=4, width=64):
    return nn.Linear(width, 8), (torch.empty(batch_size, width),), lambda output: output.sum()
"""


def linear(batch: int, width: int = 64):
    return nn.Linear(width, 8), f"float32[{batch}, {width}]", torch.sum


def by_specs(sizes: dict[str, int] | None, spec: str) -> StepGraph:
    return foretrace.trace(nn.Linear(64, 8), spec, loss=torch.sum, sizes=sizes)


WAYS: dict[str, Callable[[int], StepGraph]] = {
    "callable": lambda batch: foretrace.trace(partial(linear, batch=batch)),
    "named size": lambda batch: by_specs({"batch": batch}, "float32[batch, 64]"),
    "specs": lambda batch: by_specs(None, f"float32[{batch}, 64]"),
    "tensors": lambda batch: foretrace.trace(nn.Linear(64, 8), (torch.randn(batch, 64),), loss=torch.sum),
    "by name": lambda batch: foretrace.trace(nn.Linear(64, 8), {"input": torch.randn(batch, 64)}, loss=torch.sum),
    "tensor": lambda batch: foretrace.trace(nn.Linear(64, 8), torch.randn(batch, 64), loss=torch.sum),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_trace_is_made_again_at_another_batch(way: str) -> None:
    again = WAYS[way](4).again
    assert again is not None
    for batch in (1, 3, 11):
        found, expected = again(batch=batch), WAYS[way](batch)
        assert timeline(found).live_bytes == timeline(expected).live_bytes
        assert [op.inputs for op in found.ops] == [op.inputs for op in expected.ops]


def test_a_target_calls_the_batch_what_it_likes(tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text(MODEL)
    target = f"{tmp_path}/small.py:make"
    graph = foretrace.trace_target(target, {"width": 16}, optimizer="sgd")
    assert graph.again is not None
    found, expected = (
        graph.again(batch=9),
        foretrace.trace_target(target, {"width": 16, "batch_size": 9}, optimizer="sgd"),
    )
    assert (found.ops, found.storages, found.facts) == (expected.ops, expected.storages, expected.facts)
    assert found.again is not None and found.again(width=8).facts.arguments == {"width": 8, "batch_size": 9}


def test_the_largest_batch_needs_no_function() -> None:
    wide = lambda batch=1: (nn.Linear(4096, 1 << 18), f"float32[{batch}, 4096]", torch.sum)  # noqa: E731
    report = foretrace.price(foretrace.trace(wide, optimizer="sgd"), on="a100-sxm4-80gb")
    at = lambda batch: foretrace.trace(partial(wide, batch), optimizer="sgd")  # noqa: E731
    best = report.max_batch()
    assert best == report.max_batch(at) > 1000
    fits = [foretrace.price(at(batch), on="a100-sxm4-80gb").fits for batch in (best, best + 1)]
    assert fits == [True, False]


def test_the_module_is_not_changed_and_inputs_are_repeated() -> None:
    model, x = nn.Linear(8, 2), torch.randn(2, 8)
    before = copy.deepcopy(model.state_dict())
    graph = foretrace.trace(model, (x,), loss=torch.sum)
    assert graph.again is not None
    assert [named.shape for named in graph.again(batch=5).facts.inputs] == [(5, 8)]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def refused(graph: StepGraph) -> str:
    with pytest.raises(ForetraceError) as caught:
        foretrace.price(graph, on="a100-sxm4-80gb").max_batch()
    assert "report.max_batch(lambda batch: foretrace.trace_target(...))" in caught.value.mend
    return caught.value.message


def test_what_cannot_be_made_again_says_so(tmp_path: Path) -> None:
    graph = foretrace.trace(partial(linear, 4))
    foretrace.save(graph, tmp_path / "step.foretrace")
    lost = "this trace was loaded or edited, and cannot be made again at another batch"
    assert refused(foretrace.load(tmp_path / "step.foretrace")) == lost
    assert refused(replace(graph, events=graph.events)) == lost
    assert refused(pickle.loads(pickle.dumps(graph))) == lost


def test_a_batch_that_is_not_to_be_found_says_so() -> None:
    uneven = foretrace.trace(nn.Bilinear(4, 4, 2), (torch.randn(3, 4), torch.randn(3, 4)), loss=torch.sum)
    assert uneven.again is not None and uneven.again(batch=2).facts.inputs[1].shape == (2, 4)
    unnamed = foretrace.trace(lambda: (nn.Linear(4, 2), (torch.randn(3, 4),), torch.sum))
    assert refused(unnamed) == "at batch=1: the trace was made without a size batch"
    apart = foretrace.trace(nn.Embedding(5000, 2), "int64[3]", loss=lambda output: (output * torch.ones(3, 1)).sum())
    assert refused(apart).startswith("at batch=2: ")


def test_what_fits_is_not_asked_of_a_step_on_the_cpu() -> None:
    graph = foretrace.trace(nn.Linear(4, 4), "float32[batch, 4]", loss=torch.sum, sizes={"batch": 3}, device="cpu")
    with pytest.raises(ForetraceError, match="what fits is asked of a step for CUDA"):
        foretrace.price(graph, on="a100-sxm4-80gb").max_batch()


def test_inputs_of_a_huge_batch_take_no_memory() -> None:
    rows = 1 << 38
    graph = foretrace.trace(nn.Linear(4, 1), (torch.ones(2, 4, requires_grad=True),), loss=torch.sum)
    assert graph.again is not None
    (found,) = graph.again(batch=rows).facts.inputs
    assert (found.shape, found.dtype, found.trainable) == ((rows, 4), "float32", True)
    best = foretrace.price(graph, on="a100-sxm4-80gb").max_batch()
    assert 2**30 < best < 2**31
