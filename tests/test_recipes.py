"""Every recipe runs, and prints what the page says; ``pytest --update-golden`` rewrites what it says."""

from __future__ import annotations

import io
import os
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "recipes.md"
RECIPE = re.compile(r"^```python\n([\s\S]*?)^```\n\n```text\n([\s\S]*?)^```$", re.MULTILINE)
NEEDS = {"pandas": "pandas", "to_pandas": "pandas", "matplotlib": "matplotlib", ".parquet": "pyarrow"}


def recipes() -> list[tuple[str, str, str]]:
    """Heading, code and what it prints of each block."""
    page = PAGE.read_text()
    found = []
    for block in RECIPE.finditer(page):
        heading = page[: block.start()].rpartition("\n## ")[2].splitlines()[0]
        found.append((heading if "\n## " in page[: block.start()] else "before all", block[1], block[2]))
    return found


RECIPES = recipes()


def printed_by(code: str, title: str, names: dict[str, object]) -> str:
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(code, f"{PAGE.name}: {title}", "exec"), names)
    return printed.getvalue()


@pytest.fixture(scope="module")
def first() -> dict[str, object]:
    """What the first block of the page defines."""
    names: dict[str, object] = {}
    before = Path.cwd()
    os.chdir(ROOT)
    printed_by(RECIPES[0][1], RECIPES[0][0], names)
    os.chdir(before)
    return names


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (ROOT / "build").mkdir(exist_ok=True)


@pytest.mark.parametrize("number", range(len(RECIPES)), ids=[title for title, _, _ in RECIPES])
def test_recipe(number: int, first: dict[str, object], request: pytest.FixtureRequest) -> None:
    title, code, expected = RECIPES[number]
    for word, package in NEEDS.items():
        if word in code:
            pytest.importorskip(package)
    got = printed_by(code, title, dict(first) if number else {})
    if request.config.getoption("--update-golden"):
        block = f"```python\n{code}```\n\n```text\n"
        PAGE.write_text(PAGE.read_text().replace(f"{block}{expected}```", f"{block}{got}```"))
    else:
        assert got == expected


def test_the_page_has_all_its_blocks() -> None:
    assert PAGE.read_text().count("```python") == len(RECIPES) >= 13
