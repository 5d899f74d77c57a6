"""Points are counted and checked before anything runs; rows become text, CSV and Parquet."""

from __future__ import annotations

import csv
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import foretrace
from foretrace.hardware import load, names
from foretrace.sweeps import Failure, Figures, Row
from foretrace.sweeps.point import Task, as_profiles, as_settings, tasks
from foretrace.sweeps.table import to_csv, to_parquet, to_text

FIGURES = Figures(
    fits=True,
    needed_bytes=2**30,
    available_bytes=2**32,
    peak_bytes=10**9,
    saved_for_backward_bytes=5 * 10**8,
    parameters=1000,
    ops=12,
    assumed_ops=1,
    assumptions=2,
    flops=10**12,
    step_seconds=0.25,
    low_seconds=0.125,
    high_seconds=0.5,
    mfu=0.375,
)
FAILURE = Failure(kind="ValueError", message="=no such width", mend="Call it.", line="models.py:14")
ROWS = (
    Row(number=0, target="a.py:f", parameters={"batch": 1, "kind": "x"}, hardware="h100", figures=FIGURES),
    Row(number=1, target="b.py:f", parameters={"batch": 2.5, "ops": 3}, hardware="h100", failure=FAILURE),
)
FIGURE_NAMES = list(Figures.__dataclass_fields__)
COLUMNS = ["number", "target", "batch", "kind", "parameter_ops", "hardware", *FIGURE_NAMES]
COLUMNS += ["error", "error_message", "error_mend", "error_line"]


def test_csv() -> None:
    first, second = csv.DictReader(io.StringIO(to_csv(ROWS)))
    assert list(first) == COLUMNS
    assert first == {
        **{name: str(getattr(FIGURES, name)) for name in FIGURE_NAMES},
        **dict.fromkeys(("parameter_ops", "error", "error_message", "error_mend", "error_line"), ""),
        **{"number": "0", "target": "a.py:f", "batch": "1", "kind": "x", "hardware": "h100"},
    }
    assert (second["error"], second["error_message"], second["peak_bytes"]) == ("ValueError", "'=no such width", "")
    assert second["parameter_ops"] == "3"


def test_parquet() -> None:
    reader = pytest.importorskip("pyarrow.parquet")
    table = reader.read_table(io.BytesIO(to_parquet(ROWS)))
    assert table.column_names == COLUMNS
    assert table.to_pylist()[0]["needed_bytes"] == 2**30
    assert table.column("batch").to_pylist() == [1.0, 2.5]
    assert table.column("error_message").to_pylist() == [None, "=no such width"]
    types = {name: str(table.schema.field(name).type) for name in ("peak_bytes", "mfu", "fits", "kind")}
    assert types == {"peak_bytes": "int64", "mfu": "double", "fits": "bool", "kind": "string"}


def test_a_parameter_of_two_kinds_is_text_in_parquet() -> None:
    reader = pytest.importorskip("pyarrow.parquet")
    values: list[Any] = [1, "auto", None, True, "\ud800"]
    rows = [Row(number=n, target="t", parameters={"v": v}, hardware="h", figures=FIGURES) for n, v in enumerate(values)]
    found = reader.read_table(io.BytesIO(to_parquet(rows))).column("v").to_pylist()
    assert found == ["1", "auto", None, "True", "?"]


def test_text() -> None:
    assert to_text(ROWS).splitlines() == [
        "point                   on    fits         needs      time  error",
        "a.py:f batch=1 kind=x   h100  yes 25 %  1.00 GiB  ~ 250 ms",
        "b.py:f batch=2.5 ops=3  h100  -                -         -  ValueError: =no such width (models.py:14)",
    ]
    assert "error" not in to_text(ROWS[:1]).splitlines()[0]


def test_settings() -> None:
    assert as_settings(None) == ({},)
    assert as_settings({"kind": "ab", "n": [1, 2], "tied": (False, None)}) == (
        {"kind": "ab", "n": 1, "tied": False},
        {"kind": "ab", "n": 1, "tied": None},
        {"kind": "ab", "n": 2, "tied": False},
        {"kind": "ab", "n": 2, "tied": None},
    )
    assert as_settings([{"n": 1}, {"kind": "x"}]) == ({"n": 1}, {"kind": "x"})


@given(st.lists(st.sampled_from(names()), min_size=1, unique=True), st.integers(1, 3), st.integers(1, 4))
def test_every_point_is_in_one_task_with_others_of_its_capability(profiles: list[str], targets: int, many: int) -> None:
    settings = as_settings({"n": list(range(many))})
    like = Task(points=(), root="/")
    made = list(tasks([f"t{n}:f" for n in range(targets)], settings, as_profiles(profiles), like))
    numbers = sorted(point.number for task in made for point in task.points)
    assert numbers == list(range(targets * many * len(profiles)))
    for task in made:
        assert len({(p.target, p.parameters["n"], p.profile.capability) for p in task.points}) == 1
        assert all(p.profile.name == profiles[p.number % len(profiles)] for p in task.points)
    capabilities = {load(name).capability for name in profiles}
    assert len(made) == targets * many * len(capabilities)


@pytest.mark.parametrize("name", ["a100-sxm4-80gb", "mi250"])
def test_a_profile_goes_to_another_process(name: str) -> None:
    profile = load(name)
    sent = pickle.loads(pickle.dumps(profile))
    assert sent == profile and repr(sent) == repr(profile)
    with pytest.raises(TypeError):
        sent.tensor_flops_per_second["bfloat16"] = 1.0


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"targets": []}, "a sweep of no targets", "Give at least one, such as train.py:make_step"),
    (
        {"targets": "train.py"},
        "'train.py' is no target that another process can find",
        "Write path/to/file.py:callable",
    ),
    ({"targets": len}, "'len' is no target that another process can find", "Write path/to/file.py:callable"),
    ({"targets": ["a:b", 3]}, "'int' is no target that another process can find", "Write path/to/file.py:callable"),
    ({"parameters": {"n": []}}, "the parameter n has no values", "Give one or more"),
    ({"parameters": []}, "a sweep of no parameters", "Give a mapping for each point"),
    ({"parameters": {"n": [1, {}]}}, "the parameter n is dict, which is no number and no text", "Give bool, int"),
    ({"parameters": {"n": len}}, "the parameter n is builtin_function_or_method, which is no number", "Give bool"),
    ({"profiles": []}, "a sweep on no device", "Give at least one profile"),
    ({"profiles": "a100"}, "there is no hardware profile 'a100'", "Did you mean"),
    ({"profiles": ["l4", "l4"]}, "two profiles are called l4", "Name each once"),
    ({"workers": 0}, "workers is 0", "Give more than 0"),
    ({"timeout": -1}, "timeout is -1", "Give more than 0"),
    ({"host_memory_bytes": 0}, "host_memory_bytes is 0", "Give more than 0"),
    ({"window": 0}, "window is 0", "Give more than 0"),
    ({"executor": 3}, "int is no executor", "Give a concurrent.futures.Executor"),
    (
        {"executor": lambda: None, "workers": 2},
        "workers means nothing with an executor",
        "Give the executor its workers",
    ),
    ({"wormup": 2}, "a sweep takes no 'wormup'", "It traces by assume, autocast"),
    ({"root": "nowhere"}, "there is no folder", "Give the folder in which the targets are found"),
    ({"store": "file"}, "file cannot be the store: it is a file", "Give a folder, or a new name"),
]


@pytest.mark.parametrize(("given", "message", "mend"), BAD, ids=[message for _, message, _ in BAD])
def test_bad_input_is_told_before_anything_runs(
    given: dict[str, Any], message: str, mend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(foretrace.ForetraceError) as error:
        foretrace.sweep(**{"targets": "models.py:f", **given})
    assert error.value.message.startswith(message)
    assert error.value.mend.startswith(mend)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.txt", "is neither Parquet nor CSV"),
        ("no/folder/out.csv", "cannot be written"),
        ("folder.csv", "cannot be written"),
    ],
)
def test_a_file_that_cannot_be_written_is_told_before_anything_runs(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(foretrace.ForetraceError, match=message):
        foretrace.sweep("nowhere.py:f").save(tmp_path / name)


def test_parquet_without_pyarrow_is_told_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foretrace.sweeps.table.find_spec", lambda name: None)
    with pytest.raises(foretrace.ForetraceError, match="Parquet needs pyarrow"):
        foretrace.sweep("nowhere.py:f").save(tmp_path / "out.parquet")
