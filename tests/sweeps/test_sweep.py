"""Rows are those of a trace by itself, whatever the executor; no point takes another down; nothing is done twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import foretrace
from foretrace.sweeps import Failure, Row
from foretrace.sweeps.row import figures
from foretrace.sweeps.worker import Processes
from swept import Here

A100, SMALLER, H100 = "a100-sxm4-80gb", "a100-pcie-40gb", "h100-sxm5-80gb"
Calls = Callable[[], list[str]]


def kinds(rows: tuple[Row, ...]) -> list[str]:
    return [row.failure.kind if row.failure else "done" for row in rows]


def test_a_row_is_what_the_report_of_that_trace_says(folder: Path, here: Here) -> None:
    (row,) = foretrace.sweep("models.py:linear", {"width": 16}, A100, executor=here, autocast="bfloat16").rows()
    graph = foretrace.trace_target("models.py:linear", {"width": 16}, autocast="bfloat16")
    expected = figures(foretrace.price(graph, on=A100))
    assert row == Row(number=0, target="models.py:linear", parameters={"width": 16}, hardware=A100, figures=expected)
    assert row.figures is not None and row.figures.parameters == 16 * 16 + 16


def test_a_trace_serves_all_profiles_of_a_capability(folder: Path, here: Here, calls: Calls) -> None:
    targets = ["models.py:linear", "models.py:other"]
    asked = foretrace.sweep(targets, {"width": [8, 16], "batch": range(1, 3)}, [A100, H100, SMALLER], executor=here)
    came = [row.number for row in asked]
    assert len(asked) == len(came) == 2 * 4 * 3
    assert came[:3] == [0, 2, 1]
    rows = asked.rows()
    assert [row.number for row in rows] == list(range(24))
    assert [row.target for row in rows] == [targets[0]] * 12 + [targets[1]] * 12
    assert [row.hardware for row in rows] == [A100, H100, SMALLER] * 8
    settings = [(8, 1), (8, 2), (16, 1), (16, 2)] * 2
    assert [(row.parameters["width"], row.parameters["batch"]) for row in rows[::3]] == settings
    assert calls() == [f"{width} {batch}" for width, batch in settings for _ in range(2)]
    assert kinds(rows) == ["done"] * 24


def test_what_goes_wrong_with_a_point_is_its_row_and_nobody_elses(folder: Path, here: Here) -> None:
    wrong = ["fine", "raises", "exits", "hangs", "grows", "dies", "fine"]
    points = [{"kind": kind} for kind in wrong]
    limits: Any = {"timeout": 8, "host_memory_bytes": 2 * 10**9}
    rows = foretrace.sweep("models.py:trouble", points, executor=here, **limits).rows()
    assert kinds(rows) == ["done", "ValueError", "SystemExit", "TimeLimit", "MemoryLimit", "Died", "done"]
    assert rows[1].failure == Failure(
        kind="ValueError",
        message="models.py:trouble raised ValueError: no such width at models.py:15",
        mend="Call it by itself to see the whole traceback.",
        line="models.py:15",
    )
    assert rows[3].failure is not None and rows[3].failure.message == "it took longer than 8 s"
    assert rows[5].failure is not None
    assert rows[5].failure.message == "the process that traced it ended with signal 9: the last words"
    assert rows[0].figures == rows[6].figures


# --- the store ---


def test_what_is_in_the_store_is_not_done_again(folder: Path, here: Here, calls: Calls) -> None:
    grid = {"width": [8, 16]}
    first = foretrace.sweep("models.py:linear", grid, [A100, H100], executor=here, store="store").rows()
    done = len(calls())
    again = foretrace.sweep("models.py:linear", grid, [A100, H100], executor=here, store="store").rows()
    assert again == first and all(row.stored for row in again) and not any(row.stored for row in first)
    more = foretrace.sweep("models.py:linear", {"width": [16, 8, 24]}, A100, executor=here, store="store").rows()
    assert [row.stored for row in more] == [True, True, False]
    assert calls()[done:] == ["24 4"]
    assert (folder / "store" / ".gitignore").read_text() == "*\n"


def test_a_changed_source_a_changed_profile_and_other_options_are_done_again(folder: Path, here: Here) -> None:
    def stored(profile: Any = A100, **how: Any) -> bool:
        (row,) = foretrace.sweep("models.py:linear", None, profile, executor=here, store="store", **how).rows()
        return row.stored

    assert not stored() and stored()
    assert not stored(warmup=0) and stored(warmup=0)
    (folder / "mine.toml").write_text(f'base = "{A100}"\nname = "{A100}"\n[sm_count]\nvalue = 107\nsource = "here"\n')
    assert not stored("mine.toml") and stored("mine.toml")
    source = (folder / "models.py").read_text()
    (folder / "models.py").write_text(f"# A model.\n{source}")
    assert not stored() and stored()
    (folder / "models.py").write_text(source)
    assert stored()


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b'{"files": {}, "figures": {"fits": true}}', b"[1]"])
def test_a_damaged_entry_is_ignored_and_written_anew(folder: Path, here: Here, damage: bytes) -> None:
    first = foretrace.sweep("models.py:linear", executor=here, store="store").rows()
    (entry,) = (folder / "store").glob("*/*/*.json")
    whole = entry.read_bytes()
    entry.write_bytes(damage)
    again = foretrace.sweep("models.py:linear", executor=here, store="store").rows()
    assert again == first and not again[0].stored
    assert entry.read_bytes() == whole


def test_what_another_version_has_left_is_left_alone(folder: Path, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    foretrace.sweep("models.py:linear", executor=here, store="store").rows()
    (entry,) = (folder / "store").glob("*/*/*.json")
    other = entry.read_bytes().replace(b'"ops": ', b'"ops": 1')
    entry.write_bytes(other)
    monkeypatch.setattr("foretrace.sweeps.store.__version__", "0.0.1")
    (row,) = foretrace.sweep("models.py:linear", executor=here, store="store").rows()
    assert not row.stored and row.figures is not None and row.figures.ops == json.loads(other)["figures"]["ops"] % 100
    assert entry.read_bytes() == other
    assert len(list((folder / "store").glob("*-foretrace-*"))) == 2


def test_a_failure_is_tried_again(folder: Path, here: Here) -> None:
    def kind() -> list[str]:
        point = {"kind": "raises"}
        return kinds(foretrace.sweep("models.py:trouble", point, executor=here, store="store").rows())

    assert kind() == ["ValueError"]
    source = (folder / "models.py").read_text()
    (folder / "models.py").write_text(source.replace('raise ValueError("no such width")', "pass"))
    assert kind() == ["done"]


def test_killed_and_resumed(folder: Path, here: Here, calls: Calls) -> None:
    """The whole sweep is killed when some of it is done: that is not done again."""
    widths = list(range(1, 200))
    listed = ",".join(map(str, widths))
    command = [sys.executable, "-m", "foretrace", "sweep", "models.py:linear", "-p", f"width={listed}"]
    with subprocess.Popen([*command, "--store", "store", "--workers", "1"], stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and len(list((folder / "store").glob("*/*/*.json"))) < 3:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    time.sleep(0.5)  # what it was tracing ends by itself
    known, before = len(list((folder / "store").glob("*/*/*.json"))), len(calls())
    assert 3 <= known < 190
    few = widths[: known + 2]
    rows = foretrace.sweep("models.py:linear", {"width": few}, executor=here, store="store").rows()
    assert [row.stored for row in rows] == [True] * known + [False] * 2
    assert calls()[before:] == [f"{width} 4" for width in few[known:]]


# --- executors ---


class Breaking(Here):
    """An executor whose worker dies with every task of width 13, and that is of no use after that."""

    made: list[Breaking]

    def __init__(self, made: list[Breaking]) -> None:
        super().__init__()
        self.broken, self.ended = False, False
        made.append(self)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.broken = self.broken or args[0].parameters["width"] == 13
        if self.broken and args[0].parameters["width"] == 14:
            raise BrokenProcessPool("a child process terminated abruptly")
        if self.broken:
            future: Future[Any] = Future()
            future.set_exception(BrokenProcessPool("a process in the pool was terminated abruptly"))
            return future
        return super().submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.ended = True


def test_an_executor_that_breaks_is_made_again_and_the_culprit_found(folder: Path) -> None:
    made: list[Breaking] = []
    grid = {"width": [11, 12, 13, 14, 15, 16]}
    rows = foretrace.sweep("models.py:linear", grid, executor=lambda: Breaking(made), window=4).rows()
    assert kinds(rows) == ["done", "done", "BrokenProcessPool", "done", "done", "done"]
    assert rows[2].failure is not None
    assert rows[2].failure.message == "the executor's worker ended twice while it traced this"
    assert len(made) == 3 and all(one.ended for one in made)


def test_an_executor_that_was_given_as_such_cannot_be_made_again(folder: Path) -> None:
    executor = Breaking([])
    asked = foretrace.sweep("models.py:linear", {"width": [11, 13]}, executor=executor, store="store", window=1)
    with pytest.raises(foretrace.ForetraceError, match="the executor broke: BrokenProcessPool: a process in") as error:
        asked.rows()
    assert error.value.mend.startswith("Give a function that makes one")
    assert not executor.ended
    (row,) = foretrace.sweep("models.py:linear", {"width": 11}, executor=Here(), store="store").rows()
    assert row.stored


def test_a_pool_of_processes_whose_worker_is_killed(folder: Path) -> None:
    """The target kills the process of the pool that supervises it."""
    points = [{"kind": kind} for kind in ("kills", "fine")]

    def pool() -> Executor:
        return ProcessPoolExecutor(1, get_context("spawn"))

    rows = foretrace.sweep("models.py:trouble", points, executor=pool).rows()
    assert kinds(rows) == ["BrokenProcessPool", "done"]


def test_what_an_executor_itself_raises_is_a_row(folder: Path) -> None:
    class Strange(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(OSError("lost the  worker"))
            return future

    (row,) = foretrace.sweep("models.py:linear", executor=Strange()).rows()
    assert row.failure == Failure(kind="OSError", message="lost the worker")


def test_a_task_that_was_cancelled_is_tried_again(folder: Path) -> None:
    cancelled: list[Future[Any]] = []

    class Cancels(Here):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            if cancelled:
                return super().submit(fn, *args, **kwargs)
            future: Future[Any] = Future()
            future.cancel()
            future.set_running_or_notify_cancel()
            cancelled.append(future)
            return future

    assert kinds(foretrace.sweep("models.py:linear", executor=Cancels).rows()) == ["done"]
    with pytest.raises(CancelledError):
        cancelled[0].result()


def test_the_rows_of_a_dask_cluster_are_the_same(folder: Path, here: Here) -> None:
    distributed = pytest.importorskip("distributed")
    grid: Any = {"width": [8, 16], "batch": [2, 3]}
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(folder)
    )
    with cluster, distributed.Client(cluster) as client:
        got = foretrace.sweep("models.py:linear", grid, [A100, H100], executor=client.get_executor()).rows()
    assert got == foretrace.sweep("models.py:linear", grid, [A100, H100], executor=here).rows()


def test_not_more_than_a_window_is_under_way(folder: Path) -> None:
    seen: list[int] = []

    class Waits(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            seen.append(args[0].points[0].number)
            future: Future[Any] = Future()
            future.set_running_or_notify_cancel()
            future.set_result(({}, (Failure(kind="No", message="no"),)))
            return future

    asked = foretrace.sweep("models.py:linear", {"width": range(1000)}, executor=Waits(), window=5)
    next(iter(asked))
    assert seen == [0, 1, 2, 3, 4]
    assert len(asked) == 1000 and repr(asked) == "<Sweep: 1 of 1,000 points>"
    asked.close()
    assert len(asked.rows()) == 1


def test_a_sweep_that_is_closed_ends_its_processes(folder: Path) -> None:
    """What hangs is given up at once, not when its time is over."""
    executor = Processes(1)
    asked = foretrace.sweep("models.py:trouble", {"kind": "hangs"}, executor=lambda: executor)
    waiting = threading.Thread(target=asked.rows)
    waiting.start()
    while not any(process.begun for process in list(executor._tracing)):
        assert waiting.is_alive()
        time.sleep(0.05)
    (process,) = executor._tracing
    executor.shutdown(cancel_futures=True)
    waiting.join(20)
    assert not waiting.is_alive() and not process.alive
