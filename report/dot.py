"""`Report` -> a Graphviz drawing of its modules, in the DOT language (https://graphviz.org/doc/info/lang.html)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .format import bytes_text, count_text, seconds_text
from .json import portable
from .module_graph import ModuleNode, module_graph

if TYPE_CHECKING:
    from .result import Report


def to_dot(report: Report, depth: int = 2) -> str:
    """The modules down to `depth` as DOT text; a darker node takes more of the time."""
    graph = module_graph(report, depth)
    longest = max((node.seconds for node in graph.nodes), default=0.0) or 1.0
    lines = [
        f"digraph {_quoted(portable(report.trace.facts.target) or 'step')} {{",
        '  graph [rankdir=TB, fontname="sans-serif"];',
        '  node [shape=box, style="rounded,filled", fontname="sans-serif", fontsize=11];',
        '  edge [fontname="sans-serif", fontsize=9, color="#59626d"];',
        *(f"  n{place} [{_look(node, node.seconds / longest)}];" for place, node in enumerate(graph.nodes)),
        *(f"  n{a} -> n{b} [label={_quoted(bytes_text(size))}];" for (a, b), size in graph.edges.items()),
        "}",
    ]
    return "\n".join(lines) + "\n"


def node_lines(node: ModuleNode) -> list[str]:
    """What a drawing says of a module."""
    name = f"{node.path}: {node.kind}" if node.kind else node.path
    return [
        name,
        f"{seconds_text(node.seconds)}, {count_text(node.flops, 'FLOP')}",
        f"saved for backward {bytes_text(node.saved_bytes)}",
    ]


def _look(node: ModuleNode, share: float) -> str:
    return f'label={_quoted(*node_lines(node))}, fillcolor="0.08 {0.05 + 0.6 * share:.3f} 1.000"'


def _quoted(*lines: str) -> str:
    """A DOT string of these lines; a line break inside one becomes a space."""
    plain = (" ".join(line.split()).replace("\\", "\\\\").replace('"', '\\"').replace("\0", "") for line in lines)
    return '"' + "\\n".join(plain) + '"'
