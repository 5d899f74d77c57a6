"""The figures in the documents are what the programs print."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_the_accounting_page_shows_what_its_program_prints() -> None:
    program = ROOT / "examples" / "accounting.py"
    command = [sys.executable, "-W", "ignore", str(program)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    page = (ROOT / "docs" / "accounting.md").read_text()
    for block in printed.strip().split("\n\n"):
        assert f"```\n{block}\n```" in page


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
