"""FLOPs of traced steps against torch's own counter, op by op, and against a loop where the counter is wrong."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.utils.flop_counter import flop_registry

from foretrace.costmodels import price_op, price_ops
from foretrace.graph import Op, Tensor
from foretrace.tracer import trace
from foretrace.tracer.program import function_of
from small_models import MODELS

GROUPED = "convolution_backward"


def counted_by_torch(op: Op) -> int | None:
    """What torch's counter says of an op from its shapes, None for an op that it does not count."""
    formula = flop_registry.get(function_of(op.name).overloadpacket)
    if formula is None:
        return None

    def meta(value: object) -> object:
        if isinstance(value, Tensor):
            dtype = getattr(torch, value.dtype)
            return torch.empty_strided(value.shape, value.strides, dtype=dtype, device="meta")
        return tuple(meta(v) for v in value) if isinstance(value, tuple) else value

    args = {name: meta(value) for name, value in op.args.items()}
    names = [a.name for a in function_of(op.name)._schema.arguments if not a.kwarg_only and a.name in args]
    keywords = {name: value for name, value in args.items() if name not in names}
    return formula(*(args[name] for name in names), **keywords, out_val=meta(op.result))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", MODELS)
def test_matrix_flops_are_those_of_torchs_counter(name: str, device: str) -> None:
    step = MODELS[name]()
    graph = trace(step.model, step.inputs, device=device)
    compared = 0
    for priced in price_ops(graph):
        if priced.op.name.startswith("foretrace.") or (GROUPED in priced.op.name and priced.op.get("groups") != 1):
            continue
        expected = counted_by_torch(priced.op)
        if expected is not None:
            assert priced.work.tensor_flops == expected, priced.op.name
            compared += 1
    assert compared >= 3


def test_grouped_convolution_backward_is_what_a_loop_counts() -> None:
    step = MODELS["resnet"]()
    graph = trace(step.model, step.inputs, device="cpu")
    (found,) = [p for p in price_ops(graph) if GROUPED in p.op.name and p.op.get("groups") != 1]
    grad, weight = found.op.tensor("grad_output"), found.op.tensor("weight")
    # Every tap counts, those on the padding too, as a kernel without special cases runs them.
    products = 0
    for _ in itertools.product(*(range(size) for size in grad.shape), *(range(size) for size in weight.shape[1:])):
        products += 1
    # One multiply and one add for each product, once for the input's gradient and once for the weight's.
    assert found.work.tensor_flops == 2 * 2 * products


@pytest.mark.parametrize("name", MODELS)
def test_no_op_of_these_models_is_priced_by_assumption(name: str) -> None:
    for device in ("cpu", "cuda"):
        step = MODELS[name]()
        graph = trace(step.model, step.inputs, device=device)
        priced = price_ops(graph)
        assert [p.op.name for p in priced if p.kind == "assumed"] == []
        assert priced == tuple(map(price_op, graph.ops))
