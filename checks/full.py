"""`Checked` -> what a person reads in a terminal: each target with its facts, its findings, and why."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from tabulate import tabulate

from ..report.format import screen
from . import lines
from .findings import Checked, Finding, Outcome
from .words import fact_lines, fact_sentence, main_fact, place, row_lines, state, summary

WIDTH = 80


def to_full(checked: Checked) -> str:
    """The whole screen, as text that ends in a newline."""
    blocks = [_target(checked, outcome) for outcome in checked.outcomes]
    notes = [line for note in checked.notes for line in _wrapped("note", note)]
    return screen([*blocks, notes, _last(checked)])


def _target(checked: Checked, outcome: Outcome) -> list[str]:
    head = f"{outcome.target}: {state(outcome)}"
    body = [f"  {line}" for line in _body(checked, outcome)]
    return [head, *body]


def _body(checked: Checked, outcome: Outcome) -> list[str]:
    if outcome.error:
        mend = [("mend", outcome.error.mend)] if outcome.error.mend else []
        return [line for label, said in (("error", outcome.error.message), *mend) for line in _wrapped(label, said)]
    shown = [line for finding in outcome.findings for line in _finding(finding)]
    shown += _facts(outcome) if outcome.findings or outcome.moved else wrap(fact_sentence(outcome), WIDTH - 2)
    shown += _why(checked, outcome) + _rows(outcome)
    return [*shown, *(line for note in outcome.notes for line in _wrapped("note", note))]


def _finding(finding: Finding) -> list[str]:
    return _wrapped(finding.code, finding.headline)


def _facts(outcome: Outcome) -> list[str]:
    rows = [
        (line.fact, line.before, "->" if line.before else "", line.now, line.change) for line in fact_lines(outcome)
    ]
    return _columns(rows, "lrlrl")


def _why(checked: Checked, outcome: Outcome) -> list[str]:
    shown: list[str] = []
    for cause in outcome.causes[:2]:
        shown += _wrapped("why", cause.text)
        if cause.source:
            code = lines.text(checked.root, cause.source)
            shown += _wrapped("at", f"{place(cause.source)}{'  ' + code if code else ''}")
        shown += _wrapped("mend", cause.mend)
    if not outcome.causes:
        places = dict.fromkeys(finding.source for finding in outcome.findings if finding.source)
        for source in places:
            shown += _wrapped("at", f"{place(source)}  {lines.text(checked.root, source)}".rstrip())
    return shown


def _rows(outcome: Outcome) -> list[str]:
    if not outcome.findings or outcome.before is None:
        return []
    fact = main_fact(outcome)
    rows = [(row.sign, row.amount, row.what, row.kind, row.form, row.place) for row in row_lines(outcome, fact)]
    return [f"{fact}, by what it is made of (+ came, - went, ~ changed)", *_columns(rows, "lrllll")] if rows else []


def _columns(rows: Sequence[tuple[str, ...]], alignment: str) -> list[str]:
    align = ["left" if letter == "l" else "right" for letter in alignment]
    return [
        f"  {line}" for line in tabulate(rows, tablefmt="plain", colalign=align, disable_numparse=True).splitlines()
    ]


def _wrapped(label: str, said: str) -> list[str]:
    """A label and what is said, wrapped beside it."""
    room = wrap(said, WIDTH - 8, break_long_words=False, break_on_hyphens=False)
    heads = [label, *[""] * len(room)]
    return [f"{head:<6}{line}" for head, line in zip(heads, room, strict=False)]


def _last(checked: Checked) -> list[str]:
    shown = [summary(checked)]
    if checked.findings:
        codes = [finding.code for outcome in checked.outcomes for finding in outcome.findings]
        shown.append(f"what it means: foretrace explain {codes[0]}")
        if checked.accept:
            shown.append(f"to accept it:  {checked.accept}, and commit {checked.baseline}")
    return shown
