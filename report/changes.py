"""Two reports -> *changes*: what one kind of thing took before and takes after, largest difference first.

Rows are matched by the kind of module, the category or op, and for memory the op that made the storages; line numbers
and sizes are not part of the match, since they are what a change of the code moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from .result import Report

Amount = TypeVar("Amount", int, float)


@dataclass(frozen=True, slots=True)
class Change(Generic[Amount]):
    """What one kind of thing took in two reports."""

    what: str
    before: Amount
    after: Amount

    @property
    def change(self) -> Amount:
        """More is positive."""
        return self.after - self.before


def holder_changes(before: Report, after: Report) -> list[Change[int]]:
    """Bytes at the peak; the changes add up to the change of the peak."""
    return _changes(_held(before), _held(after))


def taker_changes(before: Report, after: Report) -> list[Change[float]]:
    """Seconds of the step."""
    return _changes(_taken(before), _taken(after))


def _held(report: Report) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in report.holders:
        kind = str(row.category).replace("_", " ") if row.category else ""
        what = " ".join(filter(None, (row.module, row.packet.removeprefix("aten."), kind)))
        found[what] = found.get(what, 0) + row.bytes
    return found


def _taken(report: Report) -> dict[str, float]:
    return {f"{row.module} {row.packet.removeprefix('aten.')}".strip(): row.seconds for row in report.takers}


def _changes(before: dict[str, Amount], after: dict[str, Amount]) -> list[Change[Amount]]:
    nothing = type(next(iter((before or after or {"": 0}).values())))(0)
    rows = [Change(what, before.get(what, nothing), after.get(what, nothing)) for what in {**before, **after}]
    return sorted((row for row in rows if row.change), key=lambda row: (-abs(row.change), row.what))
