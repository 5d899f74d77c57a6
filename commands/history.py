"""``foretrace history --since REV``: peak, time and FLOPs of the configured targets over a range of commits."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import checking
from . import options as shared

if TYPE_CHECKING:
    from ..checks import Config, Target
    from ..checks.history import Commit, History, Point
    from .tracing import Request, Store

FORMATS = ("table", "json", "benchmark")


def add(commands: shared.Commands[argparse.ArgumentParser]) -> None:
    """The parser of the command."""
    history = commands.add_parser(
        "history",
        help="trace the configured targets at a range of commits",
        description="Trace the configured targets at a commit and at each one after it on the way to HEAD, and print "
        "their peak memory, time and FLOPs as a table.",
        epilog="example: foretrace history --since v1.0 --picture history.svg",
    )
    history.add_argument("names", metavar="NAME", nargs="*", help="targets (all of them)")
    history.add_argument("--since", metavar="REV", required=True, help="the first commit")
    history.add_argument(
        "--format",
        choices=FORMATS,
        default="table",
        help="what to print (%(default)s); benchmark is the customSmallerIsBetter list of github-action-benchmark",
    )
    history.add_argument("--picture", metavar="FILE.svg", help="also draw it")
    checking.add_config(history)
    history.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..checks import history as views
    from ..graph.serde import write_whole
    from . import revision

    config = checking.config(options)
    targets = config.chosen(options.names)
    commits = revision.since(config.root, options.since)
    histories = _histories(config, targets, commits, options)
    if options.picture:
        write_whole(options.picture, views.to_svg(histories).encode())
    writers = {"table": views.to_table, "json": views.to_json, "benchmark": views.to_benchmark_json}
    print(writers[options.format](histories), end="")
    return 0 if any(point.snapshot for history in histories for point in history.points) else 2


def _histories(
    config: Config, targets: Sequence[Target], commits: Sequence[Commit], options: argparse.Namespace
) -> list[History]:
    from ..checks.history import History

    kept = checking.store(options, config)
    points: dict[str, list[Point]] = {target.name: [] for target in targets}
    for place, commit in enumerate(commits, 1):
        print(f"{commit.short} ({place} of {len(commits)})", file=sys.stderr)
        for name, point in _points(config, targets, commit, kept, options).items():
            points[name].append(point)
    return [History(name, tuple(found)) for name, found in points.items()]


def _points(
    config: Config, targets: Sequence[Target], commit: Commit, kept: Store, options: argparse.Namespace
) -> dict[str, Point]:
    """Every target at one commit, called as it is configured now, so that commits can be compared."""
    from ..checks.history import Point
    from ..graph import ForetraceError
    from . import revision
    from .tracing import trace_all

    try:
        with revision.files_of(config.root, commit) as folder:
            asked = [_request(target, folder, config.root, commit) for target in targets]
            graphs, _ = trace_all(asked, kept, options.jobs)
    except ForetraceError as error:
        return {target.name: Point(commit, None, str(error)) for target in targets}
    found = {}
    for target, graph in zip(targets, graphs, strict=True):
        if isinstance(graph, ForetraceError):
            print(f"  {target.name}: {graph}", file=sys.stderr)
            found[target.name] = Point(commit, None, str(graph))
        else:
            found[target.name] = Point(commit, checking.snapshot_of(graph, target, config.root))
    return found


def _request(target: Target, folder: Path, project: Path, commit: Commit) -> Request:
    from .tracing import Request

    return Request(
        step=target.step,
        root=folder,
        args=target.args,
        tracing=target.tracing,
        revision=commit.id,
        project=project,
    )
