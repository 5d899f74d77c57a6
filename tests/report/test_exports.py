"""Every export is loaded back by its consumer or a validator, its totals are the report's, and no name breaks out."""

from __future__ import annotations

import csv
import io
import json
import pickle
import pickletools
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import networkx as nx
import pytest

from foretrace import ForetraceError, price
from foretrace.commands.export import NAMES
from foretrace.costmodels.areas import areas
from foretrace.graph import Category
from foretrace.report import Report
from foretrace.report.exports import FORMATS, export
from foretrace.report.memory_viz import snapshot
from foretrace.report.module_graph import module_graph
from handmade import perceptron
from hostile import HOSTILE, hostile

TOY = Path(__file__).parents[1] / "support" / "toy.toml"
PLAIN_OPCODES = {
    *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINGET", "LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE"),
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE"),
    *("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("APPEND", "APPENDS", "SETITEM", "SETITEMS"),
}
"""Those that make dicts, lists, tuples, text and numbers."""


@pytest.fixture(scope="module")
def report() -> Report:
    return price(perceptron(), on=TOY)


@pytest.fixture(scope="module")
def attacked() -> Report:
    return price(hostile(), on=TOY)


def text(report: Report, name: str) -> str:
    return export(report, name).decode()


def test_the_command_offers_every_format() -> None:
    assert tuple(FORMATS) == NAMES


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_report_gives_the_same_bytes(name: str) -> None:
    if name == "parquet":
        pytest.importorskip("pyarrow")
    assert export(price(perceptron(), on=TOY), name) == export(price(perceptron(), on=TOY), name)


# --- the areas, on which several stand ---


def test_areas_add_up_to_the_timeline(report: Report) -> None:
    held = areas(report.trace)
    assert list(sum(held.values())) == [report.memory.start_bytes, *report.memory.live_bytes]
    at_peak = {category: int(held[category][report.memory.peak_event + 1]) for category in Category}
    assert at_peak == dict(report.memory.at_peak)


# --- PyTorch's memory viewer ---


def live(actions: list[dict[str, Any]]) -> Iterator[int]:
    """The live bytes after each action; no two live blocks lie over each other, and all lie in announced segments."""
    held: dict[int, int] = {}
    segments = [(a["addr"], a["addr"] + a["size"]) for a in actions if a["action"] == "segment_alloc"]
    for action in actions:
        address, size = action["addr"], action["size"]
        if action["action"] == "alloc":
            assert any(begin <= address and address + size <= end for begin, end in segments)
            assert all(address + size <= other or other + length <= address for other, length in held.items())
            held[address] = size
        elif action["action"] == "free_completed":
            assert held.pop(address) == size
        yield sum(held.values())


def test_the_snapshot_is_plain_and_of_protocol_4(attacked: Report) -> None:
    data = export(attacked, "memory-viz")
    names = [opcode.name for opcode, _, _ in pickletools.genops(data)]
    assert set(names) <= PLAIN_OPCODES
    assert data[:2] == b"\x80\x04"


def test_the_snapshot_s_peak_is_the_device_s(report: Report) -> None:
    found = pickle.loads(export(report, "memory-viz"))
    (actions,) = found["device_traces"]
    assert report.device_memory is not None
    assert max(live(actions)) == report.device_memory.requested_peak_bytes
    assert sum(s["total_size"] for s in found["segments"]) == report.device_memory.reserved_peak_bytes
    assert actions[0]["category"] == "unknown"
    kinds = [action["action"] for action in actions[1:]]
    frees = [i for i, kind in enumerate(kinds) if kind == "free_requested"]
    assert frees and all(kinds[i + 1] == "free_completed" for i in frees)
    categories = {action["category"] for action in actions if action["action"] == "alloc"}
    assert {"parameter", "optimizer_state", "saved_for_backward", "gradient", "workspace"} <= categories
    relu = next(a for a in actions if a.get("user_metadata", {}).get("op") == "aten.relu.default")
    assert relu["frames"] == [{"filename": "model.py", "line": 12, "name": "forward"}]
    assert relu["user_metadata"] == {"module": "h.0", "op": "aten.relu.default", "phase": "forward"}
    masked = next(a for a in actions if a.get("user_metadata", {}).get("op") == "aten.threshold_backward.default")
    assert masked["forward_frames"] == ["model.py:12 in forward"]


def test_torch_s_own_tools_read_the_snapshot(report: Report) -> None:
    tools = pytest.importorskip("torch.cuda._memory_viz")
    found = snapshot(report)
    assert "segments" in tools.segsum(found)
    assert "cudaMalloc" in tools.trace(found)
    for segment in found["segments"]:
        assert sum(block["size"] for block in segment["blocks"]) == segment["total_size"]
        assert tools.calc_active(segment) == segment["active_size"]


def test_a_snapshot_of_a_step_on_the_cpu_is_refused(report: Report) -> None:
    from dataclasses import replace

    graph = perceptron()
    on_cpu = tuple(replace(storage, device="cpu") for storage in graph.storages)
    graph = replace(graph, storages=on_cpu, facts=replace(graph.facts, device="cpu"))
    with pytest.raises(ForetraceError, match="traced for the cpu"):
        export(price(graph, on=TOY), "memory-viz")


# --- Perfetto ---


def test_perfetto_s_spans_nest_and_its_counter_peaks_where_the_step_does(report: Report) -> None:
    events = json.loads(text(report, "perfetto"))["traceEvents"]
    for thread in (1, 2):
        spans = [
            (round(e["ts"] * 1000), round((e["ts"] + e["dur"]) * 1000))
            for e in events
            if e.get("tid") == thread and e["ph"] == "X"
        ]
        assert spans
        open_ends: list[int] = []
        for begin, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_ends and open_ends[-1] <= begin:
                open_ends.pop()
            assert not open_ends or end <= open_ends[-1]
            open_ends.append(end)
    totals = [sum(e["args"].values()) for e in events if e["ph"] == "C"]
    assert (totals[0], max(totals), totals[-1]) == (
        report.memory.start_bytes,
        report.memory.peak_bytes,
        report.memory.end_bytes,
    )
    kernels = [e for e in events if e["ph"] == "X" and e["tid"] == 1]
    assert sum(e["dur"] for e in kernels) == pytest.approx(report.time.kernel_seconds * 1e6, abs=0.01)
    assert sum(e["args"]["flops"] for e in kernels) == report.flops.total
    starts = {e["id"] for e in events if e["ph"] == "s"}
    assert starts and starts == {e["id"] for e in events if e["ph"] == "f"}


def test_perfetto_names_the_modules_around_a_kernel(report: Report) -> None:
    events = json.loads(text(report, "perfetto"))["traceEvents"]
    modules = [e["args"]["module"] for e in events if e["ph"] == "X" and e["tid"] == 2]
    assert {"h", "h.0", "h.1", "h.2"} <= set(modules)


# --- graphs ---


def test_model_explorer_s_edges_lead_to_nodes(report: Report) -> None:
    graph = json.loads(text(report, "model-explorer"))["graphs"][0]
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert len(nodes) == len(report.trace.ops)
    edges = [
        (edge["sourceNodeId"], edge["sourceNodeOutputId"], node)
        for node in nodes.values()
        for edge in node["incomingEdges"]
    ]
    assert len(edges) == report.trace.graph.number_of_edges()
    for source, slot, node in edges:
        assert int(source) < int(node["id"])
        assert slot in {output["id"] for output in nodes[source]["outputsMetadata"]} or slot == "0"
    assert {node["namespace"] for node in nodes.values()} >= {"forward/h/0", "backward/h/2", "optimizer"}
    heat = json.loads(text(report, "model-explorer-heat"))[graph["id"]]
    assert set(heat["results"]) == set(nodes)
    born = sum(event.bytes for event in report.trace.events if event.bytes > 0)
    assert sum(result["value"] for result in heat["results"].values()) == born


def test_the_module_graph_adds_up(report: Report) -> None:
    for depth in (1, 2, 5):
        graph = module_graph(report, depth)
        assert sum(node.ops for node in graph.nodes) == len(report.trace.ops)
        assert sum(node.flops for node in graph.nodes) == report.flops.total
        assert sum(node.saved_bytes for node in graph.nodes) == report.memory.saved_for_backward_bytes
    names = [node.path for node in module_graph(report).nodes]
    assert names == ["h.0", "h.1", "h.2", "(no module)"]
    assert module_graph(report).edges == {(0, 1): 16384, (1, 2): 16384, (2, 3): 16384}


@pytest.mark.parametrize("which", ["report", "attacked"])
def test_graphviz_draws_the_modules(which: str, request: pytest.FixtureRequest) -> None:
    dot = shutil.which("dot")
    if dot is None:
        pytest.skip("Graphviz is not installed")
    report = request.getfixturevalue(which)
    done = subprocess.run([dot, "-Tjson"], input=text(report, "dot"), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    drawn = json.loads(done.stdout)
    graph = module_graph(report)
    assert (len(drawn["objects"]), len(drawn.get("edges", []))) == (len(graph.nodes), len(graph.edges))


@pytest.mark.parametrize("which", ["report", "attacked"])
def test_mermaid_has_only_nodes_and_edges(which: str, request: pytest.FixtureRequest) -> None:
    report = request.getfixturevalue(which)
    first, *lines = text(report, "mermaid").splitlines()
    assert first == "flowchart TD"
    words = r"(?:[^\W_]|[ .,:_()*/-]|#\d+;)*"
    node = rf'  n\d+\["{words}(?:<br/>{words})*"\]'
    edge = rf'  n\d+ -->\|"{words}"\| n\d+'
    assert all(re.fullmatch(rf"{node}|{edge}", line) for line in lines)
    graph = module_graph(report)
    assert len(lines) == len(graph.nodes) + len(graph.edges)


def test_networkx_reads_the_graphml(report: Report, attacked: Report) -> None:
    graph = nx.parse_graphml(text(report, "graphml"), force_multigraph=True)
    assert graph.number_of_nodes() == len(report.trace.ops)
    assert graph.number_of_edges() == report.trace.graph.number_of_edges()
    flops = sum(about["tensor_flops"] + about["vector_flops"] for _, about in graph.nodes(data=True))
    assert flops == report.flops.total
    names = {about["module"] for _, about in nx.parse_graphml(text(attacked, "graphml")).nodes(data=True)}
    assert names == {HOSTILE}


def test_graphml_has_no_letter_that_xml_forbids() -> None:
    report = price(hostile("a\0b\x1b\ud800c"), on=TOY)
    names = {about["module"] for _, about in nx.parse_graphml(text(report, "graphml")).nodes(data=True)}
    assert names == {"a\ufffdb\ufffd\ufffdc"}


# --- rows ---


def test_csv_reads_back(report: Report, attacked: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(text(report, "csv"))))
    assert [int(row["id"]) for row in rows] == [op.id for op in report.trace.ops]
    assert sum(int(row["tensor_flops"]) + int(row["vector_flops"]) for row in rows) == report.flops.total
    assert {row["module"] for row in csv.DictReader(io.StringIO(text(attacked, "csv"), newline=""))} == {HOSTILE}


def test_a_formula_is_no_formula_in_csv() -> None:
    report = price(hostile("=HYPERLINK(0)"), on=TOY)
    assert {row["module"] for row in csv.DictReader(io.StringIO(text(report, "csv")))} == {"'=HYPERLINK(0)"}


def test_parquet_reads_back(report: Report) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    table = parquet.read_table(io.BytesIO(export(report, "parquet")))
    assert table.to_pylist() == report.rows()
    assert export(price(hostile("a\ud800"), on=TOY), "parquet")


def test_parquet_without_pyarrow_says_how_to_get_it(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ForetraceError, match="needs pyarrow"):
        export(report, "parquet")


def test_json_is_the_report(report: Report) -> None:
    assert text(report, "json") == report.to_json()


# --- the picture ---


def test_the_picture_is_xml_and_says_the_bytes(report: Report, attacked: Report) -> None:
    root = ElementTree.fromstring(text(report, "svg"))
    said = [int(element.attrib["data-bytes"]) for element in root.iter() if "data-bytes" in element.attrib]
    assert said[0] == sum(said[1:]) == report.memory.peak_bytes
    plain, hostile_one = ([e.tag for e in ElementTree.fromstring(text(r, "svg")).iter()] for r in (report, attacked))
    assert plain == hostile_one


@pytest.mark.parametrize("name", FORMATS)
def test_a_megabyte_of_name_does_no_harm(name: str) -> None:
    if name == "parquet":
        pytest.importorskip("pyarrow")
    report = price(hostile("x" * 100_000), on=TOY)
    assert export(report, name)
