"""Every format of a check: word for word, and as those who read it validate it."""

from __future__ import annotations

import json
import re
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import junitparser
import pytest
import xmlschema
from sarif_kit.validate import validation_errors

from foretrace import price
from foretrace.checks import FORMATS, Checked, Finding, Outcome, Snapshot, judge, snapshot
from foretrace.checks.baseline import cut
from foretrace.checks.codes import CODES
from foretrace.checks.config import plain
from foretrace.checks.github import MOST
from foretrace.checks.markdown import TAG, to_markdown
from foretrace.graph import ForetraceError, Source
from handmade import perceptron

HERE = Path(__file__).parent
TOY = HERE.parent / "support" / "toy.toml"
SUFFIX = {"full": "txt", "concise": "txt", "markdown": "md", "github": "txt", "junit": "xml"}


def taken(layers: int = 3, width: int = 1024) -> Snapshot:
    return snapshot(price(perceptron(layers, width=width), on=TOY), "0.1.0")


def checked() -> Checked:
    """A target that grew and is over its budget, one that is the same, one that broke, one with another torch."""
    before, after = cut(taken()), taken(layers=4)
    grown = replace(plain("grown", {}), step="model.py:make", budget={"peak": 60_000_000})
    old = replace(before, made_with={**before.made_with, "torch": "2.12.0"})
    return Checked(
        outcomes=(
            judge(grown, after, before, HERE),
            judge(plain("same", {}), taken(), before, HERE),
            Outcome(target="broken", error=ForetraceError("model.py raised 100 % <Error>", "Call it, then look.")),
            judge(plain("drifted", {}), after, old, HERE),
        ),
        notes=("the baseline has gone, which nothing is configured for",),
        baseline="foretrace-baseline.toml",
        config="foretrace.toml",
        root=HERE,
        version="0.1.0",
    )


@pytest.mark.parametrize("name", FORMATS)
def test_golden(name: str, pytestconfig: pytest.Config) -> None:
    golden = HERE / "golden" / f"{name}.{SUFFIX.get(name, 'json')}"
    got = FORMATS[name](checked())
    assert FORMATS[name](checked()) == got
    if pytestconfig.getoption("update_golden"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(got)
    assert got == golden.read_text()


def test_what_grew_is_added_up_in_the_rows() -> None:
    """One more layer of 1024 x 1024: what is said of the peak is what it is made of."""
    (grown, *_) = checked().outcomes
    assert grown.now is not None and grown.before is not None
    delta = grown.now.facts["peak"] - grown.before.facts["peak"]
    assert sum(change.delta for change in grown.changes["peak"]) == delta > 4 * 1024 * 1024


@pytest.mark.parametrize("fact", ["peak", "saved", "flops", "time"])
def test_the_rows_of_a_snapshot_and_of_a_baseline_add_up_to_the_fact(fact: str) -> None:
    for layers in (1, 3, 20):
        whole = taken(layers)
        for found in (whole, cut(whole)):
            assert sum(row.value for row in found.rows[fact]) == whole.facts[fact]


# --- JSON ---


def test_json_is_what_its_schema_says() -> None:
    schema = json.loads((HERE.parents[1] / "checks" / "check.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(FORMATS["json"](checked())), schema)
    codes = schema["properties"]["targets"]["items"]["properties"]["findings"]["items"]["properties"]["code"]["enum"]
    assert codes == list(CODES)


# --- GitHub ---


def test_github_shows_ten_and_says_how_many_more_there_are() -> None:
    (outcome, *_) = checked().outcomes
    many = tuple(replace(outcome.findings[0], target=f"target {place}") for place in range(14))
    lines = FORMATS["github"](Checked(outcomes=(replace(outcome, findings=many),))).splitlines()
    assert [line.startswith("::error ") for line in lines] == [True] * MOST + [False]
    assert lines[MOST - 1] == "::error title=foretrace::and 5 more: see the output of foretrace check --format full"


def test_github_says_nothing_that_ends_a_command_early() -> None:
    error = ForetraceError("a, b: 100%\rnew::error::line", "")
    lines = FORMATS["github"](
        Checked(outcomes=(Outcome(target="x:y,z", error=error),), config="a,b:c.toml")
    ).splitlines()
    command = re.fullmatch(r"::error ([^:]*)::(.*)", lines[0])
    assert command is not None and command[1] == "file=a%2Cb%3Ac.toml,title=foretrace"
    assert command[2] == "x:y,z could not be checked: a, b: 100%25 new::error::line"


@dataclass
class Command:
    """A line as the runner of GitHub Actions reads it."""

    name: str
    properties: dict[str, str]
    data: str


def commands(text: str) -> list[Command]:
    """The workflow commands in what a step printed, read in the order of steps of the runner's own reader.

    https://github.com/actions/runner/blob/main/src/Runner.Common/ActionCommand.cs: what lies between the first two
    ``::`` is a name and, after the first blank, properties between commas; ``%25`` is undone last.
    """
    found = []
    for line in text.splitlines():
        if not line.lstrip().startswith("::") or "::" not in line.lstrip()[2:]:
            continue
        head, data = line.lstrip()[2:].split("::", 1)
        name, _, rest = head.partition(" ")
        pairs = (part.split("=", 1) for part in rest.strip().split(",") if part)
        found.append(Command(name, {key: undone(value, ":,") for key, value in pairs}, undone(data, "")))
    return found


def undone(text: str, more: str) -> str:
    for letter in f"\r\n{more}%":
        text = text.replace(f"%{ord(letter):02X}", letter)
    return text


def test_github_reads_back_the_line_and_the_words_of_each_finding() -> None:
    found = checked()
    read = commands(FORMATS["github"](found))
    errors, rest = read[: len(found.errors)], read[len(found.errors) :]
    assert [command.data for command in errors] == [
        f"{outcome.target} could not be checked: {outcome.error}" for outcome in found.errors
    ]
    assert [(command.properties["file"], int(command.properties["line"]), command.data) for command in rest] == [
        (found.place(finding).file, found.place(finding).line, finding.sentence) for finding in found.findings
    ]
    assert {command.name for command in read} == {"error"}
    assert [command.properties["title"] for command in rest] == [
        f"foretrace {finding.code}: {finding.title}" for finding in found.findings
    ]


# --- GitLab ---

GITLAB = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["description", "check_name", "fingerprint", "severity", "location"],
        "additionalProperties": False,
        "properties": {
            "description": {"type": "string"},
            "check_name": {"type": "string"},
            "fingerprint": {"type": "string", "pattern": "^[0-9a-f]+$"},
            "severity": {"enum": ["info", "minor", "major", "critical", "blocker"]},
            "location": {
                "type": "object",
                "required": ["path", "lines"],
                "properties": {
                    "path": {"type": "string", "pattern": r"^(?!\./|/)"},
                    "lines": {"type": "object", "required": ["begin"], "properties": {"begin": {"type": "integer"}}},
                },
            },
        },
    },
}
"""https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format: relative paths without a leading ./.

No package ships GitLab's own schema (app/validators/json_schemas/codeclimate.json in its sources), which asks for less:
any text as a severity, no check's name, and no place inside a location.
"""


def test_gitlab_reads_it_and_knows_a_finding_again() -> None:
    found = json.loads(FORMATS["gitlab"](checked()))
    jsonschema.validate(found, GITLAB)
    marks = [issue["fingerprint"] for issue in found]
    assert len(set(marks)) == len(marks)
    moved = [
        replace(
            outcome,
            findings=tuple(replace(f, source=f.source and Source(f.source.file, 99, "")) for f in outcome.findings),
        )
        for outcome in checked().outcomes
    ]
    again = json.loads(FORMATS["gitlab"](replace(checked(), outcomes=tuple(moved))))
    assert [issue["fingerprint"] for issue in again] == marks and again != found


# --- SARIF ---


def test_sarif_is_what_the_schema_of_the_standard_says() -> None:
    log = json.loads(FORMATS["sarif"](checked()))
    assert validation_errors(log) == []
    broken = {**log, "runs": [{**log["runs"][0], "results": [{"level": "awful"}]}]}
    assert sorted(error.partition(":")[0] for error in validation_errors(broken)) == [
        "runs/0/results/0",
        "runs/0/results/0/level",
    ]
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rules[result["ruleIndex"]]["id"] for result in run["results"]] == [r["ruleId"] for r in run["results"]]
    assert run["invocations"][0]["executionSuccessful"] is False
    assert len(run["results"]) == len(checked().findings)


# --- JUnit ---


def test_junit_is_read_back_with_the_same_counts() -> None:
    xml = junitparser.JUnitXml.fromstring(FORMATS["junit"](checked()).encode())
    counted = [(suite.name, suite.tests, suite.failures, suite.errors) for suite in xml]
    facts = 7  # peak, reserved, saved, kept, flops, time, parameters; of these kept and parameters did not fail
    assert counted == [("grown", facts, 5, 0), ("same", facts, 0, 0), ("broken", 1, 0, 1), ("drifted", facts, 0, 0)]
    assert (xml.tests, xml.failures, xml.errors) == (3 * facts + 1, 5, 1)


@pytest.fixture(scope="module")
def jenkins(tmp_path_factory: pytest.TempPathFactory) -> xmlschema.XMLSchema:
    """The schema of Jenkins, which pytest's sources hold for the tests of its own report."""
    sources = Path(sys.prefix) / "sources" / f"pytest-{pytest.__version__}.tar.gz"
    if not sources.is_file():
        pytest.skip(f"there is no {sources}: make install gets it")
    with tarfile.open(sources) as archive:
        held = archive.extractfile(f"pytest-{pytest.__version__}/testing/example_scripts/junit-10.xsd")
        assert held is not None
        return xmlschema.XMLSchema(held.read().decode())


def test_junit_is_what_the_schema_of_jenkins_says(jenkins: xmlschema.XMLSchema) -> None:
    text = FORMATS["junit"](checked())
    assert list(jenkins.iter_errors(text)) == []
    assert not jenkins.is_valid(text.replace("<failure", "<disaster").replace("</failure", "</disaster"))


def test_junit_writes_what_xml_cannot_say() -> None:
    error = ForetraceError("a \x00 null, \x1b[31mred\x1b[0m, ]]> & <tag> \ud800", "")
    text = FORMATS["junit"](Checked(outcomes=(Outcome(target='"quoted" <target>', error=error),)))
    root = ElementTree.fromstring(text.encode())
    assert root[0].get("name") == '"quoted" <target>'
    assert root[0][0][0].text == "a ? null, ?[31mred?[0m, ]]> & <tag> ?"


# --- Markdown ---


def test_markdown_begins_with_the_tag_that_finds_it_again() -> None:
    assert to_markdown(checked()).splitlines()[0] == TAG == "<!-- foretrace -->"


@pytest.mark.parametrize("most", [60_000, 4_000, 2_500, 1])
def test_a_long_comment_loses_details_but_no_target(most: int) -> None:
    (grown, *_) = checked().outcomes
    many = Checked(outcomes=tuple(replace(grown, target=f"target{place}") for place in range(20)), config="c.toml")
    text = to_markdown(many, most)
    whole = to_markdown(many, 10**9)
    assert all(f"| target{place} |" in text for place in range(20))
    assert text.count("<details>") == text.count("</details>")
    if most >= len(whole):
        assert text == whole
    else:
        assert "more in the output of the check" in text
        assert len(text) <= most or "<details>" not in text


def test_markdown_shows_names_as_they_are() -> None:
    (grown, *_) = checked().outcomes
    text = to_markdown(Checked(outcomes=(replace(grown, target="a|b*c_d`e<f>@g"),)))
    assert r"a\|b\*c\_d\`e&lt;f&gt;@&#8203;g" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} <= {6, 8}


# --- what all of them have in common ---


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_found_is_said_too(name: str) -> None:
    clean = Checked(outcomes=(judge(plain("same", {}), taken(), cut(taken()), HERE),))
    text = FORMATS[name](clean)
    assert text.endswith("\n") and (clean.findings, clean.exit_code) == ((), 0)
    empty: dict[str, Callable[[str], bool]] = {
        "gitlab": lambda said: json.loads(said) == [],
        "sarif": lambda said: json.loads(said)["runs"][0]["results"] == [],
        "github": lambda said: "::error" not in said,
    }
    assert empty.get(name, lambda said: "same" in said or "nothing found" in said)(text)


def test_the_worst_finding_comes_first() -> None:
    def finding(now: int, limit: int) -> Finding:
        return Finding(code="M002", target=f"{now}", headline="", fact="peak", now=now, before=limit, limit=limit)

    outcome = Outcome(target="x", findings=(finding(11, 10), finding(1, 0), finding(30, 10)))
    assert [found.now for found in Checked(outcomes=(outcome,)).findings] == [1, 30, 11]


def test_every_code_is_explained_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    from foretrace.cli import main

    for code in CODES:
        assert main(["explain", code.lower()]) == 0
        printed = capsys.readouterr().out
        assert printed.startswith(f"{code}: ") and max(map(len, printed.splitlines())) <= 80
