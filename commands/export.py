"""``foretrace export TARGET --to FORMAT -o FILE``: write a step for a viewer, a graph tool or a data frame."""

from __future__ import annotations

import argparse
import sys

from . import options as shared

NAMES = (
    *("memory-viz", "perfetto", "model-explorer", "model-explorer-heat", "dot", "mermaid", "svg", "graphml"),
    *("csv", "parquet", "json"),
)
"""The formats, as the help lists them; a test holds them against the report's."""


def add(commands: shared.Commands[argparse.ArgumentParser]) -> None:
    """The parser of the command."""
    export = commands.add_parser(
        "export",
        help="write a step for a viewer, a graph tool or a data frame",
        description="Price a step and write it in the format of another tool: PyTorch's memory viewer, Perfetto, Model "
        "Explorer, Graphviz, Mermaid, graph tools (GraphML), data frames (CSV, Parquet), or as a picture (SVG).",
        epilog="example: foretrace export step.foretrace --to memory-viz -o step.pickle",
    )
    export.add_argument("target", metavar="TARGET", help="path.py:callable, package.module:callable, or a saved trace")
    export.add_argument("--to", metavar="FORMAT", choices=NAMES, required=True, help=", ".join(NAMES))
    export.add_argument("-o", "--output", metavar="FILE", help="where to write it (standard output, if it is text)")
    export.add_argument(
        "--depth", metavar="N", type=_depth, default=2, help="names of a module's path in a drawing (%(default)s)"
    )
    shared.add_device(export)
    shared.add_tracing(export)
    export.set_defaults(run=_run)


def _depth(text: str) -> int:
    depth = int(text)
    if depth < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return depth


def _run(options: argparse.Namespace) -> int:
    from ..graph.serde import write_whole
    from ..report import price
    from ..report.exports import export

    profile = shared.device(options, options.on or shared.profile_of(options.target))
    graph = shared.graph_of(options, profile.capability)
    shared.of_cuda(options, graph.facts.device)
    report = price(graph, on=profile, conf=options.conf)
    written = export(report, options.to, options.depth)
    if options.output is None:
        _print(written, options.to)
    else:
        write_whole(options.output, written)
        print(f"wrote {options.output}, {len(written):,} bytes", file=sys.stderr)
    return 0


def _print(written: bytes, format: str) -> None:
    from ..graph import ForetraceError

    try:
        text = written.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ForetraceError(f"{format} is no text", "Name a file with -o.") from error
    print(text, end="")
