"""`Checked` -> SARIF 2.1.0, which code scanning services read.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html. Every code that was found is a rule with its help;
a target that could not be checked is a notification of the run, which is then not successful.
"""

from __future__ import annotations

import json
from urllib.parse import quote

from .codes import CODES, Code
from .findings import COULD_NOT, Checked, Finding, Outcome
from .gitlab import fingerprint

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def to_sarif(checked: Checked) -> str:
    """The log as text that ends in a newline."""
    codes = sorted({finding.code for finding in checked.findings})
    version = {"semanticVersion": checked.version} if checked.version else {}
    run = {
        "tool": {"driver": {"name": "foretrace", **version, "rules": [_rule(CODES[code]) for code in codes]}},
        "columnKind": "unicodeCodePoints",
        "invocations": [
            {
                "executionSuccessful": checked.exit_code != COULD_NOT,
                "exitCode": checked.exit_code,
                "toolExecutionNotifications": [_notification(outcome) for outcome in checked.errors],
            }
        ],
        "results": [_result(checked, finding, codes.index(finding.code)) for finding in checked.findings],
    }
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=2, sort_keys=True) + "\n"


def _rule(code: Code) -> dict[str, object]:
    return {
        "id": code.code,
        "name": "".join(word.capitalize() for word in code.title.split()),
        "shortDescription": {"text": code.title},
        "fullDescription": {"text": code.meaning},
        "help": {"text": f"{code.meaning}\n\n{code.mend}"},
        "defaultConfiguration": {"level": _level(code.code)},
    }


def _level(code: str) -> str:
    return "warning" if code[0] in "CB" else "error"


def _result(checked: Checked, finding: Finding, rule: int) -> dict[str, object]:
    source = checked.place(finding)
    return {
        "ruleId": finding.code,
        "ruleIndex": rule,
        "level": _level(finding.code),
        "message": {"text": finding.sentence},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": quote(source.file), "uriBaseId": "%SRCROOT%"},
                    "region": {"startLine": source.line},
                }
            }
        ],
        "partialFingerprints": {"foretrace/v1": fingerprint(finding.code, finding.target, source.file)},
    }


def _notification(outcome: Outcome) -> dict[str, object]:
    return {"level": "error", "message": {"text": f"{outcome.target} could not be checked: {outcome.error}"}}
