"""What ``check``, ``diff`` and ``history`` share: targets become snapshots, and what was found is written."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import chdir
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..checks import Checked, Config, Snapshot, Target
    from ..graph import StepGraph
    from .tracing import Request, Store

FORMATS = ("full", "concise", "json", "markdown", "github", "gitlab", "sarif", "junit")


def add_config(parser: argparse.ArgumentParser) -> None:
    """``--config FILE``, ``--jobs N``, ``--no-cache``."""
    parser.add_argument("--config", metavar="FILE", help="pyproject.toml or foretrace.toml (the nearest above)")
    parser.add_argument("--jobs", metavar="N", type=_count, help="processes that trace (as many as there are cores)")
    parser.add_argument("--no-cache", action="store_true", help="trace again, and keep nothing")


def add_formats(parser: argparse.ArgumentParser) -> None:
    """``--format F``, ``--write F=FILE``, ``--exit-zero``."""
    parser.add_argument("--format", choices=FORMATS, default="full", help="what to print (%(default)s)")
    parser.add_argument(
        "--write",
        metavar="FORMAT=FILE",
        action="append",
        default=[],
        help="also write that format into a file; may be repeated",
    )
    parser.add_argument("--exit-zero", action="store_true", help="findings are no failure; errors still are")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} processes cannot trace")
    return number


def config(options: argparse.Namespace) -> Config:
    """The configuration that counts here, its plugins imported."""
    from ..checks.config import load

    found = load(Path(options.config) if options.config else None, Path.cwd())
    plug_in(found)
    return found


def plug_in(found: Config) -> None:
    """Import the modules that register more rules. Raises `ForetraceError` for one that cannot be."""
    from ..graph import ForetraceError

    for name in found.plugins:
        sys.path.insert(0, str(found.root))
        try:
            import_module(name)
        except Exception as error:
            raise ForetraceError(
                f"{found.file}: importing the plugin {name} raised {type(error).__name__}: {error}",
                "Import it with python to see why.",
            ) from error
        finally:
            sys.path.remove(str(found.root))


def store(options: argparse.Namespace, found: Config) -> Store:
    """The cache of a project, or none."""
    from .tracing import Store

    return Store(None if options.no_cache else found.root / found.cache)


def request(target: Target, root: Path) -> Request:
    """What has to be traced for a target in the working tree."""
    from .tracing import Request

    return Request(step=target.step, root=root, args=target.args, tracing=target.tracing)


def snapshot_of(graph: StepGraph, target: Target, root: Path, max_batch: int | None = None) -> Snapshot:
    """The snapshot of a trace on the target's profile, which may be a file of the project."""
    from .. import __version__
    from ..checks import snapshot
    from ..report import price

    with chdir(root):
        return snapshot(price(graph, on=target.on), __version__, max_batch)


def largest_batch(target: Target, root: Path, kept: Store, near: int | None) -> int | None:
    """The largest batch that fits, where the target says what to vary; `near` is where to look first."""
    from ..graph import ForetraceError
    from ..hardware.fit import largest
    from ..report import price
    from .tracing import Request, trace_all

    if not target.vary:
        return None

    def fits(batch: int) -> bool:
        args = {**target.args, target.vary: batch}
        ((graph,), _) = trace_all([Request(step=target.step, root=root, args=args, tracing=target.tracing)], kept, 1)
        if isinstance(graph, ForetraceError):
            raise graph
        with chdir(root):
            return price(graph, on=target.on).fits is True

    if near and fits(near) and not fits(near + 1):
        return near
    try:
        return largest(fits)
    except ValueError as error:
        raise ForetraceError(
            f"the largest batch of {target.name} was not found: {error}",
            f"Does {target.vary!r} set the batch size? Does the target run on cuda?",
        ) from error


def prefix(root: Path) -> str:
    """The way from the top of the repository that `root` is in; nothing where it is in none, or is the top."""
    top = next((folder for folder in (root, *root.parents) if (folder / ".git").exists()), root)
    way = root.relative_to(top).as_posix()
    return "" if way == "." else f"{way}/"


def finish(checked: Checked, options: argparse.Namespace) -> int:
    """Print and write what was found; the exit code."""
    from ..checks import FORMATS as WRITERS
    from ..graph.serde import write_whole

    for name, path in writings(options.write):
        write_whole(path, WRITERS[name](checked).encode())
    print(WRITERS[options.format](checked), end="")
    code = checked.exit_code
    return 0 if options.exit_zero and code == 1 else code


def writings(given: Sequence[str]) -> list[tuple[str, str]]:
    """``FORMAT=FILE`` as pairs. Raises `ForetraceError` for anything else, so ask before the work is done."""
    from ..graph import ForetraceError

    pairs = [text.partition("=") for text in given]
    for name, _, path in pairs:
        if name not in FORMATS or not path:
            raise ForetraceError(
                f"--write {name}{'=' if path else ''}{path} is not FORMAT=FILE",
                f"Write for example --write markdown=comment.md; formats are {', '.join(FORMATS)}.",
            )
    return [(name, path) for name, _, path in pairs]
