"""`Checked` -> JSON for other programs: a contract, described by ``check.schema.json`` beside this file.

The same check gives the same bytes. Within one ``schema_version`` keys are only added.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from .causes import Cause
from .findings import Checked, Finding, Outcome
from .matching import Change
from .snapshot import Row
from .words import place

SCHEMA_VERSION = 1


def to_json(checked: Checked) -> str:
    """The check as text that ends in a newline."""
    return json.dumps(document(checked), indent=2, sort_keys=True, allow_nan=False) + "\n"


def document(checked: Checked) -> dict[str, object]:
    """The check as plain dicts, lists, strings and numbers."""
    return {
        "schema_version": SCHEMA_VERSION,
        "exit_code": checked.exit_code,
        "notes": list(checked.notes),
        "targets": [_outcome(outcome) for outcome in checked.outcomes],
    }


def _outcome(outcome: Outcome) -> dict[str, object]:
    error = outcome.error
    return {
        "target": outcome.target,
        "step": outcome.step,
        "status": outcome.word,
        "error": {"message": error.message, "mend": error.mend} if error else None,
        "facts": dict(outcome.now.facts) if outcome.now else None,
        "baseline": dict(outcome.before.facts) if outcome.before else None,
        "made_with": dict(outcome.now.made_with) if outcome.now else None,
        "findings": [_finding(finding) for finding in outcome.findings],
        "causes": [_cause(cause) for cause in outcome.causes],
        "changes": _changes(outcome.changes),
        "notes": list(outcome.notes),
    }


def _finding(finding: Finding) -> dict[str, object]:
    return {
        "code": finding.code,
        "title": finding.title,
        "message": finding.headline,
        "fact": finding.fact or None,
        "now": finding.now,
        "before": finding.before,
        "limit": finding.limit,
        "source": place(finding.source) or None,
    }


def _cause(cause: Cause) -> dict[str, object]:
    return {
        "text": cause.text,
        "mend": cause.mend,
        "facts": list(cause.facts),
        "source": place(cause.source) or None,
    }


def _changes(changes: Mapping[str, tuple[Change, ...]]) -> dict[str, object]:
    return {fact: [_change(change) for change in found] for fact, found in changes.items() if found}


def _change(change: Change) -> dict[str, object]:
    return {
        "delta": change.delta,
        "before": _row(change.before),
        "after": _row(change.after),
    }


def _row(row: Row | None) -> dict[str, object] | None:
    if row is None:
        return None
    return {
        "module": row.module,
        "what": row.what,
        "kind": row.kind,
        "form": row.form,
        "value": row.value,
        "count": row.times,
        "source": place(row.source) or None,
    }
