"""An unchanged target costs nothing; a changed one is traced; a damaged entry is no entry."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from foretrace.checks import cache
from handmade import perceptron
from small_project import edit


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The targets that are really traced from now on."""
    from foretrace.commands import tracing

    real, seen = tracing.trace_once, []

    def noted(request: tracing.Request) -> object:
        seen.append(request.step)
        return real(request)

    monkeypatch.setattr(tracing, "trace_once", noted)
    return seen


def test_only_what_changed_is_traced_again(project: Path, run, traced: list[str]) -> None:
    first = run("check", "--jobs", "1")
    assert traced == ["train.py:small", "train.py:sparing", "train.py:distilled"]
    traced.clear()
    assert run("check", "--jobs", "1") == first and traced == []
    edit(project, {"foretrace.toml": [("args = { batch = 4 }", "args = { batch = 2 }")]})
    assert run("check", "--jobs", "1")[0] == 0 and traced == ["train.py:small"]
    traced.clear()
    edit(project, {"foretrace.toml": [("args = { batch = 2 }", "args = { batch = 4 }")]})
    assert run("check", "--jobs", "1") == first and traced == []
    edit(project, {"model.py": [("class Block", "# A block.\nclass Block")]})
    assert run("check", "--jobs", "1") == first and len(traced) == 3


def test_a_file_that_the_target_reads_counts(project: Path, run, traced: list[str]) -> None:
    (project / "sizes.json").write_text("8")
    edit(project, {"train.py": [("def sparing(batch=256):", 'def sparing(batch=int(open("sizes.json").read())):')]})
    run("check", "sparing", "--jobs", "1")
    run("check", "sparing", "--jobs", "1")
    assert len(traced) == 1
    (project / "sizes.json").write_text("16")
    run("check", "sparing", "--jobs", "1")
    assert len(traced) == 2


@pytest.mark.parametrize(
    ("suffix", "damage"), [("json", b"{}"), ("json", b"\xff"), ("foretrace", b"\x1f\x8b\x00 half"), ("foretrace", None)]
)
def test_a_damaged_entry_is_ignored_and_written_anew(
    suffix: str, damage: bytes | None, project: Path, run, traced: list[str]
) -> None:
    first = run("check", "sparing", "--jobs", "1")
    (entry,) = (project / ".foretrace_cache").glob(f"*.{suffix}")
    whole = entry.read_bytes()
    entry.unlink() if damage is None else entry.write_bytes(damage)
    traced.clear()
    assert run("check", "sparing", "--jobs", "1") == first and len(traced) == 1
    assert entry.read_bytes() == whole


def test_git_does_not_see_it(project: Path, run) -> None:
    from small_project import git

    run("check", "sparing", "--jobs", "1")
    assert ".foretrace_cache" not in git(project, "status", "--porcelain", "--untracked-files=all")


def test_no_cache_keeps_nothing(project: Path, run) -> None:
    run("check", "sparing", "--jobs", "1", "--no-cache")
    assert not (project / ".foretrace_cache").exists()


def test_a_check_from_the_cache_imports_no_torch(project: Path, run) -> None:
    first = run("check", "--jobs", "1")
    code = "import sys; sys.modules['torch'] = None\nfrom foretrace.cli import main\nraise SystemExit(main(['check']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == first, done.stderr


def test_a_key_is_of_everything_that_is_asked_for() -> None:
    asked = [("a", {}, {}, ""), ("b", {}, {}, ""), ("a", {"n": 1}, {}, ""), ("a", {"n": 1.0}, {}, "")]
    asked += [("a", {}, {"warmup": 0}, ""), ("a", {}, {}, "abc")]
    assert len({cache.key(*one) for one in asked}) == len(asked)


def test_the_newest_entries_of_a_key_are_kept(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    for turn in range(cache.MOST_ENTRIES + 3):
        source.write_text(str(turn))
        cache.store(tmp_path / "cache", "key", tmp_path, ["source.py"], perceptron(1))
        for path in (tmp_path / "cache").glob("*.json"):
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 10**9))
    assert len(list((tmp_path / "cache").glob("*.json"))) == cache.MOST_ENTRIES
    assert len(list((tmp_path / "cache").glob("*.foretrace"))) == cache.MOST_ENTRIES
    assert cache.find(tmp_path / "cache", "key", tmp_path) == perceptron(1)
    source.write_text("0")
    assert cache.find(tmp_path / "cache", "key", tmp_path) is None


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    cache.store(tmp_path / "cache", "key", tmp_path, [], perceptron(1))
    assert cache.find(tmp_path / "cache", "key", tmp_path) is None
