"""From the recorder's rows and events to the nouns of `graph`: ops, storages with their categories, spans."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import CodeType

from ..graph import Category, Const, Event, Facts, Op, Phase, Source, Span, StepGraph, Storage, Tensor
from .frames import shorten
from .log import Row
from .record import Recorder


@dataclass(slots=True)
class Roles:
    """Which storages (by the recorder's ids) hold what, by name."""

    parameters: dict[int, str] = field(default_factory=dict)
    buffers: dict[int, str] = field(default_factory=dict)
    inputs: dict[int, str] = field(default_factory=dict)
    gradients: dict[int, str] = field(default_factory=dict)
    state: dict[int, str] = field(default_factory=dict)


def lift(recorder: Recorder, roles: Roles, facts: Facts) -> StepGraph:
    """The step graph of what was recorded."""
    numbers = storage_numbers(recorder)
    spans = _spans(recorder)
    ops = _ops(recorder, numbers)
    events = tuple(Event(op, numbers[storage], nbytes) for op, storage, nbytes in recorder.events)
    storages = _storages(recorder, roles, numbers, events, ops, spans)
    return StepGraph(ops, storages, events, spans, facts)


def storage_numbers(recorder: Recorder) -> dict[int, int]:
    """New, dense ids for the storages that the step saw: those live at its start first, then in order of birth."""
    old = sorted(recorder.at_start) + [0] + [storage for _, storage, nbytes in recorder.events if nbytes > 0]
    return {storage: number for number, storage in enumerate(dict.fromkeys(old))}


def _spans(recorder: Recorder) -> tuple[Span, ...]:
    ends = [(m.ops, m.events) for m in recorder.markers[1:]] + [(len(recorder.rows), len(recorder.events))]
    return tuple(
        Span(marker.phase, marker.ops, end_op, marker.events, end_event)
        for marker, (end_op, end_event) in zip(recorder.markers, ends, strict=True)
    )


# -- ops ------------------------------------------------------------------------------------------


def _ops(recorder: Recorder, numbers: dict[int, int]) -> tuple[Op, ...]:
    sources: dict[tuple[CodeType, int], Source] = {}
    tensors: dict[Tensor, Tensor] = {}
    seen: dict[int, Tensor] = {}
    """By the ids of the nouns of the log, which live as long as it does."""
    ops: list[Op] = []
    for i, row in enumerate(recorder.rows):
        forward = row.forward if row.forward is not None and row.forward < i else None
        source = _source(row, sources)
        module = row.module
        if forward is not None:
            module, source = module or ops[forward].module, source or ops[forward].source
        ops.append(
            Op(
                id=i,
                name=row.signature.name,
                phase=row.phase,
                args={
                    name: value if type(value) in _UNCHANGED else _renumber(value, numbers, tensors, seen)
                    for name, value in row.args.items()
                },
                result=_renumber(row.result, numbers, tensors, seen),
                mutates=tuple([name for name in row.signature.mutates if name in row.args]),
                module=module,
                source=source,
                sequence=row.sequence,
                forward=forward,
            )
        )
    return tuple(ops)


_UNCHANGED = frozenset((int, float, bool, str, type(None), Const))


def _renumber(value: object, numbers: dict[int, int], tensors: dict[Tensor, Tensor], seen: dict[int, Tensor]) -> object:
    if type(value) is Tensor:
        known = seen.get(id(value))
        if known is None:
            known = tensors.get(value)
            if known is None:
                known = tensors[value] = Tensor(numbers[value.storage], *value[1:])
            seen[id(value)] = known
        return known
    if type(value) is tuple:
        return tuple([v if type(v) in _UNCHANGED else _renumber(v, numbers, tensors, seen) for v in value])
    return value


def _source(row: Row, sources: dict[tuple[CodeType, int], Source]) -> Source | None:
    if row.code is None:
        return None
    key = (row.code, row.line)
    found = sources.get(key)
    if found is None:
        found = sources[key] = Source(shorten(row.code.co_filename), row.line, row.code.co_qualname)
    return found


# -- storages -------------------------------------------------------------------------------------


def _storages(
    recorder: Recorder,
    roles: Roles,
    numbers: dict[int, int],
    events: tuple[Event, ...],
    ops: tuple[Op, ...],
    spans: tuple[Span, ...],
) -> tuple[Storage, ...]:
    born = {event.storage: index for index, event in enumerate(events) if event.bytes > 0}
    died = {event.storage: index for index, event in enumerate(events) if event.bytes < 0}
    saved = _saved(numbers.values(), born, died, ops, spans)
    storages = []
    for old, number in numbers.items():
        category, name = _role(old, roles)
        if category is None:
            category = Category.SAVED if number in saved else Category.TEMPORARY
            if old in recorder.at_start and not name:
                name = "kept from the step before"
        birth, death = born.get(number), died.get(number)
        storages.append(
            Storage(
                id=number,
                bytes=recorder.bytes_of[old],
                device=recorder.device_of[old],
                category=category,
                born=events[birth].op if birth is not None else None,
                died=events[death].op if death is not None else None,
                name=name,
            )
        )
    return tuple(storages)


def _role(storage: int, roles: Roles) -> tuple[Category | None, str]:
    table = (
        (roles.parameters, Category.PARAMETER),
        (roles.buffers, Category.BUFFER),
        (roles.inputs, Category.INPUT),
        (roles.state, Category.OPTIMIZER_STATE),
        (roles.gradients, Category.GRADIENT),
    )
    for names, category in table:
        if storage in names:
            return category, names[storage]
    return None, ""


def _saved(
    storages: object, born: dict[int, int], died: dict[int, int], ops: tuple[Op, ...], spans: tuple[Span, ...]
) -> set[int]:
    """Storages born before a backward span, alive when it begins, and read by it or freed in it."""
    starts = [span.first_event for span in spans if span.phase is Phase.BACKWARD]
    backward = [range(span.first_event, span.end_event) for span in spans if span.phase is Phase.BACKWARD]
    first_read: dict[int, int] = {}
    for op in ops:
        if op.phase is Phase.BACKWARD:
            for tensor in op.inputs:
                first_read.setdefault(tensor.storage, op.id)
    made_in = {event: span.phase for span in spans for event in range(span.first_event, span.end_event)}
    saved = set()
    for storage, birth in born.items():
        death = died.get(storage)
        start = next((s for s in starts if s > birth), None)
        if start is None or made_in[birth] is not Phase.FORWARD or (death is not None and death < start):
            continue
        if storage in first_read or (death is not None and any(death in span for span in backward)):
            saved.add(storage)
    return saved
