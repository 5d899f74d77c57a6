"""AdamW and SGD: the closed form against the ops that torch.optim really runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch
from opbuilder import new, work
from oprecorder import record

from foretrace.costmodels import (
    Priced,
    Term,
    Work,
    adamw_flops_per_parameter,
    adamw_state_bytes,
    adamw_state_bytes_per_parameter,
    optimizer_work,
    price_op,
    sgd_flops_per_parameter,
    trained_parameters,
)
from foretrace.graph import Facts, Named, Phase, StepGraph

SHAPES = ((8, 5), (5,), (3, 3, 2))
PARAMETERS = 40 + 5 + 18
FORMS = {
    "for-loop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}


def second_step(
    make: Callable[[list[torch.Tensor]], torch.optim.Optimizer],
) -> tuple[list[Priced], torch.optim.Optimizer]:
    """The priced ops of an optimizer's second step, and the optimizer."""
    parameters = [torch.randn(shape, requires_grad=True) for shape in SHAPES]
    for p in parameters:
        p.grad = torch.randn_like(p)
    optimizer = make(parameters)
    optimizer.step()
    return [price_op(op) for op in record(optimizer.step, Phase.OPTIMIZER)], optimizer


def flops(terms: tuple[Term, ...]) -> int:
    return sum(term.flops for term in terms)


@pytest.mark.parametrize(
    ("implementation", "decoupled", "decay", "amsgrad", "maximize"),
    list(product(FORMS, (True, False), (0.0, 0.01), (False, True), (False, True))),
)
def test_the_closed_form_is_what_torch_runs(implementation, decoupled, decay, amsgrad, maximize):
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    options = {"weight_decay": decay, "amsgrad": amsgrad, "maximize": maximize}
    priced, _ = second_step(lambda p: kind(p, lr=1e-3, **options, **FORMS[implementation]))
    terms = adamw_flops_per_parameter(
        weight_decay=bool(decay), decoupled=decoupled, amsgrad=amsgrad, maximize=maximize, implementation=implementation
    )
    # One add per tensor moves its step counter along.
    assert optimizer_work(priced, PARAMETERS).work.flops == flops(terms) * PARAMETERS + len(SHAPES)
    assert {p.kind for p in priced} <= {"rule", "free"}


@pytest.mark.parametrize(
    ("implementation", "decay", "momentum", "nesterov", "maximize"),
    [
        case
        for case in product(("for-loop", "foreach"), (0.0, 0.01), (0.0, 0.9), (False, True), (False, True))
        if case[2] or not case[3]
    ],
)
def test_sgd_too(implementation, decay, momentum, nesterov, maximize):
    options = {"weight_decay": decay, "momentum": momentum, "nesterov": nesterov, "maximize": maximize}
    priced, _ = second_step(lambda p: torch.optim.SGD(p, lr=1e-3, **options, **FORMS[implementation]))
    terms = sgd_flops_per_parameter(
        weight_decay=bool(decay), momentum=bool(momentum), nesterov=nesterov, maximize=maximize
    )
    assert optimizer_work(priced, PARAMETERS).work.flops == flops(terms) * PARAMETERS


def test_the_terms_of_adamw_have_names_and_add_up_to_fourteen():
    terms = adamw_flops_per_parameter()
    assert flops(terms) == 1 + 3 + 1 + 3 + 1 + 1 + 1 + 3 == 14
    assert terms[0] == Term("decoupled weight decay: p *= 1 - lr * wd", 1)
    assert len({term.name for term in terms}) == len(terms)


def test_the_fused_kernel_takes_three_more():
    assert flops(adamw_flops_per_parameter(implementation="fused")) == 2 + 4 + 5 + 3 + 3


def test_an_unknown_implementation_is_an_error():
    with pytest.raises(ValueError, match="'magic' is none of for-loop, foreach, fused"):
        adamw_flops_per_parameter(implementation="magic")


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("implementation", FORMS)
def test_state_bytes_are_those_that_torch_keeps(implementation: str, amsgrad: bool):
    _, optimizer = second_step(lambda p: torch.optim.AdamW(p, amsgrad=amsgrad, **FORMS[implementation]))
    kept = sum(t.nbytes for state in optimizer.state.values() for t in state.values())
    counts = [(torch.Size(shape).numel(), "float32") for shape in SHAPES]
    assert adamw_state_bytes(counts, amsgrad=amsgrad) == kept
    assert kept == PARAMETERS * adamw_state_bytes_per_parameter(amsgrad=amsgrad) + 4 * len(SHAPES)


def test_state_takes_the_parameters_type():
    assert adamw_state_bytes_per_parameter("bfloat16") == 4
    assert adamw_state_bytes_per_parameter("float32", amsgrad=True) == 12


def fused(name: str = "aten._fused_adamw_.default", **changed: object) -> Work:
    lists = {name: (new(10), new(6)) for name in ("self", "grads", "exp_avgs", "exp_avg_sqs")}
    options = {"max_exp_avg_sqs": (), "state_steps": (new(), new()), "weight_decay": 0.01}
    mutates = (*lists, "max_exp_avg_sqs")
    return work(name, None, mutates=mutates, **(lists | options | changed))


def test_fused_adamw_reads_four_arrays_and_writes_three():
    assert fused() == Work(vector_flops=17 * 16, read_bytes=4 * (4 * 16 + 2), written_bytes=4 * 3 * 16)


def test_fused_adamw_with_a_gradient_scaler_writes_the_gradients_too():
    scaled = fused(grad_scale=new(), found_inf=new())
    assert scaled == Work(vector_flops=18 * 16, read_bytes=4 * (4 * 16 + 2 + 2), written_bytes=4 * 4 * 16)


def test_foreach_moves_far_more_than_fused():
    """Reads and writes of whole arrays: decay 1 + 1, lerp 2 + 1, decay 1 + 1, addcmul 2 + 1, sqrt 1 + 1, divide and
    add 2 + 2, addcdiv 3 + 1; the step counters are an array of their own."""
    priced, _ = second_step(lambda p: torch.optim.AdamW(p, foreach=True))
    arrays = total_without_steps(priced)
    assert (arrays.read_bytes, arrays.written_bytes) == (12 * 4 * PARAMETERS, 8 * 4 * PARAMETERS)


def total_without_steps(priced: list[Priced]) -> Work:
    scalars = [p for p in priced if all(t.numel == 1 for t in (*p.op.inputs, *p.op.outputs))]
    return optimizer_work([p for p in priced if p not in scalars], PARAMETERS).work


def test_work_per_parameter():
    priced, _ = second_step(lambda p: torch.optim.AdamW(p, foreach=True))
    elsewhere = [replace(p, op=replace(p.op, phase=Phase.BACKWARD)) for p in priced]
    found = optimizer_work([*priced, *elsewhere], PARAMETERS)
    assert found.flops_per_parameter == (14 * PARAMETERS + len(SHAPES)) / PARAMETERS
    assert optimizer_work(elsewhere, PARAMETERS).work == Work()
    assert optimizer_work([], 0).flops_per_parameter == 0.0


def test_trained_parameters_count_tied_ones_once_and_frozen_ones_never():
    named = (
        Named("wte.weight", 0, (10, 4), "float32", True),
        Named("head.weight", 0, (10, 4), "float32", True),
        Named("scale", 1, (), "float32", True),
        Named("frozen", 2, (7,), "float32", False),
    )
    assert trained_parameters(StepGraph((), (), (), (), Facts(parameters=named))) == 41


def test_unscaling_checks_and_multiplies():
    gradients = (new(10), new(6))
    assert work(
        "aten._amp_foreach_non_finite_check_and_unscale_.default",
        None,
        mutates=("self", "found_inf"),
        self=gradients,
        found_inf=new(),
        inv_scale=new(),
    ) == Work(vector_flops=32, read_bytes=64 + 8, written_bytes=64 + 4)
