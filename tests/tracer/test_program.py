"""Law 1, the trace is the program: the recorded graph runs again on real tensors and gives what eager gave."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils._pytree import tree_leaves

from foretrace.graph import Category, StepGraph
from foretrace.tracer import Step, to_fx, trace
from foretrace.tracer.program import run
from foretrace.tracer.step import make_optimizer
from small_models import MODELS


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's storage as one dimension, copied."""
    tensor = tensor.detach()
    return torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage()).clone()


def at_start(graph: StepGraph, model: torch.nn.Module, optimizer: torch.optim.Optimizer, inputs: dict) -> dict:
    """A copy of every storage that is live when the step begins, by its id in the graph."""
    names = dict(model.named_parameters())
    real = {**names, **dict(model.named_buffers())}
    found = {n.storage: whole(real[n.name]) for n in (*graph.facts.parameters, *graph.facts.buffers)}
    for named, tensor in zip(graph.facts.inputs, inputs.values(), strict=True):
        found[named.storage] = whole(tensor)
    for named in graph.facts.state:
        name, _, key = named.name.rpartition("/")
        found[named.storage] = whole(optimizer.state[names[name]][key])
    return found


@pytest.mark.parametrize("optimizer", ["adamw", "adamw:foreach", "adamw:fused", "sgd"])
@pytest.mark.parametrize("name", MODELS)
def test_the_graph_runs_again_as_eager_ran(name: str, optimizer: str) -> None:
    torch.manual_seed(0)
    step = MODELS[name]()
    graph = trace(step.model, step.inputs, optimizer=optimizer, device="cpu")
    model = copy.deepcopy(step.model)
    real = make_optimizer(optimizer, model)
    model(**step.inputs).backward()
    real.step()
    real.zero_grad()

    storages = at_start(graph, model, real, step.inputs)
    torch.manual_seed(1)
    results = run(to_fx(graph), storages)

    torch.manual_seed(1)
    loss = model(**step.inputs)
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    real.step()

    # Both ran the same kernels in the same order, so every bit agrees.
    found = gradients_of(graph, results)
    assert set(found) == set(gradients)
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=0, atol=0)
    for named in (*graph.facts.parameters, *graph.facts.buffers):
        expected = dict(model.named_parameters()) | dict(model.named_buffers())
        torch.testing.assert_close(storages[named.storage], whole(expected[named.name]), rtol=0, atol=0)
    torch.testing.assert_close(loss_of(graph, results), loss.detach(), rtol=0, atol=0)


def gradients_of(graph: StepGraph, results: dict) -> dict[str, torch.Tensor]:
    """What the last backward op left in each gradient's storage, by the parameter's name."""
    shapes = {n.name: n.shape for n in graph.facts.parameters}
    found = {}
    for op in graph.ops:
        if op.phase == "backward":
            values = [v for v in tree_leaves(results[op.id]) if isinstance(v, torch.Tensor)]
            for tensor, value in zip(op.outputs, values, strict=True):
                storage = graph.storages[tensor.storage]
                if storage.category is Category.GRADIENT and tensor.shape == shapes[storage.name]:
                    found[storage.name] = value
    return found


def loss_of(graph: StepGraph, results: dict) -> torch.Tensor:
    """What the last forward op with a scalar result returned."""
    last = [op for op in graph.ops if op.phase == "forward" and op.outputs and op.outputs[0].shape == ()][-1]
    value = results[last.id]
    return value[0] if isinstance(value, tuple) else value


def test_every_node_names_an_operator_with_its_metadata() -> None:
    step = MODELS["gpt"]()
    graph = trace(step.model, step.inputs, device="cpu")
    nodes = [node for node in to_fx(graph).nodes if "op" in node.meta]
    assert [node.meta["op"].id for node in nodes] == list(range(len(graph.ops)))
    assert all(isinstance(node.target, torch._ops.OpOverload) for node in nodes)
    assert isinstance(step, Step)
