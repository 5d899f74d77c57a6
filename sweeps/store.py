"""A task's figures <-> files in a folder, by the content of all that they follow from.

An *entry* is the figures of one point and the digests of the files that its trace was made of; it counts while each of
them is what it was. Its name is a digest of the target, its parameters, how it is traced, the profile, and all that
is installed. Entries lie in a folder that is named by the versions of this package, its code, and torch: what another
version has left in the store is neither read nor touched. Failures are not kept, so that they are tried again.

Each entry is written whole, so that a sweep that is killed loses what was under way and nothing else. A damaged entry
is no entry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .. import __version__
from ..checks import cache
from ..graph import ForetraceError
from ..graph.serde import write_whole
from .point import Point, Task
from .row import Figures

SCHEMA_VERSION = 1
ROOMS = ("tracer", "graph", "costmodels", "hardware", "report", "sweeps")
"""The folders of this package that figures depend on."""


class Store:
    """Where figures are kept. Raises `ForetraceError` for a folder that cannot be one."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder) / _version()
        self._digests: dict[tuple[Path, int, int], str] = {}
        if Path(folder).exists() and not Path(folder).is_dir():
            raise ForetraceError(f"{folder} cannot be the store: it is a file", "Give a folder, or a new name.")
        try:
            cache.make_folder(Path(folder))
            self.folder.mkdir(exist_ok=True)
        except (OSError, ForetraceError) as error:
            why = error.strerror if isinstance(error, OSError) else error.message
            raise ForetraceError(
                f"{folder} cannot be the store: {why}", "Give a folder that can be written."
            ) from error

    def find(self, task: Task, point: Point) -> Figures | None:
        """The figures of a point, where nothing that they follow from has changed."""
        place = self._place(task, point)
        for path in sorted(place.parent.glob(f"{place.name}-*.json")):
            found = _read(path)
            if found and all(self._digest(Path(task.root) / name) == digest for name, digest in found[0].items()):
                return found[1]
        return None

    def keep(self, task: Task, point: Point, figures: Figures, files: Mapping[str, str]) -> None:
        """Write an entry. Raises `ForetraceError` where it cannot be written."""
        said = {"files": dict(sorted(files.items())), "figures": asdict(figures)}
        path = self._place(task, point)
        made_of = hashlib.sha256(json.dumps(said["files"]).encode()).hexdigest()[:16]
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise ForetraceError(f"cannot write {path.parent}: {error.strerror}", "Make room, or mend it.") from error
        write_whole(path.with_name(f"{path.name}-{made_of}.json"), json.dumps(said, indent=1).encode())

    def _place(self, task: Task, point: Point) -> Path:
        key = _key(task, point)
        return self.folder / key[:2] / key

    def _digest(self, path: Path) -> str:
        """The digest of a file, read again only where it was written again."""
        try:
            about = path.stat()
        except OSError:
            return ""
        known = (path, about.st_mtime_ns, about.st_size)
        if known not in self._digests:
            self._digests[known] = cache.digest_of(path)
        return self._digests[known]


def _key(task: Task, point: Point) -> str:
    how = {**task.options, "profile": repr(point.profile)}
    return cache.key(task.target, task.parameters, how)


def _version() -> str:
    return f"{SCHEMA_VERSION}-foretrace-{__version__}-{cache.own_code(ROOMS)[:12]}-torch-{_version_of('torch')}"


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _read(path: Path) -> tuple[dict[str, str], Figures] | None:
    """The files and the figures of an entry; None where it says nothing that can be understood."""
    try:
        said = json.loads(path.read_bytes())
        return dict(said["files"]), Figures(**said["figures"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
