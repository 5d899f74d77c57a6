"""`Checked` -> JUnit XML, which every CI system reads: a suite for each target, a test case for each fact.

Elements and attributes are those of the Jenkins schema
(https://github.com/jenkinsci/xunit-plugin/blob/master/src/main/resources/org/jenkinsci/plugins/xunit/types/model/xsd/junit-10.xsd).
There are no times in it: a check of the same code gives the same file.
"""

from __future__ import annotations

from xml.etree import ElementTree

from .findings import Checked, Finding, Outcome
from .quantity import FACTS
from .words import place, state

_NAMELESS = "how sure the numbers are"


def to_junit(checked: Checked) -> str:
    """The report as text that ends in a newline."""
    suites = [_suite(outcome) for outcome in checked.outcomes]
    root = ElementTree.Element("testsuites", _counts(suites) | {"name": "foretrace check"})
    root.extend(suites)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(outcome: Outcome) -> ElementTree.Element:
    cases = [_failed_to_run(outcome)] if outcome.error else _cases(outcome)
    suite = ElementTree.Element("testsuite", {"name": _xml(outcome.target)})
    suite.extend(cases)
    for key, value in _counts([suite]).items():
        suite.set(key, value)
    return suite


def _cases(outcome: Outcome) -> list[ElementTree.Element]:
    """One for each fact that is known, passed or failed, and one for what is not about a fact."""
    facts = [fact for fact in FACTS if outcome.now and fact in outcome.now.facts]
    by_fact: dict[str, list[Finding]] = {fact: [] for fact in facts}
    for finding in outcome.findings:
        by_fact.setdefault(finding.fact, []).append(finding)
    return [_case(outcome, fact, found) for fact, found in by_fact.items()]


def _case(outcome: Outcome, fact: str, found: list[Finding]) -> ElementTree.Element:
    name = FACTS[fact].words if fact else _NAMELESS
    case = ElementTree.Element("testcase", {"classname": _xml(outcome.target), "name": name})
    if found:
        first = found[0]
        failure = ElementTree.SubElement(case, "failure", {"type": first.code, "message": _xml(first.headline)})
        failure.text = _xml("\n".join(_text(finding) for finding in found))
    return case


def _text(finding: Finding) -> str:
    where = place(finding.source)
    return f"{where + ': ' if where else ''}{finding.code} {finding.sentence}"


def _failed_to_run(outcome: Outcome) -> ElementTree.Element:
    case = ElementTree.Element("testcase", {"classname": _xml(outcome.target), "name": "trace"})
    error = ElementTree.SubElement(case, "error", {"type": "error", "message": state(outcome)})
    error.text = _xml(str(outcome.error))
    return case


def _counts(suites: list[ElementTree.Element]) -> dict[str, str]:
    return {
        "tests": str(sum(len(suite.findall("testcase")) for suite in suites)),
        "failures": str(sum(len(suite.findall("testcase/failure")) for suite in suites)),
        "errors": str(sum(len(suite.findall("testcase/error")) for suite in suites)),
    }


def _xml(text: str) -> str:
    """The text with a question mark for each character that XML 1.0 has no way to write."""
    return "".join(letter if _can_be_written(letter) else "?" for letter in text)


def _can_be_written(letter: str) -> bool:
    surrogate = "\ud800" <= letter <= "\udfff"
    return letter in "\t\n" or (letter >= " " and not surrogate and letter not in "\ufffe\uffff")
