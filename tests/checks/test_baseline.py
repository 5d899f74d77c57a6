"""The committed file: it keeps what it must, in one way only, and refuses what it cannot read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrace import price
from foretrace.checks import Snapshot, judge, snapshot
from foretrace.checks.baseline import REST, cut, read, to_toml, write
from foretrace.checks.config import plain
from foretrace.checks.quantity import FACTS
from foretrace.checks.snapshot import Row
from foretrace.graph import ForetraceError
from handmade import perceptron
from small_project import edit

TOY = Path(__file__).parents[1] / "support" / "toy.toml"

names = st.text(min_size=1, max_size=12).filter(lambda name: name != "schema")
words = st.text("abc.*_", min_size=1, max_size=6)
shapes = st.lists(st.integers(1, 9), max_size=3).map(lambda sizes: f"[{', '.join(map(str, sizes))}]")
rows = st.builds(
    Row,
    module=words,
    what=words,
    kind=words,
    form=st.one_of(st.just(""), st.builds("{}{}".format, st.sampled_from(["float32", "bfloat16"]), shapes)),
    value=st.integers(0, 10**15),
)
texts = st.lists(st.text(max_size=8), max_size=3).map(tuple)
snapshots = st.builds(
    Snapshot,
    facts=st.dictionaries(st.sampled_from(list(FACTS)), st.integers(0, 10**15)),
    rows=st.dictionaries(
        st.sampled_from(["peak", "saved", "flops", "time"]),
        st.lists(rows, max_size=6, unique_by=lambda row: row.key).map(tuple),
    ),
    made_with=st.dictionaries(st.text(max_size=6), st.text(max_size=6), max_size=3),
    how=st.dictionaries(
        st.text(max_size=6),
        st.one_of(st.booleans(), st.integers(-9, 9), st.text(max_size=6), st.floats(-9, 9)),
        max_size=3,
    ),
    recomputes=texts,
    checkpoints=st.dictionaries(st.text(max_size=6), st.integers(1, 99), max_size=3),
    assumed=texts,
    assumptions=texts,
)


def ordered(found: Snapshot) -> Snapshot:
    """As a baseline keeps it, its rows largest first and none that are nothing."""
    kept = cut(found)
    return replace(
        kept,
        rows={
            fact: tuple(sorted(rows, key=lambda row: (-row.value, row.key))) for fact, rows in kept.rows.items() if rows
        },
    )


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(names, snapshots, max_size=3))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, written: dict[str, Snapshot]) -> None:
    path = tmp_path_factory.mktemp("baseline") / "b.toml"
    assert write(path, written) is True
    assert read(path) == {name: ordered(found) for name, found in written.items()}
    assert write(path, written) is False
    assert write(path, read(path) or {}) is False


@settings(max_examples=60, deadline=None)
@given(snapshots)
def test_leaving_out_small_rows_loses_no_byte(found: Snapshot) -> None:
    kept = cut(found)
    for fact, listed in found.rows.items():
        assert sum(row.value for row in kept.rows[fact]) == sum(row.value for row in listed)
    assert cut(kept) == kept


def test_one_fact_a_line_sorted_and_exact() -> None:
    found = snapshot(price(perceptron(), on=TOY), "0.1.0")
    lines = to_toml({"b": found, "a": found}).splitlines()
    assert [line for line in lines if line.startswith("[") and "." not in line] == ["[a]", "[b]"]
    start = lines.index("[a]") + 1
    first = lines[start : lines.index("", start)]
    keys = [line.split(" = ")[0] for line in first]
    assert keys == sorted(keys)
    # Three layers of 1024 x 1024 floats, their gradients, two averages, and the roots of one: five times 12 MiB,
    # and beside them the input of 4 x 1024 and the loss.
    peak = 5 * 3 * 4 * 1024**2 + 4 * 4 * 1024 + 4
    assert f"peak = {peak:_}  # 60.0 MiB  optimizer - _foreach_sqrt" in first
    assert all("/" not in line.partition("#")[2] for line in first)


def test_a_merge_conflict_is_settled_by_update(project: Path, run, capsys: pytest.CaptureFixture[str]) -> None:
    path = project / "foretrace-baseline.toml"
    whole = path.read_text()
    path.write_text(f"<<<<<<< HEAD\n{whole}=======\n{whole}>>>>>>> other\n")
    assert run("check", "--jobs", "1")[0] == 2
    with pytest.raises(ForetraceError, match="Two branches changed it") as caught:
        read(path)
    assert "foretrace check --update" in caught.value.mend
    assert run("check", "--update", "--jobs", "1")[0] == 0
    assert path.read_text() == whole


BROKEN = {
    "newer": ("schema = 2\n", "has schema 2, and this foretrace reads up to 1"),
    "no schema": ("[a]\npeak = 3\n", "edited by hand or damaged"),
    "no number": ('schema = 1\n[a]\npeak = "3"\nhow = {}\nmade-with = {}\n', "edited by hand or damaged"),
    "no such fact": ("schema = 1\n[a]\npaek = 3\nhow = {}\nmade-with = {}\n", "edited by hand or damaged"),
    "half a file": ("schema = 1\n[a]\npeak = ", "is no baseline"),
    "no row": ('schema = 1\n[a]\nhow = {}\nmade-with = {}\n[a.rows.peak]\n"x" = 3\n', "edited by hand or damaged"),
    "no dtype": ('schema = 1\n[a]\nhow = {}\nmade-with = {}\n[a.rows.peak]\n"x y z float33[2]" = 3\n', "damaged"),
    "not text": (b"schema = 1\n\xff\n", "is no baseline"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_baseline_is_refused(name: str, tmp_path: Path) -> None:
    text, message = BROKEN[name]
    path = tmp_path / "b.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ForetraceError) as caught:
        read(path)
    assert message in caught.value.message and caught.value.mend


def test_a_newer_baseline_is_not_written_over(project: Path, run) -> None:
    path = project / "foretrace-baseline.toml"
    newer = path.read_text().replace("schema = 1", "schema = 2")
    path.write_text(newer)
    assert run("check", "small", "--update", "--jobs", "1")[0] == 2
    assert run("check", "--update", "--jobs", "1")[0] == 2
    assert path.read_text() == newer


def test_no_baseline_says_how_to_make_one(project: Path, run, capsys: pytest.CaptureFixture[str]) -> None:
    from foretrace import cli

    (project / "foretrace-baseline.toml").unlink()
    assert cli.main(["check"]) == 2
    error, mend = capsys.readouterr().err.splitlines()
    assert "there is no foretrace-baseline.toml, and small has no budget" in error
    assert mend == "mend: Make the baseline with foretrace check --update, look at it, and commit it."


def test_budgets_are_checked_without_a_baseline(project: Path, run) -> None:
    (project / "foretrace-baseline.toml").unlink()
    edit(project, {"foretrace.toml": [("[targets.small]", '[targets.small]\nbudget = { peak = "1 MiB" }')]})
    code, printed = run("check", "small", "--jobs", "1", "--format", "json")
    (found,) = json.loads(printed)["targets"]
    assert (code, [finding["code"] for finding in found["findings"]]) == (1, ["M001"])
    assert found["notes"] == ["it has no baseline, so only its budget was checked"]


def test_a_new_target_is_a_finding_until_it_is_accepted(project: Path, run) -> None:
    config = project / "foretrace.toml"
    config.write_text(config.read_text() + '\n[targets.new]\nstep = "train.py:sparing"\n')
    code, printed = run("check", "new", "sparing", "--jobs", "1", "--format", "concise")
    assert (code, printed.splitlines()[0]) == (1, "foretrace.toml: B001 new: the baseline does not know it")
    before = read(project / "foretrace-baseline.toml")
    assert run("check", "new", "--update", "--jobs", "1")[0] == 0
    after = read(project / "foretrace-baseline.toml")
    assert before is not None and after is not None and {**before, "new": after["new"]} == after
    assert run("check", "new", "--jobs", "1")[0] == 0


def test_an_entry_that_is_no_longer_configured_is_said_and_then_dropped(project: Path, run) -> None:
    path = project / "foretrace-baseline.toml"
    known = read(path)
    assert known is not None
    write(path, {**known, "gone": known["small"], "test_fit.py::test_b8": known["small"]})
    assert "note  the baseline has gone, which nothing is configured for" in run("check", "--jobs", "1")[1]
    assert run("check", "--update", "--jobs", "1")[0] == 0
    assert set(read(path) or {}) == {*known, "test_fit.py::test_b8"}


def test_what_another_torch_moves_is_drift(project: Path, run) -> None:
    path = project / "foretrace-baseline.toml"
    known = read(path)
    assert known is not None
    small = known["small"]
    facts = {**small.facts, "peak": small.facts["peak"] - 1000}
    older = replace(small, facts=facts, made_with={**small.made_with, "torch": "2.12.0"})
    write(path, {**known, "small": older})
    code, printed = run("check", "small", "--jobs", "1", "--format", "json")
    (found,) = json.loads(printed)["targets"]
    now = found["made_with"]["torch"]
    assert (code, found["findings"]) == (0, [])
    assert found["notes"] == [f"drift, not judged: peak +1000 B (+<0.1 %) moved with torch 2.12.0 -> {now}"]


def test_a_budget_holds_whatever_drifts() -> None:
    now = snapshot(price(perceptron(), on=TOY), "0.1.0")
    old = replace(cut(now), made_with={**now.made_with, "foretrace": "0.0.9"})
    limited = replace(plain("x", {}), budget={"peak": 1000})
    assert [found.code for found in judge(limited, now, old, Path()).findings] == ["M001"]


def test_another_profile_is_not_compared_in_time() -> None:
    now = snapshot(price(perceptron(), on=TOY), "0.1.0")
    slower = {**now.facts, "time": now.facts["time"] // 2}
    old = replace(cut(now), facts=slower, made_with={**now.made_with, "on": "other"})
    outcome = judge(plain("x", {}), now, old, Path())
    assert outcome.findings == ()
    assert outcome.notes == ("the baseline is for other, this is toy: time and largest batch were not compared",)


def test_a_budget_for_what_is_not_known_is_no_budget() -> None:
    now = snapshot(price(perceptron(), on=TOY), "0.1.0")
    facts = {fact: value for fact, value in now.facts.items() if fact != "reserved"}
    limited = replace(plain("x", {}), budget={"reserved": 1000})
    with pytest.raises(ForetraceError, match="this foretrace cannot tell reserved yet"):
        judge(limited, replace(now, facts=facts), None, Path())


@pytest.mark.parametrize(
    ("fact", "before", "now", "allow", "found"),
    [
        ("peak", 100, 101, "+0", True),
        ("peak", 100, 100, "+0", False),
        ("peak", 100, 99, "+0", False),
        ("peak", 100, 110, "+10 B", False),
        ("peak", 100, 111, "+10 B", True),
        ("time", 1000, 1020, "+2 %", False),
        ("time", 1000, 1021, "+2 %", True),
        ("max-batch", 17, 16, "-0", True),
        ("max-batch", 17, 16, "-1", False),
        ("max-batch", 17, 18, "-0", False),
        ("kept", 0, 1, "+0", True),
    ],
)
def test_what_is_allowed(fact: str, before: int, now: int, allow: str, found: bool) -> None:
    from foretrace.checks.quantity import allowance

    made = {"foretrace": "1", "torch": "1", "on": "x"}
    target = replace(plain("x", {}), allow={fact: allowance(fact, allow)})
    old, new = Snapshot(facts={fact: before}, made_with=made), Snapshot(facts={fact: now}, made_with=made)
    assert bool(judge(target, new, old, Path()).findings) is found


def test_a_target_that_broke_is_an_error_and_the_others_are_checked(project: Path, run) -> None:
    edit(project, {"train.py": [("    return Sparing(64)", '    raise RuntimeError("no")\n    return Sparing(64)')]})
    code, printed = run("check", "--jobs", "1", "--no-cache", "--format", "json")
    outcomes = {found["target"]: found for found in json.loads(printed)["targets"]}
    assert (code, {name: found["status"] for name, found in outcomes.items()}) == (
        2,
        {"small": "same", "sparing": "error", "distilled": "same"},
    )
    assert outcomes["sparing"]["error"]["message"] == "train.py:sparing raised RuntimeError: no at train.py:17"
    assert run("check", "--jobs", "1", "--exit-zero")[0] == 2
    before = read(project / "foretrace-baseline.toml")
    assert run("check", "--update", "--jobs", "1")[0] == 2
    assert read(project / "foretrace-baseline.toml") == before


def test_a_read_only_checkout_is_checked(project: Path, run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write anywhere, so the refusal is the file system's own words, not its modes."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    for module in ("foretrace.checks.cache", "foretrace.checks.baseline"):
        monkeypatch.setattr(f"{module}.write_whole", refuse)
    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    before = (project / "foretrace-baseline.toml").read_bytes()
    assert run("check", "sparing", "--jobs", "1")[0] == 0
    assert not (project / ".foretrace_cache").exists()
    assert (project / "foretrace-baseline.toml").read_bytes() == before


def test_one_that_is_killed_while_it_writes_leaves_the_old_file(project: Path) -> None:
    """The process dies right before the new file takes the place of the old one."""
    path = project / "foretrace-baseline.toml"
    whole = path.read_bytes()
    code = (
        "import os, signal\nos.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from foretrace.checks.baseline import read, write\n"
        f"known = read({str(path)!r})\ndel known['small']\nwrite({str(path)!r}, known)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == -9
    assert path.read_bytes() == whole


def test_two_that_write_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    found = snapshot(price(perceptron(), on=TOY), "0.1.0")
    path = tmp_path / "b.toml"
    write(path, {"a": found})
    code = (
        "from foretrace.checks.baseline import read, write\nimport sys\n"
        f"(known,) = read({str(path)!r}).values()\n"
        "for turn in range(100):\n"
        f"    write({str(path)!r}, {{sys.argv[1] * (1 + turn % 2): known}})\n"
        f"    assert len(read({str(path)!r})) == 1\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, name]) for name in "xy"]
    assert [process.wait() for process in both] == [0, 0]
    assert len(read(path) or {}) == 1 and os.listdir(tmp_path) == ["b.toml"]


def test_the_file_is_toml_that_anybody_can_read(project: Path) -> None:
    document = tomllib.loads((project / "foretrace-baseline.toml").read_text())
    assert document["schema"] == 1
    assert document["small"]["how"]["args"] == {"batch": 4}
    assert sum(document["small"]["rows"]["peak"].values()) == document["small"]["peak"]
    assert REST in document["small"]["rows"]["time"]
