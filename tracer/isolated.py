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
    for name in files_in(folders):
        if name != "__main__":
            del sys.modules[name]


def files_in(folders: tuple[str, ...]) -> dict[str, str]:
    """The imported modules of projects with their Python files: not those that are installed, compiled or ours."""
    inside = tuple(os.path.join(os.path.abspath(folder), "") for folder in folders)
    files = {name: _file(module) for name, module in sys.modules.items()}
    return {
        name: file
        for name, file in files.items()
        if file.startswith(inside) and name.partition(".")[0] != _OWN_NAME and not _is_installed(file)
    }


def _file(module: ModuleType | None) -> str:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith(".py"):
        return ""
    return file if file.startswith(os.sep) else os.path.abspath(file)


def _is_installed(file: str) -> bool:
    return any(part in _INSTALLED for part in file.split(os.sep))
