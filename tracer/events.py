"""Code that runs under PyTorch's profiler -> its events in time order, each with the operators around it.

Among them are every allocation and free of the CPU allocator, with their sizes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.profiler import ProfilerActivity, profile

_LOG_LEVEL = "KINETO_LOG_LEVEL"
_OP = re.compile(r"\w+::\w+")
"""The name of an operator, of PyTorch's or of a library's own."""


@contextmanager
def profiled() -> Iterator[list[Any]]:
    """Profile what runs in the block; the list fills when it ends, with each event and the operators around it."""
    found: list[Any] = []
    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield found
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    found.extend(_flat(profiler.profiler.kineto_results.experimental_event_tree(), ()))
    found.sort(key=lambda item: item[0].start_time_ns)


@contextmanager
def _quiet() -> Iterator[None]:
    """The profiler's library writes that it starts and stops; it reads how much to say when it is first used."""
    said = _LOG_LEVEL in os.environ
    os.environ.setdefault(_LOG_LEVEL, "6")
    try:
        yield
    finally:
        if not said:
            os.environ.pop(_LOG_LEVEL, None)


def _flat(events: list[Any], around: tuple[Any, ...]) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Every event of the tree with the ATen ops around it."""
    for event in events:
        yield event, around
        yield from _flat(event.children, (*around, event) if _OP.fullmatch(event.name) else around)
