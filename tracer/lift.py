"""From the recorder's rows and events to the nouns of `graph`: ops, storages with their categories, spans."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import CodeType
from typing import NamedTuple

from ..graph import Category, Event, Facts, Op, Phase, Source, Span, StepGraph, Storage, Tensor
from ..graph.bulk import of_columns
from ..graph.op import ops_of
from .frames import shorten
from .log import Copy, Row
from .pattern import Pattern
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
    events = _events(recorder, numbers)
    storages = _storages(recorder, roles, numbers, ops, spans)
    graph = StepGraph(ops, storages, events, spans, facts)
    graph.repeat({copy.first + n: copy.like + n for copy in recorder.copies for n in range(len(copy.modules))})
    return graph


def storage_numbers(recorder: Recorder) -> dict[int, int]:
    """New, dense ids for the storages that the step saw: those live at its start first, then in order of birth."""
    old = sorted(recorder.at_start) + [0] + [storage for _, storage, nbytes in recorder.events if nbytes > 0]
    return {storage: number for number, storage in enumerate(dict.fromkeys(old))}


def _events(recorder: Recorder, numbers: dict[int, int]) -> tuple[Event, ...]:
    ops, storages, sizes = zip(*recorder.events, strict=True) if recorder.events else ((), (), ())
    renumbered = [numbers[storage] for storage in storages]
    return tuple(of_columns(Event, len(ops), op=ops, storage=renumbered, bytes=sizes))


def _spans(recorder: Recorder) -> tuple[Span, ...]:
    ends = [(m.ops, m.events) for m in recorder.markers[1:]] + [(len(recorder.rows), len(recorder.events))]
    return tuple(
        Span(marker.phase, marker.ops, end_op, marker.events, end_event)
        for marker, (end_op, end_event) in zip(recorder.markers, ends, strict=True)
    )


# -- ops ------------------------------------------------------------------------------------------


def _ops(recorder: Recorder, numbers: dict[int, int]) -> tuple[Op, ...]:
    rows, copies = recorder.rows, recorder.copies
    modules, sequences, forwards = ([getattr(row, name) for row in rows] for name in ("module", "sequence", "forward"))
    for copy in copies:
        there = slice(copy.first, copy.first + len(copy.modules))
        modules[there], sequences[there], forwards[there] = copy.modules, copy.sequences, copy.forwards
    forwards = [forward if forward is not None and forward < place else None for place, forward in enumerate(forwards)]
    modules, sources = _places(rows, modules, forwards)
    args, results, inputs, outputs = _arguments(rows, copies, numbers)
    return ops_of(
        name=[row.signature.name for row in rows],
        phase=[row.phase for row in rows],
        args=args,
        result=results,
        mutates=[_mutates(row) for row in rows],
        module=modules,
        source=sources,
        sequence=sequences,
        forward=forwards,
        inputs=inputs,
        outputs=outputs,
    )


def _mutates(row: Row) -> tuple[str, ...]:
    named = row.signature.mutates
    return tuple([name for name in named if name in row.args]) if named else ()


def _places(rows: list[Row], own: list[str], forwards: list[int | None]) -> tuple[list[str], list[Source | None]]:
    """The module and the line of each op: its own, or else those of the forward op that it differentiates."""
    sources: dict[tuple[CodeType, int], Source] = {}
    modules: list[str] = []
    found: list[Source | None] = []
    for row, module, forward in zip(rows, own, forwards, strict=True):
        source = _source(row, sources)
        if forward is not None:
            module, source = module or modules[forward], source or found[forward]
        modules.append(module)
        found.append(source)
    return modules, found


class _Arguments(NamedTuple):
    args: list[dict[str, object]]
    results: list[object]
    inputs: list[tuple[Tensor, ...] | None]
    outputs: list[tuple[Tensor, ...] | None]


def _arguments(rows: list[Row], copies: list[Copy], numbers: dict[int, int]) -> _Arguments:
    """Arguments and results of all rows with the new numbers of their storages; of copies the tensors in them, too."""
    new, count = _Renumbered(numbers), len(rows)
    made = _Arguments([{}] * count, [None] * count, [None] * count, [None] * count)
    for place in _own_places(count, copies):
        row = rows[place]
        made.args[place] = dict(zip(row.args, new.of(row.args.values()), strict=True))
        (made.results[place],) = new.of((row.result,))
    patterns: dict[int, Pattern] = {}
    for copy in copies:
        length = len(copy.modules)
        template, there = slice(copy.like, copy.like + length), slice(copy.first, copy.first + length)
        pattern = patterns.get(copy.like) or patterns.setdefault(
            copy.like, Pattern(made.args[template], made.results[template])
        )
        storages = {numbers[its]: numbers[own] for its, own in copy.storages.items() if its in numbers}
        for column, stamped in zip(made, pattern.stamp(storages), strict=True):
            column[there] = stamped  # type: ignore[index]
    return made


def _own_places(count: int, copies: list[Copy]) -> Iterator[int]:
    """Where the rows are that repeat no others."""
    place = 0
    for copy in copies:
        yield from range(place, copy.first)
        place = copy.first + len(copy.modules)
    yield from range(place, count)


class _Renumbered:
    """Tensors with new numbers for their storages, one object for all that are equal."""

    def __init__(self, numbers: dict[int, int]) -> None:
        self.numbers = numbers
        self.equal: dict[Tensor, Tensor] = {}
        self.seen: dict[int, Tensor] = {}
        """By the ids of the nouns of the log, which live as long as it does."""

    def of(self, values: Iterable[object]) -> list[object]:
        """What arguments are with those."""
        seen = self.seen
        return [
            (seen.get(id(value)) or self._new(value))
            if type(value) is Tensor
            else tuple(self.of(value))
            if type(value) is tuple
            else value
            for value in values
        ]

    def _new(self, tensor: Tensor) -> Tensor:
        storage, dtype, shape, strides, offset = tensor
        new: Tensor = tuple.__new__(Tensor, (self.numbers[storage], dtype, shape, strides, offset))
        found = self.seen[id(tensor)] = self.equal.setdefault(new, new)
        return found


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
    ops: tuple[Op, ...],
    spans: tuple[Span, ...],
) -> tuple[Storage, ...]:
    born = {numbers[storage]: index for index, (_, storage, nbytes) in enumerate(recorder.events) if nbytes > 0}
    died = {numbers[storage]: index for index, (_, storage, nbytes) in enumerate(recorder.events) if nbytes < 0}
    op_of = [op for op, _, _ in recorder.events]
    known, saved = _roles(roles), _saved(born, died, ops, spans)
    found = [known.get(old) or _unnamed(old in recorder.at_start, number in saved) for old, number in numbers.items()]
    return tuple(
        of_columns(
            Storage,
            len(numbers),
            id=numbers.values(),
            bytes=[recorder.bytes_of[old] for old in numbers],
            device=[recorder.device_of[old] for old in numbers],
            category=[category for category, _ in found],
            born=[op_of[born[number]] if number in born else None for number in numbers.values()],
            died=[op_of[died[number]] if number in died else None for number in numbers.values()],
            name=[name for _, name in found],
        )
    )


def _unnamed(was_live: bool, is_saved: bool) -> tuple[Category, str]:
    """The category of a storage without a role, and what it is called if it was live when the step began."""
    category = Category.SAVED if is_saved else Category.TEMPORARY
    return category, "kept from the step before" if was_live else ""


def _roles(roles: Roles) -> dict[int, tuple[Category, str]]:
    """The category and name of each storage that has a role; the first of several."""
    table = (
        (roles.parameters, Category.PARAMETER),
        (roles.buffers, Category.BUFFER),
        (roles.inputs, Category.INPUT),
        (roles.state, Category.OPTIMIZER_STATE),
        (roles.gradients, Category.GRADIENT),
    )
    return {storage: (category, name) for names, category in reversed(table) for storage, name in names.items()}


def _saved(born: dict[int, int], died: dict[int, int], ops: tuple[Op, ...], spans: tuple[Span, ...]) -> set[int]:
    """Storages born before a backward span, alive when it begins, and read by it or freed in it."""
    starts = [span.first_event for span in spans if span.phase is Phase.BACKWARD]
    phases = [phase for span in spans for phase in [span.phase] * (span.end_event - span.first_event)]
    read = {tensor.storage for op in ops if op.phase is Phase.BACKWARD for tensor in op.inputs}
    saved = set()
    for storage, birth in born.items():
        following = bisect_right(starts, birth)
        if phases[birth] is not Phase.FORWARD or following == len(starts):
            continue
        death = died.get(storage)
        if death is not None and death < starts[following]:
            continue
        if storage in read or (death is not None and phases[death] is Phase.BACKWARD):
            saved.add(storage)
    return saved
