"""When a tracing process is kept, replaced, or asked again; without any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from foretrace.hardware import load
from foretrace.sweeps import Failure, Point, Task, worker

POINT = Point(number=0, target="a.py:f", parameters={}, profile=load("l4"))
TASK = Task(points=(POINT, POINT), root="/")
DIED = Failure(kind="Died", message="gone")
GOOD: worker.Answer = ({}, (Failure(kind="No", message="no"),) * 2)


class Fake:
    """A process that answers as it is told."""

    script: list[tuple[bool, Any]]
    """For each question whether the task is begun, and the answer."""
    made: list[Fake]

    def __init__(self) -> None:
        self.alive, self.begun, self.resident_bytes = True, False, 0
        self.made.append(self)

    def ask(self, task: Task) -> Any:
        self.begun, said = self.script.pop(0)
        self.alive = not isinstance(said, Failure)
        return said

    def end(self) -> None:
        self.alive = False


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Fake]]:
    monkeypatch.setattr(worker, "TracingProcess", Fake)
    monkeypatch.setattr(worker, "_MINE", type("Mine", (), {})())
    Fake.script, Fake.made = [], []
    yield Fake.made
    assert Fake.script == []


def test_one_process_answers_task_after_task(fakes: list[Fake]) -> None:
    Fake.script = [(True, GOOD)] * 3
    assert [worker.answer(TASK) for _ in range(3)] == [GOOD] * 3
    assert len(fakes) == 1


def test_a_process_that_keeps_too_much_is_replaced(fakes: list[Fake]) -> None:
    Fake.script = [(True, GOOD)] * 2
    worker.answer(TASK)
    fakes[0].resident_bytes = worker.MOST_IDLE_BYTES + 1
    worker.answer(TASK)
    assert [fake.alive for fake in fakes] == [False, True]


def test_a_process_that_died_before_it_began_is_no_fault_of_the_task(fakes: list[Fake]) -> None:
    Fake.script = [(False, DIED), (True, GOOD)]
    assert worker.answer(TASK) == GOOD
    assert len(fakes) == 2


def test_one_that_never_begins_is_given_up(fakes: list[Fake]) -> None:
    Fake.script = [(False, DIED)] * 2
    assert worker.answer(TASK) == ({}, (DIED, DIED))


@pytest.mark.parametrize("kind", ["Died", "TimeLimit", "MemoryLimit"])
def test_one_that_fails_at_the_task_is_its_answer_and_the_next_has_a_new_one(kind: str, fakes: list[Fake]) -> None:
    failure = Failure(kind=kind, message="no")
    Fake.script = [(True, failure), (True, GOOD)]
    assert worker.answer(TASK) == ({}, (failure, failure))
    assert worker.answer(TASK) == GOOD
    assert len(fakes) == 2
