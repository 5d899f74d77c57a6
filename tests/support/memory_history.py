"""Reads the memory histories in tests/data/memory_history/, whose format is in tests/data/README.md."""

from __future__ import annotations

import gzip
from pathlib import Path

from foretrace.hardware.allocator import CachingAllocator
from foretrace.hardware.blocks import BlockState, SegmentState, State
from foretrace.hardware.recording import Recorded, start

FOLDER = Path(__file__).parents[1] / "data" / "memory_history"
NAMES = tuple(sorted(path.name.removesuffix(".txt.gz") for path in FOLDER.iterdir()))
ACTIONS = {"+": "alloc", "-": "free_completed", "segment": "segment_alloc"}


def read(name: str) -> tuple[list[Recorded], tuple[SegmentState, ...]]:
    """The events of a history, and the segments with their blocks at its end."""
    lines = gzip.decompress((FOLDER / f"{name}.txt.gz").read_bytes()).decode().splitlines()
    end = lines.index("end")
    events = [event(line) for line in lines[:end]]
    starts = [i for i, line in enumerate(lines) if i > end and line.startswith("segment")]
    pairs = zip(starts, [*starts[1:], len(lines)], strict=True)
    return events, tuple(segment(lines[start:stop]) for start, stop in pairs)


def event(line: str) -> Recorded:
    action, address, size = line.split()
    return Recorded(ACTIONS[action], int(address), int(size))


def segment(lines: list[str]) -> SegmentState:
    _, address, size, kind = lines[0].split()
    return SegmentState(int(address), int(size), kind == "small", 0, tuple(block(line) for line in lines[1:]))


def block(line: str) -> BlockState:
    word, size, requested = line.split()
    return BlockState(int(size), int(requested), State.ALLOCATED if word == "block" else State.INACTIVE)


def allocator_at_start(name: str) -> CachingAllocator:
    """The allocator when a history began. The recorded PyTorch broke ties by address, and CUDA chose addresses."""
    events, end = read(name)
    addresses = iter([event.address for event in events if event.action == "segment_alloc"])
    return CachingAllocator(start=start(events, end), by_age=False, place=lambda size: next(addresses))
