"""Turns a step graph into *priced* ops: each op with its work and with who says so.

The roll-up adds them by phase and lists what had to be assumed. Nothing here depends on a device.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ..graph import Op, Phase, StepGraph
from ..graph.bulk import of_columns, uncollected
from ..graph.op import NotATensor
from .rules import OF_NO_TENSOR, Answer, Kind, Rule, Table, looks_at_form_only, lookup, override
from .work import NOTHING, Work, total


@dataclass(frozen=True, slots=True)
class Priced:
    """An op, its work, and how that was found: ``kind`` and the file and line it comes from."""

    op: Op
    work: Work
    kind: Kind
    by: str


@dataclass(frozen=True, slots=True)
class Assumed:
    """An op that no rule knows, and what was assumed of all its calls together."""

    name: str
    count: int
    flops: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The work of a step, added up by phase; ``kinds`` counts the ops by how they were priced."""

    work: Work
    phases: Mapping[Phase, Work]
    kinds: Mapping[Kind, int]
    assumed: tuple[Assumed, ...] = field(default=())

    def phase(self, phase: Phase) -> Work:
        """The work of `phase`; none where the step has no such phase."""
        return self.phases.get(phase, NOTHING)


def apply(op: Op, answer: Answer) -> Work:
    """The work that a rule gives for `op`. Its errors say which op and which rule."""
    try:
        work = answer.function(op)
    except Exception as error:
        error.add_note(f"while pricing op {op.id}, {op.name}, by {answer.by}")
        raise
    if not isinstance(work, Work):
        raise TypeError(f"the rule {answer.by} for {op.name} gave {work!r}, not Work")
    return work


def price_op(op: Op) -> Priced:
    """One op, priced by the rules in scope."""
    answer, work = _answered(op)
    return Priced(op, work, answer.kind, answer.by)


def _answered(op: Op) -> tuple[Answer, Work]:
    """The rule for an op, and the work that it gives; what was assumed where a rule of ours is for dense tensors."""
    answer = lookup(op)
    try:
        return answer, apply(op, answer)
    except NotATensor:
        several = any(type(value) is tuple for value in op.args.values())
        if not (several and looks_at_form_only(answer)):
            raise
        return OF_NO_TENSOR, apply(op, OF_NO_TENSOR)


def price_ops(graph: StepGraph, overrides: Table | Mapping[str, Rule] | None = None) -> tuple[Priced, ...]:
    """Every op of `graph`, priced in order. `overrides` go before all other rules.

    Ops that are alike are priced once, and share their work; but a rule that is not of this package is asked for
    every op, because it may look at all that it is given, the module too.
    """
    with override(overrides or {}), uncollected():
        work, kind, by = zip(*_found(graph), strict=True) if graph.ops else ((), (), ())
    return tuple(of_columns(Priced, len(graph.ops), op=graph.ops, work=work, kind=kind, by=by))


def _found(graph: StepGraph) -> Iterator[tuple[Work, Kind, str]]:
    """The work of each op, how it was found, and by whom."""
    known: dict[int, tuple[Work, Kind, str]] = {}
    for op, kind in zip(graph.ops, graph.kinds, strict=True):
        found = known.get(kind)
        if found is None:
            answer, work = _answered(op)
            found = work, answer.kind, answer.by
            if looks_at_form_only(answer):
                known[kind] = found
        yield found


def assumed_ops(priced: Iterable[Priced]) -> tuple[Assumed, ...]:
    """The assumed ops by name, the ones that move most first."""
    groups: dict[str, list[Work]] = {}
    for p in priced:
        if p.kind is Kind.ASSUMED:
            groups.setdefault(p.op.name, []).append(p.work)
    rows = [
        Assumed(name, len(works), summed.flops, summed.bytes)
        for name, works in groups.items()
        if (summed := total(works))
    ]
    return tuple(sorted(rows, key=lambda row: (-row.bytes, row.name)))


def totals(priced: Iterable[Priced]) -> Totals:
    """The work of all ops, by phase, and what was assumed."""
    priced = tuple(priced)
    by_phase: dict[Phase, list[Work]] = defaultdict(list)
    for p in priced:
        by_phase[p.op.phase].append(p.work)
    kinds = {**dict.fromkeys(Kind, 0), **Counter([p.kind for p in priced])}
    phases = {phase: total(by_phase[phase]) for phase in Phase if phase in by_phase}
    assumed = assumed_ops(priced) if kinds[Kind.ASSUMED] else ()
    return Totals(work=total(phases.values()), phases=phases, kinds=kinds, assumed=assumed)
