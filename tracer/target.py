"""Find what the user pointed at: ``path.py:callable`` or ``package.module:callable``, and call it."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from ..graph import ForetraceError
from .frames import raised_at, shorten
from .inputs import Sizes, size_names
from .propose import SIZES, is_of_library
from .ready import ready
from .step import Step

_GRAMMAR = "Write path/to/file.py:callable or package.module:callable."


def resolve(target: str, parameters: dict[str, Any], inputs: str | None = None) -> Step:
    """The step that `target` describes, with `parameters` as keyword arguments and as the sizes of specs.

    The callable returns a module, ``(model, inputs)``, ``(model, inputs, loss)`` or a `Step`; it may be the class of
    a module. In its place there may be the module itself, or the `Step`. `inputs` are specs that take the place of its
    own. The user's code sees a command line without arguments.
    Raises `ForetraceError` for a target that is not there, cannot be called, raises, or returns something else.
    """
    place, _, name = target.rpartition(":")
    if not place or not name or place.endswith(":"):
        raise ForetraceError(f"{target!r} is not a target", _GRAMMAR)
    with _importable(place):
        function = _find(place, name)
        spare = _spare(function, parameters, inputs or "")
        _check_parameters(target, function, {n: v for n, v in parameters.items() if n not in spare})
        if inputs is not None and spare - size_names(inputs):
            raise _unexpected(target, function, min(spare - size_names(inputs)))
        try:
            made = function(**{n: v for n, v in parameters.items() if n not in spare})
        except ForetraceError:
            raise
        except (Exception, SystemExit) as error:
            raise ForetraceError(
                f"{target} {how_it_failed(error)}", "Call it by itself to see the whole traceback."
            ) from error
    step = as_step(made, target)
    sizes = Sizes({**step.sizes, **parameters})
    step = ready(step if inputs is None else replace(step, inputs=inputs), sizes)
    if sizes.unused(spare):
        raise _unexpected(target, function, str(sizes.unused(spare)))
    return step


def defaults(target: str | Callable[..., Any]) -> dict[str, Any]:
    """The keyword arguments that a target takes, with their defaults; None for those without one.

    Raises `ForetraceError` for a target that is not there or cannot be called.
    """
    if callable(target):
        function: Callable[..., Any] = target
    else:
        place, _, name = target.rpartition(":")
        if not place or not name or place.endswith(":"):
            raise ForetraceError(f"{target!r} is not a target", _GRAMMAR)
        with _importable(place):
            function = _find(place, name)
    try:
        taken = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {}
    by_name = (p for p in taken if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    return {p.name: None if p.default is p.empty else p.default for p in by_name}


def _spare(function: Callable[..., Any], parameters: dict[str, Any], inputs: str) -> set[str]:
    """The names that the callable does not take, so that they can only be sizes.

    A callable with ``**kwargs`` takes all but those that the specs use; those of a library, also all but those that
    a proposal uses.
    """
    try:
        taken = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return set()
    names = {name for name in parameters if name not in taken}
    if any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        names &= size_names(inputs) | (SIZES if is_of_library(function) else set())
    return names


def as_step(made: Any, target: str) -> Step:
    """A `Step` from what a target returned."""
    if isinstance(made, Step):
        return made
    if isinstance(made, nn.Module):
        return Step(made)
    if isinstance(made, tuple) and made and isinstance(made[0], nn.Module) and len(made) <= 3:
        return Step(*made)
    raise ForetraceError(
        f"{target} returned {type(made).__name__}, which cannot be traced",
        "Return a module, (model, inputs), (model, inputs, loss) or a foretrace.Step.",
    )


@contextmanager
def _importable(place: str) -> Iterator[None]:
    """The working directory on ``sys.path`` and no arguments on the command line, only while the user's code is
    imported and called: ours are not for its parser."""
    path, arguments, before = list(sys.path), sys.argv, set(sys.modules)
    sys.path.insert(0, os.getcwd())
    sys.argv = [place]
    try:
        yield
    finally:
        sys.path[:] = path
        sys.argv = arguments
        _imported.update(sys.modules.keys() - before)


def _find(place: str, name: str) -> Callable[..., Any]:
    module = _load_file(place) if place.endswith(".py") or os.sep in place else _load_module(place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            names = [n for n in vars(module) if callable(getattr(module, n)) and not n.startswith("_")]
            near = difflib.get_close_matches(part, names, 1)
            mend = f"Did you mean {near[0]!r}?" if near else f"It defines {', '.join(sorted(names)) or 'nothing'}."
            raise ForetraceError(f"{place} has no {part!r}", mend)
        found = getattr(found, part)
    if isinstance(found, (nn.Module, Step)):
        return lambda: found
    if not callable(found):
        raise ForetraceError(f"{place}:{name} is {type(found).__name__}, not a callable", _GRAMMAR)
    return found


def _load_file(path: str) -> Any:
    if not os.path.isfile(path):
        raise ForetraceError(f"there is no file {path}", _GRAMMAR)
    name, folder = _name_and_folder(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ForetraceError(f"{path} is not Python source", _GRAMMAR)
    module = importlib.util.module_from_spec(spec)
    _forget_neighbours(folder)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    if spec.parent:
        _load_module(spec.parent)
    # Dataclasses and pickling look their module up by name; an importable module of that name stays as it is.
    fresh = sys.modules.setdefault(name, module) is module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        if fresh:
            sys.modules.pop(name, None)
        raise ForetraceError(f"importing {path} {how_it_failed(error)}", "Run it with python to see why.") from error
    return module


_imported: set[str] = set()
"""The names of the modules that targets so far were the first to import."""


def _forget_neighbours(folder: str) -> None:
    """Forget what an earlier target has imported where this one has a neighbour of the same name: two projects may both
    have their ``model.py``, and each shall import its own."""
    own = {os.path.splitext(entry)[0] for entry in os.listdir(folder)} - sys.stdlib_module_names
    for name in [name for name in _imported & sys.modules.keys() if name.partition(".")[0] in own]:
        module = sys.modules[name]
        places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
        if not any(place.startswith(folder + os.sep) or "site-packages" in place for place in places):
            del sys.modules[name]


def _name_and_folder(path: str) -> tuple[str, str]:
    """The name of a file's module, and the folder where it is found by that name.

    A file is a module of its own, unless it imports from the package that it lies in.
    """
    folder, file = os.path.split(os.path.abspath(path))
    names, above = [os.path.splitext(file)[0]], _levels_above(path)
    packaged = above > 0
    while above > 0 or (packaged and os.path.isfile(os.path.join(folder, "__init__.py"))):
        folder, name = os.path.split(folder)
        names.insert(0, name)
        above -= 1
    return ".".join(names), folder


def _levels_above(path: str) -> int:
    """How many packages up the imports of a file reach: 1 for ``from .block import Block``, 0 without the like."""
    with open(path, "rb") as file:
        try:
            tree = ast.parse(file.read())
        except (SyntaxError, ValueError):
            return 0
    return max((node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)), default=0)


def _load_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ForetraceError(
            f"there is no module {error.name}", f"Install it, or run where it can be imported. {_GRAMMAR}"
        ) from error
    except (Exception, SystemExit) as error:
        raise ForetraceError(f"importing {name} {how_it_failed(error)}", "Import it with python to see why.") from error


def _check_parameters(target: str, function: Callable[..., Any], parameters: dict[str, Any]) -> None:
    try:
        inspect.signature(function).bind(**parameters)
    except ValueError:
        return
    except TypeError as error:
        raise _mistaken(target, function, str(error)) from error


def _unexpected(target: str, function: Callable[..., Any], name: str) -> ForetraceError:
    return _mistaken(target, function, f"got an unexpected keyword argument {name!r}")


def _mistaken(target: str, function: Callable[..., Any], what: str) -> ForetraceError:
    signature = inspect.signature(function)
    return ForetraceError(f"{target}: {what}", f"It takes {signature}; set values with -p name=value.")


def how_it_failed(error: BaseException) -> str:
    """What the user's code did in place of returning, and on which of its lines."""
    place = raised_at(error)
    what = "ended the program" if isinstance(error, SystemExit) else f"raised {describe(error)}"
    return f"{what} at {shorten(place[0])}:{place[1]}" if place else what


def describe(error: BaseException) -> str:
    """An exception in one line: its type and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
