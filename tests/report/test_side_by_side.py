"""Several steps as a table and a picture: the figures are those of each JSON report, the screen has 80 columns."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from foretrace import price
from foretrace.report import Report
from foretrace.report.side_by_side import side_by_side, side_by_side_csv, side_by_side_json
from foretrace.report.sweep_svg import sweep_svg, swept
from handmade import perceptron
from hostile import hostile

TOY = Path(__file__).parents[1] / "support" / "toy.toml"


def test_the_figures_are_those_of_each_report() -> None:
    reports = [price(perceptron(layers), on=TOY) for layers in (2, 3, 80)]
    wholes = [json.loads(report.to_json()) for report in reports]
    assert json.loads(side_by_side_json(reports)) == wholes
    rows = list(csv.DictReader(io.StringIO(side_by_side_csv(reports))))
    for row, whole in zip(rows, wholes, strict=True):
        for key in ("needed_bytes", "peak_bytes", "saved_for_backward_bytes"):
            assert int(row[key]) == whole["memory"][key]
        assert int(row["flops"]) == whole["flops"]["total"]
        assert float(row["step_seconds"]) == whole["time"]["step_seconds"]
    assert [row["fits"] for row in rows] == ["True", "True", "False"]


def test_names_are_no_formulas_and_stay_in_their_cell() -> None:
    formula = perceptron()
    formula = replace(formula, facts=replace(formula.facts, target="=HYPERLINK(1)"))
    reports = [price(graph, on=TOY) for graph in (formula, hostile())]
    first, second = csv.DictReader(io.StringIO(side_by_side_csv(reports)))
    assert first["step"] == "'=HYPERLINK(1)"
    assert second["hardware"] == "toy"
    lines = side_by_side(reports).splitlines()
    assert len(lines) == 3 and max(map(len, lines)) <= 80


# --- the picture ---


def called(batch: int, **more: object) -> Report:
    """A step that was called with a batch."""
    graph = perceptron(batch=batch)
    return price(replace(graph, facts=replace(graph.facts, arguments={"batch": batch, **more})), on=TOY)


def drawn(reports: Sequence[Report], tag: str) -> list[tuple[str, float]]:
    """What the shapes of a kind stand for, in order, with the words that they show."""
    found = ElementTree.fromstring(sweep_svg(reports)).iter(f"{{http://www.w3.org/2000/svg}}{tag}")
    return [
        ("".join(shape.itertext()), float(shape.attrib["data-value"]))
        for shape in found
        if "data-value" in shape.attrib
    ]


def test_one_number_that_varies_is_drawn_as_lines_over_it() -> None:
    reports = [called(batch) for batch in (8, 2, 4)]
    assert swept(reports) == "batch"
    ordered = [reports[1], reports[2], reports[0]]
    values = [value for _, value in drawn(reports, "circle")]
    assert values == [float(r.needed_bytes) for r in ordered] + [r.time.step_seconds for r in ordered]
    assert [words.partition(":")[0] for words, _ in drawn(reports, "circle")] == ["2", "4", "8"] * 2
    limits = [
        e.attrib["data-limit"] for e in ElementTree.fromstring(sweep_svg(reports)).iter() if "data-limit" in e.attrib
    ]
    assert limits == [str(reports[0].available_bytes)]


def test_every_setting_of_the_rest_is_a_line_of_its_own() -> None:
    reports = [called(batch, kind=kind) for kind in ("a", "b") for batch in (2, 4)]
    text = sweep_svg(reports)
    assert swept(reports) == "batch" and text.count("<polyline") == 4
    assert "kind=a</text>" in text and "kind=b</text>" in text


def test_whatever_else_is_side_by_side_is_drawn_as_bars() -> None:
    reports = [called(2), called(2, layers=3), price(hostile(), on=TOY), price(perceptron(80), on=TOY)]
    assert swept(reports) is None
    values = [value for _, value in drawn(reports, "rect")]
    assert values == [float(r.needed_bytes) for r in reports] + [r.time.step_seconds for r in reports]
    text = sweep_svg(reports)
    assert text.count(": no</text>") == 1 and "<script>" not in text
    assert swept([called(2), called(True)]) is None
