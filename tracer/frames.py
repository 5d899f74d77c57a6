"""Which line of the user's code runs an op: the innermost frame that is neither torch's nor ours."""

from __future__ import annotations

import contextlib
import functools
import os
import sysconfig
import traceback
from types import CodeType, FrameType

import torch

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_ROOMS = tuple(
    _OURS + room + os.sep
    for room in ("tracer", "graph", "costmodels", "hardware", "report", "checks", "commands", "sweeps")
)
_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_LIBRARIES = tuple(f"{os.sep}{name}{os.sep}" for name in ("einops", "opt_einsum", "jaxtyping", "beartype"))
_STANDARD = (contextlib.__file__, functools.__file__)

_SKIP, _USER, _STOP = range(3)


class Frames:
    """Finds user frames; remembers for each code object whose it is."""

    def __init__(self) -> None:
        self._kinds: dict[CodeType, int] = {}

    def user(self, frame: FrameType | None) -> tuple[CodeType | None, int]:
        """The code and line of the innermost user frame; (None, 0) where there is none.

        Inside the autograd engine only frames above the engine count, those of a Python-written backward.
        """
        kinds = self._kinds
        while frame is not None:
            code = frame.f_code
            kind = kinds.get(code)
            if kind is None:
                kind = kinds[code] = _kind(code)
            if kind == _USER:
                return code, frame.f_lineno
            if kind == _STOP:
                break
            frame = frame.f_back
        return None, 0


def is_user(code: CodeType) -> bool:
    """Whether the code is neither torch's nor ours nor a helper library's."""
    return _kind(code) == _USER


def raised_at(error: BaseException) -> tuple[str, int] | None:
    """The file and the line of the innermost user frame in an error's traceback; None where there is none."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if is_user(frame.f_code):
            return frame.f_code.co_filename, line
    return None


def _kind(code: CodeType) -> int:
    file = code.co_filename
    if file.startswith(_TORCH):
        return _STOP if code.co_name == "_engine_run_backward" else _SKIP
    if file.startswith(_ROOMS):
        return _STOP if code.co_name == "run_step" else _SKIP
    if file.startswith("<") or file in _STANDARD or any(part in file for part in _LIBRARIES):
        return _SKIP
    return _USER


_PACKAGES = tuple(
    dict.fromkeys(os.path.join(sysconfig.get_path(name), "") for name in ("purelib", "platlib", "stdlib"))
)


def shorten(file: str) -> str:
    """A path without this machine in it: relative to the working directory or to where packages are installed."""
    for folder in (os.path.join(os.getcwd(), ""), *_PACKAGES):
        if file.startswith(folder):
            return file.removeprefix(folder).replace(os.sep, "/")
    return os.path.basename(file)
