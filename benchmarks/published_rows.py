"""Published step times -> rows, and the trace of each row's step, kept on disk by its content.

`data/step_times.csv` holds facts that others measured and published, each with its source. The trace of a row is
kept under ``$XDG_CACHE_HOME/foretrace-benchmarks``, named by a hash of the row's step and of everything that makes it
(tracer, model code, torch), so a second run is quick and a changed tracer traces again.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch

import foretrace
from foretrace.graph import ForetraceError, StepGraph
from foretrace.hardware import Profile, load

HERE = Path(__file__).parent
DATA = HERE / "data"

Row = dict[str, str]

KEY = ("family", "model", "batch", "sequence", "attention", "optimizer")
"""Columns that decide what is traced, beside precision and memory format."""


def rows() -> list[Row]:
    """Every published row."""
    with open(DATA / "step_times.csv", newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def traced(row: Row) -> StepGraph:
    """The trace of the row's step, from disk where it is there."""
    from published_models import build

    return kept(_digest(row), lambda: foretrace.trace(lambda: build(row), device="cuda"))


def kept(digest: str, make: Callable[[], StepGraph]) -> StepGraph:
    """The trace of that digest from disk, made and put there where it is not."""
    path = cache_folder() / f"{digest}.foretrace"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        foretrace.save(make(), path)
    return foretrace.load(path)


@cache
def profile_named(name: str) -> Profile | None:
    """The profile of that name; None where there is none."""
    try:
        return load(name)
    except ForetraceError:
        return None


def cache_folder() -> Path:
    """Where traces are kept between runs."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "foretrace-benchmarks"


def step_key(row: Row) -> tuple[str, ...]:
    """Equal for rows that one trace serves: inference is a step of its own, all other parts are parts of one."""
    precision = "float32" if row["precision"] == "tfloat32" else row["precision"]
    memory_format = row["note"] if row["family"] == "timm" else ""
    return (*(row[name] for name in KEY), precision, memory_format, str(row["part"] == "inference"))


def _digest(row: Row) -> str:
    return hashlib.sha256(json.dumps([step_key(row), _makers()]).encode()).hexdigest()[:24]


@cache
def _makers() -> str:
    """One hash over the code that makes a trace, however it is laid out and commented."""
    digest = hashlib.sha256(torch.__version__.encode())
    for path in _sources():
        digest.update(ast.dump(ast.parse(path.read_bytes())).encode())
    return digest.hexdigest()


def _sources() -> Iterator[Path]:
    for folder in ("tracer", "graph"):
        yield from sorted((HERE.parent / folder).glob("*.py"))
    names = ("published_models.py", "gpt_by_hand.py", "gpt_by_heads.py", "opt_attention.py")
    yield from (HERE / name for name in names)
