"""What can be pointed at: a file of a package, a module that is there already, code that has a command line."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from foretrace.graph import ForetraceError
from foretrace.tracer import trace_target

BLOCK = """
from torch import nn

class Block(nn.Linear):
    pass
"""
NET = """
import torch
from ..sizes import WIDTH
from .block import Block

def make(batch=2):
    return Block(WIDTH, 1), (torch.zeros(batch, WIDTH),), torch.sum
"""


@pytest.mark.parametrize("marked", [True, False])
def test_a_file_is_found_by_the_name_that_its_relative_imports_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marked: bool
) -> None:
    package = f"net_package_{marked}"
    models = tmp_path / package / "models"
    models.mkdir(parents=True)
    for name, text in {"block.py": BLOCK, "net.py": NET, "../sizes.py": "WIDTH = 3"}.items():
        (models / name).write_text(text)
    if marked:
        for folder in (models, models.parent):
            (folder / "__init__.py").touch()
    search = list(sys.path)
    for folder in (tmp_path, models):
        monkeypatch.chdir(folder)
        path = (models / "net.py").relative_to(folder)
        graph = trace_target(f"{path}:make", {"batch": 5}, device="cpu")
        assert [named.shape for named in graph.facts.inputs] == [(5, 3)]
    assert f"{package}.models.net" in sys.modules
    assert sys.path == search


def test_a_module_or_a_step_that_is_there_already_is_a_target(tmp_path: Path) -> None:
    path = tmp_path / "ready_made.py"
    path.write_text(
        "import foretrace, torch\n"
        "model = torch.nn.Linear(3, 1)\n"
        'step = foretrace.Step(model, "float32[batch, 3]", torch.sum)\n'
    )
    graph = trace_target(f"{path}:step", {"batch": 5}, device="cpu")
    assert [named.shape for named in graph.facts.inputs] == [(5, 3)]
    with pytest.raises(ForetraceError, match="Linear was given no inputs"):
        trace_target(f"{path}:model", device="cpu")
    with pytest.raises(ForetraceError, match="unexpected keyword argument 'width'"):
        trace_target(f"{path}:step", {"batch": 5, "width": 3}, device="cpu")


def test_code_with_a_command_line_sees_none_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "with_arguments.py"
    path.write_text(
        "import argparse, sys, torch\n"
        "parser = argparse.ArgumentParser()\n"
        'parser.add_argument("--width", type=int, default=3)\n'
        "at_import = parser.parse_args()\n"
        "def make():\n"
        "    width = parser.parse_args().width\n"
        "    return torch.nn.Linear(width, 1), (torch.zeros(2, at_import.width),), torch.sum\n"
        "def demand():\n"
        '    parser.add_argument("--data", required=True)\n'
        "    parser.parse_args()\n"
        "def leave():\n"
        "    sys.exit()\n"
    )
    arguments = ["foretrace", "run", f"{path}:make"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert [named.shape for named in trace_target(f"{path}:make", device="cpu").facts.inputs] == [(2, 3)]
    assert sys.argv is arguments
    with pytest.raises(ForetraceError, match=r"demand ended the program"):
        trace_target(f"{path}:demand", device="cpu")
    with pytest.raises(ForetraceError, match=r"leave ended the program at .*with_arguments.py:12"):
        trace_target(f"{path}:leave", device="cpu")
    path.write_text("import sys\nsys.exit('no data')\n")
    with pytest.raises(ForetraceError, match=r"importing .*with_arguments.py ended the program at .*:2"):
        trace_target(f"{path}:make", device="cpu")
    assert sys.argv is arguments


def test_what_a_trace_imports_first_is_real_for_whoever_imports_it_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "first_in_a_trace"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tables.py").write_text("import torch\nTABLE = torch.rand(100, 200) + 1\n")
    (package / "models.py").write_text("import torch\nMODEL = torch.nn.Linear(200, 100)\n")
    (package / "plain.py").write_text("from torch import nn\nSMALL = 3\nclass Head(nn.Linear):\n    pass\n")
    (package / "step.py").write_text(
        "import torch\nfrom .models import MODEL\nfrom .plain import Head\nfrom .tables import TABLE\n"
        "def make(rows=4):\n    return torch.nn.Sequential(MODEL, Head(100, 1)), (TABLE[:rows],), torch.sum\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    graph = trace_target("first_in_a_trace.step:make", {"rows": 5})
    assert [named.shape for named in graph.facts.inputs] == [(5, 200)]
    names = {name.partition(".")[2] for name in sys.modules if name.startswith("first_in_a_trace")}
    assert names == {"", "plain"}
    step = importlib.import_module("first_in_a_trace.step")
    assert step.TABLE.min() >= 1 and float(step.MODEL.weight.detach().std()) > 0
    again = trace_target("first_in_a_trace.step:make", {"rows": 5})
    assert [op.name for op in again.ops] == [op.name for op in graph.ops]
    assert importlib.import_module("first_in_a_trace.step") is step and step.TABLE.min() >= 1


def test_each_of_two_projects_imports_its_own_neighbours(tmp_path: Path) -> None:
    text = "import torch\nfrom neighbour import WIDTH\nfrom parts.inner import MORE\n"
    text += "def make(): return torch.nn.Linear(WIDTH, MORE), (torch.ones(2, WIDTH),), lambda out: out.sum()\n"
    for name, width in (("one", 3), ("two", 5)):
        (tmp_path / name / "parts").mkdir(parents=True)
        (tmp_path / name / "same_name.py").write_text(text)
        (tmp_path / name / "neighbour.py").write_text(f"WIDTH = {width}\n")
        (tmp_path / name / "parts" / "__init__.py").write_text("")
        (tmp_path / name / "parts" / "inner.py").write_text(f"MORE = {width + 1}\n")
    (tmp_path / "three" / "parts").mkdir(parents=True)
    (tmp_path / "three" / "same_name.py").write_text("import parts\n" + text.replace("parts.", "neighbour_"))
    (tmp_path / "three" / "neighbour.py").write_text("WIDTH = 7\n")
    (tmp_path / "three" / "neighbour_inner.py").write_text("MORE = 8\n")
    for name, shape in (("one", (4, 3)), ("two", (6, 5)), ("three", (8, 7)), ("one", (4, 3))):
        step = trace_target(f"{tmp_path / name / 'same_name.py'}:make")
        assert step.facts.parameters[0].shape == shape
