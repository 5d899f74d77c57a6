"""Published memory figures -> rows, the trace of each row's step (kept on disk), and the memory that it is to take.

`data/memory.csv` holds facts that others measured and published, each with its source. Traces lie where those of
`published_rows` lie, named by a hash of the row's step and of everything that makes it.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch

import foretrace
from foretrace.graph import Phase, StepGraph
from foretrace.hardware import DeviceMemory, Profile, device_memory
from foretrace.hardware.replay import BEFORE, STEPS, allocator_of, requests
from foretrace.hardware.requests import ask
from foretrace.hardware.workspaces import extras
from memory_runs import Shape, is_of_a_run, peaks, shape_of
from published_rows import DATA, HERE, Row, kept

UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}

KEY = ("family", "model", "batch", "sequence", "precision", "attention", "optimizer", "checkpoint")
"""Columns that decide what is traced, beside how a part is measured."""

IMAGES = ("resnet_trace", "timm_train", "timm_bench")
"""Families whose steps are built in `memory_images`."""

WARMUP = 2
"""Steps before the recorded one: names that a loop keeps hold what the step before made."""


def rows() -> list[Row]:
    """Every published row."""
    with open(DATA / "memory.csv", newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def measured_bytes(row: Row) -> float:
    """The published figure."""
    return float(row["measured"]) * UNITS[row["unit"]]


# -- traces ---------------------------------------------------------------------------------------


def step_key(row: Row) -> tuple[str, ...]:
    """Equal for rows that one trace serves."""
    other = row["part"] if any(word in row["part"] for word in ("alone", "inference", "accumulated")) else ""
    sizes = row["note"] if row["family"] == "op" else ""
    return (*(row[name] for name in KEY), other.removeprefix("end of "), sizes)


def traced(row: Row) -> StepGraph:
    """The trace of the row's step, from disk where it is there."""
    from memory_models import build

    return kept(_digest(row), lambda: foretrace.trace(lambda: build(row), device="cuda", warmup=WARMUP))


def _digest(row: Row) -> str:
    return hashlib.sha256(json.dumps([step_key(row), _makers(row["family"] in IMAGES)]).encode()).hexdigest()[:24]


@cache
def _makers(images: bool) -> str:
    """One hash over the code that makes a trace."""
    digest = hashlib.sha256(torch.__version__.encode())
    for path in _sources(images):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _sources(images: bool) -> Iterator[Path]:
    for folder in ("tracer", "graph"):
        yield from sorted((HERE.parent / folder).glob("*.py"))
    names = ("memory_images.py",) if images else ("memory_models.py", "gpt_by_hand.py", "opt_attention.py")
    yield from (HERE / name for name in names)


# -- memory ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moments:
    """Allocated bytes of the last of a run of steps: peaks and ends of its parts."""

    start: int
    """After ``zero_grad``, where the step begins with it."""
    peaks: dict[str, int]
    ends: dict[str, int]

    @property
    def last(self) -> int:
        """When the step has ended, and the next one has not begun."""
        return list(self.ends.values())[-1]


def moments(graph: StepGraph, profile: Profile) -> Moments:
    """What ``memory_allocated`` and ``max_memory_allocated`` would say if they were asked, and reset, between parts."""
    parts = _parts(graph)
    allocator = allocator_of(graph)
    start, peaks, ends = 0, dict[str, int](), dict[str, int]()
    for request, place in requests((graph,) * STEPS, extras(profile)):
        part = parts[place.op] if place.step == STEPS - 1 and place.op != BEFORE else ""
        if part and part not in peaks:
            peaks[part] = allocator.allocated_bytes
            start = start or (allocator.allocated_bytes if part != "zero_grad" else 0)
        ask(allocator, request)
        if part:
            peaks[part] = max(peaks[part], allocator.allocated_bytes)
            ends[part] = allocator.allocated_bytes
    return Moments(start, peaks, ends)


def _parts(graph: StepGraph) -> list[str]:
    """The part of each op: its phase, but forward ops after those of the last module are the loss."""
    last = max((op.id for op in graph.ops if op.phase is Phase.FORWARD and op.module), default=-1)
    return [
        "loss" if op.phase is Phase.FORWARD and op.id > last and not op.module else str(op.phase) for op in graph.ops
    ]


@cache
def peaks_of_run(model: str) -> dict[Shape, int]:
    """The peaks of a model's rows that ran one after the other in one process."""
    return peaks([row for row in rows() if is_of_a_run(row) and row["model"] == model], traced)


@dataclass
class Prediction:
    """All that the replay of one trace on one device says; computed when it is asked for, and once."""

    graph: StepGraph
    profile: Profile
    alone: bool = False
    """Replay the step by itself also where it is known what ran before it."""

    @cached_property
    def memory(self) -> DeviceMemory:
        return device_memory(self.graph, self.profile)

    @cached_property
    def moments(self) -> Moments:
        return moments(self.graph, self.profile)

    def bytes_of(self, row: Row) -> int:
        """What the row's figure should be."""
        kind, part = row["kind"], row["part"]
        if is_of_a_run(row) and not self.alone:
            return peaks_of_run(row["model"])[shape_of(row)]
        if kind == "reserved":
            return self.memory.reserved_peak_bytes
        if kind == "device":
            own = row["context_mib"]
            context = int(own) * UNITS["MiB"] if own.isdecimal() else self.memory.context_bytes
            return self.memory.reserved_peak_bytes + context
        if part in ("forward", "loss", "backward", "optimizer"):
            return self.moments.peaks[part]
        if part == "start":
            return self.moments.start
        if part == "before step":
            return self.moments.last
        if part.startswith("end of "):
            return self.moments.ends.get(part.removeprefix("end of "), self.moments.last)
        above = self.moments.last if part == "step above start" else 0
        return self.memory.allocated_peak_bytes - above
