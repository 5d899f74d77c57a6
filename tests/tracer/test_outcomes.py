"""What data decided in a real run, and the trace that is handed it: exact where sizes and branches depend on data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from foretrace import ForetraceError, Outcomes, StepGraph, cli
from foretrace.costmodels import compare
from foretrace.graph import Outcome, Phase, Result, load_outcomes
from foretrace.tracer import Step, measure, observe, trace
from foretrace.tracer.assumptions import IN_PROPORTION
from foretrace.tracer.replay import AS_RUN
from zoo_data import DATA
from zoo_oddities import ODDITIES

ASSUMING = ("linear_algebra", "masked_select_of_data", "scaler_and_schedule")
"""Of the oddities those that need an assumption, and are not like one of `DATA`."""

STEPS = {**DATA, **{name: ODDITIES[name] for name in ASSUMING}}


def made(name: str) -> Step:
    torch.manual_seed(0)
    return STEPS[name]()


def traced(step: Step, device: str = "cpu", **how: object) -> StepGraph:
    return trace(
        step.model, step.inputs, loss=step.loss, optimizer=step.optimizer, step=step.step, device=device, **how
    )


@pytest.mark.parametrize("name", STEPS)
def test_set_to_what_the_run_did_live_bytes_are_those_of_the_run(name: str) -> None:
    graph = traced(made(name), outcomes=observe(made(name)), strict=True)
    found = compare(graph, measure(made(name)))
    assert {phase: end.difference_bytes for phase, end in found.ends.items()} == dict.fromkeys(found.ends, 0)
    held = found.start_bytes + found.peak.measured_bytes
    assert abs(found.peak.difference_bytes) <= 0.001 * held


@pytest.mark.parametrize("name", DATA)
def test_without_a_run_the_defaults_trace(name: str) -> None:
    assert traced(made(name), device="cuda").ops


class Keeps(nn.Module):
    """Keeps the rows that score above zero."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(64, 1, bias=False)
        with torch.no_grad():
            self.score.weight.fill_(1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[self.score(x)[:, 0] > 0].square().mean() + 0 * self.score.weight.sum()


LINE = f"test_outcomes.py:{Keeps.forward.__code__.co_firstlineno + 1}"


def rows(count: int, above: int) -> torch.Tensor:
    """So many rows, the first of them above zero."""
    x = torch.full((count, 64), -1.0)
    x[:above] = 1.0
    return x


def kept(graph: StepGraph) -> list[tuple[int, ...]]:
    return [op.outputs[0].shape for op in graph.ops if op.name == "aten.index.Tensor"]


def test_the_outcome_of_a_mask_is_its_size_and_its_share() -> None:
    outcomes = observe(Step(Keeps(), (rows(400, 100),)))
    assert len(outcomes.steps) == 3  # while the step was made, in the warm-up, and in the step
    found = {place: calls for place, calls in outcomes.steps[-1].items() if place[0] == "aten.index.Tensor"}
    assert [at.endswith(LINE) for _, at in found] == [True]
    (calls,) = found.values()
    assert calls == (Outcome(((400, 64), (400,)), (Result((100, 64), "float32"),), 0.25),)


def test_at_other_sizes_and_on_another_device_the_part_is_the_same() -> None:
    outcomes = observe(Step(Keeps(), (rows(400, 100),)))
    same = traced(Step(Keeps(), (rows(400, 0),)), outcomes=outcomes)
    larger = traced(Step(Keeps(), (rows(2000, 0),)), device="cuda", outcomes=outcomes)
    assert (kept(same), kept(larger)) == ([(100, 64)], [(500, 64)])
    assert [[a["assumed"] for a in graph.facts.assumptions] for graph in (same, larger)] == [[AS_RUN], [IN_PROPORTION]]


def test_a_setting_comes_before_an_outcome() -> None:
    outcomes = observe(Step(Keeps(), (rows(400, 100),)))
    graph = traced(Step(Keeps(), (rows(400, 0),)), outcomes=outcomes, assume={LINE: 7})
    assert kept(graph) == [(7, 64)]


def test_a_module_that_is_observed_is_trained_and_randomness_is_left_where_it_was() -> None:
    model, before = Keeps(), torch.get_rng_state()
    observe(Step(model, (rows(40, 10),)), warmup=2)
    assert model.score.weight.grad is None and torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(model.score.weight, torch.ones(1, 64))  # weight decay


def test_outcomes_are_written_and_read_again(tmp_path: Path) -> None:
    outcomes = observe(made("boxes"))
    outcomes.save(tmp_path / "outcomes.json")
    assert load_outcomes(tmp_path / "outcomes.json") == outcomes


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("no JSON", "holds no outcomes"),
        ('{"format": "foretrace-trace"}', "holds no outcomes"),
        ('{"format": "foretrace-outcomes", "schema_version": 0}', "another version"),
        ('{"format": "foretrace-outcomes", "schema_version": 1, "steps": [[{"op": 1}]]}', "is damaged"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "outcomes.json").write_text(text)
    with pytest.raises(ForetraceError, match=error):
        load_outcomes(tmp_path / "outcomes.json")
    with pytest.raises(ForetraceError, match="cannot read"):
        load_outcomes(tmp_path / "nothing.json")


MODEL = """
import torch
from torch import nn


class Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(64, 64)

    def forward(self, x):
        h = self.body(x)
        return h[h[:, 0] > 0].square().mean()


def make(batch=200):
    return Keeps(), (torch.randn(batch, 64),)
"""


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["measure", "model.py:make", "--save-outcomes", "run.json"]) == 1
    shown, _, as_run = capsys.readouterr().out.partition("with every assumption set to what the real run did")
    assert "live bytes        not equal" in shown
    assert "live bytes        equal at the end of every phase" in as_run
    assert cli.main(["measure", "model.py:make", "--outcomes", "run.json"]) == 0
    assert "with every assumption" not in capsys.readouterr().out
    assert cli.main(["run", "model.py:make", "-p", "batch=4000", "--outcomes", "run.json"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"assumed of the data: {IN_PROPORTION} (index.Tensor at model.py:13)" in said
    assert cli.main(["run", "model.py:make", "--outcomes", "model.py"]) == 2
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "error: model.py holds no outcomes",
        "mend: Write one with foretrace measure TARGET --save-outcomes FILE.",
    ]


def test_measured_as_a_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    cli.main(["measure", "model.py:make", "--format", "json"])
    document = json.loads(capsys.readouterr().out)
    assert (document["agrees"], document["as_run"]["agrees"]) == (False, True)


def test_no_outcomes_assume_as_ever() -> None:
    assert kept(traced(Step(Keeps(), (rows(400, 0),)), outcomes=Outcomes(()))) == [(400, 64)]


def test_a_number_dies_with_its_node() -> None:
    """``x * 2`` keeps the 2 for a gradient that nobody asks for, because ``floor`` is the last that is seen of it."""

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
        places = (model(x) * 2.5).detach().floor()
        (model(x) * 3.5 + places).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    def make() -> Step:
        torch.manual_seed(0)
        return Step(nn.Linear(64, 64), torch.randn(200, 64), step=step)

    found = compare(traced(make()), measure(make()))
    assert found.agrees
    assert found.ends[Phase.FORWARD].predicted_bytes == 4 * 200 * 64 + 4 + 8  # the floor, the sum, and the 3.5
