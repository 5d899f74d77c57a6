"""The rows of two snapshots -> *changes*: which row became which, and by how much it grew.

Rows match when they are called the same. What then remains is matched by structure: a module that only the first has
and one that only the second has are the same module under another name when most of their rows agree; a row whose
module has moved but whose op, kind and form are those of another is that row; and a row that kept its place and changed
its dtype or shape is a changed row, not one that went and one that came.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace

from .baseline import REST, is_listed
from .snapshot import UNKNOWN, Row, Snapshot, dtype_of, shape_of

Match = Callable[[Row], Hashable]

SIMILAR = 0.5
"""The share of rows that two modules have in common to be the same module."""


@dataclass(frozen=True, slots=True)
class Change:
    """One part of a fact before and after; None where it was not there. ``renamed`` says that its module was."""

    before: Row | None
    after: Row | None

    @property
    def delta(self) -> int:
        """By how much it grew."""
        return (self.after.value if self.after else 0) - (self.before.value if self.before else 0)

    @property
    def row(self) -> Row:
        """What it is now, or else what it was."""
        found = self.after or self.before
        assert found is not None
        return found

    @property
    def dtypes(self) -> tuple[str, str] | None:
        """The dtype before and after where it changed."""
        return self._differ(dtype_of)

    @property
    def shapes(self) -> tuple[str, str] | None:
        """The shape before and after where it changed."""
        return self._differ(shape_of)

    def _differ(self, part: Callable[[Row], str]) -> tuple[str, str] | None:
        if self.before is None or self.after is None:
            return None
        pair = part(self.before), part(self.after)
        return pair if pair[0] != pair[1] and all(pair) else None


def changes(before: Snapshot, after: Snapshot, fact: str) -> tuple[Change, ...]:
    """What became of the rows of `fact`: those that changed, the largest growth first, then the largest loss."""
    after = comparable(before, after)
    renamed = renames(before, after)
    old = [row._replace(module=renamed.get(row.module, row.module)) for row in before.rows.get(fact, ())]
    found = _matched(old, list(after.rows.get(fact, ())))
    moved = [change for change in found if change.delta or change.dtypes or change.shapes]
    return tuple(sorted(moved, key=lambda change: (-change.delta, change.row.key)))


def comparable(before: Snapshot, after: Snapshot) -> Snapshot:
    """`after` with the rows that the listing of `before` would have left out added up, as it did."""
    rows = {fact: _as_listed(fact, before.rows.get(fact, ()), found) for fact, found in after.rows.items()}
    return replace(after, rows=rows)


def _as_listed(fact: str, old: tuple[Row, ...], new: tuple[Row, ...]) -> tuple[Row, ...]:
    if not any(row.module == REST for row in old):
        return new
    total = sum(row.value for row in old)
    known = {row.key for row in old}
    kept = [row for row in new if is_listed(fact, row, total) or row.key in known]
    rest = sum(row.value for row in new) - sum(row.value for row in kept)
    return (*kept, *([Row(REST, "", "", "", rest)] if rest else []))


_PASSES: tuple[Match, ...] = (
    lambda row: row.key,
    lambda row: (row.what, row.kind, row.form, row.value),
    lambda row: (row.what, row.kind, row.form),
    lambda row: (row.module, row.what, row.kind, shape_of(row)),
    lambda row: (row.module, row.what, row.kind, dtype_of(row)),
    lambda row: (row.module, row.what, row.kind),
    lambda row: (row.what, row.kind, shape_of(row)),
    lambda row: (row.module, row.kind, shape_of(row)),
)
"""From the same row to ever looser likeness; what one pass matched the next does not see."""


def _matched(old: list[Row], new: list[Row]) -> list[Change]:
    pairs: list[Change] = []
    for match in _PASSES:
        waiting: dict[Hashable, list[Row]] = defaultdict(list)
        for row in new:
            waiting[match(row)].append(row)
        left = []
        for row in old:
            if same := waiting.get(match(row)):
                pairs.append(Change(row, same.pop(0)))
            else:
                left.append(row)
        taken = {id(pair.after) for pair in pairs}
        old, new = left, [row for row in new if id(row) not in taken]
    return [*pairs, *(Change(row, None) for row in old), *(Change(None, row) for row in new)]


def renames(before: Snapshot, after: Snapshot) -> dict[str, str]:
    """Modules that only `before` has -> the modules of `after` that they have become."""
    old, new = _modules(before), _modules(after)
    gone = sorted(name for name in old if name not in new and name not in (REST, UNKNOWN))
    come = sorted(name for name in new if name not in old and name not in (REST, UNKNOWN))
    scored = sorted(
        ((-_likeness(old[a], new[b]), -_same_words(a, b), a, b) for a in gone for b in come),
    )
    found: dict[str, str] = {}
    for score, _, a, b in scored:
        if -score >= SIMILAR and a not in found and b not in found.values():
            found[a] = b
    return found


def _modules(snapshot: Snapshot) -> dict[str, set[tuple[str, ...]]]:
    """For each module what it has, whatever it is called and however large it is."""
    found: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for fact, rows in snapshot.rows.items():
        for row in rows:
            found[row.module].add((fact, row.what, row.kind, shape_of(row)))
    return found


def _likeness(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> float:
    return len(one & other) / min(len(one), len(other))


def _same_words(one: str, other: str) -> int:
    return len(set(one.split(".")) & set(other.split(".")))


def came(found: Iterable[Change]) -> list[Change]:
    """The changes that are growth."""
    return [change for change in found if change.delta > 0]


def went(found: Iterable[Change]) -> list[Change]:
    """The changes that are loss, the largest first."""
    return sorted((change for change in found if change.delta < 0), key=lambda change: (change.delta, change.row.key))
