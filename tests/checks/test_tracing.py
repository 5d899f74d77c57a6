"""Traces in processes and in this one: each as if it were alone, and none takes another down."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from foretrace.commands.tracing import Request, Store, jobs_for, trace_all
from foretrace.graph import ForetraceError, StepGraph

NOWHERE = Store(None)


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


STEP = "import torch\ndef make():\n    return torch.nn.Linear(8, WIDTH), (torch.zeros(4, 8),), lambda y: y.sum()\n"


def widths(answers: list[StepGraph | ForetraceError]) -> list[object]:
    return [
        answer.facts.parameters[0].shape[0] if isinstance(answer, StepGraph) else answer.message for answer in answers
    ]


@pytest.mark.parametrize("jobs", [1, 2])
def test_one_target_does_not_disturb_another(jobs: int, tmp_path: Path) -> None:
    """Two projects with a module of the same name; one changes what torch does by default, one dies."""
    one = write(tmp_path / "one", sizes="WIDTH = 3", step=f"from sizes import WIDTH\n{STEP}")
    two = write(tmp_path / "two", sizes="WIDTH = 5", step=f"from sizes import WIDTH\n{STEP}")
    loud = "import torch, os\ntorch.set_default_dtype(torch.float64)\nos.chdir('/')\nprint('noise')\nWIDTH = 7\n"
    three = write(tmp_path / "three", step=loud + STEP)
    broken = write(tmp_path / "four", step="raise SystemError('no')")
    requests = [Request(step="step.py:make", root=root) for root in (three, one, broken, two, three)]
    before, search = os.getcwd(), list(sys.path)
    answers, known = trace_all(requests, NOWHERE, jobs)
    assert known == 0
    assert widths(answers) == [7, 3, "importing step.py raised SystemError: no at step.py:1", 5, 7]
    dtypes = [answer.facts.parameters[0].dtype for answer in answers if isinstance(answer, StepGraph)]
    assert dtypes == ["float64", "float32", "float32", "float64"]
    assert (os.getcwd(), sys.path, "sizes" in sys.modules) == (before, search, False)


def test_a_module_of_the_same_name_that_is_there_already_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = write(tmp_path / "elsewhere", sizes="WIDTH = 1")
    monkeypatch.syspath_prepend(elsewhere)
    import sizes

    root = write(tmp_path / "root", sizes="WIDTH = 2", step=f"from sizes import WIDTH\n{STEP}")
    assert widths(trace_all([Request(step="step.py:make", root=root)], NOWHERE, 1)[0]) == [2]
    assert sys.modules.pop("sizes") is sizes and sizes.WIDTH == 1


def test_a_process_that_dies_is_one_error(tmp_path: Path) -> None:
    dies = write(tmp_path / "dies", step=f"import os\nWIDTH = 1\nos.kill(os.getpid(), 9)\n{STEP}")
    lives = write(tmp_path / "lives", step=f"WIDTH = 2\n{STEP}")
    answers, _ = trace_all([Request(step="step.py:make", root=root) for root in (dies, lives)], NOWHERE, 2)
    assert widths(answers) == ["the process that traced step.py:make ended with signal 9", 2]


def test_the_answers_are_the_same_however_many_processes_there_are(project: Path) -> None:
    requests = [Request(step=f"train.py:{name}", root=project) for name in ("small", "distilled")]
    assert trace_all(requests, NOWHERE, 1)[0] == trace_all(requests, NOWHERE, 2)[0]


def test_what_a_target_prints_is_no_part_of_the_result(project: Path, run) -> None:
    with open(project / "train.py", "a") as file:
        file.write("\nprint('noise')\n")
    assert "noise" not in run("check", "--jobs", "1", "--no-cache")[1]


@pytest.mark.parametrize(("count", "asked", "most"), [(5, 1, 1), (5, 3, 3), (2, 8, 2), (0, 4, 1)])
def test_no_more_processes_than_traces(count: int, asked: int, most: int) -> None:
    assert jobs_for(count, asked) == most
    assert 1 <= jobs_for(count, None) <= max(1, min(count, os.cpu_count() or 1))


def test_a_number_of_processes_is_one_or_more(run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("check", "--jobs", "0")
    assert "0 processes cannot trace" in capsys.readouterr().err
