"""The parts of an outcome -> words that several formats share: the facts beside what they were, the rows that moved."""

from __future__ import annotations

from dataclasses import dataclass

from ..graph import Source
from .baseline import REST
from .findings import Checked, Finding, Outcome
from .matching import Change, came, went
from .quantity import FACTS, change_text, text, texts
from .snapshot import UNKNOWN, dtype_of

MOST_ROWS = 6
"""Rows shown of what came, and as many of what went."""

KINDS = {"saved_for_backward": "saved", "optimizer_state": "state"}
HEADLINE = ("peak", "saved", "flops", "time", "max-batch")
"""The facts that are said of a target in which nothing moved."""


@dataclass(frozen=True, slots=True)
class FactLine:
    """One fact of a target for a table: now, before, and by how much it moved."""

    fact: str
    now: str
    before: str
    change: str


@dataclass(frozen=True, slots=True)
class RowLine:
    """One row that moved, for a table: a sign, bytes or FLOPs, whose they are, what they are, and where."""

    sign: str
    amount: str
    what: str
    form: str
    kind: str
    place: str


def place(source: Source | None) -> str:
    """``model.py:71``, or nothing."""
    return str(source) if source else ""


def fact_lines(outcome: Outcome) -> list[FactLine]:
    """The facts of a target, those of `HEADLINE` and those that moved."""
    if outcome.now is None:
        return []
    before = outcome.before.facts if outcome.before else {}
    shown = [fact for fact in FACTS if fact in outcome.now.facts and (fact in HEADLINE or fact in outcome.moved)]
    return [_fact_line(fact, outcome.now.facts[fact], before.get(fact), fact in outcome.moved) for fact in shown]


def _fact_line(fact: str, now: int, before: int | None, moved: bool) -> FactLine:
    if before is None or not moved:
        return FactLine(fact, text(fact, now), "", "")
    was, is_now = texts(fact, before, now)
    return FactLine(fact, is_now, was, change_text(fact, before, now))


def fact_sentence(outcome: Outcome) -> str:
    """The same in one line, without what they were."""
    return ", ".join(f"{line.fact} {line.now}" for line in fact_lines(outcome))


def state(outcome: Outcome) -> str:
    """What became of a target, in a few words."""
    count = len(outcome.findings)
    words = {
        "error": "could not be checked",
        "found": f"{count} finding{'s' if count > 1 else ''}",
        "new": "ok, with nothing to compare it with",
        "changed": "ok, changed",
        "same": "ok, no change",
    }
    return words[outcome.word]


def row_lines(outcome: Outcome, fact: str, most: int = MOST_ROWS) -> list[RowLine]:
    """The rows of a fact that moved, what came first; a last line says how many are not shown."""
    found = outcome.changes.get(fact, ())
    up, down = came(found), went(found)
    shown = [*up[:most], *down[:most]]
    lines = [_row_line(fact, change) for change in shown]
    if rest := [*up[most:], *down[most:]]:
        total = sum(change.delta for change in rest)
        lines.append(RowLine("~", _amount(fact, total), f"{len(rest)} more", "", "", ""))
    return lines


def _row_line(fact: str, change: Change) -> RowLine:
    sign = "+" if change.before is None else "-" if change.after is None else "~"
    row = change.row
    what = (
        "all smaller rows" if row.module == REST else f"{'' if row.module == UNKNOWN else row.module + ' '}{row.what}"
    )
    return RowLine(
        sign, _amount(fact, change.delta), what, _form(change), KINDS.get(row.kind, row.kind), place(row.source)
    )


def _amount(fact: str, delta: int) -> str:
    return f"{'+' if delta >= 0 else '-'}{text(fact, abs(delta))}"


def _form(change: Change) -> str:
    """``48 x float32[8, 1024]``, with what it was where that is another dtype, shape or number."""
    row, before = change.row, change.before
    if not row.form:
        return ""
    now = f"{row.times:,} x {row.form}" if row.times > 1 else row.form
    if before is None or change.after is None:
        return now
    if change.dtypes and not change.shapes:
        return f"{now} (was {dtype_of(before)})"
    if before.form != row.form:
        return f"{now} (was {before.form})"
    return f"{now} (was {before.times:,} x)" if before.times != row.times else now


def main_fact(outcome: Outcome) -> str:
    """The fact whose rows tell most: that of the first finding that has rows."""
    for finding in outcome.findings:
        fact = rows_fact(finding)
        if outcome.changes.get(fact):
            return fact
    return "peak"


def rows_fact(finding: Finding) -> str:
    """The fact whose rows explain a finding."""
    return "peak" if finding.fact in ("reserved", "max-batch", "") else finding.fact


def summary(checked: Checked) -> str:
    """One sentence for the whole run."""
    targets, found, failed = len(checked.outcomes), len(checked.findings), len(checked.errors)
    over = sum(bool(outcome.findings) for outcome in checked.outcomes)
    parts = []
    if found:
        parts.append(f"{found} finding{'s' if found > 1 else ''} in {over} of {_targets(targets)}")
    if failed:
        parts.append(f"{failed} of {_targets(targets)} could not be checked")
    return "; ".join(parts) or f"{_targets(targets)}: nothing found"


def _targets(count: int) -> str:
    return f"{count} target{'' if count == 1 else 's'}"


def headline(checked: Checked) -> str:
    """The worst finding in words, or the summary where there is none."""
    if not checked.findings:
        return summary(checked)
    worst = checked.findings[0]
    return f"{worst.target}: {worst.headline}"
