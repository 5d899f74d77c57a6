"""``foretrace diff A B``: what became larger from one step to another, and why."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from . import checking
from . import options as shared

if TYPE_CHECKING:
    from ..checks import Config, Outcome, Snapshot, Target
    from .tracing import Store

GIT, HERE = "git:", "."


def add(commands: shared.Commands[argparse.ArgumentParser]) -> None:
    """The parser of the command."""
    diff = commands.add_parser(
        "diff",
        help="say what became larger from one step to another, and why",
        description="Compare two steps. Each of A and B is a configured target, path.py:callable, "
        "package.module:callable, a saved trace, git:REV[:TARGET] for the target as it was at a commit, or . for the "
        "working tree. Where no target is named it is that of the other side, or every configured one. The exit code "
        "is 1 where B is worse than A.",
        epilog="example: foretrace diff git:main small",
    )
    diff.add_argument("before", metavar="A", help="the step to compare with")
    diff.add_argument("after", metavar="B", help="the step that may be worse")
    shared.add_profile(diff)
    shared.add_tracing(diff)
    checking.add_formats(diff)
    checking.add_config(diff)
    diff.set_defaults(run=_run, on=None)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two steps: a target at a commit or in the working tree, or a saved trace."""

    said: str
    target: str
    revision: str = ""


def side(text: str) -> Side:
    """What A or B names.

    >>> side("git:main:small")
    Side(said='git:main:small', target='small', revision='main')
    """
    if not text.startswith(GIT):
        return Side(text, "" if text == HERE else text)
    revision, _, target = text.removeprefix(GIT).partition(":")
    return Side(text, target, revision)


def _run(options: argparse.Namespace) -> int:
    from .. import __version__
    from ..checks import Checked

    checking.writings(options.write)
    config = _config(options)
    before, after = side(options.before), side(options.after)
    with ExitStack() as stack:
        looker = _Looker(config, options, stack)
        outcomes = tuple(looker.outcome(a, b) for a, b in _pairs(before, after, config))
    checked = Checked(
        outcomes=outcomes,
        accept="",
        config=config.file,
        root=config.root,
        version=__version__,
        prefix=checking.prefix(config.root),
    )
    return checking.finish(checked, options)


def _config(options: argparse.Namespace) -> Config:
    """The configuration, where there is one: two files can be compared without."""
    from ..checks import Config
    from ..checks.config import find

    if options.config or find(Path.cwd()):
        return checking.config(options)
    return Config(root=Path.cwd(), file="")


def _pairs(before: Side, after: Side, config: Config) -> list[tuple[Side, Side]]:
    """What is compared with what; a side without a target takes the other's, and both without take all."""
    from ..graph import ForetraceError

    name = before.target or after.target
    if name:
        return [(replace(before, target=before.target or name), replace(after, target=after.target or name))]
    if not config.targets:
        raise ForetraceError(
            "neither side says which target", "Write for example: foretrace diff git:main train.py:make"
        )
    return [(replace(before, target=name), replace(after, target=name)) for name in config.targets]


class _Looker:
    """Finds the snapshot of a side; a commit's files are written once, and stay until the end."""

    def __init__(self, config: Config, options: argparse.Namespace, stack: ExitStack) -> None:
        self.config, self.options, self.stack = config, options, stack
        self.store = self._store()
        self.folders: dict[str, tuple[Path, str]] = {}

    def _store(self) -> Store:
        """A cache only where a project is configured: nobody else asked for a folder."""
        from .tracing import Store

        return checking.store(self.options, self.config) if self.config.file else Store(None)

    def outcome(self, before: Side, after: Side) -> Outcome:
        """What there is to say of one pair."""
        from ..checks import Outcome, judge
        from ..graph import ForetraceError

        name = after.target if before.target == after.target else f"{before.said} -> {after.said}"
        try:
            old, new = self.snapshot(before), self.snapshot(after)
            target = replace(self._target(after, self.config), name=name, budget={})
            return judge(target, new, old, self.config.root)
        except ForetraceError as error:
            return Outcome(target=name, error=error)

    def snapshot(self, found: Side) -> Snapshot:
        """The snapshot of one side."""
        from ..graph import ForetraceError, load
        from .tracing import Request, trace_all

        if not found.revision and found.target not in self.config.targets and shared.is_saved(found.target):
            if not os.path.exists(found.target) and self.config.targets:
                self.config.chosen([found.target])
            return checking.snapshot_of(load(found.target), self._target(found, self.config), self.config.root)
        root, revision = self._folder(found)
        target = self._target(found, self._config_at(found, root))
        asked = Request(
            step=target.step,
            root=root,
            args=target.args,
            tracing=target.tracing,
            revision=revision,
            project=self.config.root if revision else None,
        )
        ((graph,), _) = trace_all([asked], self.store, 1)
        if isinstance(graph, ForetraceError):
            raise ForetraceError(f"{found.said}: {graph.message}", graph.mend)
        return checking.snapshot_of(graph, target, self.config.root)

    def _folder(self, found: Side) -> tuple[Path, str]:
        """Where a side's files are, and of which commit they are."""
        if not found.revision:
            return self.config.root, ""
        if found.revision not in self.folders:
            from . import revision

            commit = revision.commit(self.config.root, found.revision)
            folder = self.stack.enter_context(revision.files_of(self.config.root, commit))
            self.folders[found.revision] = folder, commit.id
        return self.folders[found.revision]

    def _config_at(self, found: Side, root: Path) -> Config:
        """The configuration of a commit, where it knows the target: its arguments may have been others."""
        from ..checks.config import load

        file = root / self.config.file
        if not found.revision or not self.config.file or not file.is_file():
            return self.config
        at = load(file, root)
        return at if found.target in at.targets else self.config

    def _target(self, found: Side, config: Config) -> Target:
        """The target with what the command line says of it."""
        from ..checks.config import DEFAULT_PROFILE, Target, plain

        known = config.targets.get(found.target) or plain(found.target, config.assume)
        given = shared.given(self.options)
        return Target(
            name=known.name,
            step=known.step,
            args={**known.args, **shared.parameters(self.options)},
            tracing={**known.tracing, **given},
            on=self.options.on or known.on or DEFAULT_PROFILE,
            allow=known.allow,
            ignore=known.ignore,
        )
