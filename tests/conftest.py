"""What every test may use."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
from hypothesis import settings

from foretrace.graph import StepGraph, laws

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden from what is printed now")


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed has 80 columns, however wide the terminal is in which the tests run."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def every_trace_is_legal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test traces in this process obeys the laws of a graph."""
    if "tracer" in request.node.nodeid or "foretrace.tracer" in importlib.sys.modules:
        door = importlib.import_module("foretrace.tracer.trace")
        lift = door.lift

        def checked(*args: object) -> StepGraph:
            graph = lift(*args)
            laws.check(graph)
            return graph

        monkeypatch.setattr(door, "lift", checked)
    yield
