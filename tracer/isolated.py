"""A trace among other traces in one process -> the same trace as alone: what a target's code leaves behind is undone.

*Left behind* is what code does to the process when it is imported and called: the project's modules in ``sys.modules``,
the search path, the working directory, torch's default dtype and device, its number of threads. Not undone: what it
does to modules of others, threads, and files.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch

_OWN_NAME = __name__.partition(".")[0]
_INSTALLED = ("site-packages", "dist-packages")


@contextmanager
def isolated(folder: str, *projects: str) -> Iterator[None]:
    """Run a trace in `folder` with modules of it and of `projects` imported anew, and undo what it leaves behind."""
    before, search, place = dict(sys.modules), list(sys.path), os.getcwd()
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    folders = (folder, *projects)
    _forget(folders)
    try:
        os.chdir(folder)
        yield
    finally:
        os.chdir(place)
        sys.path[:] = search
        _forget(folders)
        sys.modules.update({name: module for name, module in before.items() if name not in sys.modules})
        torch.set_default_dtype(dtype)
        torch.set_default_device(None if device == torch.device("cpu") else device)
        torch.set_num_threads(threads)
        torch.set_grad_enabled(grad)


def _forget(folders: tuple[str, ...]) -> None:
    for name in [name for name, module in sys.modules.items() if name != "__main__" and file_in(module, folders)]:
        del sys.modules[name]


def file_in(module: ModuleType | None, folders: tuple[str, ...]) -> str:
    """The Python file of a module of a project; empty for one that is installed, compiled, ours, or somebody else's."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith(".py"):
        return ""
    if getattr(module, "__name__", "").partition(".")[0] == _OWN_NAME:
        return ""
    path = os.path.abspath(file)
    inside = any(path.startswith(os.path.join(os.path.abspath(folder), "")) for folder in folders)
    return path if inside and not any(part in path.split(os.sep) for part in _INSTALLED) else ""
