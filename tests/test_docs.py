"""The figures in the documents are what the programs print."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from foretrace.cli import main

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
