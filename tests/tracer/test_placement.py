"""A step for CUDA that gives an op tensors of two devices is noted; one that PyTorch takes so is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foretrace.tracer import trace
from foretrace.tracer.placement import ALL, DIMENSIONED, _refusing

WIDTH, ROWS = 8, 4
Forward = Callable[["Model", torch.Tensor], torch.Tensor]


class Model(nn.Module):
    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.layer, self.table = nn.Linear(WIDTH, WIDTH), nn.Embedding(WIDTH, WIDTH)
        self.norm, self.convolution = nn.LayerNorm(WIDTH), nn.Conv1d(1, 1, 3)
        self.called = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.called(self, x).sum()


def notes(forward: Forward, device: str = "cuda") -> list[str]:
    step = trace(Model(forward), (torch.ones(ROWS, WIDTH),), loss=lambda out: out, device=device)
    return [note for note in step.facts.notes if "refuse" in note]


REFUSED: dict[str, Forward] = {
    "aten.add.Tensor": lambda m, x: m.layer(x) + torch.arange(WIDTH),
    "aten.embedding.default": lambda m, x: m.layer(x) + m.table(torch.arange(ROWS)),
    "aten.cat.default": lambda m, x: torch.cat([m.layer(x), torch.zeros(ROWS, WIDTH)]),
    "aten.where.self": lambda m, x: torch.where(torch.ones(ROWS, WIDTH, dtype=torch.bool), m.layer(x), 0.0),
    "aten.masked_fill.Scalar": lambda m, x: m.layer(x).masked_fill(torch.ones(ROWS, WIDTH, dtype=torch.bool), 0),
    "aten.mm.default": lambda m, x: m.layer(x) @ torch.ones(WIDTH, WIDTH),
    "aten.nll_loss_forward.default": lambda m, x: F.cross_entropy(m.layer(x), torch.zeros(ROWS, dtype=torch.int64)),
    "aten.native_layer_norm.default": lambda m, x: m.layer(x) + m.norm(torch.ones(ROWS, WIDTH)),
    "aten.convolution.default": lambda m, x: m.layer(x).sum() + m.convolution(torch.ones(1, 1, WIDTH)),
    "aten.index.Tensor": lambda m, x: m.layer(x).sum() + torch.ones(WIDTH)[x.long()],
    "aten.index_put_.default": lambda m, x: m.layer(x).index_put((torch.arange(2),), torch.ones(2, WIDTH)),
    "aten.gather.default": lambda m, x: m.layer(x).gather(0, torch.zeros(ROWS, WIDTH, dtype=torch.int64)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_first_op_that_a_gpu_would_refuse_is_noted_with_its_line(name: str) -> None:
    (note,) = notes(REFUSED[name])
    line = REFUSED[name].__code__.co_firstlineno
    packet = name.rsplit(".", 1)[0].rstrip("_")
    assert f"test_placement.py:{line}" in note and packet in note
    assert notes(REFUSED[name], "cpu") == []


TAKEN: dict[str, Forward] = {
    "a number": lambda m, x: m.layer(x) * torch.tensor(2.0),
    "indices from the CPU": lambda m, x: m.layer(x)[torch.arange(2)],
    "a number put at indices": lambda m, x: m.layer(x).index_put((torch.arange(2),), torch.tensor(1.0)),
    "a copy": lambda m, x: m.layer(x) + torch.empty_like(x).copy_(torch.ones(ROWS, WIDTH)),
    "a move": lambda m, x: m.layer(x) + torch.arange(WIDTH).to(x.device),
    "nothing": lambda m, x: torch.cat([m.layer(x), torch.zeros(0, WIDTH, device=x.device)]),
    "both on the CPU": lambda m, x: m.layer(x).sum() + float((torch.ones(3) + torch.ones(3)).sum()),
    "targets of a CTC loss": lambda m, x: F.ctc_loss(
        m.layer(x)[:, None].log_softmax(-1), torch.ones(1, 2, dtype=torch.int64), (ROWS,), (2,)
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_pytorch_takes_is_not_noted(name: str) -> None:
    assert notes(TAKEN[name]) == []


def test_further_places_are_counted() -> None:
    def forward(m: Model, x: torch.Tensor) -> torch.Tensor:
        x = m.layer(x) + torch.arange(WIDTH)
        x = x * torch.arange(WIDTH)
        return x - torch.arange(WIDTH)

    (note,) = notes(forward)
    assert "aten.add.Tensor" in note and "and so at 2 more" in note


def test_the_declarations_of_the_installed_torch_are_read() -> None:
    told = _refusing()
    assert len(told) > 1000
    assert {
        told[f"aten.{name}"] for name in ("mm.default", "cat.default", "gather.default", "index_select.default")
    } == {ALL}
    assert {told[f"aten.{name}"] for name in ("add.Tensor", "where.self", "masked_fill.Scalar")} == {DIMENSIONED}
    assert not {"aten.copy_.default", "aten._foreach_add_.Tensor", "aten._to_copy.default"} & told.keys()


def test_a_loss_that_is_a_module_is_on_the_device_as_the_model_is() -> None:
    criterion = nn.CrossEntropyLoss(weight=torch.ones(2000))

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.criterion = nn.Linear(WIDTH, 2000), criterion

        def forward(self, out: torch.Tensor) -> torch.Tensor:
            return self.criterion(self.head(out), torch.zeros(len(out), dtype=torch.int64, device=out.device))

    loss = Loss()
    step = trace(nn.Linear(WIDTH, WIDTH), (torch.ones(ROWS, WIDTH),), loss=loss, device="cuda")
    assert step.facts.notes == ()
    held = {named.name: step.storages[named.storage] for named in (*step.facts.parameters, *step.facts.buffers)}
    assert list(held) == ["weight", "bias", "loss.head.weight", "loss.head.bias", "loss.criterion.weight"]
    assert {storage.device for storage in held.values()} == {"cuda:0"}
    assert held["loss.criterion.weight"].bytes == 4 * 2000
    assert criterion.weight is not None and criterion.weight.device.type == "cpu" and loss.head.weight.grad is None
