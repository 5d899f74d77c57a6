"""`Report` -> *snapshot*: the facts of a step that are compared, and the rows that each fact is made of.

A *row* is a part of a fact: for memory the equal storages of one kind in one kind of module, for work the ops of one
kind in one. Repeated modules are rolled up. The rows of a fact add up to it. What a row is called says nothing of the
machine, and nothing of the line, which moves when another line is added above it; the line is carried beside it.

A storage *kept* from the step before has no op of this step that made it. In a steady state it is what this step makes
and does not free either, so it is called by that.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

from ..costmodels import roll
from ..costmodels.timeline import LASTING, counts
from ..graph import Category, Op, Phase, Source, StepGraph, Storage, Tensor, itemsize
from ..graph.dtype import is_floating
from ..report import Report
from ..report.json import portable

KEPT = "kept"
"""The category of what outlives the step without being the model's or the optimizer's."""

UNKNOWN = "-"
"""The module of what belongs to none."""

STATEFUL = ("amsgrad", "centered", "momentum")
"""Options of an optimizer with which it keeps more."""

MOST_INPUTS = 16
"""An op of more inputs is one of a whole list of tensors, or joins many: it is no cast."""

Key = tuple[str, str, str, str]


class Row(NamedTuple):
    """A part of a fact. ``source`` is the line that most of it comes from; a baseline does not keep it."""

    module: str
    what: str
    """The op, or the name of the tensor inside its module."""
    kind: str
    """The category of storages, or the phase of ops."""
    form: str
    """``float32[8, 1024]`` of storages; nothing for ops."""
    value: int
    source: Source | None = None
    cast: Source | None = None
    """The line in which what it is made from took its dtype."""

    @property
    def key(self) -> Key:
        """What makes it the same part in another step."""
        return self.module, self.what, self.kind, self.form

    @property
    def each(self) -> int:
        """Bytes of one of its storages; 0 where it has none."""
        return form_bytes(self.form)

    @property
    def times(self) -> int:
        """How many equal storages it is; 1 for work."""
        return self.value // self.each if self.each else 1


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What one step costs, as far as it is compared."""

    facts: Mapping[str, int]
    """Bytes, nanoseconds, FLOPs and counts by the names in `quantity.FACTS`."""
    rows: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)
    """What ``peak``, ``saved``, ``kept``, ``flops`` and ``time`` are made of, largest first."""
    made_with: Mapping[str, str] = field(default_factory=dict)
    """Versions of ``foretrace`` and ``torch``, and ``on``, the hardware profile."""
    how: Mapping[str, object] = field(default_factory=dict)
    """``args``, ``device``, ``autocast``, ``optimizer``: what was asked for."""
    recomputes: tuple[str, ...] = ()
    """Modules whose forward is run again in backward, as checkpointing does."""
    checkpoints: Mapping[str, int] = field(default_factory=dict)
    """What it is that backward runs again, a module, or a function with ``()``, and how often."""
    assumed: tuple[str, ...] = ()
    """Ops that no rule prices."""
    assumptions: tuple[str, ...] = ()
    """What was taken for granted where the step depends on data."""
    place: str = ""
    """Where the peak is reached, for the eye."""
    files: tuple[str, ...] = ()
    """The files of the user's that ran."""
    calls: Mapping[str, Source] = field(default_factory=dict)
    """The line that calls each module; where repeated modules have several, one of those that are not run again."""


def snapshot(report: Report, version: str, max_batch: int | None = None) -> Snapshot:
    """The snapshot of a priced step; `version` is foretrace's, `max_batch` is known to whoever can trace."""
    graph, names = report.trace, _Names(report.trace)
    rows = {
        "peak": _stored(names, report.memory.peak_storages),
        "saved": _stored(names, (s for s in graph.storages if s.category is Category.SAVED and counts(graph, s))),
        "kept": _stored(names, _kept(graph)),
        "flops": _added(_flop_rows(report)),
        "time": _added(_time_rows(report)),
    }
    facts = {name: sum(row.value for row in found) for name, found in rows.items()}
    facts |= {"kept": _growth(report), "parameters": report.parameters.total}
    if report.reserved_peak_bytes is not None:
        facts["reserved"] = report.reserved_peak_bytes
    if max_batch is not None:
        facts["max-batch"] = max_batch
    op = report.peak_op
    return Snapshot(
        facts=facts,
        rows=rows,
        made_with={
            "foretrace": version,
            "torch": str(graph.facts.versions.get("torch", "")),
            "on": report.profile.name,
        },
        how=_how(graph),
        recomputes=tuple(sorted(_recomputed(graph))),
        checkpoints=_checkpoints(graph),
        assumed=tuple(sorted(row.name for row in report.coverage.assumed)),
        assumptions=tuple(sorted({f"{a.get('op')}: {a.get('assumed')}" for a in graph.facts.assumptions})),
        place=f"{op.phase} {_module(op.module)} {short(op.packet)}" if op else "at the start",
        files=tuple(sorted({op.source.file for op in graph.ops if op.source})),
        calls=_calls(graph),
    )


def short(packet: str) -> str:
    """An op's name without the library that all ops are from."""
    return packet.removeprefix("aten.")


def form_bytes(form: str) -> int:
    """Bytes of one storage of that form.

    >>> form_bytes("float32[8, 1024]"), form_bytes("uint8[100]"), form_bytes("float32[]"), form_bytes("")
    (32768, 100, 4, 0)
    """
    dtype, bracket, inside = form.rstrip("]").partition("[")
    return itemsize(dtype) * prod(int(size) for size in inside.split(",") if size) if bracket else 0


def dtype_of(row: Row) -> str:
    """The dtype of a row's storages; empty for work."""
    return row.form.partition("[")[0]


def shape_of(row: Row) -> str:
    """The shape of a row's storages with its brackets; empty for work."""
    return "".join(row.form.partition("[")[1:])


def _how(graph: StepGraph) -> dict[str, object]:
    facts = graph.facts
    chosen = facts.optimizer
    name, way = chosen.get("class"), chosen.get("implementation")
    options = [option for option in STATEFUL if chosen.get(option)]
    passes = sum(span.phase is Phase.BACKWARD for span in graph.spans)
    stay = any(storage.category is Category.GRADIENT and counts(graph, storage) for storage in graph.at_start)
    more: dict[str, object] = {}
    if passes > 1:
        more["backward"] = passes
    if stay:
        more["gradients"] = "kept"
    return more | {
        "target": portable(facts.target),
        "args": dict(sorted(facts.arguments.items())),
        "device": facts.device.partition(":")[0],
        "autocast": facts.autocast or "none",
        "inputs": ", ".join(_form(item.dtype, item.shape) for item in facts.inputs),
        "optimizer": f"{name} ({', '.join([str(way), *options])})" if name and way else str(name or "none"),
    }


def _growth(report: Report) -> int:
    """What a step adds to what was live before it. The first step gives birth to what lasts, and is not asked."""
    return max(report.memory.end_bytes - report.memory.start_bytes, 0) if report.trace.facts.warmup else 0


def _kept(graph: StepGraph) -> Iterator[Storage]:
    """What is born in the step, outlives it, and is no state of the model's or the optimizer's."""
    for storage in graph.storages:
        outlives = storage.born is not None and storage.died is None
        if outlives and storage.category not in LASTING and counts(graph, storage):
            yield storage


class _Names:
    """Storage -> the row that it belongs to, its value apart."""

    def __init__(self, graph: StepGraph) -> None:
        self.graph = graph
        facts = graph.facts
        named = (*facts.state, *facts.inputs, *facts.buffers, *facts.parameters)
        self._form = {item.storage: _form(item.dtype, item.shape) for item in named}
        like = {parameter.name: self._form[parameter.storage] for parameter in facts.parameters}
        self._form |= {
            storage.id: like[storage.name]
            for storage in graph.storages
            if storage.category is Category.GRADIENT and storage.name in like
        }
        self._readers = _first_readers(graph)
        self._casts = _casts(graph)
        self._outliving: dict[int, list[Storage]] = defaultdict(list)
        for storage in reversed(list(_kept(graph))):
            self._outliving[storage.bytes].append(storage)
        self._twins = {
            storage.id: self._outliving[storage.bytes].pop()
            for storage in graph.at_start
            if storage.category not in LASTING and self._outliving.get(storage.bytes)
        }

    def row(self, storage: Storage) -> Row:
        """One storage as a row."""
        made_by = self._twins.get(storage.id, storage)
        maker = self.graph.ops[made_by.born] if made_by.born is not None and made_by.born >= 0 else None
        form = self._form.get(storage.id) or self._made(made_by, maker)
        form = form if form_bytes(form) == storage.bytes else f"uint8[{storage.bytes}]"
        kind = KEPT if storage.id in self._twins else str(storage.category)
        if storage.name and storage.category in LASTING:
            parameter, slash, key = storage.name.partition("/")
            module, _, leaf = parameter.rpartition(".")
            source = maker.source if maker else self._readers.get(storage.id)
            return Row(_module(module), f"{leaf}{slash}{key}".replace(" ", "_"), kind, form, storage.bytes, source)
        if maker is None:
            return Row(UNKNOWN, "unknown", kind, form, storage.bytes)
        cast = self._casts.get(made_by.id)
        return Row(_module(maker.module), short(maker.packet), kind, form, storage.bytes, maker.source, cast)

    def _made(self, storage: Storage, maker: Op | None) -> str:
        """The form of what the op put into the storage that it allocated."""
        for tensor in (*maker.outputs, *maker.written) if maker else ():
            if tensor.storage == storage.id:
                return _form(tensor.dtype, _whole(tensor))
        return ""


def _whole(tensor: Tensor) -> tuple[int, ...]:
    """The sizes without the repeats of an expanded dimension."""
    pairs = zip(tensor.shape, tensor.strides, strict=True)
    return tuple(size if stride or size < 2 else 1 for size, stride in pairs)


def _form(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype}[{', '.join(map(str, shape))}]"


def _first_readers(graph: StepGraph) -> dict[int, Source]:
    """For each storage the line of the first op that reads it, so that a parameter has a place too."""
    found: dict[int, Source] = {}
    for op in graph.ops:
        if op.source and op.phase is Phase.FORWARD:
            for tensor in op.inputs:
                found.setdefault(tensor.storage, op.source)
    return found


def _casts(graph: StepGraph) -> dict[int, Source]:
    """For each storage the line that made what is in it, or what it was made from, wider than it was."""
    found: dict[int, Source] = {}
    for op in graph.ops:
        if op.phase not in (Phase.FORWARD, Phase.BACKWARD) or op.is_view or len(op.inputs) > MOST_INPUTS:
            continue
        read = [t for t in op.inputs if is_floating(t.dtype)]
        if not found and len({t.dtype for t in (*read, *op.outputs)}) < 2:
            continue
        for made in (*op.outputs, *op.written):
            if is_floating(made.dtype) and _widens(read, made):
                if op.source is not None:
                    found[made.storage] = op.source
            elif origin := next((found[t.storage] for t in read if t.dtype == made.dtype and t.storage in found), None):
                found.setdefault(made.storage, origin)
    return found


def _widens(read: list[Tensor], made: Tensor) -> bool:
    """Whether all inputs of the result's size are narrower than it."""
    size = itemsize(made.dtype)
    if not any(itemsize(t.dtype) < size for t in read):
        return False
    like = [t for t in read if t.numel == made.numel and t.storage != made.storage]
    return bool(like) and all(itemsize(t.dtype) < size for t in like)


def _module(path: str) -> str:
    return roll(path).replace(" ", "_") or UNKNOWN


def _stored(names: _Names, storages: Iterable[Storage]) -> tuple[Row, ...]:
    return _added(names.row(storage) for storage in storages)


def _flop_rows(report: Report) -> Iterator[Row]:
    for priced in report.priced:
        op = priced.op
        if priced.work.flops:
            yield Row(_module(op.module), short(op.packet), str(op.phase), "", priced.work.flops, op.source)


def _time_rows(report: Report) -> Iterator[Row]:
    """The kernels, and what the device waits for the host: together the time of the step."""
    waiting = round(report.time.step_seconds * 1e9)
    for priced, time in zip(report.priced, report.time.ops, strict=True):
        op, nanoseconds = priced.op, round(time.seconds * 1e9)
        waiting -= nanoseconds
        if nanoseconds:
            yield Row(_module(op.module), short(op.packet), str(op.phase), "", nanoseconds, op.source)
    if waiting > 0:
        yield Row(UNKNOWN, "host", "waiting", "", waiting)


def _added(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Rows of one key as one, largest first, with the line that holds most of it."""
    values: dict[Key, int] = defaultdict(int)
    lines: dict[Key, Counter[Source]] = defaultdict(Counter)
    casts: dict[Key, Counter[Source]] = defaultdict(Counter)
    for row in rows:
        values[row.key] += row.value
        if row.source is not None:
            lines[row.key][row.source] += row.value
        if row.cast is not None:
            casts[row.key][row.cast] += row.value
    made = (Row(*key, value, _most(lines.get(key)), _most(casts.get(key))) for key, value in values.items())
    return tuple(sorted(made, key=lambda row: (-row.value, row.key)))


def _most(lines: Counter[Source] | None) -> Source | None:
    return min(lines, key=lambda source: (-lines[source], source)) if lines else None


def _checkpoints(graph: StepGraph) -> dict[str, int]:
    """What is run again by its rolled name; a function that calls no module is known by the lines of its ops."""
    found = Counter[str]()
    for path, times in graph.facts.recomputed.items():
        found[path if path.endswith("()") else _module(path)] += times
    if not found:
        again = (op for op in graph.ops if op.phase is Phase.BACKWARD and op.sequence is not None)
        found.update({f"{op.source.function}()" for op in again if op.source})
    return dict(sorted(found.items()))


def _calls(graph: StepGraph) -> dict[str, Source]:
    """The line that calls each rolled module."""
    again = graph.facts.recomputed
    found: dict[str, Source] = {}
    for path, source in sorted(graph.facts.calls.items(), key=lambda item: item[0] in again):
        found.setdefault(_module(path), source)
    return found


def _recomputed(graph: StepGraph) -> set[str]:
    """Modules in which the autograd engine builds graph anew: their forward runs again."""
    return {
        _module(op.module) for op in graph.ops if op.phase is Phase.BACKWARD and op.sequence is not None and op.module
    }
