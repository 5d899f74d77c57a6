"""The tree of modules and the timeline in letters: their totals are the report's, and repeats are one row."""

from __future__ import annotations

from dataclasses import astuple, replace
from pathlib import Path

import pytest

from foretrace import price
from foretrace.costmodels.areas import columns
from foretrace.report import Report
from foretrace.report.text_timeline import HEIGHT, LETTERS, MARGIN, WIDTH, timeline_lines
from foretrace.report.tree import module_rows, tree_table
from handmade import perceptron
from hostile import hostile

TOY = Path(__file__).parents[1] / "support" / "toy.toml"


@pytest.fixture(scope="module")
def report() -> Report:
    return price(perceptron(), on=TOY)


def test_the_first_row_is_the_report(report: Report) -> None:
    whole = module_rows(report)[0]
    *counted, seconds = astuple(whole.sums)
    memory = report.memory
    assert counted == [
        report.parameters.total,
        memory.saved_for_backward_bytes,
        memory.peak_bytes,
        report.flops.total,
    ]
    assert seconds == pytest.approx(report.time.kernel_seconds)


def test_numbered_modules_of_one_class_are_one_row(report: Report) -> None:
    rows = [(row.depth, row.name, row.kind, row.count) for row in module_rows(report)]
    assert rows == [(0, "", "Perceptron", 1), (1, "h.*", "Linear", 3)]


def test_numbered_modules_of_several_classes_are_rows_of_their_own() -> None:
    graph = perceptron(layers=5)
    kinds = {**graph.facts.modules, "h.2": "Norm"}
    graph = replace(graph, facts=replace(graph.facts, modules=kinds))
    rows = [(row.depth, row.name, row.kind, row.count) for row in module_rows(price(graph, on=TOY))]
    assert rows == [
        (0, "", "Perceptron", 1),
        (1, "h", "", 1),
        (2, "*[0:]", "Linear", 2),
        (2, "2", "Norm", 1),
        (2, "*[3:]", "Linear", 2),
    ]


def test_rows_inside_add_up_to_no_more_than_their_own() -> None:
    report = price(perceptron(layers=5), on=TOY)
    rows = module_rows(report)
    inside = [row for row in rows if row.depth == 1]
    assert sum(row.sums.flops for row in inside) <= rows[0].sums.flops
    assert sum(row.sums.peak_bytes for row in inside) <= rows[0].sums.peak_bytes


@pytest.mark.parametrize("name", ["model", "x" * 100_000, "\x1b[31m\nred"])
def test_a_tree_has_no_line_that_is_too_long_or_no_line_at_all(name: str) -> None:
    lines = tree_table(price(hostile(name), on=TOY)).splitlines()
    assert all(len(line) <= 80 and line.isprintable() for line in lines)


@pytest.mark.parametrize("count", [3, 10, 1_000])
def test_no_column_loses_the_peak(report: Report, count: int) -> None:
    live = (report.memory.start_bytes, *report.memory.live_bytes)
    places = columns(report.memory, count)
    assert len(places) == count
    assert places == sorted(places)
    assert max(live[place] for place in places) == report.memory.peak_bytes


def test_the_letters_of_a_column_are_its_categories(report: Report) -> None:
    title, *drawn, phases, key = timeline_lines(report)
    assert title == "memory over the step"
    assert len(drawn) == HEIGHT and all(len(line) <= WIDTH for line in (*drawn, phases, key))
    first = [row[MARGIN - 1] for row in drawn]
    memory, unit = report.memory, report.memory.peak_bytes / HEIGHT
    parameters = report.parameters.bytes
    states = sum(s.bytes for s in report.trace.at_start if s.category == "optimizer_state")
    expected = ["p"] * round(parameters / unit) + ["o"] * (
        round((parameters + states) / unit) - round(parameters / unit)
    )
    assert first == [*reversed([*expected, *[" "] * (HEIGHT - len(expected))])]
    assert drawn[0].split()[:2] == ["60.0", "MiB"] and memory.peak_bytes == 62_930_948
    assert set("".join(line[MARGIN - 1 :] for line in drawn)) - {" "} <= set(LETTERS.values())
    assert [name for name in ("forward", "backward", "optimizer") if name in phases] == [
        "forward",
        "backward",
        "optimizer",
    ]


def test_a_step_without_memory_has_no_picture() -> None:
    graph = perceptron()
    nothing = replace(graph, storages=tuple(replace(s, device="cpu") for s in graph.storages))
    assert timeline_lines(price(nothing, on=TOY)) == []
