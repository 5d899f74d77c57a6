"""A target and all the files that it was made of -> its trace, without tracing it again.

An *entry* is a saved trace and beside it a manifest: the digests of the files that were read while it was traced. It
counts while every one of them is what it was. The name of an entry begins with its *key*, a digest of the target, its
arguments, how it is traced, and the versions of everything installed. What an entry does not see is what a target takes
from the environment, the network, or files outside the project.

Nothing here ever fails: a cache that cannot be read or written is a slower check, and a damaged entry is no entry.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from functools import cache as remembered
from importlib.metadata import distributions
from pathlib import Path

from ..graph import ForetraceError, StepGraph, load, save
from ..graph.serde import write_whole

SCHEMA_VERSION = 1
MOST_ENTRIES = 8
"""Entries of one key that are kept, the newest: a branch or two that is switched to and fro."""

_OWN_ROOMS = ("tracer", "graph")
"""The folders of this package that a trace depends on."""


def key(step: str, args: Mapping[str, object], tracing: Mapping[str, object], revision: str = "") -> str:
    """The digest of everything about a trace that is no file of the project; `revision` is its commit, if any."""
    said = [SCHEMA_VERSION, step, args, tracing, revision, installed(), own_code()]
    return _digest(json.dumps(said, sort_keys=True, default=repr).encode())[:32]


@remembered
def installed() -> str:
    """The digest of Python's version and of every installed distribution with its version."""
    found = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()})
    return _digest("\n".join([sys.version, *found]).encode())


@remembered
def own_code(rooms: tuple[str, ...] = _OWN_ROOMS) -> str:
    """The digest of the code and data of ours in `rooms`, by default what makes a trace.

    For who changes it without a new version.
    """
    package = Path(__file__).resolve().parent.parent
    endings = ("*.py", "*.toml")
    files = sorted(path for room in rooms for ending in endings for path in (package / room).glob(ending))
    return _digest(b"\0".join(path.read_bytes() for path in files))


def find(folder: Path, of: str, root: Path) -> StepGraph | None:
    """The trace of an entry whose files are what they were; None where there is none."""
    for manifest in _manifests(folder, of):
        files = _files(manifest)
        if files is not None and all(digest_of(root / name) == digest for name, digest in files.items()):
            try:
                return load(_trace_of(manifest))
            except (ForetraceError, OSError):
                continue
    return None


def store(folder: Path, of: str, root: Path, files: Iterable[str], graph: StepGraph) -> None:
    """Keep a trace with the files, from the root, that it was made of."""
    try:
        make_folder(folder)
        digests = {name: digest for name in sorted(set(files)) if (digest := digest_of(root / name))}
        text = json.dumps({"schema": SCHEMA_VERSION, "files": digests}, indent=1, sort_keys=True)
        manifest = folder / f"{of}-{_digest(text.encode())[:16]}.json"
        save(graph, _trace_of(manifest))
        write_whole(manifest, text.encode())
        _forget(folder, of)
    except (ForetraceError, OSError):
        return


def digest_of(path: Path) -> str:
    """The digest of a file's content; empty where it cannot be read."""
    try:
        return _digest(path.read_bytes())
    except OSError:
        return ""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _trace_of(manifest: Path) -> Path:
    return manifest.with_suffix(".foretrace")


def _manifests(folder: Path, of: str) -> list[Path]:
    """The manifests of a key, the newest first."""
    try:
        found = [(path.stat().st_mtime_ns, path) for path in folder.glob(f"{of}-*.json")]
    except OSError:
        return []
    return [path for _, path in sorted(found, reverse=True)]


def _files(manifest: Path) -> dict[str, str] | None:
    """What a manifest says; None where it says nothing that can be understood."""
    try:
        said = json.loads(manifest.read_bytes())
        found = said["files"]
        return dict(found) if said["schema"] == SCHEMA_VERSION and isinstance(found, dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def make_folder(folder: Path) -> None:
    """The folder, which tells git itself that it is not for it."""
    folder.mkdir(parents=True, exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        write_whole(ignore, b"*\n")


def _forget(folder: Path, of: str) -> None:
    for manifest in _manifests(folder, of)[MOST_ENTRIES:]:
        for path in (manifest, _trace_of(manifest)):
            if path.exists():
                os.unlink(path)
