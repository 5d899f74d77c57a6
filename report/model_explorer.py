"""`Report` -> the graph that Model Explorer opens (https://github.com/google-ai-edge/model-explorer), and a heat map.

A node is an op; its *namespace* is its phase and its modules, one below the other, so that the viewer folds them. The
*heat map* is a second file, which the viewer calls custom node data: a number for each node, coloured from white to
red.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..graph import Op, Tensor
from .format import bytes_text, count_text, seconds_text
from .json import portable
from .words import phase_text, short

if TYPE_CHECKING:
    from .result import Report

GRAPH = "step"
GRADIENT = [{"stop": 0, "bgColor": "white"}, {"stop": 0.5, "bgColor": "orange"}, {"stop": 1, "bgColor": "firebrick"}]


def to_model_explorer(report: Report) -> str:
    """The graph as JSON text."""
    edges = _edges(report)
    nodes = [_node(report, op, edges.get(op.id, [])) for op in report.trace.ops]
    label = portable(report.trace.facts.target) or "a training step"
    return json.dumps({"label": label, "graphs": [{"id": GRAPH, "nodes": nodes}]}, separators=(",", ":")) + "\n"


def to_model_explorer_heat(report: Report, column: str = "allocated_bytes") -> str:
    """The heat map as JSON text: of each op the bytes that it allocates, or another numeric column of the rows."""
    results = {str(row["id"]): {"value": row[column]} for row in report.rows()}
    data = {GRAPH: {"name": column.replace("_", " "), "results": results, "gradient": GRADIENT}}
    return json.dumps(data, separators=(",", ":"), allow_nan=False) + "\n"


def _edges(report: Report) -> dict[int, list[dict[str, str]]]:
    """The incoming edges of each op: one for each tensor that it reads of another."""
    found: dict[int, list[dict[str, str]]] = {}
    slots = {(op.id, tensor.storage): str(slot) for op in report.trace.ops for slot, tensor in enumerate(op.outputs)}
    for maker, reader, about in report.trace.graph.edges(data=True):
        into = found.setdefault(reader, [])
        slot = slots.get((maker, about["storage"]), "0")
        into.append({"sourceNodeId": str(maker), "sourceNodeOutputId": slot, "targetNodeInputId": str(len(into))})
    return found


def _node(report: Report, op: Op, incoming: list[dict[str, str]]) -> dict[str, object]:
    priced, time = report.priced[op.id], report.time.ops[op.id]
    about = {
        "op": op.name,
        "line": str(op.source or ""),
        "flops": count_text(priced.work.flops, "FLOP"),
        "moved": bytes_text(priced.work.bytes),
        "time": seconds_text(time.seconds),
        "bound": time.bound,
        "priced": str(priced.kind),
    }
    return {
        "id": str(op.id),
        "label": short(op.packet),
        "namespace": _namespace(op),
        "attrs": [{"key": key, "value": value} for key, value in about.items()],
        "incomingEdges": incoming,
        "outputsMetadata": [_output(slot, tensor) for slot, tensor in enumerate(op.outputs)],
    }


def _namespace(op: Op) -> str:
    """The phase and the modules; a slash inside a name would look like a level of its own."""
    parts = (phase_text(op.phase), *(op.module.split(".") if op.module else ()))
    return "/".join(part.replace("/", "\u2215") for part in parts)


def _output(slot: int, tensor: Tensor) -> dict[str, object]:
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    attributes = {"shape": shape, "dtype": tensor.dtype, "bytes": bytes_text(tensor.bytes)}
    return {"id": str(slot), "attrs": [{"key": key, "value": value} for key, value in attributes.items()]}
