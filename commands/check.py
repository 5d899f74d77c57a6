"""``foretrace check [NAME...]``: every configured target against the baseline and its budgets."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import checking
from . import options as shared

if TYPE_CHECKING:
    from ..checks import Config, Outcome, Snapshot, Target
    from ..graph import ForetraceError, StepGraph
    from .tracing import Store


def add(commands: shared.Commands[argparse.ArgumentParser]) -> None:
    """The parser of the command."""
    check = commands.add_parser(
        "check",
        help="hold the configured targets against the baseline and their budgets",
        description="Trace every target of [tool.foretrace] (pyproject.toml) or foretrace.toml, and hold it against "
        "the committed baseline and against its budgets. The exit code is 0 where nothing is worse, 1 where something "
        "is, 2 where a target could not be checked.",
        epilog="example: foretrace check --format github --write markdown=comment.md",
    )
    check.add_argument("names", metavar="NAME", nargs="*", help="targets to check (all of them)")
    check.add_argument("--update", action="store_true", help="accept what is now: write it into the baseline")
    checking.add_formats(check)
    checking.add_config(check)
    check.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from .. import __version__
    from ..checks import Checked
    from ..checks.baseline import read
    from ..checks.config import SAMPLE
    from ..graph import ForetraceError

    checking.writings(options.write)
    config = checking.config(options)
    targets = config.chosen(options.names)
    if not targets:
        raise ForetraceError(f"{config.file} names no targets", SAMPLE)
    path = config.root / config.baseline
    before = None if options.update and not options.names else read(path)
    if not options.update:
        _want_baseline(config, targets, before)
    now, errors = _snapshots(config, targets, before or {}, options)
    if options.update:
        return _update(config, path, targets, now, errors, options)
    outcomes = tuple(_outcome(target, config, now, errors, before) for target in targets)
    checked = Checked(
        outcomes=outcomes,
        notes=_left_over(config, before or {}) if not options.names else (),
        baseline=config.baseline,
        config=config.file,
        root=config.root,
        version=__version__,
        prefix=checking.prefix(config.root),
    )
    return checking.finish(checked, options)


def _want_baseline(config: Config, targets: Sequence[Target], before: dict[str, Snapshot] | None) -> None:
    """Without a baseline and without a budget there is nothing to check."""
    from ..graph import ForetraceError

    bare = [target.name for target in targets if not target.budget]
    if before is None and bare:
        raise ForetraceError(
            f"there is no {config.baseline}, and {bare[0]} has no budget, so there is nothing to hold it against",
            "Make the baseline with foretrace check --update, look at it, and commit it.",
        )


def _snapshots(
    config: Config, targets: Sequence[Target], before: dict[str, Snapshot], options: argparse.Namespace
) -> tuple[dict[str, Snapshot], dict[str, ForetraceError]]:
    """The snapshot of each target, or why there is none."""
    from ..graph import ForetraceError
    from .tracing import trace_all

    start = time.perf_counter()
    kept = checking.store(options, config)
    graphs, known = trace_all([checking.request(target, config.root) for target in targets], kept, options.jobs)
    now, errors = {}, {}
    for target, graph in zip(targets, graphs, strict=True):
        try:
            now[target.name] = _snapshot(graph, target, config, kept, before.get(target.name))
        except ForetraceError as error:
            errors[target.name] = error
    said = f"{len(targets)} target{'' if len(targets) == 1 else 's'}, {known} from the cache"
    print(f"{said}, in {time.perf_counter() - start:.1f} s on this CPU", file=sys.stderr)
    return now, errors


def _snapshot(
    graph: StepGraph | ForetraceError, target: Target, config: Config, kept: Store, before: Snapshot | None
) -> Snapshot:
    from ..graph import ForetraceError

    if isinstance(graph, ForetraceError):
        raise graph
    near = before.facts.get("max-batch") if before else target.budget.get("max-batch")
    return checking.snapshot_of(graph, target, config.root, checking.largest_batch(target, config.root, kept, near))


def _outcome(
    target: Target,
    config: Config,
    now: dict[str, Snapshot],
    errors: dict[str, ForetraceError],
    before: dict[str, Snapshot] | None,
) -> Outcome:
    from ..checks import Outcome, judge
    from ..graph import ForetraceError

    try:
        if target.name in errors:
            raise errors[target.name]
        known = (before or {}).get(target.name)
        return judge(target, now[target.name], known, config.root, expected=before is not None)
    except ForetraceError as error:
        return Outcome(target=target.name, step=target.step, error=error)


def _left_over(config: Config, before: dict[str, Snapshot]) -> tuple[str, ...]:
    """Entries of the baseline that nothing is configured for; those with ``::`` are tests'."""
    gone = sorted(name for name in before if name not in config.targets and "::" not in name)
    return (f"the baseline has {', '.join(gone)}, which nothing is configured for",) if gone else ()


def _update(
    config: Config,
    path: Path,
    targets: Sequence[Target],
    now: dict[str, Snapshot],
    errors: dict[str, ForetraceError],
    options: argparse.Namespace,
) -> int:
    """Write what is now. A target that could not be traced keeps what the baseline has of it."""
    from ..checks.baseline import write

    old = _readable(path)
    listed = {name: old[name] for name in old if options.names or "::" in name or name in errors}
    changed = write(path, {**listed, **now})
    for target in targets:
        if target.name in errors:
            print(f"error: {target.name}: {errors[target.name]}", file=sys.stderr)
    print(f"{config.baseline}: {len(now)} of {len(targets)} targets, {'written' if changed else 'as it was'}")
    return 2 if errors else 0


def _readable(path: Path) -> dict[str, Snapshot]:
    """What the baseline holds; nothing where it cannot be read, as after a merge conflict: it is written anew."""
    from ..checks.baseline import read
    from ..graph import ForetraceError

    try:
        return read(path) or {}
    except ForetraceError as error:
        if "schema" in error.message:
            raise
        return {}
