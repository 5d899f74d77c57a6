"""A commit -> a folder with its files, for as long as it is needed.

The files are written by git from the commit into a folder of their own, through an index of their own: nothing in the
repository is written, so that a read-only one will do, and one that is killed leaves nothing behind in it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..checks.history import Commit
from ..graph import ForetraceError

_LISTING = "%H%x00%s"


def commit(root: Path, name: str) -> Commit:
    """The commit that a branch, a tag or an id names."""
    line = _git(root, "show", "--no-patch", f"--format={_LISTING}", f"{_commit_id(root, name)}", about=name)
    return Commit(*line.strip("\n").split("\0", 1))


def since(root: Path, name: str) -> list[Commit]:
    """`name` and what came after it on the way to HEAD, first parents only, the oldest first."""
    first = commit(root, name)
    listed = _git(root, "log", "--first-parent", "--reverse", f"--format={_LISTING}", f"{first.id}..HEAD", about=name)
    return [first, *(Commit(*line.split("\0", 1)) for line in listed.splitlines())]


@contextmanager
def files_of(root: Path, found: Commit) -> Iterator[Path]:
    """The folder of the commit's copy that stands for `root`."""
    copy = tempfile.mkdtemp(prefix="foretrace-commit-")
    try:
        environment = {**os.environ, "GIT_INDEX_FILE": os.path.join(copy, ".index")}
        top = Path(_git(root, "rev-parse", "--show-toplevel").strip())
        tree = os.path.join(copy, "tree", "")
        os.mkdir(tree)
        _git(top, "read-tree", found.id, environment=environment)
        _git(top, "checkout-index", "--all", f"--prefix={tree}", environment=environment)
        folder = Path(tree) / root.resolve().relative_to(top.resolve())
        if not folder.is_dir():
            raise ForetraceError(f"{found.short} has no folder {folder.name}", "Give a commit that has the project.")
        yield folder.resolve()
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _commit_id(root: Path, name: str) -> str:
    if name.startswith("-"):
        raise ForetraceError(f"{name!r} names no commit", "Give a branch, a tag or a commit id.")
    return _git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", about=name).strip()


def _git(root: Path, *arguments: str, about: str = "", environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, errors="replace", env=environment
        )
    except FileNotFoundError as error:
        raise ForetraceError("git is not installed", "Install it, or compare saved traces.") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        if "not a git repository" in done.stderr:
            raise ForetraceError(f"{root} is in no git repository", "Run it inside one.")
        if about:
            raise ForetraceError(
                f"git knows no commit {about!r}",
                "Give a branch, a tag or a commit id; in CI, fetch the history (fetch-depth: 0).",
            )
        raise ForetraceError(
            f"git {arguments[0]} failed: {said[-1] if said else done.returncode}", "See git's message."
        )
    return done.stdout
