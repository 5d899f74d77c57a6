"""`Checked` -> a GitLab code quality report, which merge requests show beside the lines.

The fields are those of https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format: a description, the
name of the check, a fingerprint that stays while the finding stays, a severity, and a place. A fingerprint is made of
what is wrong, not of how much or on which line, so that a finding that was there before is not new when a line moves.
"""

from __future__ import annotations

import hashlib
import json
import posixpath

from .findings import Checked, Finding, Outcome

_SEVERITY = {"M": "critical", "T": "major", "F": "major", "C": "minor", "B": "minor"}


def to_gitlab(checked: Checked) -> str:
    """The report as text that ends in a newline."""
    found = [_error(checked, outcome) for outcome in checked.errors]
    found += [_finding(checked, finding) for finding in checked.findings]
    return json.dumps(found, indent=2, sort_keys=True) + "\n"


def _finding(checked: Checked, finding: Finding) -> dict[str, object]:
    source = checked.place(finding)
    mark = fingerprint(finding.code, finding.target, source.file)
    return _issue(finding.sentence, finding.code, mark, _SEVERITY[finding.code[0]], source.file, source.line)


def _error(checked: Checked, outcome: Outcome) -> dict[str, object]:
    text = f"{outcome.target} could not be checked: {outcome.error}"
    return _issue(text, "error", fingerprint("error", outcome.target, ""), "blocker", checked.config_place, 1)


def _issue(text: str, check: str, mark: str, severity: str, file: str, line: int) -> dict[str, object]:
    return {
        "description": text,
        "check_name": f"foretrace-{check}",
        "fingerprint": mark,
        "severity": severity,
        "location": {"path": posixpath.normpath(file), "lines": {"begin": line}},
    }


def fingerprint(code: str, target: str, file: str) -> str:
    """What stays the same while a finding stays."""
    return hashlib.sha256("\0".join((code, target, file)).encode()).hexdigest()
