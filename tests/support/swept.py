"""Targets for sweeps, good and bad, and an executor that works in this thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

MODELS = """
import os, sys, time
import torch

def linear(width=8, batch=4):
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(f"{width} {batch}\\n")
    return torch.nn.Linear(width, width), (torch.zeros(batch, width),), lambda y: y.sum()

def other(width=8, batch=4):
    return linear(width, batch)

def trouble(kind):
    if kind == "raises":
        raise ValueError("no such width")
    if kind == "exits":
        sys.exit("enough")
    if kind == "hangs":
        time.sleep(3600)
    if kind == "grows":
        held = []
        while True:
            held.append(b"x" * 2**24)
    if kind == "dies":
        print("the last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), 9)
    if kind == "kills":
        os.kill(os.getppid(), 9)
        time.sleep(3600)
    return linear()
"""


class Here(Executor):
    """Works at once, in the thread that asks, so that one tracing process serves many sweeps."""

    def __init__(self) -> None:
        self.tasks: list[Any] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.tasks += args
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future
