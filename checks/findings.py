"""A target's snapshot, its baseline and its limits -> *findings*: what is worse than was agreed on, and why.

An *outcome* is all that is said of one target: its findings, its causes, what moved for the better, or the error that
kept it from being traced. Findings are in the order of the facts, memory first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..graph import ForetraceError, Source
from .causes import ALWAYS, Case, Cause, case, causes
from .codes import CODES, Code
from .config import Target
from .matching import Change, came
from .quantity import FACTS, Allowance, change_text, text, texts
from .snapshot import Snapshot

CLEAN, FOUND, COULD_NOT = 0, 1, 2
"""Exit codes."""

VERSIONS = ("foretrace", "torch")
ON_PROFILE = ("time", "max-batch")
"""Facts that another hardware profile changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fact of one target that is worse than was agreed on."""

    code: str
    target: str
    headline: str
    """One sentence without its target."""
    fact: str = ""
    now: int | None = None
    before: int | None = None
    limit: int | None = None
    """What it may be."""
    source: Source | None = None
    """The line that did most of it."""
    cause: Cause | None = None

    @property
    def title(self) -> str:
        """What its code stands for."""
        return CODES[self.code].title

    @property
    def sentence(self) -> str:
        """All that fits in one message: what, why, and what to do."""
        why = f": {self.cause.text}. {self.cause.mend}" if self.cause else f". {CODES[self.code].mend}"
        return f"{self.target}: {self.headline}{why}"

    @property
    def excess(self) -> float:
        """How bad it is: by which share of what it may be it is over."""
        if self.now is None or self.limit is None:
            return 0.0
        over = abs(self.now - self.limit)
        return over / self.limit if self.limit else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All that is said of one target."""

    target: str
    step: str = ""
    now: Snapshot | None = None
    before: Snapshot | None = None
    findings: tuple[Finding, ...] = ()
    causes: tuple[Cause, ...] = ()
    changes: Mapping[str, tuple[Change, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    error: ForetraceError | None = None

    @property
    def exit_code(self) -> int:
        """What this target alone would end with."""
        return COULD_NOT if self.error else FOUND if self.findings else CLEAN

    @property
    def word(self) -> str:
        """One word for it."""
        if self.error:
            return "error"
        if self.findings:
            return "found"
        return "new" if self.before is None else "changed" if self.moved else "same"

    @property
    def moved(self) -> tuple[str, ...]:
        """The facts that are not what they were."""
        return moved(self.before, self.now) if self.before and self.now else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """The outcome of a whole run. ``title`` says in the formats what was compared with what."""

    outcomes: tuple[Outcome, ...]
    notes: tuple[str, ...] = ()
    accept: str = "foretrace check --update"
    """The command that accepts what was found; empty where there is none."""
    baseline: str = ""
    config: str = ""
    root: Path = Path()
    version: str = ""
    """Of foretrace."""
    prefix: str = ""
    """The way from the top of the repository to the root, for services that show files by that: ``"training/"``."""

    def place(self, finding: Finding) -> Source:
        """The line of a finding from the top of the repository; the configuration where it has none."""
        source = finding.source or Source(self.config or "foretrace.toml", 1, "")
        return source._replace(file=f"{self.prefix}{source.file}")

    @property
    def config_place(self) -> str:
        """The configuration from the top of the repository."""
        return f"{self.prefix}{self.config or 'foretrace.toml'}"

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, the worst first: those that are over by the largest share."""
        found = [finding for outcome in self.outcomes for finding in outcome.findings]
        return tuple(sorted(found, key=lambda finding: (-finding.excess, finding.target, finding.code)))

    @property
    def errors(self) -> tuple[Outcome, ...]:
        """The targets that could not be checked."""
        return tuple(outcome for outcome in self.outcomes if outcome.error)

    @property
    def exit_code(self) -> int:
        """2 where a target could not be checked, else 1 where something was found, else 0."""
        return max((outcome.exit_code for outcome in self.outcomes), default=CLEAN)


def judge(target: Target, now: Snapshot, before: Snapshot | None, root: Path, *, expected: bool = True) -> Outcome:
    """What there is to say of a target that was traced; `expected` says that a baseline exists, so it should be in it.

    Raises `ForetraceError` for a budget on a fact that is not known.
    """
    for fact in target.budget:
        if fact not in now.facts:
            raise ForetraceError(
                f"{target.name} has a budget for {fact}, and this foretrace cannot tell {fact} yet",
                "Take the budget out, or set one for peak.",
            )
    found = _over_budget(target, now)
    if before is None:
        if expected and not found:
            found = [_unknown(target)]
        notes = () if expected else ("it has no baseline, so only its budget was checked",)
        return Outcome(target=target.name, step=target.step, now=now, findings=_wanted(found, target), notes=notes)
    looked = case(before, now, root, target.step, target.place)
    known = causes(looked)
    drift = _drift(before, now)
    grown = [] if drift else [*_grown(target, now, before), *_less_sure(target, now, before)]
    placed = [_placed(finding, known, looked) for finding in (*found, *grown)]
    return Outcome(
        target=target.name,
        step=target.step,
        now=now,
        before=before,
        findings=_wanted(placed, target),
        causes=known if placed else (),
        changes=looked.changes,
        notes=tuple(_notes(target, before, now, drift)),
    )


def moved(before: Snapshot, now: Snapshot) -> tuple[str, ...]:
    """The facts that are not what they were, as far as both know them and they are comparable."""
    other_profile = before.made_with.get("on") != now.made_with.get("on")
    return tuple(
        fact
        for fact in FACTS
        if fact in before.facts
        and fact in now.facts
        and before.facts[fact] != now.facts[fact]
        and not (other_profile and fact in ON_PROFILE)
    )


def _wanted(findings: list[Finding], target: Target) -> tuple[Finding, ...]:
    return tuple(finding for finding in findings if finding.code not in target.ignore)


def _code(fact: str, budget: bool) -> Code:
    return next(code for code in CODES.values() if code.fact == fact and code.budget is budget)


def _over_budget(target: Target, now: Snapshot) -> list[Finding]:
    return [
        Finding(
            code=_code(fact, True).code,
            target=target.name,
            headline=_budget_headline(fact, now.facts[fact], limit),
            fact=fact,
            now=now.facts[fact],
            limit=limit,
        )
        for fact, limit in target.budget.items()
        if _is_worse(fact, now.facts[fact], limit)
    ]


def _is_worse(fact: str, value: int, limit: int) -> bool:
    return value < limit if FACTS[fact].less_is_worse else value > limit


def _budget_headline(fact: str, value: int, limit: int) -> str:
    shown, budget = texts(fact, value, limit)
    if FACTS[fact].less_is_worse:
        return f"{FACTS[fact].words} is {shown}, the budget asks for {budget}"
    return f"{FACTS[fact].words} is {shown}, {text(fact, value - limit)} over the budget of {budget}"


def _grown(target: Target, now: Snapshot, before: Snapshot) -> list[Finding]:
    return [
        found
        for fact in moved(before, now)
        if fact in target.allow
        and (found := _growth(target.name, fact, before.facts[fact], now.facts[fact], target.allow[fact]))
    ]


def _growth(target: str, fact: str, before: int, now: int, allow: Allowance) -> Finding | None:
    spare = allow.of(before)
    limit = before - spare if FACTS[fact].less_is_worse else before + spare
    if not _is_worse(fact, now, limit):
        return None
    return Finding(
        code=_code(fact, False).code,
        target=target,
        headline=_growth_headline(fact, before, now, allow),
        fact=fact,
        now=now,
        before=before,
        limit=limit,
    )


def _growth_headline(fact: str, before: int, now: int, allow: Allowance) -> str:
    was, is_now = texts(fact, before, now)
    spare = f"; {allow if allow.percent else text(fact, allow.count)} is allowed" if allow.of(before) else ""
    if fact == "kept":
        return f"every step keeps {is_now} more than it found, it was {was}{spare}"
    if FACTS[fact].less_is_worse:
        return f"{FACTS[fact].words} fell from {was} to {is_now}{spare}"
    return f"{FACTS[fact].words} grew by {change_text(fact, before, now).removeprefix('+')} to {is_now}{spare}"


def _less_sure(target: Target, now: Snapshot, before: Snapshot) -> list[Finding]:
    ops = [name for name in now.assumed if name not in before.assumed]
    places = [text for text in now.assumptions if text not in before.assumptions]
    found = []
    if ops:
        found.append(Finding(code="C001", target=target.name, headline=f"no rule prices {', '.join(ops)}"))
    if places:
        found.append(Finding(code="C002", target=target.name, headline=f"newly assumed of {'; of '.join(places)}"))
    return found


def _unknown(target: Target) -> Finding:
    return Finding(code="B001", target=target.name, headline="the baseline does not know it")


def _placed(finding: Finding, known: tuple[Cause, ...], looked: Case) -> Finding:
    """The finding with the cause that explains its fact, and the line that did most of it."""
    cause = next((cause for cause in known if finding.fact in cause.facts), None)
    grown = [change.row.source for change in came(looked.changes.get(_rows_of(finding.fact), ())) if change.row.source]
    others = [other.source for other in known if other.source]
    source = cause.source if cause else None
    if source is None and not (cause and cause.weight == ALWAYS):
        source = next(iter((*grown, *others)), None)
    return Finding(
        code=finding.code,
        target=finding.target,
        headline=finding.headline,
        fact=finding.fact,
        now=finding.now,
        before=finding.before,
        limit=finding.limit,
        source=source,
        cause=cause,
    )


def _rows_of(fact: str) -> str:
    """The rows that explain a fact: what is reserved, and what fits, follows the peak."""
    return "peak" if fact in ("reserved", "max-batch") else fact


def _drift(before: Snapshot, now: Snapshot) -> str:
    """Which tools are not those that the baseline was made with, in words."""
    changed = [name for name in VERSIONS if before.made_with.get(name) != now.made_with.get(name)]
    return ", ".join(f"{name} {before.made_with.get(name)} -> {now.made_with.get(name)}" for name in changed)


def _notes(target: Target, before: Snapshot, now: Snapshot, drift: str) -> list[str]:
    facts = moved(before, now)
    notes = []
    if drift:
        what = f"{', '.join(_moved_text(fact, before, now) for fact in facts)} moved" if facts else "no fact moved"
        notes.append(f"drift, not judged: {what} with {drift}")
    old, new = before.made_with.get("on"), now.made_with.get("on")
    if old != new:
        notes.append(f"the baseline is for {old}, this is {new}: time and largest batch were not compared")
    better = [fact for fact in facts if fact in target.allow and _is_worse(fact, before.facts[fact], now.facts[fact])]
    if better and not drift:
        notes.append(f"better: {', '.join(_moved_text(fact, before, now) for fact in better)}")
    return notes


def _moved_text(fact: str, before: Snapshot, now: Snapshot) -> str:
    return f"{fact} {change_text(fact, before.facts[fact], now.facts[fact])}"
