"""The GitHub action: its steps are shell that runs, and the comment is written once and then kept up to date."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from foretrace.checks.markdown import TAG

ROOT = Path(__file__).resolve().parent.parent
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}

FORETRACE = """#!/bin/sh
echo "foretrace $*"
for argument in "$@"; do case "$argument" in markdown=*) echo text > "${argument#markdown=}";; esac; done
exit $WANTED
"""
GH = """#!/bin/sh
case "$*" in *--paginate*) echo $KNOWN;; *) echo "$@" >> "$LOG";; esac
"""


@pytest.fixture
def shell(tmp_path: Path):
    """Run a step with stand-ins for foretrace and gh."""
    for name, text in (("foretrace", FORETRACE), ("gh", GH)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    for name in ("output", "summary", "log"):
        (tmp_path / name).write_text("")

    def run(step: str, **environment: str) -> tuple[int, str]:
        variables = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "RUNNER_TEMP": str(tmp_path),
            "GITHUB_OUTPUT": str(tmp_path / "output"),
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
            "LOG": str(tmp_path / "log"),
        }
        # As a runner runs a step: https://docs.github.com/en/actions/reference/workflow-syntax-for-github-actions
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", STEPS[step]["run"]]
        done = subprocess.run(command, env=variables | environment, capture_output=True, text=True, cwd=tmp_path)
        return done.returncode, done.stdout

    return run


def test_every_step_says_its_shell_and_takes_no_input_into_its_script() -> None:
    for step in STEPS.values():
        assert "uses" in step or (step["shell"] == "bash" and "${{" not in step["run"])
    used = {part.split(" ")[0].rstrip("}/.") for part in (ROOT / "action.yml").read_text().split("inputs.")[1:]}
    assert used == set(ACTION["inputs"])


@pytest.mark.parametrize("code", ["0", "1", "2"])
def test_the_check_goes_on_to_the_comment_and_fails_at_the_end(code: str, shell: Any, tmp_path: Path) -> None:
    done = shell("Check", WANTED=code, TARGETS="small large", SARIF="a.sarif")
    comment = tmp_path / "foretrace.md"
    assert done == (
        0,
        f"foretrace check small large --format github --write markdown={comment} --write sarif=a.sarif\n",
    )
    assert (tmp_path / "output").read_text() == f"exit-code={code}\ncomment-file={comment}\n"
    assert (tmp_path / "summary").read_text() == "text\n"
    assert shell("Result", CODE=code)[0] == int(code)


def test_no_names_are_all_targets(shell: Any, tmp_path: Path) -> None:
    assert shell("Check", WANTED="0", TARGETS="", SARIF="")[1].startswith("foretrace check --format github")


@pytest.mark.parametrize(
    ("code", "known", "written"),
    [
        ("0", "", []),
        ("1", "", ["api --method POST repos/o/r/issues/7/comments --field body=@{file}"]),
        ("2", "", ["api --method POST repos/o/r/issues/7/comments --field body=@{file}"]),
        ("0", "99", ["api --method PATCH repos/o/r/issues/comments/99 --field body=@{file}"]),
        ("1", "99", ["api --method PATCH repos/o/r/issues/comments/99 --field body=@{file}"]),
    ],
)
def test_one_comment_is_written_and_kept(code: str, known: str, written: list[str], shell: Any, tmp_path: Path) -> None:
    file = tmp_path / "foretrace.md"
    file.write_text("text")
    assert shell("Comment", CODE=code, KNOWN=known, FILE=str(file), REPOSITORY="o/r", NUMBER="7")[0] == 0
    assert (tmp_path / "log").read_text().splitlines() == [line.format(file=file) for line in written]
    assert f'startswith("{TAG}")' in STEPS["Comment"]["run"]
