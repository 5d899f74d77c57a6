"""What is alive at an instant, what keeps it, and what the peak would be without it."""

from __future__ import annotations

import pytest

from foretrace.costmodels import timeline
from foretrace.costmodels.story import instant, story
from foretrace.costmodels.timeline import START
from foretrace.graph import Category, ForetraceError, StepGraph
from handmade import perceptron


@pytest.fixture(scope="module")
def graph() -> StepGraph:
    return perceptron(3, 16, 64)


def test_the_groups_are_the_holders_of_the_peak(graph: StepGraph) -> None:
    found = timeline(graph)
    told = story(found, most=1_000)
    assert told.live_bytes == found.peak_bytes == sum(row.holder.bytes for row in told.kept)
    assert told.op is graph.ops[found.peak_op]


def test_without_a_group_the_peak_is_that_of_a_step_that_never_allocates_it(graph: StepGraph) -> None:
    found = timeline(graph)
    for row in story(found, most=1_000).kept:
        gone = {
            s.id
            for s in found.peak_storages
            if s.category is row.holder.category
            and s.bytes == row.holder.bytes_each
            and _line(graph, s.id) == row.holder.source
        }
        if len(gone) != row.holder.count:
            continue  # another module made some that are alike
        live = sum(s.bytes for s in graph.at_start if s.id not in gone)
        peak = live
        for event in graph.events:
            live += event.bytes if event.storage not in gone else 0
            peak = max(peak, live)
        assert row.without.peak_bytes == peak


def _line(graph: StepGraph, storage: int) -> object:
    born = graph.storages[storage].born
    return graph.ops[born].source if born is not None and born >= 0 else None


def test_what_keeps_a_storage_is_said_by_its_category(graph: StepGraph) -> None:
    end_of_forward = story(timeline(graph), "forward", most=1_000)
    kept = {row.holder.category: row.kept_by for row in end_of_forward.kept}
    assert kept[Category.PARAMETER] == "the module"
    assert kept[Category.OPTIMIZER_STATE] == "the optimizer"
    assert kept[Category.SAVED] == "autograd, which saved it for backward"
    readers = [row.reader for row in end_of_forward.kept if row.holder.category is Category.SAVED]
    assert all(reader is not None and reader.phase == "backward" for reader in readers)


def test_instants_have_names(graph: StepGraph) -> None:
    found = timeline(graph)
    assert instant(found, "peak") == found.peak_event
    assert instant(found, "start") == START
    forward = next(span for span in graph.spans if span.phase == "forward")
    assert instant(found, "forward") == forward.end_event - 1
    assert graph.events[instant(found, str(found.peak_op))].op == found.peak_op
    with pytest.raises(ForetraceError, match="no instant 'noon'"):
        instant(found, "noon")
