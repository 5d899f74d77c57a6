"""One step on every surface: what each says, read back from its text or its bytes, is the JSON's, to the byte.

A surface that rounds, such as the screen, must have the rounded words of the JSON's own figures.
"""

from __future__ import annotations

import csv
import io
import json
import pickle
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import networkx as nx
import pytest

from foretrace import price
from foretrace.report import Report, to_html, to_table
from foretrace.report.exports import FORMATS, export
from foretrace.report.format import bytes_text, count_text, seconds_text
from foretrace.report.module_graph import module_graph
from foretrace.report.side_by_side import side_by_side, side_by_side_csv
from foretrace.report.sweep_svg import sweep_svg
from foretrace.report.tree import module_rows, tree_table
from handmade import perceptron
from hostile import hostile

TOY = Path(__file__).parents[1] / "support" / "toy.toml"
Totals = Mapping[str, Any]


@pytest.fixture(scope="module", params=["a step", "hostile", "too large"])
def report(request: pytest.FixtureRequest) -> Report:
    made = {"a step": perceptron, "hostile": hostile, "too large": lambda: perceptron(layers=80)}
    return price(made[request.param](), on=TOY)


def told(report: Report) -> dict[str, Any]:
    """The totals of the JSON report."""
    whole = json.loads(report.to_json())
    memory = whole["memory"]
    at_peak = {name: count for name, count in memory["at_peak"].items() if count}
    return {
        **{key: memory[key] for key in ("start_bytes", "peak_bytes", "end_bytes", "saved_for_backward_bytes")},
        **{key: memory[key] for key in ("needed_bytes", "available_bytes", "reserved_peak_bytes")},
        "at_peak": at_peak,
        "flops": whole["flops"]["total"],
        "step_seconds": whole["time"]["step_seconds"],
        "parameters": whole["parameters"]["total"],
        "ops": whole["coverage"]["ops"],
    }


def text(report: Report, name: str) -> str:
    return export(report, name).decode()


def rows(found: Iterable[Mapping[str, Any]]) -> Totals:
    """What the rows of the ops add up to."""
    listed = list(found)
    flops = sum(int(row["tensor_flops"]) + int(row["vector_flops"]) for row in listed)
    return {"ops": len(listed), "flops": flops}


def in_memory_viz(report: Report) -> Totals:
    found = pickle.loads(export(report, "memory-viz"))
    return {"reserved_peak_bytes": sum(segment["total_size"] for segment in found["segments"])}


def in_perfetto(report: Report) -> Totals:
    events = json.loads(text(report, "perfetto"))["traceEvents"]
    live = [event["args"] for event in events if event["ph"] == "C"]
    totals = [sum(held.values()) for held in live]
    highest = {name.replace(" ", "_"): count for name, count in live[totals.index(max(totals))].items() if count}
    kernels = [event for event in events if event["ph"] == "X" and event["tid"] == 1]
    return {
        "start_bytes": totals[0],
        "peak_bytes": max(totals),
        "end_bytes": totals[-1],
        "at_peak": highest,
        "flops": sum(event["args"]["flops"] for event in kernels),
    }


def in_graphml(report: Report) -> Totals:
    graph = nx.parse_graphml(text(report, "graphml"), force_multigraph=True)
    return rows(about for _, about in graph.nodes(data=True))


def in_parquet(report: Report) -> Totals:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    return rows(parquet.read_table(io.BytesIO(export(report, "parquet"))).to_pylist())


def in_svg(report: Report) -> Totals:
    root = ElementTree.fromstring(text(report, "svg"))
    said = [int(element.attrib["data-bytes"]) for element in root.iter() if "data-bytes" in element.attrib]
    return {"peak_bytes": said[0], "at_peak": sorted(said[1:])}


def in_model_explorer(report: Report) -> Totals:
    return {"ops": len(json.loads(text(report, "model-explorer"))["graphs"][0]["nodes"])}


def in_heat(report: Report) -> Totals:
    (found,) = json.loads(text(report, "model-explorer-heat")).values()
    return {"ops": len(found["results"])}


def in_drawing(name: str) -> Callable[[Report], Totals]:
    """Graphviz and Mermaid: what their boxes stand for, each with its words."""

    def read(report: Report) -> Totals:
        graph, drawn = module_graph(report), text(report, name)
        for node in graph.nodes:
            assert f"{seconds_text(node.seconds)}, {count_text(node.flops, 'FLOP')}" in drawn
            assert f"saved for backward {bytes_text(node.saved_bytes)}" in drawn
        return {
            "ops": sum(node.ops for node in graph.nodes),
            "flops": sum(node.flops for node in graph.nodes),
            "saved_for_backward_bytes": sum(node.saved_bytes for node in graph.nodes),
        }

    return read


EXPORTS: Mapping[str, Callable[[Report], Totals]] = {
    "memory-viz": in_memory_viz,
    "perfetto": in_perfetto,
    "model-explorer": in_model_explorer,
    "model-explorer-heat": in_heat,
    "dot": in_drawing("dot"),
    "mermaid": in_drawing("mermaid"),
    "svg": in_svg,
    "graphml": in_graphml,
    "csv": lambda report: rows(csv.DictReader(io.StringIO(text(report, "csv")))),
    "parquet": in_parquet,
    "json": lambda report: told(report) if text(report, "json") == report.to_json() else {},
}


def test_every_export_is_asked() -> None:
    assert set(EXPORTS) == set(FORMATS)


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_has_the_totals_of_the_json(name: str, report: Report) -> None:
    found, expected = EXPORTS[name](report), told(report)
    assert found
    if isinstance(found.get("at_peak"), list):
        expected["at_peak"] = sorted(expected["at_peak"].values())
    assert found == {key: expected[key] for key in found}


def test_the_page_has_the_totals_of_the_json(report: Report) -> None:
    page, expected = to_html(report), told(report)
    said = set(re.findall(r"<data value='([^']+)'", page))
    counts = [expected[key] for key in ("peak_bytes", "needed_bytes", "available_bytes", "flops", "parameters")]
    assert {str(count) for count in (*counts, *expected["at_peak"].values())} <= said
    assert repr(expected["step_seconds"]) in said
    inside = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert inside
    (run,) = json.loads(inside[1])["runs"]
    assert run["totals"]["memory"].items() <= json.loads(report.to_json())["memory"].items()
    assert sum(run["timeline"]["start"]) == expected["start_bytes"]
    ended = sum(run["timeline"]["start"]) + sum(run["amounts"][place] for place in run["timeline"]["change_amount"])
    assert ended == expected["end_bytes"]


def test_the_screen_and_the_notebook_have_its_words(report: Report) -> None:
    expected = told(report)
    screen, notebook = to_table(report), report._repr_html_()
    peak, took = bytes_text(expected["peak_bytes"]), seconds_text(expected["step_seconds"])
    assert f"\npeak memory    {peak}, " in screen and f"<td>{peak}, " in notebook
    assert f"\nstep time      ~ {took} " in screen and f"~ {took}" in notebook
    assert f"\ncompute        {count_text(expected['flops'], 'FLOP')}, " in screen
    for name, count in expected["at_peak"].items():
        assert f"{name.replace('_', ' ')} {bytes_text(count)}" in screen.replace("\n               ", " ")


def test_the_tree_s_first_row_is_the_step(report: Report) -> None:
    expected, whole = told(report), module_rows(report)[0].sums
    assert (whole.parameters, whole.saved_bytes, whole.peak_bytes, whole.flops) == tuple(
        expected[key] for key in ("parameters", "saved_for_backward_bytes", "peak_bytes", "flops")
    )
    assert f"{expected['parameters']:,}" in tree_table(report).splitlines()[1]


def test_side_by_side_has_the_totals_of_each(report: Report) -> None:
    other = price(perceptron(layers=5), on=TOY)
    both = [report, other]
    for row, one in zip(csv.DictReader(io.StringIO(side_by_side_csv(both))), both, strict=True):
        expected = told(one)
        for key in ("needed_bytes", "available_bytes", "peak_bytes", "saved_for_backward_bytes", "flops"):
            assert int(row[key]) == expected[key]
        assert float(row["step_seconds"]) == expected["step_seconds"]
        assert bytes_text(expected["peak_bytes"]) in side_by_side(both)
    bars = [e.attrib["data-value"] for e in ElementTree.fromstring(sweep_svg(both)).iter() if "data-value" in e.attrib]
    assert bars == [str(told(one)["needed_bytes"]) for one in both] + [repr(told(one)["step_seconds"]) for one in both]
