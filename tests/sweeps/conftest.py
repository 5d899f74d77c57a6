"""A folder of targets, and a log of their calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swept import MODELS, Here


@pytest.fixture
def here() -> Here:
    return Here()


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the targets note that they were called; one file, because tracing processes keep their environment."""
    patch = pytest.MonkeyPatch()
    path = tmp_path_factory.mktemp("log") / "calls"
    patch.setenv("CALLS", str(path))
    yield path
    patch.undo()


@pytest.fixture
def calls(log: Path) -> Callable[[], list[str]]:
    """The calls of targets since the test began."""
    log.write_text("")
    return lambda: log.read_text().splitlines()


@pytest.fixture
def folder(tmp_path: Path, calls: object, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with ``models.py`` in it."""
    (tmp_path / "models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    return tmp_path
