"""Turns a timeline's peak into who holds it: rows of storages alike, by module, category, size and source line.

A *holder* is a group of storages that the same kind of module (repeated ones rolled up: ``h.3.attn`` is
``h.*.attn``), the same kind of op and the same line of code made, and that are equally large. A storage with a name
(a parameter, a buffer, a gradient, a state) belongs to the module in its name; another to the module of the op that
allocated it. What has neither is *unattributed*, in a row of its own at the end. Rows add up to the peak.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from ..graph import Category, Source, StepGraph, Storage
from .timeline import Timeline, counts

UNATTRIBUTED = "unattributed"


@lru_cache(maxsize=1 << 16)
def roll(path: str) -> str:
    """A module's path with its indices rolled up, so that repeated blocks share one name.

    >>> roll("transformer.h.3.attn")
    'transformer.h.*.attn'
    """
    return ".".join(["*" if part.isdigit() else part for part in path.split(".")])


@dataclass(frozen=True, slots=True)
class Holder:
    """A group of equal storages. ``packet`` and ``source`` say which op made them, where one did."""

    module: str
    category: Category | None
    bytes_each: int
    packet: str
    source: Source | None
    count: int

    @property
    def bytes(self) -> int:
        """Bytes of the whole group."""
        return self.bytes_each * self.count


def owner(graph: StepGraph, storage: Storage) -> str:
    """The path of the module that a storage belongs to: that in its name, or that of the op which allocated it."""
    if storage.name:
        return storage.name.split("/")[0].rpartition(".")[0]
    return graph.ops[storage.born].module if storage.born is not None and storage.born >= 0 else ""


Key = tuple[str, Category | None, int, str, Source | None]


def key(graph: StepGraph, storage: Storage) -> Key | None:
    """What a storage is grouped by; None where nothing is known of where it comes from."""
    maker = graph.ops[storage.born] if storage.born is not None and storage.born >= 0 else None
    if not storage.name and maker is None:
        return None
    packet, source = (maker.packet, maker.source) if maker else ("", None)
    return roll(owner(graph, storage)), storage.category, storage.bytes, packet, source


def group(graph: StepGraph, storages: Iterable[Storage]) -> tuple[Holder, ...]:
    """The holders of `storages`, largest first, and a last row for the bytes that nobody accounts for."""
    counted: dict[Key, int] = {}
    nobody = 0
    for storage in storages:
        found = key(graph, storage)
        if found is None:
            nobody += storage.bytes
        else:
            counted[found] = counted.get(found, 0) + 1
    rows = [Holder(*found, count) for found, count in counted.items()]
    rows.sort(key=lambda row: (-row.bytes, row.module, str(row.category), row.packet, str(row.source)))
    return (*rows, Holder(UNATTRIBUTED, None, nobody, "", None, 1)) if nobody else tuple(rows)


def holders(graph: StepGraph, timeline: Timeline) -> tuple[Holder, ...]:
    """Who holds the peak."""
    return group(graph, timeline.peak_storages)


def saved_by_op(graph: StepGraph) -> dict[int | None, int]:
    """Bytes saved for backward by the id of the op that allocated them; None for what was live at the start."""
    saved: dict[int | None, int] = {}
    for storage in graph.storages:
        if storage.category is Category.SAVED and counts(graph, storage):
            saved[storage.born] = saved.get(storage.born, 0) + storage.bytes
    return saved


def saved_by_module(graph: StepGraph, *, rolled: bool = False) -> dict[str, int]:
    """Bytes saved for backward by the module whose op allocated them, the largest first."""
    saved: dict[str, int] = {}
    for born, count in saved_by_op(graph).items():
        path = graph.ops[born].module if born is not None else ""
        path = roll(path) if rolled else path
        saved[path] = saved.get(path, 0) + count
    return dict(sorted(saved.items(), key=lambda item: (-item[1], item[0])))
