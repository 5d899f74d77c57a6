"""Several steps in one table: the CSV has the figures of each JSON report, the screen 80 columns."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

from foretrace import price
from foretrace.report.side_by_side import side_by_side, side_by_side_csv, side_by_side_json
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
