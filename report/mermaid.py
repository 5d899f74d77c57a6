"""`Report` -> a Mermaid flowchart of its modules, which GitHub draws in Markdown (https://mermaid.js.org)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .dot import node_lines
from .format import bytes_text
from .module_graph import module_graph

if TYPE_CHECKING:
    from .result import Report


def to_mermaid(report: Report, depth: int = 2) -> str:
    """The modules down to `depth` as Mermaid text."""
    graph = module_graph(report, depth)
    lines = [
        "flowchart TD",
        *(f'  n{place}["{"<br/>".join(map(_escaped, node_lines(node)))}"]' for place, node in enumerate(graph.nodes)),
        *(f'  n{a} -->|"{bytes_text(size)}"| n{b}' for (a, b), size in graph.edges.items()),
    ]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Whatever is no letter, digit or harmless sign as an entity, in Mermaid's form ``#35;``."""
    return "".join(letter if letter.isalnum() or letter in " .,:_()*-/" else f"#{ord(letter)};" for letter in text)
