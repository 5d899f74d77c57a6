"""The figures in the documents are what the programs print."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise, product
from pathlib import Path

import pytest

import foretrace
from foretrace.cli import main
from foretrace.costmodels import timeline
from foretrace.costmodels.formula import Polynomial, letters_for, parse, written
from foretrace.graph import Phase

ROOT = Path(__file__).resolve().parent.parent


def test_the_accounting_page_shows_what_its_program_prints() -> None:
    program = ROOT / "examples" / "accounting.py"
    command = [sys.executable, "-W", "ignore", str(program)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    page = (ROOT / "docs" / "accounting.md").read_text()
    for block in printed.strip().split("\n\n"):
        assert f"```\n{block}\n```" in page


def test_the_accounting_page_shows_what_plan_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "accounting.md").read_text()
    (command,) = (line.strip() for line in page.splitlines() if line.startswith("    foretrace plan "))
    monkeypatch.chdir(ROOT)
    assert main(command.split()[1:]) == 0
    assert f"```\n{capsys.readouterr().out.strip()}\n```" in page


def test_the_readme_shows_what_run_prints(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    command, *shown = (ROOT / "README.md").read_text().split("```\n$ foretrace ")[1].split("\n```")[0].splitlines()
    monkeypatch.chdir(ROOT)
    assert main(command.split()) == 0
    printed = capsys.readouterr().out
    for part in "\n".join(shown).split("\n...\n"):
        assert part.removesuffix("\n...") in printed


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("matplotlib")
    cells = json.loads((ROOT / "examples" / "what_the_step_keeps.ipynb").read_text())["cells"]
    program = tmp_path / "notebook.py"
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    program.write_text("\n\n".join(['import matplotlib\nmatplotlib.use("Agg")', *code]) + "\nprint(saved, len(page))\n")
    printed = subprocess.run([sys.executable, "-W", "ignore", str(program)], capture_output=True, text=True, check=True)
    saved, letters = map(int, printed.stdout.split())
    assert saved > 0 and letters > 100_000


PAGE = ROOT / "docs" / "accounting.md"
FULL = {"seq": 1024, "layers": 48, "width": 1600, "heads": 25, "vocab": 50257}
SIZES = {"batch": 3, "seq": 200, "layers": 4, "width": 320, "heads": 5, "vocab": 900}
TEXTBOOK = f"{ROOT / 'examples' / 'closed_forms.py'}:textbook"
BLOCK = re.compile(r"^(\w+) attention, (\w+), (\w+) AdamW$\n((?:^  .*$\n)+)", re.MULTILINE)


def documented() -> dict[tuple[str, str, str], list[str]]:
    """The lines of each way to run the step on the page with its closed forms."""
    return {(a, p, o): text.splitlines() for a, p, o, text in BLOCK.findall(PAGE.read_text())}


def read(text: str) -> Polynomial:
    plain = re.sub(r"⌈T⌉₃₂", "(32*ceiling(T/32))", text.replace(",", ""))
    return parse(plain, letters_for(list(SIZES)))


def unrounded(text: str, sizes: dict[str, int]) -> int:
    value = read(text).at(**sizes)
    assert isinstance(value, int)
    return value


@pytest.mark.parametrize("way", sorted(documented()), ids="-".join)
def test_the_closed_forms_of_the_page_are_those_of_a_trace(way: tuple[str, str, str]) -> None:
    attention, precision, optimizer = way
    lines = [line.strip() for line in documented()[way]]
    how = {"optimizer": "adamw:fused"} if optimizer == "fused" else {}
    how |= {} if precision == "float32" else {"autocast": precision}
    graph = foretrace.trace_target(TEXTBOOK, {**SIZES, "fused": attention == "fused"}, **how)
    found = timeline(graph)
    formulas = {title: formula for title, formula in pairwise(lines) if not title.startswith("largest")}
    saved = formulas.pop("saved for backward")
    assert unrounded(saved, SIZES) == found.saved_for_backward_bytes
    live = [unrounded(formula, SIZES) for title, formula in formulas.items() if title.startswith("live in")]
    assert max(live) <= found.peak_bytes
    assert set(live) <= set(found.live_bytes)
    assert unrounded(formulas["after forward"], SIZES) == found.phases[Phase.FORWARD].end_bytes


@pytest.mark.parametrize("way", sorted(documented()), ids="-".join)
def test_the_lines_over_the_batch_alone_are_the_closed_forms_at_the_full_size(way: tuple[str, str, str]) -> None:
    lines = [line.strip() for line in documented()[way]]
    pairs = [(formula, line) for formula, line in pairwise(lines) if line.startswith("= ")]
    assert len(pairs) >= 2
    for formula, line in pairs:
        assert read(formula).subs(**FULL) == read(line.removeprefix("= "))


def test_the_table_of_largest_batches_is_that_of_the_closed_forms() -> None:
    rows = re.findall(
        r"^\| (eager|fused) \| (\w+) \| (\w+) \| (.*) \| (.*) \| (\d+) \| (\d+) \|$", PAGE.read_text(), re.M
    )
    assert {tuple(row[:3]) for row in rows} == set(documented())
    for *way, large, small, live, reserved in rows:
        lines = [line.strip() for line in documented()[way[0], way[1], way[2]]]
        assert {f"= {large}", f"= {small}"} <= set(lines)
        assert [line.split()[2] for line in lines if line.startswith("largest batch")] == [live, reserved]


def test_the_page_has_all_ways_that_it_names() -> None:
    assert set(documented()) == set(product(("eager", "fused"), ("float32", "bfloat16"), ("foreach", "fused")))


@pytest.mark.parametrize(("text", "coefficients"), [("6*(12*L*d^2 + 2*L*d + 2*V*d + d)*B*T", {"72", "12"})])
def test_the_rule_of_six_on_the_page(text: str, coefficients: set[str]) -> None:
    letters = letters_for(list(SIZES))
    assert {str(c) for c in parse(text, letters).terms.values()} == coefficients | {"6"}


def test_a_formula_of_pytorch_code_with_padding_in_a_kernel() -> None:
    """Memory-efficient attention pads its row statistics to 32."""
    target = f"{ROOT / 'examples' / 'gpt2_xl.py'}:gpt2_xl"
    fixed = {"layers": 2, "width": 64, "heads": 2, "vocab": 101, "batch": 3, "seq": 512}
    found = foretrace.formula(target, "batch,seq", parameters=fixed, held_out=5)
    assert "16·B·⌈T⌉₃₂" in written(found.saved_for_backward.polynomial, found.letters)
    for batch, seq in ((5, 77), (2, 32)):
        peak = timeline(foretrace.trace_target(target, {**fixed, "batch": batch, "seq": seq})).peak_bytes
        assert found.at("peak", batch=batch, seq=seq) == peak
