"""What a step is made of: where the loss is found, what is trained, and what is refused with one line."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foretrace.costmodels import compare
from foretrace.graph import ForetraceError, Phase
from foretrace.tracer import Step, measure, trace


class Language(nn.Module):
    """Returns its logits and, where it is told the targets, a loss: as many small repositories do."""

    def __init__(self, form: str = "tuple") -> None:
        super().__init__()
        self.embedding, self.head, self.form = nn.Embedding(7, 4), nn.Linear(4, 7), form

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Any:
        logits = self.head(self.embedding(ids))
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        if self.form == "two":
            return loss, logits.sum()
        return {
            "tuple": (logits, loss),
            "list": [loss, logits, 3],
            "beside a count": (loss, logits, torch.ones(2)[0]),
        }[self.form]


IDS = {"ids": "int64[2, 3]", "targets": "int64[2, 3]"}


@pytest.mark.parametrize("form", ["tuple", "list", "beside a count"])
def test_the_one_trained_scalar_of_a_tuple_is_the_loss(form: str) -> None:
    found = trace(Language(form), IDS, device="cpu")
    (seed,) = [op for op in found.ops if op.packet == "aten.nll_loss_backward"]
    assert seed.forward is not None
    assert found.ops[seed.forward].packet == "aten.nll_loss_forward"


def test_where_no_scalar_or_more_than_one_might_be_the_loss_it_is_asked_for() -> None:
    for model, inputs in ((Language("two"), IDS), (Language(), {"ids": "int64[2, 3]"})):
        with pytest.raises(ForetraceError, match=r"not to be found in the module's output \(got tuple\).*loss=:"):
            trace(model, inputs, device="cpu")


class Margins(nn.Module):
    """A loss with weights of its own: one for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(50, 4))
        self.register_buffer("scale", torch.ones(50))

    def forward(self, output: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(output, self.weight) * self.scale, output.new_zeros(len(output)).long())


def test_a_loss_with_parameters_is_trained_with_the_model() -> None:
    model, loss = nn.Sequential(nn.Linear(3, 4)), Margins()
    before = copy.deepcopy((model, loss))
    found = trace(model, "float32[5, 3]", loss=loss)
    assert {named.name: named.shape for named in found.facts.parameters} == {
        "0.weight": (4, 3),
        "0.bias": (4,),
        "loss.weight": (50, 4),
    }
    assert [named.name for named in found.facts.buffers] == ["loss.scale"]
    assert found.facts.modules == {"": "Sequential", "0": "Linear", "loss": "Margins"}
    state = {s.name for s in found.select_storages(category="optimizer_state")}
    assert {"loss.weight/exp_avg", "loss.weight/exp_avg_sq"} <= state
    assert {op.module for op in found.ops if op.packet == "aten.mm" and op.phase == Phase.FORWARD} == {"loss"}
    pairs = zip((model, loss), before, strict=True)
    for now, then in ((p, q) for a, b in pairs for p, q in zip(a.parameters(), b.parameters(), strict=True)):
        assert torch.equal(now, then)
        assert now.grad is None
    step = Step(model, (torch.zeros(5, 3),), loss)
    assert compare(trace(lambda: step, device="cpu"), measure(step)).agrees


def test_a_loss_that_holds_only_what_the_model_holds_adds_nothing() -> None:
    class Around(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, output: Tensor) -> Tensor:
            return output.sum() + sum(p.square().sum() for p in self.model.parameters())

    model = nn.Linear(3, 4)
    found = trace(model, "float32[5, 3]", loss=Around(model), device="cpu")
    assert found.facts.modules == {"": "Linear"}


def test_an_optimizer_of_the_model_is_taken_as_it_is_set_and_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
    groups = [{"params": [model[0].weight]}, {"params": [model[1].weight], "weight_decay": 0.5}]
    optimizer = torch.optim.SGD(groups, lr=0.25, momentum=0.5)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    state = copy.deepcopy(optimizer.state_dict())
    step = optimizer.step
    found = trace(model, "float32[2, 3]", loss=torch.sum, optimizer=optimizer)
    assert found.facts.optimizer["class"] == "SGD"
    assert (found.facts.optimizer["lr"], found.facts.optimizer["momentum"]) == (0.25, 0.5)
    names = [s.name for s in found.select_storages(category="optimizer_state")]
    assert names == ["0.weight/momentum_buffer", "1.weight/momentum_buffer"]
    now = optimizer.state_dict()
    assert (now["param_groups"], list(now["state"])) == (state["param_groups"], list(state["state"]))
    for place, values in state["state"].items():
        assert torch.equal(values["momentum_buffer"], now["state"][place]["momentum_buffer"])
    assert optimizer.step is step
    with pytest.raises(ForetraceError, match="parameters that are not those of the module"):
        trace(nn.Linear(3, 4), "float32[2, 3]", loss=torch.sum, optimizer=optimizer)


REFUSED = {
    "a loss that is no function": ({"loss": "mse"}, "the loss is of type str"),
    "a loss that is a tensor": ({"loss": torch.zeros(4)}, "the loss is of type Tensor"),
    "a loss of nothing trained": ({"loss": lambda output: output.detach().sum()}, "nothing that is trained leads to"),
    "a loss that is whole numbers": ({"loss": lambda output: output.argmax()}, "nothing that is trained leads to"),
    "another step": ({"step": "train"}, "there is no step 'train'"),
    "several optimizers": ({"loss": torch.sum, "optimizer": [torch.optim.SGD]}, "list is no optimizer"),
    "one input more": ({"inputs": "float32[2, 3]; float32[2, 3]"}, "too many positional arguments.*It takes"),
    "another name": ({"inputs": "x: float32[2, 3]"}, "Linear cannot be called with these inputs.*input: "),
}


@pytest.mark.parametrize(("given", "message"), REFUSED.values(), ids=REFUSED)
def test_what_makes_no_step_is_refused_with_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ForetraceError, match=message):
        trace(nn.Linear(3, 4), **{"inputs": "float32[2, 3]", **given}, device="cpu")


def test_a_hook_may_give_a_module_what_it_was_not_given() -> None:
    model = Language()
    model.register_forward_pre_hook(lambda module, args: (args[0], args[0]))
    assert trace(model, "int64[2, 3]", device="cpu").ops


def test_frozen_modules_have_no_step_but_an_inference() -> None:
    model = nn.Linear(3, 4).requires_grad_(False)
    with pytest.raises(ForetraceError, match=r'nothing that is trained.*step="inference"'):
        trace(model, "float32[2, 3]", loss=torch.sum, device="cpu")
    assert [op.packet for op in trace(model, "float32[2, 3]", step="inference").ops][-1] == "aten.addmm"
