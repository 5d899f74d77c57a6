"""``foretrace measure``: a real run beside the prediction, as a person sees it and as a program reads it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import foretrace
from foretrace import ForetraceError, StepGraph, cli
from foretrace.costmodels import Beside, How, compare
from foretrace.graph import Phase
from foretrace.tracer import Step, measure, trace
from foretrace.tracer.real import materialise

MODEL = """
import torch
from torch import nn


def make(width=8):
    model = nn.Sequential(nn.Linear(width, 16), nn.Tanh(), nn.Linear(16, 1))
    return model, (torch.zeros(4, width),), lambda output: output.sum()


def tied():
    with torch.device("meta"):
        model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 10, bias=False), nn.BatchNorm1d(10))
    model[1].weight = model[0].weight
    return model, (torch.zeros(6, dtype=torch.long),), lambda output: output.sum()


class Chooses(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = nn.Linear(4, 4)

    def forward(self, x):
        kept = (x > 0).all(-1).nonzero()[:, 0]
        return self.score(x)[kept].square().sum()


def chooses():
    x = torch.full((2000, 4), -1.0)
    x[:30] = 1
    return Chooses(), (x,), lambda loss: loss


class Inverts(nn.Linear):
    def forward(self, x):
        return super().forward(torch.linalg.inv(x)).sum()


def singular():
    return Inverts(300, 1), (torch.zeros(300, 300),)
"""

SCREEN = """\
model.py:make
  cpu, AdamW, step 2; 67 ops
  live bytes, counted from the start of the step

                    predicted    measured    difference
end of forward          256 B       256 B           0 B
end of backward         644 B       644 B           0 B
end of optimizer        644 B       644 B           0 B
end of zero grad          0 B         0 B           0 B
peak                  1,668 B     1,680 B         +12 B

live bytes        equal at the end of every phase
peak              equal without scratch inside kernels: a Python number 8 B, div
                  4 B
first difference  none
"""
"""16 x 4 floats of tanh's result are kept for backward; the gradients are of 8 x 16 + 16 + 16 + 1 floats."""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main(command.split())
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_screen(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("measure model.py:make", capsys)
    assert (code, out) == (0, SCREEN)


def test_parameters_optimizer_and_warm_up_reach_both_runs(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("measure model.py:make -p width=32 --optimizer sgd --warmup 0 --format json", capsys)
    document = json.loads(out)
    gradients = 4 * (32 * 16 + 16 + 16 + 1)
    assert code == 0 and document["agrees"]
    output_and_loss = 4 * (4 + 1)
    held = gradients + output_and_loss
    assert document["ends"]["backward"] == {"predicted_bytes": held, "measured_bytes": held}
    assert document["first_difference"] is None and document["assumptions"] == []


def test_inputs_as_a_text_reach_both_runs(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run("measure model.py:make --input float32[batch,8] -p batch=6 --format json", capsys)
    assert code == 0, err
    kept = 6 * 16 * 4
    assert json.loads(out)["ends"]["forward"] == {"predicted_bytes": kept, "measured_bytes": kept}


def test_a_module_on_meta_gets_memory_and_stays_tied(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("measure model.py:tied", capsys)[0] == 0
    with torch.device("meta"):
        model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 10), nn.BatchNorm1d(10))
    model[1].weight = model[0].weight
    model[1].bias.requires_grad_(False)
    materialise(model)
    assert model[1].weight is model[0].weight and isinstance(model[0].weight, nn.Parameter)
    assert [p.requires_grad for p in model[1].parameters()] == [True, False]
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"cpu"}
    assert 0 < model[0].weight.abs().max() < 1 and model[2].running_var.min() >= 0
    assert model[2].num_batches_tracked.item() == 0


def test_too_large_for_the_machine_is_refused_before_it_runs(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foretrace.hardware.host.available_bytes", lambda: 2000)
    monkeypatch.setattr("foretrace.tracer.measure", lambda *_, **__: pytest.fail("it ran"))
    code, out, err = run("measure model.py:make", capsys)
    error, mend = err.splitlines()[-2:]
    assert (code, out) == (2, "")
    assert error.startswith("error: the step's peak of ") and "80 %" in error and mend.startswith("mend: ")


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("measure model.py", "error: model.py is no target to run"),
        ("measure model.py:mak", "error: model.py has no 'mak'"),
        ("measure model.py:make --warmup -1", "error: warmup is -1"),
        ("measure model.py:singular", "error: the real run raised _LinAlgError: linalg.inv"),
    ],
)
def test_bad_input_is_one_line_and_a_mend(
    desk: Path, capsys: pytest.CaptureFixture[str], command: str, error: str
) -> None:
    code, out, err = run(command, capsys)
    assert (code, out) == (2, "")
    assert err.splitlines()[-2].startswith(error) and err.splitlines()[-1].startswith("mend: ")


def without_birth(graph: StepGraph, storage: int) -> StepGraph:
    return replace(
        graph, events=tuple(event for event in graph.events if event.storage != storage), spans=spans(graph, storage)
    )


def spans(graph: StepGraph, storage: int) -> tuple[foretrace.graph.Span, ...]:
    """Where the phases lie among the events that are left."""
    at = [0]
    for event in graph.events:
        at.append(at[-1] + (event.storage != storage))
    return tuple(replace(s, first_event=at[s.first_event], end_event=at[s.end_event]) for s in graph.spans)


def born_of(graph: StepGraph, packet: str) -> int:
    return next(s.id for s in graph.storages if s.born is not None and graph.ops[s.born].packet == packet)


def test_a_birth_that_was_not_predicted_is_the_first_difference(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = foretrace.tracer.trace_target

    def wrong(*given: object, **named: object) -> StepGraph:
        graph = traced(*given, **named)
        return without_birth(graph, born_of(graph, "aten.tanh"))

    monkeypatch.setattr("foretrace.tracer.trace_target", wrong)
    code, out, _ = run("measure model.py:make --format json", capsys)
    first = json.loads(out)["first_difference"]
    assert code == 1
    assert {key: first[key] for key in ("how", "name", "module", "running")} == {
        "how": "unpredicted",
        "name": "aten.tanh.default",
        "module": "1",
        "running": ["aten::tanh"],
    }
    assert (first["predicted_bytes"], first["measured_bytes"]) == (0, 4 * 16 * 4)
    shown = run("measure model.py:make", capsys)[1]
    assert "first difference  tanh, in forward, 1" in shown
    assert "end of forward" in shown and "-256 B" not in shown and "+256 B" in shown


def perceptron() -> Step:
    return Step(nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)), (torch.zeros(4, 8),), torch.sum)


def test_a_birth_that_did_not_happen_is_the_first_difference() -> None:
    step = perceptron()
    larger = Step(nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Tanh(), nn.Linear(16, 1)), step.inputs, torch.sum)
    graph = trace(larger.model, larger.inputs, loss=larger.loss, device="cpu")
    found = compare(graph, measure(step))
    assert not found.agrees and found.first is not None and found.first.op is not None
    assert (found.first.how, found.first.op.name, found.first.op.module) == (How.MISSING, "aten.tanh.default", "2")
    assert found.first.bytes == Beside(4 * 16 * 4, 0)
    assert found.ends[Phase.FORWARD].difference_bytes == -4 * 16 * 4


def test_another_size_is_the_first_difference() -> None:
    graph = trace(perceptron().model, (torch.zeros(5, 8),), loss=torch.sum, device="cpu")
    found = compare(graph, measure(perceptron()))
    assert found.first is not None and found.first.op is not None
    assert (found.first.how, found.first.op.name) == (How.RESIZED, "aten.addmm.default")
    assert found.first.bytes == Beside(4 * 16 * 5, 4 * 16 * 4)


def test_what_is_freed_later_than_predicted_is_the_first_difference() -> None:
    step = perceptron()
    graph = trace(step.model, step.inputs, loss=step.loss, device="cpu")
    kept: list[torch.Tensor] = []
    step.model[1].register_forward_hook(lambda module, given, output: kept.append(output.detach()))
    found = compare(graph, measure(step))
    assert found.first is not None and found.first.op is not None
    assert (found.first.how, found.first.op.name) == (How.FREED_LATER, "aten.tanh.default")
    assert found.first.bytes == Beside(0, 4 * 16 * 4)


def test_an_assumption_is_read_off_and_set_to_it_the_trace_is_exact(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run("measure model.py:chooses", capsys)
    assert code == 1
    line = next(n for n, text in enumerate(MODEL.splitlines(), 1) if "nonzero()" in text)
    assert f"--assume model.py:{line}=30" in " ".join(out.split())
    truth = measure("model.py:chooses")
    graph = foretrace.trace_target("model.py:chooses", device="cpu", assume={f"model.py:{line}": 30})
    found = compare(graph, truth)
    assert found.agrees and found.first is None
    assert [reading.real_counts for reading in found.readings] == [(30,)]
    assert run(f"measure model.py:chooses --assume model.py:{line}=30", capsys)[0] == 0


def test_randomness_is_left_where_it_was() -> None:
    step = perceptron()
    before = torch.get_rng_state()
    measure(step)
    assert torch.equal(torch.get_rng_state(), before)


def test_inputs_on_meta_get_values() -> None:
    seen: list[torch.Tensor] = []
    model = nn.Linear(8, 1)
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    measure(Step(model, (torch.empty(4, 8, device="meta"),), torch.sum))
    assert 0 < seen[0].abs().max() < 1


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ForetraceError, match="int, which cannot be traced"):
        measure(lambda: 3)
