"""`Report` -> the snapshot that PyTorch's own memory viewer opens (https://docs.pytorch.org/memory_viz).

A *snapshot* is what ``torch.cuda.memory._dump_snapshot`` writes: the segments and blocks of the caching allocator at
the end, and a trace of its actions. Here both come from the replay of the step on the modelled allocator: the trace is
the last of `STEPS` steps, begun with everything that is alive then, as the viewer would otherwise not show it.

Three rules of the viewer are kept (https://github.com/pytorch/pytorch/tree/v2.13.0/torch/utils/viz): the pickle is of
protocol 4 and made of dicts, lists, strings and numbers alone; the trace begins with an event of the category
``unknown``, without which a trace with categories is not drawn; every block lies in a segment that was announced.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..graph import Category, ForetraceError, Op, Source, Storage
from ..hardware.allocator import CachingAllocator
from ..hardware.blocks import SegmentState
from ..hardware.replay import STEPS, Place, allocator_of, requests, run_of
from ..hardware.requests import Free, Malloc, ask
from ..hardware.workspaces import extras_of
from .result import Report
from .words import phase_text

PROTOCOL = 4
Plain = dict[str, object]


def to_memory_viz(report: Report) -> bytes:
    """The snapshot as a pickle. Raises `ForetraceError` for a step that was not traced for CUDA."""
    return pickle.dumps(snapshot(report), protocol=PROTOCOL)


def snapshot(report: Report) -> Plain:
    """The snapshot as plain dicts and lists."""
    if report.device != "cuda":
        raise ForetraceError(
            f"a snapshot is of CUDA's allocator, and this step was traced for the {report.device}",
            'Trace it with device="cuda", which needs no GPU.',
        )
    return _Recorder(report).snapshot()


@dataclass(slots=True)
class _Held:
    """What a live request holds."""

    address: int
    bytes: int
    about: Plain


@dataclass(slots=True)
class _Recorder:
    """Replays the step and writes down the last of its repetitions."""

    report: Report
    held: dict[object, _Held] = field(default_factory=dict)
    actions: list[Plain] = field(default_factory=list)
    allocator: CachingAllocator = field(init=False)

    def __post_init__(self) -> None:
        self.allocator = allocator_of(self.report.trace, None, self.report.conf, self.report.profile.memory_total_bytes)

    def snapshot(self) -> Plain:
        asked = requests(run_of(self.report.trace), extras_of(self.report.trace, self.report.profile))
        before: tuple[SegmentState, ...] | None = None
        for request, place in asked:
            if before is None and place.step == STEPS - 1:
                before = self._begin()
            self._ask(request, place, is_recorded=before is not None)
        after = self.allocator.segments()
        announced = [_announced(segment) for segment in _all_of(before or (), after)]
        return {
            "segments": [self._segment(segment) for segment in after],
            "device_traces": [[UNKNOWN, *announced, *self.actions]],
            "allocator_settings": {"PYTORCH_ALLOC_CONF": str(self.report.conf or "")},
            "external_annotations": [],
        }

    def _begin(self) -> tuple[SegmentState, ...]:
        """What is alive when the last step begins is written down first, so that the viewer knows of it."""
        for held in self.held.values():
            self._write("alloc", held)
        return self.allocator.segments()

    def _ask(self, request: object, place: Place, *, is_recorded: bool) -> None:
        if isinstance(request, Malloc):
            ask(self.allocator, request)
            held = _Held(self.allocator.address(request.key), request.bytes, self._about(place))
            if request.bytes:
                self.held[request.key] = held
            if is_recorded and request.bytes:
                self._write("alloc", held)
        elif isinstance(request, Free):
            ask(self.allocator, request)
            gone = self.held.pop(request.key, None)
            if is_recorded and gone is not None:
                self._write("free_requested", gone)
                self._write("free_completed", gone)

    def _write(self, action: str, held: _Held) -> None:
        entry = {"action": action, "addr": held.address, "size": held.bytes, "stream": 0, "time_us": len(self.actions)}
        self.actions.append({**entry, "compile_context": "N/A", **held.about})

    def _about(self, place: Place) -> Plain:
        """Who asked: the line of code, the category, and in words the rest."""
        graph = self.report.trace
        op = graph.ops[place.op] if place.op >= 0 else None
        storage = graph.storages[place.storage] if place.storage is not None else None
        made_by = graph.ops[op.forward] if op is not None and op.forward is not None else None
        return {
            "frames": _frames(op.source if op else None, _name(storage, op)),
            "category": str(storage.category if storage else Category.WORKSPACE),
            "user_metadata": _metadata(storage, op),
            **({"forward_frames": [_line(made_by.source)]} if made_by is not None and made_by.source else {}),
        }

    def _segment(self, segment: SegmentState) -> Plain:
        return {
            "device": 0,
            "address": segment.address,
            "total_size": segment.bytes,
            "stream": segment.stream,
            "segment_type": "small" if segment.is_small else "large",
            "segment_pool_id": (0, 0),
            "allocated_size": sum(b.bytes for b in segment.blocks if b.state == "active_allocated"),
            "active_size": sum(b.bytes for b in segment.blocks if b.state != "inactive"),
            "requested_size": sum(b.requested_bytes for b in segment.blocks if b.state != "inactive"),
            "is_expandable": segment.is_expandable,
            "frames": [],
            "blocks": list(self._blocks(segment)),
        }

    def _blocks(self, segment: SegmentState) -> Iterator[Plain]:
        address = segment.address
        for block in segment.blocks:
            held = self.held.get(block.key) if block.state == "active_allocated" else None
            yield {
                "address": address,
                "size": block.bytes,
                "requested_size": block.requested_bytes,
                "state": str(block.state),
                "frames": held.about["frames"] if held else [],
            }
            address += block.bytes


UNKNOWN: Mapping[str, object] = {
    **{"action": "snapshot", "addr": 0, "size": 0, "stream": 0},
    **{"frames": [], "time_us": 0, "category": "unknown"},
}


def _all_of(before: tuple[SegmentState, ...], after: tuple[SegmentState, ...]) -> list[SegmentState]:
    """The segments that there were during the step: of one that grew, the larger state."""
    found: dict[int, SegmentState] = {}
    for segment in (*before, *after):
        if segment.address not in found or found[segment.address].bytes < segment.bytes:
            found[segment.address] = segment
    return [found[address] for address in sorted(found)]


def _announced(segment: SegmentState) -> Plain:
    entry = {"action": "segment_alloc", "addr": segment.address, "size": segment.bytes, "stream": segment.stream}
    return {**entry, "frames": [], "time_us": 0, "category": "unknown"}


def _name(storage: Storage | None, op: Op | None) -> str:
    if storage is not None and storage.name:
        return storage.name
    return (op.module or op.packet) if op is not None else "kept from the step before"


def _frames(source: Source | None, name: str) -> list[Plain]:
    """The line of code; of what has none, a frame that says its name, by which the viewer labels it."""
    if source is None:
        return [{"filename": "", "line": 0, "name": name}]
    return [{"filename": source.file, "line": source.line, "name": source.function}]


def _metadata(storage: Storage | None, op: Op | None) -> Plain:
    if op is None:
        return {"name": _name(storage, None), "phase": "before the step"}
    name = {"name": storage.name} if storage is not None and storage.name else {}
    return {**name, "module": op.module, "op": op.name, "phase": phase_text(op.phase)}


def _line(source: Source) -> str:
    return f"{source.file}:{source.line} in {source.function}"
