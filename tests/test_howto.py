"""The programs of the how-to page and of the README run as they stand, and their commands with them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import foretrace
from foretrace import cli, override_rules, price
from foretrace.tracer import trace_target

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "howto.md").read_text()
README = (ROOT / "README.md").read_text()
FILE = re.compile(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the page."""
    folder = tmp_path_factory.mktemp("howto")
    for name, content in FILE.findall(PAGE):
        (folder / name).write_text(content)
    return folder


def commands() -> list[str]:
    """What the page says to type of its own files."""
    found = re.findall(r"^    (foretrace .*)$", PAGE, re.MULTILINE)
    return [command for command in found if re.search(r"own_\w*step\.py|my-gpu\.toml|foretrace check", command)]


def test_the_page_has_the_files_that_its_commands_name(desk: Path) -> None:
    assert {path.name for path in desk.iterdir()} >= {"own_step.py", "own_op.py", "my-gpu.toml", "foretrace.toml"}
    assert len(commands()) == 6


def test_the_commands_do_what_they_say(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    for command in commands():
        assert cli.main(command.split()[1:]) == 0, command
    assert "on My GPU (my-gpu)" in capsys.readouterr().out
    assert (desk / "foretrace-baseline.toml").exists()


def test_accumulation_is_traced_as_it_is_written(desk: Path) -> None:
    graph = trace_target(f"{desk / 'own_step.py'}:make_step", {"batch": 64, "parts": 8})
    matrix_products = [op for op in graph.ops if op.packet == "aten.addmm" and op.phase == "forward"]
    assert len(matrix_products) == 8 * 2


def test_an_optimizer_of_ones_own_is_the_traces(desk: Path) -> None:
    graph = trace_target(f"{desk / 'own_training_step.py'}:make_step", {"batch": 64})
    assert (graph.facts.optimizer["class"], graph.facts.optimizer["momentum"]) == ("SGD", 0.9)
    # A momentum for each of (64 + 1) * 128 + (128 + 1) * 10 numbers.
    state = sum(storage.bytes for storage in graph.select_storages(category="optimizer_state"))
    assert state == 4 * (65 * 128 + 129 * 10)


def test_a_rule_of_ones_own_prices_an_op_of_ones_own(desk: Path) -> None:
    graph = trace_target(f"{desk / 'own_op.py'}:make_step", {"batch": 8})
    (own,) = [place for place, op in enumerate(graph.ops) if op.packet == "mylib.scaled_square"]
    without = price(graph, on="a100-sxm4-80gb")
    assert [row.name for row in without.coverage.assumed] == ["mylib.scaled_square.default"]
    source = (desk / "own_op.py").read_text().partition("@torch.library")[0]
    names: dict[str, object] = {"__name__": "own_rules"}
    exec(compile(source, "own_op.py", "exec"), names)
    with override_rules(names["RULES"]):  # type: ignore[arg-type]
        with_rule = price(graph, on="a100-sxm4-80gb")
    assert json.loads(with_rule.to_json())["coverage"]["ops_assumed"] == []
    assert with_rule.priced[own].work.vector_flops == 2 * 8 * 256


def test_the_readme_s_minute_goes_as_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command on the README's program and on the trace that it saves; `calibrate` needs a profile of a GPU."""
    minute = README.split("## A minute\n")[1].split("\n## ")[0]
    for name, content in FILE.findall(minute):
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    typed = [line.partition("#")[0] for line in re.findall(r"^    foretrace (.*)$", minute, re.MULTILINE)]
    asked = [line.split() for line in typed if re.search(r"train\.py|step\.foretrace", line)]
    for words in asked:
        assert cli.main(words) == 0, words
    assert len(asked) > 12
    assert {"step.html", "diff.html", "sweep.svg", "step.pickle"} <= {path.name for path in tmp_path.iterdir()}


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "reference.md").read_text()
    for name in set(foretrace.__all__) - {"__version__"}:
        found = getattr(foretrace, name)
        home = found.__module__, found.__qualname__
        assert f"::: {'.'.join(home)}\n" in page, name
