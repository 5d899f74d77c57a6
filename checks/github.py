"""`Checked` -> workflow commands that GitHub shows as annotations on the lines of a pull request.

GitHub shows ten annotations of a kind for each step, and drops the rest without a word; the last of ours says how many
there are more. Commands: https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from .findings import Checked, Finding, Outcome
from .words import summary

MOST = 10


def to_github(checked: Checked) -> str:
    """One ``::error`` a finding, the worst first, at most ten; errors before findings."""
    made = [_error(checked, outcome) for outcome in checked.errors]
    made += [_annotation(checked, finding) for finding in checked.findings]
    if len(made) > MOST:
        more = f"and {len(made) - MOST + 1} more: see the output of foretrace check --format full"
        made = [*made[: MOST - 1], _command("foretrace", more, {})]
    return "\n".join([*made, summary(checked)]) + "\n"


def _annotation(checked: Checked, finding: Finding) -> str:
    source = checked.place(finding)
    where = {"file": source.file, "line": str(source.line)}
    return _command(f"foretrace {finding.code}: {finding.title}", finding.sentence, where)


def _error(checked: Checked, outcome: Outcome) -> str:
    where = {"file": checked.config_place}
    return _command("foretrace", f"{outcome.target} could not be checked: {outcome.error}", where)


def _command(title: str, message: str, where: dict[str, str]) -> str:
    properties = {**where, "title": title}
    shown = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::error {shown}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
