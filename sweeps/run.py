"""Targets, parameters, profiles, an executor -> rows as they come: the loop that drives a *sweep*.

At most `window` tasks are under way at a time, whatever the number of points. What the store knows is not asked again.
A point that fails is a row with its failure. Where the executor itself breaks, what was under way is tried once more,
one task after the other in a new executor: the task that breaks that one too is the culprit, and the rest go on.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ..graph import ForetraceError
from ..hardware import Profile
from . import table, worker
from .point import Grid, Task, as_profiles, as_settings, as_targets, tasks
from .row import Failure, Figures, Row, row
from .store import Store

TRACING = frozenset(
    (
        "inputs",
        "optimizer",
        "device",
        "autocast",
        "warmup",
        "assume",
        "strict",
        "outcomes",
        "max_ops",
        "variant",
        "fold",
    )
)
"""The keyword arguments of `trace_target` that a sweep hands on."""

Executors = Executor | Callable[[], Executor]
"""An executor, or what makes one: a new one is asked for where the first breaks."""

WINDOW = 256
"""Tasks under way in an executor of which we do not know how many it works on at a time."""


class Sweep:
    """A sweep under way: iterating gives a row as soon as it is known, in the order in which they come.

    `rows` waits for all of them and gives them in the order of the points. ``len`` is the number of points.
    """

    def __init__(self, points: int, rows: Iterator[Row]) -> None:
        self._points, self._rows = points, rows
        self._come: list[Row] = []

    def __len__(self) -> int:
        return self._points

    def __iter__(self) -> Iterator[Row]:
        place = 0
        while True:
            if place == len(self._come):
                found = next(self._rows, None)
                if found is None:
                    return
                self._come.append(found)
            yield self._come[place]
            place += 1

    def rows(self) -> tuple[Row, ...]:
        """All rows, in the order of the points: the same whatever the executor."""
        return tuple(sorted(self, key=lambda one: one.number))

    def save(self, path: str | Path) -> None:
        """Wait for all rows and write them: Parquet or CSV, by the ending of the file.

        Raises `ForetraceError` for another ending, and for Parquet where pyarrow is not installed.
        """
        table.check(path)
        table.save(self.rows(), path)

    def to_pandas(self) -> Any:
        """All rows as a ``pandas.DataFrame``. Raises `ForetraceError` where pandas is not installed."""
        return table.to_pandas(self.rows())

    def close(self) -> None:
        """Stop: what is under way is given up, what is done stays in the store."""
        if hasattr(self._rows, "close"):
            self._rows.close()

    def __enter__(self) -> Sweep:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Sweep: {len(self._come):,} of {self._points:,} points>"


def sweep(
    targets: str | Iterable[str],
    parameters: Grid | None = None,
    profiles: str | Path | Profile | Iterable[str | Path | Profile] = "a100-sxm4-80gb",
    *,
    executor: Executors | None = None,
    workers: int | None = None,
    store: str | Path | None = None,
    timeout: float | None = None,
    host_memory_bytes: int | None = None,
    root: str | Path | None = None,
    window: int | None = None,
    **tracing: Any,
) -> Sweep:
    """Trace and price every target at every setting on every profile, many at once; rows come as they are done.

    `targets` are texts as `trace_target` takes, found from the folder `root` (the working directory). `parameters` are
    lists of values by name, of which all combinations are taken, or one mapping for each setting. `profiles` are
    profiles, their names or files; those of one compute capability share a trace. Other keyword arguments, such as
    ``autocast="bfloat16"``, are those of `trace_target`.

    `executor` is any `concurrent.futures.Executor`, or a function that makes one, which is asked again where the
    first breaks; left out, `workers` processes on this machine (as many as there are cores), of one thread each.
    Whatever the executor, each of its workers traces in a process of its own: a step that takes longer than
    `timeout` seconds, or more than `host_memory_bytes` of memory, ends with that process and is a row with a
    `Failure`, as is one that raises. `window` is how many tasks are handed to the executor at a time.

    With a `store`, a folder, what is done is kept there and not done again, also by another sweep, as long as the
    target's files, what is installed, and the profile are the same. Failures are tried again.

    Raises `ForetraceError` for what can be told before anything runs, and where an executor that was given as such
    breaks.
    """
    found = as_targets(targets), as_settings(parameters), as_profiles(profiles)
    _check(tracing, executor, workers, timeout, host_memory_bytes, window)
    like = Task(
        points=(),
        root=os.path.abspath(root or os.getcwd()),
        tracing=tracing,
        time_limit_seconds=timeout,
        host_memory_bytes=host_memory_bytes,
    )
    if not os.path.isdir(like.root):
        raise ForetraceError(f"there is no folder {like.root}", "Give the folder in which the targets are found.")
    count = workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    pool = _Pool(executor, count)
    kept = None if store is None else Store(store)
    room = window or (WINDOW if isinstance(executor, Executor) else 2 * count)
    return Sweep(len(found[0]) * len(found[1]) * len(found[2]), _rows(tasks(*found, like), pool, kept, room))


def _check(
    tracing: Mapping[str, Any],
    executor: Executors | None,
    workers: int | None,
    timeout: float | None,
    host_memory_bytes: int | None,
    window: int | None,
) -> None:
    unknown = sorted(set(tracing) - TRACING)
    if unknown:
        raise ForetraceError(f"a sweep takes no {unknown[0]!r}", f"It traces by {', '.join(sorted(TRACING))}.")
    if executor is not None and not callable(executor) and not hasattr(executor, "submit"):
        raise ForetraceError(
            f"{type(executor).__name__} is no executor", "Give a concurrent.futures.Executor, or what makes one."
        )
    if executor is not None and workers is not None:
        raise ForetraceError("workers means nothing with an executor", "Give the executor its workers.")
    numbers = {"workers": workers, "timeout": timeout, "host_memory_bytes": host_memory_bytes, "window": window}
    for name, value in numbers.items():
        if value is not None and not value > 0:
            raise ForetraceError(f"{name} is {value}", "Give more than 0, or leave it out.")


class _Pool:
    """An executor that can be made again, where somebody said how."""

    def __init__(self, given: Executors | None, count: int) -> None:
        self._make = partial(worker.Processes, count) if given is None else given
        self._mine = not isinstance(given, Executor) and callable(self._make)
        self._executor: Executor | None = None

    def submit(self, task: Task) -> Future[worker.Answer]:
        if self._executor is None:
            self._executor = self._make() if self._mine else self._make  # type: ignore[operator, assignment]
        assert self._executor is not None
        return self._executor.submit(worker.answer, task)

    def renew(self, why: BaseException) -> None:
        """Put away the broken executor. Raises `ForetraceError` where there will be no other."""
        if not self._mine:
            raise ForetraceError(
                f"the executor broke: {type(why).__name__}: {' '.join(str(why).split())}",
                "Give a function that makes one, in place of the executor, so that it can be made again; with a store, "
                "another sweep goes on where this one ended.",
            ) from why
        self.close()

    def close(self) -> None:
        if self._mine and self._executor is not None:
            with suppress(Exception):
                self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = None


def _rows(source: Iterator[Task], pool: _Pool, store: Store | None, window: int) -> Iterator[Row]:
    pending: dict[Future[worker.Answer], Task] = {}
    suspects: deque[Task] = deque()
    try:
        while True:
            while len(pending) < window and (task := next(source, None)) is not None:
                known, wanted = _look_up(task, store)
                yield from known
                if wanted is not None:
                    _submit(pool, wanted, pending, suspects)
            if not pending and not suspects:
                return
            broken = None
            done = wait(pending, return_when=FIRST_COMPLETED).done if pending else set()
            for future in [one for one in pending if one in done]:
                task, error = pending.pop(future), _broken(future)
                if error is None:
                    yield from _answered(task, future, store)
                else:
                    broken = error
                    suspects.append(task)
            if broken is not None:
                suspects.extend(pending.values())
                pending.clear()
                pool.renew(broken)
            while suspects:
                yield from _alone(pool, suspects.popleft(), store)
    finally:
        for future in pending:
            future.cancel()
        pool.close()


def _broken(future: Future[worker.Answer]) -> BaseException | None:
    """Why a task has come to nothing by no fault of its own, as far as one can tell."""
    if future.cancelled():
        return CancelledError("a task was cancelled")
    error = future.exception()
    return error if isinstance(error, BrokenExecutor | CancelledError) else None


def _look_up(task: Task, store: Store | None) -> tuple[list[Row], Task | None]:
    """The rows that the store has, and the task for the rest, where there is any."""
    if store is None:
        return [], task
    found = {point.number: store.find(task, point) for point in task.points}
    rows = [row(point, known, stored=True) for point in task.points if (known := found[point.number])]
    missing = [point for point in task.points if found[point.number] is None]
    return rows, task.only(missing) if missing else None


def _submit(pool: _Pool, task: Task, pending: dict[Future[worker.Answer], Task], suspects: deque[Task]) -> None:
    """Hand a task to the executor; where it is broken already, put what is under way aside."""
    try:
        pending[pool.submit(task)] = task
    except BrokenExecutor as error:
        suspects.extend([*pending.values(), task])
        pending.clear()
        pool.renew(error)


def _alone(pool: _Pool, task: Task, store: Store | None) -> Iterator[Row]:
    """One task with nothing beside it: where the executor breaks again, the task broke it."""
    try:
        future = pool.submit(task)
        wait([future])
        error = _broken(future)
    except BrokenExecutor as broken:
        error = broken
    if error is not None:
        pool.renew(error)
        died = Failure(
            kind=type(error).__name__,
            message="the executor's worker ended twice while it traced this",
            mend="Trace it by itself to see why: foretrace run.",
        )
        yield from (row(point, died) for point in task.points)
    else:
        yield from _answered(task, future, store)


def _answered(task: Task, future: Future[worker.Answer], store: Store | None) -> Iterator[Row]:
    error = future.exception()
    if error is not None:
        said = Failure(kind=type(error).__name__, message=" ".join(str(error).split())[:500])
        yield from (row(point, said) for point in task.points)
        return
    files, answers = future.result()
    for point, answer in zip(task.points, answers, strict=True):
        if store is not None and isinstance(answer, Figures):
            store.keep(task, point, answer, files)
        yield row(point, answer)
