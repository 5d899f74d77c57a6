"""Rows of two snapshots: what is called the same, what was renamed, moved, or turned to another dtype or shape."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrace.checks.baseline import cut
from foretrace.checks.causes import case, causes
from foretrace.checks.matching import changes, renames
from foretrace.checks.snapshot import Row, Snapshot, snapshot
from foretrace.report import price
from handmade import perceptron

MODULES = ("h.*.attn", "h.*.mlp", "head", "-")
OPS = ("addmm", "gelu", "softmax")
FORMS = ("float32[8, 16]", "bfloat16[8, 16]", "float32[8]")

rows = st.lists(
    st.builds(
        Row,
        module=st.sampled_from(MODULES),
        what=st.sampled_from(OPS),
        kind=st.sampled_from(["saved_for_backward", "temporary"]),
        form=st.sampled_from(FORMS),
        value=st.integers(1, 40).map(lambda count: 512 * count),
    ),
    max_size=12,
    unique_by=lambda row: row.key,
).map(tuple)


def held(*listed: Row, fact: str = "peak") -> Snapshot:
    return Snapshot(facts={fact: sum(row.value for row in listed)}, rows={fact: listed})


def row(module: str, what: str, form: str, value: int, kind: str = "saved_for_backward") -> Row:
    return Row(module, what, kind, form, value)


def said(before: Snapshot, after: Snapshot) -> list[tuple[str, str, int]]:
    return [
        (str(change.before and change.before.form), str(change.after and change.after.form), change.delta)
        for change in changes(before, after, "peak")
    ]


@settings(max_examples=150, deadline=None)
@given(rows, rows)
def test_the_changes_add_up_to_the_difference(before: tuple[Row, ...], after: tuple[Row, ...]) -> None:
    one, other = held(*before), held(*after)
    for old in (one, cut(one)):
        deltas = [change.delta for change in changes(old, other, "peak")]
        assert sum(deltas) == other.facts["peak"] - one.facts["peak"]
        assert deltas == sorted(deltas, reverse=True)


@settings(max_examples=100, deadline=None)
@given(rows)
def test_nothing_changes_from_a_snapshot_to_itself(listed: tuple[Row, ...]) -> None:
    assert changes(held(*listed), held(*listed), "peak") == ()
    assert changes(cut(held(*listed)), held(*reversed(listed)), "peak") == ()


@settings(max_examples=100, deadline=None)
@given(rows, st.permutations(["a", "b", "c"]))
def test_names_of_modules_mean_nothing(listed: tuple[Row, ...], names: list[str]) -> None:
    """Whatever modules are called, a step with the same bytes in them has not changed."""
    new = dict(zip(MODULES, [*names, "-"], strict=True))
    after = held(*(one._replace(module=new[one.module]) for one in listed))
    found = changes(held(*listed), after, "peak")
    assert sum(change.delta for change in found) == 0


def test_a_renamed_module_is_the_same_module() -> None:
    before = held(row("h.*.attn", "addmm", FORMS[0], 1024), row("h.*.attn", "softmax", FORMS[0], 512))
    after = held(row("h.*.mixer", "addmm", FORMS[0], 1024), row("h.*.mixer", "softmax", FORMS[0], 1024))
    assert renames(before, after) == {"h.*.attn": "h.*.mixer"}
    assert said(before, after) == [(FORMS[0], FORMS[0], 512)]


def test_a_module_that_is_another_is_not_a_renamed_one() -> None:
    before = held(row("attn", "softmax", FORMS[0], 512), row("attn", "addmm", FORMS[0], 512))
    after = held(row("conv", "convolution", "float32[3, 3]", 36, "parameter"))
    assert renames(before, after) == {}


@pytest.mark.parametrize(
    ("new", "dtypes", "shapes"),
    [
        ("float64[8, 16]", ("float32", "float64"), None),
        ("float32[8, 32]", None, ("[8, 16]", "[8, 32]")),
    ],
)
def test_a_row_that_kept_its_place_is_a_changed_row(new: str, dtypes: object, shapes: object) -> None:
    (change,) = changes(held(row("h", "mm", FORMS[0], 512)), held(row("h", "mm", new, 1024)), "peak")
    assert (change.delta, change.dtypes, change.shapes) == (512, dtypes, shapes)


def test_what_a_baseline_left_out_is_not_new() -> None:
    large, small = row("h", "mm", FORMS[0], 512 * 1000), row("h", "relu", FORMS[0], 512)
    assert changes(cut(held(large, small)), held(large, small), "peak") == ()
    (change,) = changes(cut(held(large, small)), held(large, small._replace(value=1024)), "peak")
    assert (change.delta, change.row.module) == (512, "(others)")


def test_a_step_that_is_asked_for_with_other_arguments_says_so() -> None:
    before = Snapshot(facts={"peak": 1}, how={"args": {"batch": 8}, "autocast": "none"})
    after = Snapshot(facts={"peak": 2}, how={"args": {"batch": 16}, "autocast": "bfloat16"})
    (cause,) = causes(case(before, after, Path(), ""))
    assert (
        cause.text == "the target is asked for something else: batch is 16, it was 8; autocast is bfloat16, it was none"
    )


def test_a_layer_more_is_named() -> None:
    weight = row("h.*.mlp", "weight", "float32[64, 64]", 4 * 64 * 64 * 3, "parameter")
    after = held(weight._replace(value=4 * 64 * 64 * 4))
    (cause,) = causes(case(held(weight), after, Path(), ""))
    assert cause.text == "h.*.mlp weight is there 4 times, it was 3"


def test_growth_that_nobody_knows_is_named_by_its_largest_row() -> None:
    before = held(row("head", "mm", FORMS[0], 512))
    after = held(row("head", "mm", FORMS[0], 512), row("head", "tanh", FORMS[2], 64), row("head", "exp", FORMS[2], 32))
    (cause,) = causes(case(before, after, Path(), ""))
    assert cause.text == "most of it is head tanh, float32[8], which was not there"


@pytest.mark.parametrize("width", [8, 4096])
def test_the_time_that_is_compared_is_that_of_the_report(width: int) -> None:
    report = price(perceptron(width=width, batch=width), on="a100-sxm4-80gb")
    found = snapshot(report, "1")
    kernels = sum(round(time.seconds * 1e9) for time in report.time.ops)
    assert found.facts["time"] == max(round(report.time.step_seconds * 1e9), kernels)
    waiting = [row.value for row in found.rows["time"] if row.kind == "waiting"]
    assert waiting == ([found.facts["time"] - kernels] if found.facts["time"] > kernels else [])
