"""A name in the user's code -> the line where it is made, as far as reading the source can tell.

A trace knows the line that ran an op. Where a layer was sized, or a default dtype set, no op runs: for those the source
is parsed, never run. One candidate is an answer; none or several are not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..graph import Source

CASTS = {
    "float64": ("double",),
    "float32": ("float",),
    "float16": ("half",),
    "bfloat16": ("bfloat16",),
}
"""Methods that cast to a dtype."""

KEEPING = ("append", "extend", "add")
"""Methods that keep what they are given."""


def definition(root: Path, files: Iterable[str], module: str) -> Source | None:
    """The one line that assigns ``self.NAME``, NAME being the last part of the module's path that is no index."""
    names = [part for part in module.split(".") if part not in ("*", "-", "")]
    if not names:
        return None
    found = [
        Source(file, node.lineno, "")
        for file, tree in _trees(root, files)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and names[-1] in _assigned(node)
    ]
    return found[0] if len(found) == 1 else None


def cast(root: Path, files: Iterable[str], dtype: str) -> Source | None:
    """The one line that sets the default dtype, or else the one that casts to `dtype`."""
    calls = [
        (file, node) for file, tree in _trees(root, files) for node in ast.walk(tree) if isinstance(node, ast.Call)
    ]
    for wanted in (("set_default_dtype",), CASTS.get(dtype, ())):
        found = [Source(file, node.lineno, "") for file, node in calls if _called(node) in wanted]
        if len(found) == 1:
            return found[0]
    return None


def call(root: Path, files: Iterable[str], function: str) -> Source | None:
    """The one line that calls `function`, known by its qualified name."""
    name = function.rpartition(".")[2]
    found = [
        Source(file, node.lineno, "")
        for file, tree in _trees(root, files)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _called(node) == name
    ]
    return found[0] if len(found) == 1 else None


def keeper(root: Path, files: Iterable[str]) -> Source | None:
    """The one line that keeps something, outside of what only builds a module.

    Looked for in this order: what is put into a list of an object or added to an attribute of it, what is put into any
    other list, what becomes an attribute.
    """
    nodes = [(file, node) for file, tree in _trees(root, files) for node in _running(tree)]
    for keeps in (_adds_to_own, _adds_a_name, _becomes_own):
        found = [Source(file, node.lineno, "") for file, node in nodes if keeps(node)]
        if len(found) == 1:
            return Source(*found[0])
    return None


def _running(tree: ast.AST) -> Iterator[ast.Call | ast.AugAssign | ast.Assign]:
    """The calls and assignments of a file that are in no ``__init__``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            continue
        if isinstance(node, (ast.Call, ast.AugAssign, ast.Assign)):
            yield node
        yield from _running(node)


def _adds_to_own(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return _called(node) in KEEPING and _is_own(getattr(node.func, "value", None))
    return isinstance(node, ast.AugAssign) and _is_own(node.target)


def _adds_a_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and _called(node) in KEEPING and any(isinstance(a, ast.Name) for a in node.args)


def _becomes_own(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and any(map(_is_own, node.targets))


def function(root: Path, step: str) -> Source | None:
    """The line that defines the callable of a target."""
    file, name = file_of(step), step.rpartition(":")[2]
    found = [
        Source(file, node.lineno, name)
        for file, tree in _trees(root, [file])
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name
    ]
    return found[0] if len(found) == 1 else None


def text(root: Path, source: Source | None) -> str:
    """What stands in a line; nothing where it cannot be read."""
    if source is None:
        return ""
    try:
        return (root / source.file).read_text(encoding="utf-8").splitlines()[source.line - 1].strip()
    except (OSError, UnicodeDecodeError, IndexError):
        return ""


def file_of(step: str) -> str:
    """The file of a target, from the root.

    >>> file_of("work/train.py:make"), file_of("package.module:make")
    ('work/train.py', 'package/module.py')
    """
    place = step.rpartition(":")[0]
    return place if place.endswith(".py") or "/" in place else place.replace(".", "/") + ".py"


def _trees(root: Path, files: Iterable[str]) -> Iterator[tuple[str, ast.AST]]:
    for file in sorted(set(files)):
        try:
            yield file, ast.parse((root / file).read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue


def _assigned(node: ast.Assign | ast.AnnAssign) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    listed = [item for target in targets for item in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return {item.attr for item in listed if isinstance(item, ast.Attribute) and _is_own(item)}


def _is_own(node: ast.AST | None) -> bool:
    """Whether it is ``self.NAME``."""
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"


def _called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))
