"""A trace among other traces in one process -> the same trace as alone: what a target's code leaves behind is undone.

*Left behind* is what code does to the process when it is imported and called: the project's modules in ``sys.modules``,
the search path, the working directory, torch's default dtype and device, its number of threads. Not undone: what it
does to modules of others, threads, and files.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch

from .imports import kept

_OWN_NAME = __name__.partition(".")[0]
_INSTALLED = ("site-packages", "dist-packages")
_STANDARD = os.path.join(sysconfig.get_path("stdlib"), "")


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
        with kept():
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
    """Forget the modules of the projects, and those of other folders that stand in the way of theirs."""
    for name in {**files_in(folders), **_namesakes(folders)}:
        if name != "__main__":
            del sys.modules[name]


def _namesakes(folders: tuple[str, ...]) -> dict[str, str]:
    """The imported modules from elsewhere that are called as something in the projects is."""
    tops = {os.path.splitext(entry)[0] for folder in folders if os.path.isdir(folder) for entry in os.listdir(folder)}
    named = {
        name: _file(module) for name, module in sys.modules.items() if name.partition(".")[0] in tops - {_OWN_NAME}
    }
    return {name: file for name, file in named.items() if file and not _is_installed(file)}


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
    return file.startswith(_STANDARD) or any(part in _INSTALLED for part in file.split(os.sep))
