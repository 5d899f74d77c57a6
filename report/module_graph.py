"""`Report` -> the *module graph*: what each module down to some depth costs, and the bytes that flow between them.

Ops below the depth count for the module above them; ops outside any module are one node of their own. An edge is the
tensors that forward ops of one module read from another's; those of backward would lead the same ways back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..graph import Category, Phase

if TYPE_CHECKING:
    from .result import Report

OUTSIDE = "(no module)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleNode:
    """What the ops of one module take in the whole step."""

    path: str
    kind: str
    """The class; empty where it is not known."""
    ops: int
    flops: int
    seconds: float
    saved_bytes: int
    """Of the storages saved for backward, those that its ops allocated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleGraph:
    """Nodes in the order of their first op, and the bytes of the edges between them by the nodes' places."""

    nodes: tuple[ModuleNode, ...]
    edges: dict[tuple[int, int], int]


def module_graph(report: Report, depth: int = 2) -> ModuleGraph:
    """The graph down to `depth` names of a path."""
    owner = [_cut(op.module, depth) for op in report.trace.ops]
    places = {path: place for place, path in enumerate(dict.fromkeys(owner))}
    return ModuleGraph(
        nodes=tuple(_node(report, path, owner) for path in places), edges=_edges(report, [places[p] for p in owner])
    )


def _cut(path: str, depth: int) -> str:
    return ".".join(path.split(".")[:depth]) if path else OUTSIDE


def _node(report: Report, path: str, owner: list[str]) -> ModuleNode:
    mine = [place for place, of in enumerate(owner) if of == path]
    inside = set(mine)
    saved = (s for s in report.trace.storages if s.category is Category.SAVED and s.born in inside)
    return ModuleNode(
        path=path,
        kind=report.trace.facts.modules.get(path, ""),
        ops=len(mine),
        flops=sum(report.priced[place].work.flops for place in mine),
        seconds=sum(report.time.ops[place].seconds for place in mine),
        saved_bytes=sum(storage.bytes for storage in saved),
    )


def _edges(report: Report, places: list[int]) -> dict[tuple[int, int], int]:
    found: dict[tuple[int, int], int] = {}
    ops = report.trace.ops
    for maker, reader, about in report.trace.graph.edges(data=True):
        ends = places[maker], places[reader]
        if ops[maker].phase is ops[reader].phase is Phase.FORWARD and ends[0] != ends[1]:
            found[ends] = found.get(ends, 0) + about["bytes"]
    return found
