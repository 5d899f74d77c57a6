"""A `Report` and some of its ops -> what these cost together, and the chain of ops that no parallelism shortens.

The *critical path* is the chain of ops, each reading what the one before it wrote, whose kernels take longest one after
the other. A device that ran everything else beside it, and a host that were always ahead, would still need that long.
Order that only memory gives (an op that overwrites what another still has to read) is not in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..costmodels.work import Work, total
from ..graph import Category, ForetraceError, Op

if TYPE_CHECKING:
    from .result import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What some ops of a step cost together."""

    ops: int
    work: Work
    seconds: float
    """Of their kernels, one after the other; waiting for the host is nobody's."""
    low_seconds: float
    high_seconds: float
    allocated_bytes: int
    """Of the storages that they allocate, each counted once, whenever it lives."""
    saved_bytes: int
    """The part of these that is saved for backward."""


def cost(report: Report, ops: Iterable[Op]) -> Cost:
    """The cost of `ops`. Raises `ForetraceError` for ops of another graph."""
    ids = {op.id for op in ops if _is_of(report, op)}
    times = [report.time.ops[i] for i in ids]
    born = [storage for storage in report.trace.storages if storage.born in ids]
    return Cost(
        ops=len(ids),
        work=total(report.priced[i].work for i in ids),
        seconds=sum(time.seconds for time in times),
        low_seconds=sum(time.low_seconds for time in times),
        high_seconds=sum(time.high_seconds for time in times),
        allocated_bytes=sum(storage.bytes for storage in born),
        saved_bytes=sum(storage.bytes for storage in born if storage.category is Category.SAVED),
    )


def _is_of(report: Report, op: Op) -> bool:
    known = report.trace.ops
    if not 0 <= op.id < len(known) or known[op.id].name != op.name:
        raise ForetraceError(f"op {op.id} {op.name} is not of this report's trace", "Select ops of report.trace.")
    return True


def critical_path(report: Report) -> tuple[Op, ...]:
    """The ops of the critical path, in order."""
    before = report.trace.graph.pred
    seconds = [time.seconds for time in report.time.ops]
    until: list[float] = []
    came_from: list[int | None] = []
    for op in report.trace.ops:
        source = max(before[op.id], key=lambda i: (until[i], -i), default=None)
        came_from.append(source)
        until.append(seconds[op.id] + (until[source] if source is not None else 0.0))
    place = max(range(len(until)), key=lambda i: (until[i], -i), default=None)
    chain: list[Op] = []
    while place is not None:
        chain.append(report.trace.ops[place])
        place = came_from[place]
    return tuple(reversed(chain))
