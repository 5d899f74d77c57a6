"""`Checked` -> one line a finding, as compilers and linters print them."""

from __future__ import annotations

from .findings import Checked
from .words import place, summary


def to_concise(checked: Checked) -> str:
    """``model.py:71: M002 small: peak memory grew by ...``, the worst first; errors before all."""
    lines = [f"{checked.config}: error: {outcome.target}: {outcome.error}" for outcome in checked.errors]
    lines += [
        f"{place(finding.source) or checked.config}: {finding.code} {finding.target}: {finding.headline}"
        for finding in checked.findings
    ]
    return "\n".join([*lines, summary(checked)]) + "\n"
