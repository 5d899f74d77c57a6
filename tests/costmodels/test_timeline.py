"""The timeline: every number against a plain replay of births and deaths."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from foretrace.costmodels import PhaseMemory, timeline
from foretrace.costmodels.timeline import START
from foretrace.graph import Category, Event, Facts, Phase, Span, StepGraph, Storage
from handmade import Script, perceptron

BYTES = 4 * 4 * 8
"""One activation of the perceptron below."""
WEIGHT = 4 * 8 * 8


def small() -> StepGraph:
    return perceptron(layers=2, batch=4, width=8)


def test_a_perceptron_step_by_hand():
    found = timeline(small())
    start = 2 * 3 * WEIGHT + BYTES  # two weights with two averages each, and the input
    gradients, roots, loss = 2 * WEIGHT, 2 * WEIGHT, 4
    assert found.start_bytes == start
    assert found.phases == {
        # the second product while the first activation is saved and the second being written
        Phase.FORWARD: PhaseMemory(start + 3 * BYTES, start + 2 * BYTES + loss),
        # a weight's gradient, the masked gradient, and the gradient of its input, with one activation saved
        Phase.BACKWARD: PhaseMemory(start + loss + WEIGHT + 3 * BYTES, start + loss + gradients),
        Phase.OPTIMIZER: PhaseMemory(start + loss + gradients + roots, start + loss + gradients),
        Phase.ZERO_GRAD: PhaseMemory(start + loss + gradients, start),
    }
    assert (found.peak_bytes, found.end_bytes) == (start + loss + gradients + roots, start)
    assert found.saved_for_backward_bytes == 2 * BYTES
    assert found.activation_bytes == 2 * BYTES + loss


def test_the_peak_is_the_first_event_that_reaches_it():
    graph = small()
    found = timeline(graph)
    assert graph.ops[found.peak_op].name == "aten._foreach_sqrt.default"
    assert found.live_bytes[found.peak_event] == found.peak_bytes > max(found.live_bytes[: found.peak_event])


def test_shares_at_the_peak_name_every_category_and_add_up():
    found = timeline(small())
    assert set(found.at_peak) == set(Category)
    assert found.at_peak[Category.PARAMETER] == 2 * WEIGHT
    assert found.at_peak[Category.OPTIMIZER_STATE] == 4 * WEIGHT
    assert found.at_peak[Category.GRADIENT] == 2 * WEIGHT
    assert found.at_peak[Category.TEMPORARY] == 2 * WEIGHT + 4
    assert sum(found.at_peak.values()) == found.peak_bytes


def test_live_sets_have_the_bytes_that_the_column_says():
    found = timeline(small())
    assert sum(s.bytes for s in found.live_at(START)) == found.start_bytes
    for index, live in enumerate(found.live_bytes):
        assert sum(s.bytes for s in found.live_at(index)) == live


def test_what_is_on_the_host_of_a_cuda_step_does_not_count():
    graph = small()
    host = replace(graph.storages[0], device="cpu")
    moved = replace(graph, storages=(host, *graph.storages[1:]))
    assert timeline(moved).start_bytes == timeline(graph).start_bytes - host.bytes
    assert timeline(moved).peak_bytes == timeline(graph).peak_bytes - host.bytes
    assert host not in timeline(moved).live_at(START)


def test_a_step_that_only_frees_peaks_at_its_start():
    storages = (Storage(0, 100, "cpu", Category.PARAMETER, died=0), Storage(1, 30, "cpu", Category.INPUT))
    graph = StepGraph((), storages, (Event(-1, 0, -100),), (Span(Phase.FORWARD, 0, 0, 0, 1),))
    found = timeline(graph)
    assert (found.peak_bytes, found.peak_event, found.peak_op, found.end_bytes) == (130, -1, -1, 30)
    assert found.phases == {Phase.FORWARD: PhaseMemory(130, 30)}
    assert found.at_peak[Category.PARAMETER] == 100


def test_an_empty_step():
    found = timeline(StepGraph((), (), (), ()))
    assert (found.start_bytes, found.peak_bytes, found.end_bytes, found.activation_bytes) == (0, 0, 0, 0)
    assert found.phases == {}


def accumulation() -> StepGraph:
    """Two forwards and two backwards, the first larger; then an idle optimizer."""
    s = Script()
    held = s.held("x", (25,), Category.INPUT)
    for count in (100, 50):
        s.begin(Phase.FORWARD)
        saved = s.new((count,), Category.SAVED)
        s.call("aten.relu.default", saved, self=held)
        s.begin(Phase.BACKWARD)
        gradient = s.new((10,), Category.GRADIENT)
        s.call("aten.relu.default", gradient, self=saved)
        s.free(saved)
    s.begin(Phase.OPTIMIZER)
    return s.end(Facts(device="cuda"))


def test_several_spans_of_a_phase_have_the_highest_peak_and_the_last_end():
    found = timeline(accumulation())
    assert found.phases[Phase.FORWARD] == PhaseMemory(100 + 400, 100 + 40 + 200)
    assert found.phases[Phase.BACKWARD] == PhaseMemory(100 + 400 + 40, 100 + 80)
    assert found.phases[Phase.OPTIMIZER] == PhaseMemory(180, 180)


def test_activations_are_those_before_the_first_backward():
    assert timeline(accumulation()).activation_bytes == 400


def test_a_step_without_backward_has_the_activations_of_its_end():
    s = Script()
    s.begin(Phase.FORWARD)
    made = s.new((10,))
    s.call("aten.relu.default", made, self=s.held("x", (10,), Category.INPUT))
    assert timeline(s.end(Facts(device="cuda"))).activation_bytes == 40


@st.composite
def lives(draw: st.DrawFn) -> StepGraph:
    """Storages that are born and die at any time, some of them before the step or after it."""
    storages, moments = [], []
    for number in range(draw(st.integers(0, 8))):
        size, category = draw(st.integers(1, 1000)), draw(st.sampled_from(Category))
        born, died = sorted(draw(st.tuples(st.integers(-1, 20), st.integers(0, 21))))
        storages.append(Storage(number, size, "cuda:0", category, born if born >= 0 else None))
        if born >= 0:
            moments.append(Event(born, number, size))
        if died <= 20:
            moments.append(Event(died, number, -size))
    events = tuple(sorted(moments, key=lambda event: (event.op, event.bytes < 0)))
    cut = draw(st.integers(0, len(events)))
    spans = (Span(Phase.FORWARD, 0, 0, 0, cut), Span(Phase.BACKWARD, 0, 0, cut, len(events)))
    return StepGraph((), tuple(storages), events, spans, Facts(device="cuda"))


@given(lives())
def test_the_peak_exceeds_every_live_set_and_shares_add_up(graph: StepGraph):
    found = timeline(graph)
    sets = [sum(s.bytes for s in found.live_at(i)) for i in range(-1, len(graph.events))]
    assert [found.start_bytes, *found.live_bytes] == sets
    assert found.peak_bytes == max(sets)
    assert sum(found.at_peak.values()) == found.peak_bytes
    assert max(phase.peak_bytes for phase in found.phases.values()) == found.peak_bytes
    assert found.phases[Phase.BACKWARD].end_bytes == found.end_bytes
