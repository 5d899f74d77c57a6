"""A process that traces: tasks on standard input -> answers on standard output, both pickled, one after the other.

It keeps what it has imported from task to task, so that torch is loaded once; what a target leaves behind is undone
after each. It ends when its input does, when it has had nothing to do for `IDLE_SECONDS`, and with whoever started it.
"""

from __future__ import annotations

import os
import pickle
import threading
import traceback
from importlib import import_module
from pathlib import Path
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from ..graph import StepGraph
    from .point import Point, Task
    from .row import Failure, Figures

IDLE_SECONDS = 60.0
READY, BEGUN, ANSWER = "ready", "begun", "answer"
"""What it says: that it has loaded torch, that it has taken a task, and what came of it."""


def main() -> None:
    """Serve until there is nothing to serve any more."""
    tasks, answers = _own_streams()
    queue: Queue[Task] = Queue()
    threading.Thread(target=_read, args=(tasks, queue), daemon=True).start()
    from ..commands.tracing import FIRST_USE

    for name in (f"{__package__.partition('.')[0]}.tracer", *FIRST_USE):
        import_module(name)
    _say(answers, READY)
    while True:
        try:
            task = queue.get(timeout=IDLE_SECONDS)
        except Empty:
            os._exit(0)
        _say(answers, BEGUN)
        _say(answers, ANSWER, answer(task))


def _own_streams() -> tuple[BinaryIO, BinaryIO]:
    """Input and output for ourselves alone: what the user's code prints goes to standard error."""
    tasks, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return tasks, answers


def _read(tasks: BinaryIO, queue: Queue[Any]) -> None:
    """Take tasks in; end the process, whatever it does, when nobody is there to send more."""
    try:
        while True:
            queue.put(pickle.load(tasks))
    except BaseException:
        os._exit(0)


def _say(answers: BinaryIO, *said: object) -> None:
    pickle.dump(said, answers)
    answers.flush()


def answer(task: Task) -> tuple[dict[str, str], tuple[Figures | Failure, ...]]:
    """The digests of the files that the trace was made of, and for each point its figures or why there are none."""
    from ..checks.cache import digest_of
    from ..commands.tracing import Request, trace_once

    root = Path(task.root)
    try:
        graph, files = trace_once(Request(step=task.target, root=root, args=task.parameters, tracing=task.options))
        digests = {name: digest_of(root / name) for name in files}
    except (Exception, SystemExit) as error:
        return {}, (failure(error, task.root),) * len(task.points)
    return digests, tuple(_priced(graph, point, task.root) for point in task.points)


def _priced(graph: StepGraph, point: Point, root: str) -> Figures | Failure:
    from ..report import price
    from .row import figures

    try:
        return figures(price(graph, on=point.profile))
    except Exception as error:
        return failure(error, root)


def failure(error: BaseException, root: str) -> Failure:
    """An error in a few words: the class of what the user's code raised, where it did, and that line."""
    from ..graph import ForetraceError
    from .row import Failure

    cause = error.__cause__ if isinstance(error, ForetraceError) and error.__cause__ else error
    ours = isinstance(error, ForetraceError)
    lines = str(error).strip().splitlines()
    return Failure(
        kind=type(cause).__name__,
        message=error.message if isinstance(error, ForetraceError) else lines[0] if lines else type(error).__name__,
        mend=error.mend if isinstance(error, ForetraceError) else "",
        line=_line(cause, root) if ours else _last_line(error),
    )


def _line(cause: BaseException, root: str) -> str:
    """The innermost of the user's lines in a traceback."""
    from ..tracer.frames import raised_at, shorten

    place = raised_at(cause)
    if place is None:
        return ""
    inside, file = os.path.join(root, ""), os.path.abspath(place[0])
    return f"{file.removeprefix(inside) if file.startswith(inside) else shorten(file)}:{place[1]}"


def _last_line(error: BaseException) -> str:
    """Where an error was raised that is no user's mistake."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return f"{os.path.basename(frames[-1][0].f_code.co_filename)}:{frames[-1][1]}" if frames else ""
