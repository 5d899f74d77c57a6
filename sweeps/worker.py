"""A task -> its answer, in a process of its own that can be ended: what an executor runs.

An executor of whatever kind (threads, processes, a cluster) only supervises here: the trace runs in a *tracing process*
(`child.py`), one for each thread that asks. One that hangs, takes too much memory, or dies is an answer like any other,
and the next task gets a new one. That needs no help from the executor, and works where a worker may not have children
of ``multiprocessing``, as in dask.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import IO, Any

from ..commands.tracing import ending
from .child import ANSWER, BEGUN, READY
from .point import Task
from .row import Failure, Figures

Answer = tuple[dict[str, str], tuple[Figures | Failure, ...]]
"""The digest of each file that the trace was made of, and figures or failure for each point of the task."""

START_SECONDS = 300.0
"""A process that has not loaded torch by then never will."""
LOOK_SECONDS = 0.1
MOST_IDLE_BYTES = 2 * 2**30
"""A process that keeps more than this after a task is ended, and a new one begun for the next."""

_MINE = threading.local()


def answer(task: Task) -> Answer:
    """Trace a task's step and price it on each of its profiles. Never raises for what the step does."""
    for _ in range(2):
        process = _process()
        said = process.ask(task)
        if not isinstance(said, Failure):
            return said
        _MINE.process, failure = None, said
        if process.begun or said.kind != "Died":
            break
    return {}, (failure,) * len(task.points)


def _process() -> TracingProcess:
    """The process of this thread, begun where there is none."""
    process: TracingProcess | None = getattr(_MINE, "process", None)
    if process is None or not process.alive or process.resident_bytes > MOST_IDLE_BYTES:
        if process is not None:
            process.end()
        process = _MINE.process = TracingProcess()
        getattr(_MINE, "register", _nobody)(process)
    return process


def _nobody(process: TracingProcess) -> None:
    """Nobody wants to know of the process."""


class TracingProcess:
    """A running `child.py`. It ends with this object."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, it is open as long as the process
        module = f"{__package__}.child"
        code = f"import sys; sys.path[:] = {sys.path!r}; from {module} import main; main()"
        self._popen = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self._popen.stdin is not None and self._popen.stdout is not None
        self._said: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
        threading.Thread(target=_listen, args=(self._popen.stdout, self._said), daemon=True).start()
        self.begun = False
        """Whether it has taken the last task that it was asked."""
        self._ready = False
        self._finalizer = weakref.finalize(self, _kill, self._popen)

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    @property
    def resident_bytes(self) -> int:
        """The memory that it holds; 0 where the system does not tell."""
        try:
            with open(f"/proc/{self._popen.pid}/statm", encoding="ascii") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, IndexError):
            return 0

    def end(self) -> None:
        """End it, whatever it does."""
        self._finalizer()

    def ask(self, task: Task) -> Answer | Failure:
        """The answer to a task, or why there is none; the process has ended then."""
        self.begun = False
        found = self._start() or self._send(task) or self._wait(task)
        if isinstance(found, Failure):
            self.end()
        return found

    def _start(self) -> Failure | None:
        if self._ready:
            return None
        said = self._next(START_SECONDS)
        self._ready = said == (READY,)
        return (
            None if self._ready else self._died() if said is None else Failure(kind="Died", message="it did not start")
        )

    def _send(self, task: Task) -> Failure | None:
        assert self._popen.stdin is not None
        try:
            self._popen.stdin.write(pickle.dumps(task))
            self._popen.stdin.flush()
        except OSError:
            return self._died()
        return None

    def _wait(self, task: Task) -> Answer | Failure:
        since = time.monotonic()
        limit, memory = task.time_limit_seconds, task.host_memory_bytes
        while True:
            said = self._next(LOOK_SECONDS)
            if said is None:
                return self._died()
            if said == (BEGUN,):
                self.begun, since = True, time.monotonic()
            elif said and said[0] == ANSWER:
                found: Answer = said[1]
                return found
            if limit is not None and time.monotonic() - since > limit:
                return Failure(
                    kind="TimeLimit",
                    message=f"it took longer than {limit:g} s",
                    mend="Give it more time, or a smaller step.",
                )
            if memory is not None and self.resident_bytes > memory:
                return Failure(
                    kind="MemoryLimit",
                    message=f"tracing it took more than {memory:,} bytes of this machine's memory",
                    mend="Allow more, or look what the target itself allocates.",
                )

    def _next(self, seconds: float) -> tuple[Any, ...] | None:
        """The next thing that it says; nothing, as (), where it says none for so long; None where it has ended."""
        try:
            return self._said.get(timeout=seconds) or None
        except Empty:
            return ()

    def _died(self) -> Failure:
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(5)
        how, last = ending(self._popen.poll()), self._last_words()
        return Failure(
            kind="Died",
            message=f"the process that traced it ended with {how}" + (f": {last}" if last else ""),
            mend="Trace it by itself to see why: foretrace run. If the machine ran out of memory, take fewer workers.",
        )

    def _last_words(self) -> str:
        """The last line that it wrote to standard error."""
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 2000))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return " ".join(lines[-1].split())[:200] if lines else ""


def _listen(stdout: IO[bytes], said: SimpleQueue[tuple[Any, ...]]) -> None:
    """Hand on what a process says; () when it says no more."""
    try:
        while True:
            said.put(pickle.load(stdout))
    except Exception:
        said.put(())


def _kill(popen: subprocess.Popen[bytes]) -> None:
    popen.kill()
    popen.wait()
    for stream in (popen.stdin, popen.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()


class Processes(ThreadPoolExecutor):
    """The executor of a sweep that is given none: so many tracing processes on this machine, each of one thread."""

    def __init__(self, count: int) -> None:
        self._tracing: weakref.WeakSet[TracingProcess] = weakref.WeakSet()
        self._ended = False
        super().__init__(count, "foretrace-sweep", initializer=_introduced_to, initargs=(self._register,))

    def _register(self, process: TracingProcess) -> None:
        self._tracing.add(process)
        if self._ended:
            process.end()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End; with `cancel_futures` also what runs, at once."""
        super().shutdown(wait=False, cancel_futures=cancel_futures)
        if cancel_futures:
            self._ended = True
            for process in list(self._tracing):
                process.end()
        super().shutdown(wait=wait)


def _introduced_to(register: Callable[[TracingProcess], None]) -> None:
    _MINE.register = register
