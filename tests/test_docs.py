"""The figures in the documents are what the programs print."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_accounting_page_shows_what_its_program_prints() -> None:
    program = ROOT / "examples" / "accounting.py"
    command = [sys.executable, "-W", "ignore", str(program)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    page = (ROOT / "docs" / "accounting.md").read_text()
    for block in printed.strip().split("\n\n"):
        assert f"```\n{block}\n```" in page
