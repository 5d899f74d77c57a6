"""Calls of modules in the recorded step -> *callers*: the user's line that calls each, and what backward runs again.

A module is called where the innermost user frame is when its forward begins: ``x = block(x)`` and
``checkpoint(block, x)`` alike. What backward calls with no other module around it is *recomputed*: that is a module
under a checkpoint, or one that a user's function under a checkpoint calls; then the function is what is run again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from types import CodeType, FrameType

from ..graph import Phase, Source
from .frames import Frames, shorten


class Callers:
    """Notes each call of a module; the first one of the forward says where it is."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._lines: dict[str, tuple[CodeType, int]] = {}
        self._again: list[tuple[int, str]] = []
        """What is run again, after how many ops of the step."""

    def forget(self) -> None:
        """A new step begins."""
        self._lines.clear()
        self._again.clear()

    def entered(self, path: str, phase: Phase, outermost: bool, frame: FrameType, ops: int) -> None:
        """The forward of the module at `path` begins after `ops` ops, called from `frame` or above it."""
        if phase is Phase.FORWARD and path not in self._lines:
            code, line = self._frames.user(frame)
            if code is not None:
                self._lines[path] = code, line
        elif phase is Phase.BACKWARD and outermost:
            function = self._outermost_function(frame)
            self._again.append((ops, f"{function}()" if function else path))

    def within(self, ops: range, path: str) -> tuple[list[tuple[str, tuple[CodeType, int]]], list[str]]:
        """The calls inside of the module at `path`, and what was run again while those ops ran."""
        lines = [(inner, line) for inner, line in self._lines.items() if inner.startswith(path + ".")]
        return lines, [name for at, name in self._again if at in ops]

    def copied(self, ops: int, calls: Iterable[tuple[str, tuple[CodeType, int]]], again: Iterable[str]) -> None:
        """These happened as well, after `ops` ops."""
        for path, line in calls:
            self._lines.setdefault(path, line)
        self._again += [(ops, name) for name in again]

    def _outermost_function(self, frame: FrameType | None) -> str:
        """The user's function that the autograd engine runs, where it runs one."""
        name = ""
        while frame is not None:
            code, _ = self._frames.user(frame)
            if code is None:
                break
            while frame is not None and frame.f_code is not code:
                frame = frame.f_back
            name, frame = code.co_qualname, frame and frame.f_back
        return name

    @property
    def lines(self) -> dict[str, Source]:
        """The line that calls each module."""
        files = {code: shorten(code.co_filename) for code in {code for code, _ in self._lines.values()}}
        return {path: Source(files[code], line, code.co_qualname) for path, (code, line) in sorted(self._lines.items())}

    @property
    def again(self) -> dict[str, int]:
        """How often backward runs each thing again."""
        return dict(sorted(Counter(name for _, name in self._again).items()))
