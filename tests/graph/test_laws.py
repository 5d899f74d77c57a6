"""Each law: a legal graph obeys it, and a graph that breaks it in one place is told so in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from foretrace.graph import Category, Event, Named, Op, Phase, Span, StepGraph, Tensor, laws
from handmade import perceptron

LEGAL = perceptron(layers=2, batch=4, width=8)
FIRST_MM = next(op for op in LEGAL.ops if op.name == "aten.mm.default")
GRADIENT_MM = next(op for op in LEGAL.ops if op.name == "aten.mm.default" and op.phase is Phase.BACKWARD)
PRODUCT = LEGAL.storages[FIRST_MM.outputs[0].storage]
WEIGHT = LEGAL.storages[0]


def with_op(op: Op, **changes: object) -> StepGraph:
    ops = list(LEGAL.ops)
    ops[op.id] = replace(op, **changes)
    return replace(LEGAL, ops=tuple(ops))


def with_storage(place: int, **changes: object) -> StepGraph:
    storages = list(LEGAL.storages)
    storages[place] = replace(storages[place], **changes)
    return replace(LEGAL, storages=tuple(storages))


def with_span(place: int, **changes: object) -> StepGraph:
    spans = list(LEGAL.spans)
    spans[place] = replace(spans[place], **changes)
    return replace(LEGAL, spans=tuple(spans))


def with_facts(**changes: object) -> StepGraph:
    return replace(LEGAL, facts=replace(LEGAL.facts, **changes))


def with_events(*events: Event) -> StepGraph:
    return replace(LEGAL, events=events)


def grown(t: Tensor) -> Tensor:
    return t._replace(offset=t.offset + 1)


BIRTH = next(i for i, event in enumerate(LEGAL.events) if event.storage == PRODUCT.id)
DEATH = BIRTH + 2

BROKEN: list[tuple[laws.Law, StepGraph, list[str]]] = [
    (laws.ids_are_places, with_op(FIRST_MM, id=7), ["op at place 1 has id 7"]),
    (laws.ids_are_places, with_storage(3, id=0), ["storage at place 3 has id 0"]),
    (
        laws.references_exist,
        with_op(FIRST_MM, result=FIRST_MM.result._replace(storage=99)),
        ["op 1 aten.mm.default refers to storage 99"],
    ),
    (laws.references_exist, with_events(Event(0, 77, 4)), ["event 0 refers to storage 77"]),
    (laws.references_exist, with_facts(buffers=(Named("b", 66, (), "int64"),)), ["b refers to storage 66"]),
    (
        laws.mutated_arguments_exist,
        with_op(FIRST_MM, mutates=("out",)),
        ["op 1 aten.mm.default mutates 'out', which it was not given"],
    ),
    (
        laws.storages_are_born_once,
        with_events(*LEGAL.events[:BIRTH], *LEGAL.events[BIRTH + 1 :]),
        ["storage 7 (128 bytes, born 1) has 0 birth events"],
    ),
    (
        laws.storages_are_born_once,
        with_events(Event(-1, 0, 256), *LEGAL.events),
        ["storage 0 (256 bytes, born None) has 1 birth events"],
    ),
    (
        laws.storages_die_at_most_once,
        with_events(*LEGAL.events, LEGAL.events[DEATH]),
        ["storage 7 (128 bytes, died 2) has 2 death events"],
    ),
    (laws.death_follows_birth, with_storage(7, died=0), ["storage 7 was born at op 1 and died at op 0"]),
    (
        laws.events_match_storages,
        with_events(Event(1, 7, 100)),
        ["event 0 moves 100 bytes of storage 7, which has 128"],
    ),
    (
        laws.events_match_storages,
        with_events(Event(1, 7, 0)),
        [
            "event 0 moves 0 bytes of storage 7, which has 128",
            "event 0 of storage 7 is at op 1, not where it was born or died",
        ],
    ),
    (
        laws.events_match_storages,
        with_events(Event(4, 7, 128)),
        ["event 0 of storage 7 is at op 4, not where it was born or died"],
    ),
    (
        laws.events_are_in_order,
        with_events(Event(4, 7, 128), Event(3, 8, 128)),
        ["event 1 is at op 3, after one at op 4"],
    ),
    (
        laws.events_conserve,
        with_events(Event(1, 7, -128)),
        ["event 0 frees storage 7, which is not live", "the events leave 1536 bytes, and the live storages have 1664"],
    ),
    (
        laws.events_conserve,
        with_events(Event(1, 0, -2000)),
        ["event 0 leaves -336 bytes live", "the events leave -336 bytes, and the live storages have 1408"],
    ),
    (
        laws.storages_outlive_their_use,
        with_storage(7, died=1),
        ["op 2 aten.relu.default uses storage 7, which died at op 1"],
    ),
    (
        laws.storages_outlive_their_use,
        with_storage(7, born=2, died=2),
        [
            "op 1 aten.mm.default uses storage 7, which is born at op 2",
            "op 2 aten.relu.default uses storage 7, which is born at op 2",
        ],
    ),
    (
        laws.tensors_fit_their_storage,
        with_op(FIRST_MM, result=grown(FIRST_MM.result)),
        ["op 1 aten.mm.default has a tensor that ends at byte 132 of storage 7, which has 128"],
    ),
    (laws.views_own_no_storage, with_storage(7, born=0), ["storage 7 is born by the view op 0 aten.t.default"]),
    (
        laws.gradients_follow_forward,
        with_op(FIRST_MM, forward=0),
        ["op 1 aten.mm.default of phase forward has a forward op"],
    ),
    (
        laws.gradients_follow_forward,
        with_op(GRADIENT_MM, forward=GRADIENT_MM.id),
        ["op 11 aten.mm.default has op 11 as its forward op, which is not an earlier one"],
    ),
    (
        laws.gradients_follow_forward,
        with_op(LEGAL.ops[4], phase=Phase.ZERO_GRAD),
        [f"op {op.id} {op.name} has a forward op of phase zero_grad" for op in LEGAL.ops if op.forward == 4],
    ),
    (laws.spans_tile_the_step, with_span(1, first_op=8), ["span 1 does not begin where the one before it ends"]),
    (
        laws.spans_tile_the_step,
        with_op(FIRST_MM, phase=Phase.OPTIMIZER),
        ["span 0 of forward holds op 1 of optimizer"],
    ),
    (
        laws.spans_tile_the_step,
        with_events(Event(20, 7, 128), *LEGAL.events[1:]),
        ["span 0 holds an event at op 20"],
    ),
    (
        laws.spans_tile_the_step,
        replace(LEGAL, spans=LEGAL.spans[:-1]),
        ["the spans end at op 20 of 20 and event 23 of 26"],
    ),
    (
        laws.spans_tile_the_step,
        replace(LEGAL, spans=(*LEGAL.spans, Span(Phase.FORWARD, 20, 19, 26, 26))),
        ["span 4 does not begin where the one before it ends", "the spans end at op 19 of 20 and event 26 of 26"],
    ),
    (
        laws.categories_agree_with_names,
        with_storage(6, category=Category.TEMPORARY),
        ["x is in input storage 6 of category temporary"],
    ),
    (
        laws.categories_agree_with_names,
        with_facts(parameters=LEGAL.facts.parameters[1:]),
        ["storage 0 is of category parameter, and no parameter is in it"],
    ),
]


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_a_legal_graph_breaks_no_law(layers: int) -> None:
    laws.check(perceptron(layers=layers))


@pytest.mark.parametrize(("law", "graph", "violations"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_law_is_told(law: laws.Law, graph: StepGraph, violations: list[str]) -> None:
    assert law(graph) == violations
    with pytest.raises(AssertionError) as raised:
        laws.check(graph)
    assert f"{law.__name__}: {violations[0]}" in raised.value.violations


def test_every_law_is_broken_once_above() -> None:
    assert {law for law, _, _ in BROKEN} == {*laws.REFERENCES, *laws.LAWS}


def test_every_law_says_what_it_is() -> None:
    assert all(isinstance(law, Callable) and law.__doc__ for law in (*laws.REFERENCES, *laws.LAWS))


def test_a_long_list_of_violations_is_cut_in_the_message_only() -> None:
    error = laws.LawBroken([f"violation {i}" for i in range(25)])
    assert str(error).splitlines()[-1] == "and 5 more"
    assert len(error.violations) == 25


def test_a_parameter_that_is_also_an_input_stays_a_parameter() -> None:
    laws.check(with_facts(inputs=(*LEGAL.facts.inputs, LEGAL.facts.parameters[0])))


def test_storages_without_bytes_have_no_events() -> None:
    empty = replace(PRODUCT, id=len(LEGAL.storages), bytes=0)
    laws.check(replace(LEGAL, storages=(*LEGAL.storages, empty)))
