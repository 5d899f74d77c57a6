"""What is to be traced -> traces: from the cache, in this process, or in several at once.

A *request* is one trace that somebody wants. Each is traced as if it were alone: in a process forked from one that has
imported torch and nothing of the user's, or in this process with what it leaves behind undone. A request that fails,
or whose process dies, is an error in its place, and the others go on.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checks import cache

if TYPE_CHECKING:
    from ..graph import ForetraceError, StepGraph

_NOT_READ = (".git", "__pycache__")
FIRST_USE = ("torch._dynamo",)
"""What torch loads when the first optimizer is made: loaded once, before the processes are forked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One trace that is wanted: of `step`, in the folder `root`."""

    step: str
    root: Path
    args: Mapping[str, Any] = field(default_factory=dict)
    tracing: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of ``trace_target``."""
    revision: str = ""
    """The commit that `root` is a copy of; empty for the working tree."""
    project: Path | None = None
    """The working tree that `root` was copied from."""


@dataclass(frozen=True, slots=True)
class Store:
    """Where traces are kept; a folder of None keeps none."""

    folder: Path | None

    def find(self, request: Request) -> StepGraph | None:
        """The trace of a request, where nothing that it depends on has changed."""
        if self.folder is None:
            return None
        return cache.find(self.folder, _key(request), request.root)

    def store(self, request: Request, files: Sequence[str], graph: StepGraph) -> None:
        """Keep a trace. A commit never changes, so that none of its files is watched."""
        if self.folder is not None:
            cache.store(self.folder, _key(request), request.root, [] if request.revision else files, graph)


def _key(request: Request) -> str:
    return cache.key(request.step, request.args, request.tracing, request.revision)


def jobs_for(count: int, asked: int | None) -> int:
    """How many processes: as many as was asked for, or as there are cores; never more than there are traces."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(count, asked or cores))


def trace_all(
    requests: Sequence[Request], store: Store, jobs: int | None = None
) -> tuple[list[StepGraph | ForetraceError], int]:
    """The answer to each request, in their order, and how many of them came from the cache.

    With `jobs` of 1 they are traced in this process, which a target that dies takes with it.
    """
    answers: list[StepGraph | ForetraceError | None] = [store.find(request) for request in requests]
    missing = [place for place, answer in enumerate(answers) if answer is None]
    work = [(place, requests[place]) for place in missing]
    if jobs == 1:
        _here(work, answers, store)
    elif work:
        with _scratch() as scratch:
            _in_processes(work, answers, store, Path(scratch), jobs_for(len(work), jobs))
    return [answer for answer in answers if answer is not None], len(requests) - len(missing)


@contextmanager
def _scratch() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="foretrace-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


Work = list[tuple[int, Request]]


def _here(work: Work, answers: Any, store: Store) -> None:
    from ..graph import ForetraceError

    for place, request in work:
        try:
            graph, files = trace_once(request)
            store.store(request, files, graph)
            answers[place] = graph
        except ForetraceError as error:
            answers[place] = error


def _in_processes(work: Work, answers: Any, store: Store, scratch: Path, processes: int) -> None:
    """At most so many processes at a time, each for one request."""
    context: Any = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
    if hasattr(context, "set_forkserver_preload"):
        context.set_forkserver_preload([*FIRST_USE, __name__, f"{__package__.partition('.')[0]}.tracer.isolated"])
    waiting, running = list(work), dict[Connection, tuple[int, Request, BaseProcess]]()
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                place, request = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(request, scratch / f"{place}.foretrace", theirs))
                process.start()
                theirs.close()
                running[ours] = (place, request, process)
            for done in wait(list(running)):
                place, request, process = running.pop(done)  # type: ignore[call-overload]
                answers[place] = _answer(done, process, request, store, scratch / f"{place}.foretrace")  # type: ignore[arg-type]
    finally:
        for *_, process in running.values():
            process.terminate()


def _answer(
    pipe: Connection, process: BaseProcess, request: Request, store: Store, path: Path
) -> StepGraph | ForetraceError:
    """What a process has said, or that it died without a word."""
    from ..graph import ForetraceError, load

    try:
        kind, said = pipe.recv()
    except EOFError:
        process.join()
        return ForetraceError(
            f"the process that traced {request.step} ended with {ending(process.exitcode)}",
            "Trace it by itself to see why: foretrace run, or foretrace check --jobs 1.",
        )
    finally:
        pipe.close()
    process.join()
    if kind == "error":
        return ForetraceError(*said)
    graph = load(path)
    path.unlink()
    store.store(request, said, graph)
    return graph


def ending(code: int | None) -> str:
    """How a process ended, in words."""
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _child(request: Request, path: Path, pipe: Connection) -> None:
    """In a process of its own: trace, leave the trace in a file, and say which files it was made of."""
    from ..graph import ForetraceError, save

    try:
        graph, files = trace_once(request)
        save(graph, path)
        pipe.send(("files", files))
    except ForetraceError as error:
        pipe.send(("error", (error.message, error.mend)))
    pipe.close()


def trace_once(request: Request) -> tuple[StepGraph, list[str]]:
    """The trace of a request, in this process, and the files below its root that were read for it."""
    from ..graph import ForetraceError
    from ..tracer import trace_target
    from ..tracer.isolated import files_in, isolated

    root = str(request.root)
    projects = () if request.project is None else (str(request.project),)
    with isolated(root, *projects), _opened(root) as opened, _stdout_as_stderr():
        if request.project is not None:
            _move_search_path(str(request.project), root)
        graph = trace_target(request.step, dict(request.args), **request.tracing)
        imported = files_in((root,)).values()
        strangers = sorted(files_in(projects).values())
        if strangers:
            raise ForetraceError(
                f"{request.step} at {request.revision[:9]} imports {strangers[0]}, which is not of that commit",
                "Install the project so that it is imported from the working directory, or trace it there by hand.",
            )
    return graph, _from_root({*imported, *opened}, root)


def _from_root(files: set[str], root: str) -> list[str]:
    inside = (os.path.relpath(file, root) for file in files)
    return sorted(file for file in inside if not any(part in _NOT_READ for part in file.split(os.sep)))


def _move_search_path(project: str, root: str) -> None:
    """What was found in the working tree is to be found in the copy of the commit."""
    inside = os.path.join(os.path.abspath(project), "")
    sys.path[:] = [
        os.path.join(root, os.path.relpath(entry, project))
        if entry and os.path.join(os.path.abspath(entry), "").startswith(inside) and "site-packages" not in entry
        else entry
        for entry in sys.path
    ]


@contextmanager
def _stdout_as_stderr() -> Iterator[None]:
    """What the user's code prints does not mix with our result."""
    kept, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout = kept


# --- which files are read ---

_watchers: list[Callable[[str], None]] = []
_hooked: list[bool] = []
_WRITING = os.O_WRONLY | os.O_RDWR


@contextmanager
def _opened(root: str) -> Iterator[set[str]]:
    """The files in `root` that are opened for reading meanwhile; Python's hook, once set, stays and sleeps."""
    found: set[str] = set()
    inside = os.path.join(os.path.abspath(root), "")

    def note(path: str) -> None:
        full = os.path.abspath(path)
        if full.startswith(inside):
            found.add(full)

    if not _hooked:
        sys.addaudithook(_audit)
        _hooked.append(True)
    _watchers.append(note)
    try:
        yield found
    finally:
        _watchers.remove(note)


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _watchers and isinstance(arguments[0], (str, bytes, os.PathLike)):
        mode, flags = (*arguments[1:3], 0, 0)[:2]
        writes = set(mode) & set("wax") if isinstance(mode, str) else isinstance(flags, int) and flags & _WRITING
        if not writes:
            path = os.fsdecode(arguments[0])
            for note in list(_watchers):
                note(path)
