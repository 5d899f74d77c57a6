"""A step graph and a description -> the ops, or the storages, that fit it: what a script asks first.

A *pattern* is a text in which ``*`` stands for anything, as in file names (`fnmatch`): ``"h.*.attn"`` is the attention
of every block, ``"h.*.attn*"`` also what is inside it, ``"aten._foreach_*"`` every op over lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING

from .errors import ForetraceError
from .phase import Phase
from .storage import Category, Storage

if TYPE_CHECKING:
    from .op import Op
    from .step_graph import StepGraph

Phases = Phase | str | Iterable[Phase | str]
Categories = Category | str | Iterable[Category | str]


@lru_cache(maxsize=65536)
def fits(text: str, pattern: str) -> bool:
    """Whether a text is as the pattern says.

    >>> fits("h.3.attn", "h.*.attn"), fits("h.3.attn.qkv", "h.*.attn"), fits("h.3.attn.qkv", "h.*.attn*")
    (True, False, True)
    """
    return fnmatchcase(text, pattern)


def ops(graph: StepGraph, module: str | None, name: str | None, phase: Phases | None) -> Iterator[Op]:
    """The ops that fit all that is given; a name is a packet, such as ``aten.mm``, or that of one overload."""
    phases = None if phase is None else _members(Phase, phase)
    for op in graph.ops:
        if module is not None and not fits(op.module, module):
            continue
        if name is not None and not (fits(op.packet, name) or fits(op.name, name)):
            continue
        if phases is None or op.phase in phases:
            yield op


def storages(
    graph: StepGraph, module: str | None, name: str | None, category: Categories | None, phase: Phases | None
) -> Iterator[Storage]:
    """The storages that fit all that is given; their module and phase are those of the op that allocated them."""
    categories = None if category is None else _members(Category, category)
    phases = None if phase is None else _members(Phase, phase)
    for storage in graph.storages:
        maker = graph.ops[storage.born] if storage.born is not None and storage.born >= 0 else None
        if categories is not None and storage.category not in categories:
            continue
        if name is not None and not (storage.name and fits(storage.name, name)):
            continue
        if module is not None and (maker is None or not fits(maker.module, module)):
            continue
        if phases is None or (maker is not None and maker.phase in phases):
            yield storage


def _members(kind: type[Phase] | type[Category], given: Iterable[str]) -> frozenset[str]:
    """The phases, or categories, that are named. Raises `ForetraceError` for another name."""
    names = [given] if isinstance(given, str) else list(given)
    known = [member.value for member in kind]
    for name in names:
        if name not in known:
            raise ForetraceError(f"there is no {kind.__name__.lower()} {str(name)!r}", f"Give {', '.join(known)}.")
    return frozenset(str(name) for name in names)
