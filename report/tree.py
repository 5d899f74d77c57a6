"""`Report` -> the tree of modules: what each takes, in rows of parameters, saved bytes, share of the peak, FLOPs
and the time of its kernels.

A row counts the module and all below it, so the first row is the whole step. Modules of one class that are numbered
one after the other are *rolled* into one row, ``h.* x48``, which adds them up. What belongs to no module, such as the
optimizer's ops, is in the first row alone; waiting for the host is in none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from math import isclose, prod
from typing import TYPE_CHECKING

from tabulate import tabulate

from ..costmodels.holders import owner
from ..costmodels.timeline import counts
from ..graph import Category
from .format import bytes_text, count_text, screen, seconds_text, share_text
from .layout import WIDTH

if TYPE_CHECKING:
    from .result import Report

ENOUGH_NAME, LEAST_NAME = 24, 16
ENOUGH_KIND = 6
ROLLED = "*"
INDENT = "\ue000"  # of width 1, and not stripped
COLUMNS = ("module", "parameters", "saved", "of peak", "FLOP", "kernels")
SPARE = (4, 1)
"""Columns that are left out, in this order, where a terminal is narrow."""


@dataclass(slots=True)
class Sums:
    """What a module takes."""

    parameters: int = 0
    saved_bytes: int = 0
    peak_bytes: int = 0
    flops: int = 0
    seconds: float = 0.0

    def add(self, other: Sums) -> None:
        """Count another module's too."""
        self.parameters += other.parameters
        self.saved_bytes += other.saved_bytes
        self.peak_bytes += other.peak_bytes
        self.flops += other.flops
        self.seconds += other.seconds

    def is_same(self, other: Sums) -> bool:
        """True where both count the same, the rounding of seconds apart."""
        return astuple(self)[:-1] == astuple(other)[:-1] and isclose(self.seconds, other.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleRow:
    """A module, or several that were rolled into one row."""

    depth: int
    name: str
    """Its path below the row that it is in, a ``*`` for the number of rolled ones; empty for the whole step."""
    kind: str
    """The class; empty where it is not known."""
    count: int
    """How many modules the row stands for."""
    sums: Sums


def tree_table(report: Report, depth: int | None = None, width: int = WIDTH) -> str:
    """The tree as text of `width` columns that ends in a newline, down to `depth` levels below the whole."""
    rows = [row for row in module_rows(report) if depth is None or row.depth <= depth]
    return screen([_lines(rows, report.memory.peak_bytes, width)])


def module_rows(report: Report) -> list[ModuleRow]:
    """The rows from the top, each before those inside it."""
    return _Tree(report).rows("", [""], 0)


class _Tree:
    """The modules of a step by their paths, each with what it and all below it take."""

    def __init__(self, report: Report) -> None:
        self.kinds = report.trace.facts.modules
        self.sums: dict[str, Sums] = {"": Sums()}
        self.children: dict[str, list[str]] = {"": []}
        for path in self.kinds:
            self._known(path)
        for path, sums in _own(report):
            self._add(path, sums)

    def _known(self, path: str) -> None:
        """Make room for a module and those above it."""
        if path not in self.sums:
            self.sums[path], self.children[path] = Sums(), []
            above = path.rpartition(".")[0]
            self._known(above)
            self.children[above].append(path)

    def _add(self, path: str, sums: Sums) -> None:
        self._known(path)
        while path:
            self.sums[path].add(sums)
            path = path.rpartition(".")[0]
        self.sums[""].add(sums)

    def rows(self, name: str, paths: Sequence[str], depth: int) -> list[ModuleRow]:
        """The row of modules that stand for one another, and the rows inside them."""
        total, groups = self._total(paths), self._groups(paths)
        if name and len(groups) == 1:
            ((inner, inside),) = groups.items()
            if self._total(inside).is_same(total):
                return self.rows(f"{name}.{inner}", inside, depth)
        kinds = {self.kinds.get(path, "") for path in paths}
        kind = kinds.pop() if len(kinds) == 1 else ""
        row = ModuleRow(depth=depth, name=name, kind=kind, count=len(paths), sums=total)
        return [row, *(r for inner, inside in groups.items() for r in self.rows(inner, inside, depth + 1))]

    def _total(self, paths: Iterable[str]) -> Sums:
        total = Sums()
        for path in paths:
            total.add(self.sums[path])
        return total

    def _groups(self, paths: Iterable[str]) -> dict[str, list[str]]:
        """The children of modules that stand for one another, by the name of their row."""
        found: dict[tuple[str, int, str], list[str]] = {}
        for path in paths:
            for key, members in self._runs(path):
                found.setdefault(key, []).extend(members)
        names = [name for name, *_ in found]
        return {
            name if names.count(name) == 1 else f"{name}[{number}:]": members
            for (name, number, _), members in found.items()
        }

    def _runs(self, path: str) -> list[tuple[tuple[str, int, str], list[str]]]:
        """The children of one module; those of one class that are numbered one after the other are a run."""
        runs: list[tuple[tuple[str, int, str], list[str]]] = []
        for child in self.children[path]:
            name, kind = child.rpartition(".")[2], self.kinds.get(child, "")
            if name.isdigit() and runs and runs[-1][0][0].isdigit() and runs[-1][0][2] == kind:
                runs[-1][1].append(child)
            else:
                runs.append(((name, int(name) if name.isdigit() else 0, kind), [child]))
        return [((ROLLED, number, kind) if len(m) > 1 else (name, number, kind), m) for (name, number, kind), m in runs]


def _own(report: Report) -> Iterable[tuple[str, Sums]]:
    """What belongs to each module by itself, piece by piece; the pieces add up to the report."""
    trace = report.trace
    for named in trace.facts.parameters:
        yield named.name.rpartition(".")[0], Sums(parameters=prod(named.shape))
    for storage in trace.storages:
        if storage.category is Category.SAVED and counts(trace, storage):
            yield owner(trace, storage), Sums(saved_bytes=storage.bytes)
    for storage in report.memory.peak_storages:
        yield owner(trace, storage), Sums(peak_bytes=storage.bytes)
    for op, priced, time in zip(trace.ops, report.priced, report.time.ops, strict=True):
        yield op.module, Sums(flops=priced.work.flops, seconds=time.seconds)


def _lines(rows: Sequence[ModuleRow], peak_bytes: int, width: int) -> list[str]:
    table = [COLUMNS, *(_cells(row, peak_bytes) for row in rows)]
    kept = list(range(len(COLUMNS)))
    for column in SPARE:
        if _room(table, kept, width) >= ENOUGH_NAME:
            break
        kept.remove(column)
    room = max(_room(table, kept, width), LEAST_NAME)
    shown = [(_kept(_named(name, room)), *([name, *rest][column] for column in kept[1:])) for name, *rest in table]
    align = ("left", *["right"] * (len(kept) - 1))
    text = tabulate(shown, tablefmt="plain", colalign=align, disable_numparse=True)
    return text.replace(INDENT, " ").splitlines()


def _room(table: Sequence[tuple[str, ...]], kept: Sequence[int], width: int) -> int:
    """What the numbers of the columns that are shown leave for the name."""
    return width - sum(max(len(row[column]) for row in table) + 2 for column in kept[1:])


def _cells(row: ModuleRow, peak_bytes: int) -> tuple[str, ...]:
    parameters, saved, peak, flops, seconds = astuple(row.sums)
    times = f" x{row.count}" if row.count > 1 else ""
    return (
        f"{'  ' * row.depth}{row.name or 'the step'}{times}{f'  {row.kind}' if row.kind else ''}",
        f"{parameters:,}" if parameters else "",
        bytes_text(saved) if saved else "",
        share_text(peak, peak_bytes) if peak else "",
        count_text(flops, "") if flops else "",
        seconds_text(seconds) if seconds else "",
    )


def _kept(name: str) -> str:
    """The indent in letters that tabulate does not strip."""
    bare = name.lstrip(" ")
    return INDENT * (len(name) - len(bare)) + bare


def _named(name: str, width: int) -> str:
    """A row's name, and its class as far as there is room for enough of it to tell."""
    bare, _, kind = name.rstrip().rpartition("  ")
    enough = not bare.strip() or len(bare) + 2 + min(len(kind), ENOUGH_KIND) + 2 <= width
    return _cut(name if enough or len(name) <= width else bare, width)


def _cut(text: str, width: int) -> str:
    """A name of one line: the indent and the beginning of one that is too long."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= width else f"{text[: width - 2]}.."
