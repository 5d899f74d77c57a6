"""Other commits: compared, and strung together to a history; the repository is only read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

from foretrace import cli
from foretrace.checks.baseline import read
from foretrace.commands import revision
from foretrace.graph import ForetraceError, save
from handmade import perceptron
from small_project import edit, git


def commit(project: Path, message: str, *, old: str = "", new: str = "") -> None:
    if old:
        edit(project, {"model.py": [(old, new)]})
    git(project, "commit", "--quiet", "--all", f"--message={message}")


@pytest.fixture
def grown(project: Path) -> Path:
    """Three more commits: larger, a comment, broken; and then whole again."""
    commit(
        project,
        "Larger <head>",
        old="self.head = nn.Linear(width, classes)",
        new="self.head = nn.Linear(width, 2 * classes)",
    )
    commit(project, "Say what it is", old="class Model", new="# The model.\nclass Model")
    commit(project, "Break it", old="return self.head(x)", new="return self.heads(x)")
    commit(project, "Mend it", old="return self.heads(x)", new="return self.head(x)")
    return project


def test_a_target_against_a_commit(grown: Path, run) -> None:
    before = git(grown, "status", "--porcelain", "--ignored"), git(grown, "worktree", "list")
    code, printed = run("diff", "git:main~4", "small", "--no-cache", "--format", "json")
    (found,) = json.loads(printed)["targets"]
    assert (code, found["target"], found["status"]) == (1, "small", "found")
    assert found["causes"][0]["text"] == "head weight is bfloat16[200, 64], it was bfloat16[100, 64]"
    known = read(grown / "foretrace-baseline.toml")
    assert known is not None and found["baseline"] == dict(known["small"].facts)
    assert (git(grown, "status", "--porcelain", "--ignored"), git(grown, "worktree", "list")) == before


def test_two_commits_that_cost_the_same(grown: Path, run) -> None:
    code, printed = run("diff", "git:main~3", "git:main:small", "--no-cache")
    assert code == 0 and printed.startswith("small: ok, no change\n")


def test_both_ways(grown: Path, run) -> None:
    """What one way is growth is the other way nothing to complain of, and said."""
    code, printed = run("diff", "small", "git:main~4", "--no-cache")
    assert code == 0 and "  note  better: peak -" in printed


def test_every_target_where_none_is_named(grown: Path, run) -> None:
    code, printed = run("diff", "git:main~4", ".", "--format", "json")
    assert [found["status"] for found in json.loads(printed)["targets"]] == ["found", "same", "same"]
    assert code == 1


def test_a_commit_that_is_broken_is_an_error(grown: Path, run) -> None:
    code, printed = run("diff", "git:main~1", "small", "--no-cache")
    assert code == 2
    assert "git:main~1: the forward raised AttributeError" in " ".join(printed.split())


def test_saved_traces_and_callables(project: Path, run, tmp_path: Path) -> None:
    for layers in (2, 3):
        save(perceptron(layers), tmp_path / f"{layers}.foretrace")
    two, three = str(tmp_path / "2.foretrace"), str(tmp_path / "3.foretrace")
    code, printed = run("diff", two, three)
    assert code == 1 and "h.* weight is there 3 times, it was 2" in printed and "to accept" not in printed
    assert run("diff", three, three)[0] == 0
    code, printed = run("diff", "train.py:small", "small", "-p", "batch=4", "--no-cache")
    assert (code, printed.splitlines()[0]) == (0, "train.py:small -> small: ok, no change")


BAD = {
    ("diff", "git:nowhere", "small"): ("git knows no commit 'nowhere'", "fetch-depth: 0"),
    ("diff", "git:--all", "small"): ("'--all' names no commit", "a branch"),
    ("diff", "smal", "small"): ("foretrace.toml has no target 'smal'", "Did you mean 'small'?"),
    ("diff", "small", "small", "--write", "html=x"): ("--write html=x is not FORMAT=FILE", "markdown=comment.md"),
    ("history", "--since", "nowhere"): ("git knows no commit 'nowhere'", "fetch-depth: 0"),
    ("check", "smal"): ("foretrace.toml has no target 'smal'", "Did you mean 'small'?"),
}


@pytest.mark.parametrize("command", BAD)
def test_a_mistake_is_one_line_and_a_mend(command: tuple[str, ...], project: Path, run, capsys) -> None:
    code, printed = run(*command)
    if code == 2 and not printed:
        cli.main(command)
        printed = capsys.readouterr().err
    message, mend = BAD[command]
    assert code == 2 and message in " ".join(printed.split()) and mend in " ".join(printed.split())


def test_no_repository_is_said(tmp_path: Path) -> None:
    with pytest.raises(ForetraceError, match="is in no git repository"):
        revision.commit(tmp_path, "main")


def test_a_project_in_a_folder_of_a_repository(project: Path, tmp_path: Path) -> None:
    inner = project / "inner"
    inner.mkdir()
    (inner / "new.py").write_text("pass\n")
    git(project, "add", ".")
    commit(project, "A folder")
    with revision.files_of(inner, revision.commit(inner, "HEAD")) as folder:
        assert [path.name for path in folder.iterdir()] == ["new.py"]
    with (
        pytest.raises(ForetraceError, match="has no folder inner"),
        revision.files_of(inner, revision.commit(inner, "HEAD~1")),
    ):
        pass


def test_services_are_told_files_from_the_top_of_the_repository(project: Path, run) -> None:
    """The project lies in a folder; a person in it reads paths from there, a service needs them from the top."""
    (project / ".git").rename(project.parent / ".git")
    edit(project, {"model.py": [("nn.Linear(width, classes)", "nn.Linear(width, 2 * classes)")]})
    code, printed = run("check", "small", "--jobs", "1", "--format", "github", "--write", "concise=c.txt")
    assert code == 1
    assert {line.split(",title")[0] for line in printed.splitlines()[:-1]} == {"::error file=project/model.py,line=36"}
    assert (project / "c.txt").read_text().startswith("model.py:36: ")


def test_an_installed_package_of_another_commit_is_no_answer(
    project: Path, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import that ends up in the working tree would compare the working tree with itself."""
    elsewhere = project / "lib"
    elsewhere.mkdir()
    (project / "model.py").rename(elsewhere / "model.py")
    git(project, "add", ".")
    commit(project, "Move it")
    finder = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('model', {str(elsewhere / 'model.py')!r})\n"
        "sys.modules['model'] = module = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(module)\n"
    )
    edit(project, {"train.py": [("import torch\n", f"{finder}import torch\n")]})
    commit(project, "As an editable install would")
    code, printed = run("diff", "git:HEAD", "small", "--no-cache")
    assert code == 2 and "which is not of that commit" in " ".join(printed.split())


# --- history ---


def test_a_history(grown: Path, run) -> None:
    code, printed = run("history", "small", "--since", "main~4", "--jobs", "1", "--picture", "h.svg")
    assert code == 0
    lines = printed.splitlines()
    assert lines[0] == "small" and lines[1].split()[:2] == ["commit", "peak"]
    told = [line.split(maxsplit=1)[1] for line in lines[3:8]]
    assert told[0].endswith("Begin") and "not traced" in told[3] and told[3].endswith("Break it")
    assert told[2].split()[2] == "." and told[4].split()[2] == "."
    known = read(grown / "foretrace-baseline.toml")
    assert known is not None
    picture = ElementTree.fromstring((grown / "h.svg").read_text())
    titles = [title.text or "" for title in picture.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 4 * 3 and any("Larger <head>: " in title for title in titles)
    dots = [float(dot.get("cy", "0")) for dot in picture.iter("{http://www.w3.org/2000/svg}circle")]
    assert dots[0] > dots[1] == dots[2] == dots[3]

    again = run("history", "small", "--since", "main~4", "--jobs", "1", "--format", "json")[1]
    points = json.loads(again)["histories"][0]["points"]
    assert [point["facts"] is None for point in points] == [False, False, False, True, False]
    assert points[0]["facts"] == dict(known["small"].facts)
    assert "AttributeError" in points[3]["error"]

    benchmark = json.loads(run("history", "small", "--since", "main~4", "--jobs", "1", "--format", "benchmark")[1])
    schema = {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["name", "unit", "value"],
            "additionalProperties": False,
            "properties": {"name": {"type": "string"}, "unit": {"type": "string"}, "value": {"type": "number"}},
        },
    }
    jsonschema.validate(benchmark, schema)
    assert benchmark[0] == {"name": "small: peak", "unit": "bytes", "value": points[4]["facts"]["peak"]}


def test_a_commit_is_traced_once(grown: Path, run) -> None:
    """The second time no torch is needed."""
    git(grown, "checkout", "--quiet", "main~2")
    first = run("history", "small", "--since", "HEAD~2", "--jobs", "1")
    assert first[0] == 0
    code = (
        "import sys; sys.modules['torch'] = None\nfrom foretrace.cli import main\n"
        "raise SystemExit(main(['history', 'small', '--since', 'HEAD~2', '--jobs', '1']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=grown, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == first, done.stderr
