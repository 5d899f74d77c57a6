"""StepGraph -> the ways in which it is not a legal recording of a step.

A *law* is something that is true of every recording, whatever the model. Each is one small function that returns its
violations, one sentence each, and `check` runs them all. Not covered: whether the recording is what a real run does;
that takes a real run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from .op import Op, Tensor
from .phase import Phase
from .step_graph import StepGraph
from .storage import Category

Law = Callable[[StepGraph], list[str]]


class LawBroken(AssertionError):
    """Raised by `check`; ``violations`` holds one sentence each."""

    def __init__(self, violations: list[str]) -> None:
        shown = [*violations[:20], *([f"and {len(violations) - 20} more"] if len(violations) > 20 else [])]
        super().__init__("\n".join(shown))
        self.violations = violations


def check(graph: StepGraph) -> None:
    """Raise `LawBroken` unless `graph` obeys every law."""
    if violations := _violations(graph, REFERENCES) or _violations(graph, LAWS):
        raise LawBroken(violations)


def _violations(graph: StepGraph, laws: tuple[Law, ...]) -> list[str]:
    return [f"{law.__name__}: {text}" for law in laws for text in law(graph)]


def ids_are_places(graph: StepGraph) -> list[str]:
    """The id of an op and of a storage is its place in its tuple."""
    ids = {"op": [op.id for op in graph.ops], "storage": [storage.id for storage in graph.storages]}
    return [
        f"{kind} at place {place} has id {found}"
        for kind, listed in ids.items()
        for place, found in enumerate(listed)
        if found != place
    ]


def references_exist(graph: StepGraph) -> list[str]:
    """Every storage that a tensor, an event or a name refers to is in the graph."""
    facts = graph.facts
    found = [(f"op {op.id} {op.name}", t.storage) for op, t in _used(graph)]
    found += [(f"event {place}", event.storage) for place, event in enumerate(graph.events)]
    found += [(named.name, named.storage) for named in (*facts.parameters, *facts.buffers, *facts.inputs, *facts.state)]
    return [f"{who} refers to storage {storage}" for who, storage in found if not 0 <= storage < len(graph.storages)]


def mutated_arguments_exist(graph: StepGraph) -> list[str]:
    """An op says only of arguments that it has that it writes to them."""
    return [
        f"op {op.id} {op.name} mutates {name!r}, which it was not given"
        for op in graph.ops
        for name in op.mutates
        if name not in op.args
    ]


def storages_are_born_once(graph: StepGraph) -> list[str]:
    """A storage that was not live at the start has one birth event, the others none, one of no bytes none."""
    births = Counter(event.storage for event in graph.events if event.bytes > 0)
    return [
        f"storage {s.id} ({s.bytes} bytes, born {s.born}) has {births[s.id]} birth events"
        for s in graph.storages
        if births[s.id] != (1 if s.born is not None and s.bytes else 0)
    ]


def storages_die_at_most_once(graph: StepGraph) -> list[str]:
    """A storage that died has one death event, the others none, one of no bytes none."""
    deaths = Counter(event.storage for event in graph.events if event.bytes < 0)
    return [
        f"storage {s.id} ({s.bytes} bytes, died {s.died}) has {deaths[s.id]} death events"
        for s in graph.storages
        if deaths[s.id] != (1 if s.died is not None and s.bytes else 0)
    ]


def death_follows_birth(graph: StepGraph) -> list[str]:
    """No storage dies before the op that allocated it."""
    return [
        f"storage {s.id} was born at op {s.born} and died at op {s.died}"
        for s in graph.storages
        if s.died is not None and s.died < (-1 if s.born is None else s.born)
    ]


def events_match_storages(graph: StepGraph) -> list[str]:
    """An event carries its storage's bytes, and happens at the op where the storage was born or died."""
    broken = []
    for place, event in enumerate(graph.events):
        storage = graph.storages[event.storage]
        if abs(event.bytes) != storage.bytes or not event.bytes:
            broken.append(f"event {place} moves {event.bytes} bytes of storage {storage.id}, which has {storage.bytes}")
        if event.op != (storage.born if event.bytes > 0 else storage.died):
            broken.append(f"event {place} of storage {storage.id} is at op {event.op}, not where it was born or died")
    return broken


def events_are_in_order(graph: StepGraph) -> list[str]:
    """Time runs forward through the events."""
    return [
        f"event {place + 1} is at op {later.op}, after one at op {earlier.op}"
        for place, (earlier, later) in enumerate(zip(graph.events, graph.events[1:], strict=False))
        if later.op < earlier.op
    ]


def events_conserve(graph: StepGraph) -> list[str]:
    """At every event the bytes summed so far are those of the storages that are live, and never below zero."""
    live = {s.id: s.bytes for s in graph.at_start}
    total, broken = sum(live.values()), []
    for place, event in enumerate(graph.events):
        total += event.bytes
        if event.bytes > 0:
            live[event.storage] = event.bytes
        elif live.pop(event.storage, None) is None:
            broken.append(f"event {place} frees storage {event.storage}, which is not live")
        if total < 0:
            broken.append(f"event {place} leaves {total} bytes live")
    if total != sum(live.values()):
        broken.append(f"the events leave {total} bytes, and the live storages have {sum(live.values())}")
    return broken


def storages_outlive_their_use(graph: StepGraph) -> list[str]:
    """No op touches a storage after its death, or before its birth; only its own results are born with it."""
    broken = []
    for op in graph.ops:
        fresh = {t.storage for t in (*op.outputs, *op.written)}
        for t in (*op.inputs, *op.outputs):
            storage = graph.storages[t.storage]
            if storage.born is not None and storage.born > op.id - (t.storage not in fresh):
                broken.append(f"op {op.id} {op.name} uses storage {storage.id}, which is born at op {storage.born}")
            if storage.died is not None and storage.died < op.id:
                broken.append(f"op {op.id} {op.name} uses storage {storage.id}, which died at op {storage.died}")
    return broken


def tensors_fit_their_storage(graph: StepGraph) -> list[str]:
    """The last element of every tensor lies inside its storage.

    But for tensors without memory, which forward differentiation has in place of zeros.
    """
    return [
        f"op {op.id} {op.name} has a tensor that ends at byte {_end_byte(t)} of storage {t.storage}, "
        f"which has {graph.storages[t.storage].bytes}"
        for op, t in _used(graph)
        if _end_byte(t) > graph.storages[t.storage].bytes > 0
    ]


def views_own_no_storage(graph: StepGraph) -> list[str]:
    """No storage is born by an op that only makes new strides."""
    return [
        f"storage {s.id} is born by the view op {s.born} {graph.ops[s.born].name}"
        for s in graph.storages
        if s.born is not None and 0 <= s.born < len(graph.ops) and graph.ops[s.born].is_view
    ]


def gradients_follow_forward(graph: StepGraph) -> list[str]:
    """Only backward ops have a ``forward``: an earlier op of forward, or one that was run again during backward."""
    broken = []
    for op in graph.ops:
        if op.forward is None:
            continue
        if op.phase is not Phase.BACKWARD:
            broken.append(f"op {op.id} {op.name} of phase {op.phase} has a forward op")
        if not 0 <= op.forward < op.id:
            broken.append(f"op {op.id} {op.name} has op {op.forward} as its forward op, which is not an earlier one")
        elif graph.ops[op.forward].phase not in (Phase.FORWARD, Phase.BACKWARD):
            broken.append(f"op {op.id} {op.name} has a forward op of phase {graph.ops[op.forward].phase}")
    return broken


def spans_tile_the_step(graph: StepGraph) -> list[str]:
    """The spans follow each other without gap, cover all ops and events, and agree with both."""
    broken = []
    end_op, end_event = 0, 0
    for place, span in enumerate(graph.spans):
        begins = (span.first_op, span.first_event) == (end_op, end_event)
        if not begins or span.end_op < end_op or span.end_event < end_event:
            broken.append(f"span {place} does not begin where the one before it ends")
        end_op, end_event = span.end_op, span.end_event
        strangers = [op.id for op in graph.ops[span.first_op : span.end_op] if op.phase is not span.phase]
        broken += [f"span {place} of {span.phase} holds op {i} of {graph.ops[i].phase}" for i in strangers]
        events = graph.events[span.first_event : span.end_event]
        outside = [event for event in events if not span.first_op - 1 <= event.op < max(span.end_op, span.first_op)]
        broken += [f"span {place} holds an event at op {event.op}" for event in outside]
    if (end_op, end_event) != (len(graph.ops), len(graph.events)):
        broken.append(f"the spans end at op {end_op} of {len(graph.ops)} and event {end_event} of {len(graph.events)}")
    return broken


_RANK = {
    category: rank
    for rank, category in enumerate((Category.PARAMETER, Category.BUFFER, Category.OPTIMIZER_STATE, Category.INPUT))
}


def categories_agree_with_names(graph: StepGraph) -> list[str]:
    """What is named a parameter, buffer, state or input has that category, or one before it where it is also that.

    Tensors without elements share one storage, which is nobody's. A parameter's storage is named in the facts, or it
    has the name of one that was given another.
    """
    facts = graph.facts
    named = {
        Category.PARAMETER: facts.parameters,
        Category.BUFFER: facts.buffers,
        Category.OPTIMIZER_STATE: facts.state,
        Category.INPUT: facts.inputs,
    }
    broken = [
        f"{item.name} is in {category} storage {item.storage} of category {graph.storages[item.storage].category}"
        for category, items in named.items()
        for item in items
        if graph.storages[item.storage].bytes
        and _RANK.get(graph.storages[item.storage].category, len(_RANK)) > _RANK[category]
    ]
    places, names = {item.storage for item in facts.parameters}, {item.name for item in facts.parameters}
    parameters = [s for s in graph.storages if s.category is Category.PARAMETER]
    nameless = [s for s in parameters if s.id not in places and s.name not in names]
    return broken + [f"storage {s.id} is of category parameter, and no parameter is in it" for s in nameless]


REFERENCES: tuple[Law, ...] = (ids_are_places, references_exist, mutated_arguments_exist)
"""The laws that make it safe to follow an id; where they are broken the others are not asked."""

LAWS: tuple[Law, ...] = (
    storages_are_born_once,
    storages_die_at_most_once,
    death_follows_birth,
    events_match_storages,
    events_are_in_order,
    events_conserve,
    storages_outlive_their_use,
    tensors_fit_their_storage,
    views_own_no_storage,
    gradients_follow_forward,
    spans_tile_the_step,
    categories_agree_with_names,
)


def _used(graph: StepGraph) -> Iterator[tuple[Op, Tensor]]:
    return ((op, t) for op in graph.ops for t in (*op.inputs, *op.outputs))


def _end_byte(t: Tensor) -> int:
    """The first byte after the last element; 0 for a tensor without elements."""
    if not t.numel:
        return 0
    last = t.offset + sum((size - 1) * stride for size, stride in zip(t.shape, t.strides, strict=True))
    return (last + 1) * t.itemsize
