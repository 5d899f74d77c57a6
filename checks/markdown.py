"""`Checked` -> the comment on a pull request, as Markdown that GitHub and GitLab show.

Its first line is a hidden tag by which a later run finds and replaces it. A comment has room for 65,536 characters on
GitHub; what is too long loses the details of the last targets first, never the table and never half a line.
"""

from __future__ import annotations

from . import lines
from .findings import Checked, Outcome
from .words import fact_lines, headline, main_fact, place, row_lines, summary

MOST_CHARACTERS = 60_000
TAG = "<!-- foretrace -->"
_CUT = "<sub>{count} more in the output of the check: the comment would be too long.</sub>\n"


def to_markdown(checked: Checked, most: int = MOST_CHARACTERS) -> str:
    """The comment; at most `most` characters, unless its table alone is longer than that."""
    head = [TAG, f"#### foretrace: {_escaped(headline(checked))}", "", *_table(checked), ""]
    whys = [part for outcome in checked.outcomes if (part := _why(checked, outcome))]
    details = [part for outcome in checked.outcomes if (part := _details(outcome))]
    tail = "\n".join([*_notes(checked), *_footer(checked)]) + "\n"
    return _fitting("\n".join(head) + "\n", [*whys, *details], tail, most)


def _fitting(head: str, parts: list[str], tail: str, most: int) -> str:
    """Head, as many of the parts as there is room for, and tail."""
    room = most - len(head) - len(tail) - len(_CUT)
    shown: list[str] = []
    for part in parts:
        if len(part) > room:
            break
        room -= len(part)
        shown.append(part)
    cut = _CUT.format(count=len(parts) - len(shown)) if len(shown) < len(parts) else ""
    return head + "".join(shown) + cut + tail


def _table(checked: Checked) -> list[str]:
    rows = ["| target | peak | change | saved | compute | step time | |", "|---|--:|--:|--:|--:|--:|---|"]
    return [*rows, *(_row(outcome) for outcome in checked.outcomes)]


def _row(outcome: Outcome) -> str:
    by = {line.fact: line for line in fact_lines(outcome)}
    if outcome.error:
        return f"| {_escaped(outcome.target)} | | | | | | error |"
    peak = by["peak"]
    codes = ", ".join(dict.fromkeys(finding.code for finding in outcome.findings))
    cells = [
        _escaped(outcome.target),
        peak.now,
        f"**{peak.change}**" if peak.change else "0" if outcome.before else "",
        *(_cell(by[fact].now, by[fact].change) for fact in ("saved", "flops", "time")),
        codes or "ok",
    ]
    return f"| {' | '.join(cells)} |"


def _cell(now: str, change: str) -> str:
    """A number, and its change in percent where there is one."""
    percent = change.partition("(")[2].removesuffix(")")
    return f"{now} ({percent})" if percent else f"{now} ({change})" if change else now


def _why(checked: Checked, outcome: Outcome) -> str:
    if outcome.error:
        return f"**{_escaped(outcome.target)} could not be checked:** {_escaped(str(outcome.error))}\n\n"
    if not outcome.findings:
        return ""
    shown = [f"**{_escaped(outcome.target)}**", ""]
    shown += [f"- {finding.code} {_escaped(finding.headline)}" for finding in outcome.findings]
    for cause in outcome.causes[:2]:
        code = lines.text(checked.root, cause.source)
        at = f"{' '.join(filter(None, (_code(place(cause.source)), _code(code))))}: " if cause.source else ""
        shown.append(f"- **Why:** {at}{_escaped(cause.text)}. {_escaped(cause.mend)}")
    if not outcome.causes and (source := outcome.findings[0].source):
        shown.append(f"- **Where:** {_code(place(source))} {_code(lines.text(checked.root, source))}")
    return "\n".join(shown) + "\n\n"


def _details(outcome: Outcome) -> str:
    if not outcome.findings or not outcome.changes:
        return ""
    fact = main_fact(outcome)
    rows = row_lines(outcome, fact, most=12)
    if not rows:
        return ""
    table = ["| | change | what | of | where |", "|---|--:|---|---|---|"]
    table += [
        f"| {' | '.join((row.sign, row.amount, _escaped(f'{row.what} {row.kind}'), row.form, _escaped(row.place)))} |"
        for row in rows
    ]
    title = (
        f"<details><summary>{_escaped(outcome.target)}: {fact} by module and op (+ came, - went, ~ changed)</summary>"
    )
    return "\n".join([title, "", *table, "", "</details>", ""]) + "\n"


def _notes(checked: Checked) -> list[str]:
    notes = [
        f"- {_escaped(outcome.target)}: {_escaped(note)}" for outcome in checked.outcomes for note in outcome.notes
    ]
    notes += [f"- {_escaped(note)}" for note in checked.notes]
    return [*notes, ""] if notes else []


def _footer(checked: Checked) -> list[str]:
    shown = []
    if checked.findings and checked.accept:
        shown += [f"To accept: {_code(checked.accept)} and commit {_code(checked.baseline)}.", ""]
    made = sorted({_made_with(outcome) for outcome in checked.outcomes if outcome.now})
    said = f"{summary(checked)}. Predicted without a GPU{' for ' + '; '.join(made) if made else ''}."
    return [*shown, f"<sub>{_escaped(said)}</sub>"]


def _made_with(outcome: Outcome) -> str:
    made = outcome.now.made_with if outcome.now else {}
    return f"{made.get('on')}, torch {made.get('torch')}, foretrace {made.get('foretrace')}"


def _code(text: str) -> str:
    """Text that is shown as it is, whatever stands in it."""
    if not text:
        return ""
    fence = "`" * (max((len(run) for run in _runs(text)), default=0) + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"


def _runs(text: str) -> list[str]:
    """The runs of backticks in a text."""
    return [run for run in "".join(c if c == "`" else " " for c in text).split() if run]


def _escaped(text: str) -> str:
    r"""Text in which nothing is markup: ``h.*.attn`` would turn the rest of a line to italics.

    >>> print(_escaped("h.*.attn _to_copy | <b> @all"))
    h.\*.attn \_to\_copy \| &lt;b&gt; @&#8203;all
    """
    for sign in "\\`*_[]|":
        text = text.replace(sign, "\\" + sign)
    return text.replace("<", "&lt;").replace(">", "&gt;").replace("@", "@&#8203;").replace("\n", " ")
