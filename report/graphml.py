"""`Report` -> GraphML (http://graphml.graphdrawing.org), the ops and tensors of the step for graph tools.

Nodes carry the rows of the report, edges the bytes, dtype and shape of the tensor. GraphML knows no absent value and
no list: what is absent is left out, and a shape is text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import networkx as nx

if TYPE_CHECKING:
    from .result import Report

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped (https://www.w3.org/TR/xml/#charsets)."""


def to_graphml(report: Report) -> str:
    """The graph as XML text."""
    graph: nx.MultiDiGraph[int] = nx.MultiDiGraph()
    graph.add_nodes_from((int(str(row["id"])), _flat(row)) for row in report.rows())
    graph.add_edges_from(
        (maker, reader, _flat({key: _plain(about[key]) for key in ("bytes", "dtype", "shape")}))
        for maker, reader, about in report.trace.graph.edges(data=True)
    )
    return "\n".join(nx.generate_graphml(graph)) + "\n"


def _plain(value: object) -> object:
    return "x".join(map(str, value)) if isinstance(value, tuple) else value


def _flat(row: Mapping[str, object]) -> dict[str, object]:
    return {
        key: NOT_XML.sub("\ufffd", value) if isinstance(value, str) else value
        for key, value in row.items()
        if value is not None
    }
