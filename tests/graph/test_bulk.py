"""Making many objects: from columns, and without collections, the collector left as it was."""

import gc

import pytest

from foretrace.graph import Event, Op
from foretrace.graph.bulk import of_columns, uncollected
from foretrace.graph.op import ops_of
from handmade import perceptron


@pytest.fixture(autouse=True)
def collector():
    enabled = gc.isenabled()
    yield
    gc.unfreeze()
    (gc.enable if enabled else gc.disable)()


def test_no_collection_starts_and_none_looks_at_what_was_made():
    started = []

    def note(when: str, about: dict[str, int]) -> None:
        started.append(when)

    gc.enable()
    gc.callbacks.append(note)
    try:
        with uncollected():
            made = [[] for _ in range(100_000)]
            assert not gc.isenabled()
        assert gc.isenabled() and started == []
        assert gc.get_count()[0] < 10_000
    finally:
        gc.callbacks.remove(note)
    assert len(made) == 100_000 and gc.get_freeze_count() == 0


def test_a_collector_that_is_off_stays_off_and_errors_pass():
    gc.disable()
    with pytest.raises(KeyError), uncollected():
        raise KeyError
    assert not gc.isenabled()


def test_what_a_program_has_frozen_stays_frozen():
    gc.enable()
    gc.freeze()
    frozen = gc.get_freeze_count()
    with uncollected():
        pass
    assert frozen > 0 and gc.get_freeze_count() >= frozen - 1_000


def test_objects_from_columns_are_those_of_the_class():
    made = of_columns(Event, 3, op=(0, 1, 2), storage=[4, 5, 6], bytes=range(7, 10))
    assert made == [Event(0, 4, 7), Event(1, 5, 8), Event(2, 6, 9)]
    assert of_columns(Event, 0, op=(), storage=(), bytes=()) == []


def test_columns_that_are_short_or_missing():
    with pytest.raises(ValueError, match="2 of 3 values for storage"):
        of_columns(Event, 3, op=(0, 1, 2), storage=(4, 5), bytes=(7, 8, 9))
    with pytest.raises(TypeError, match="Event has other fields than op, storage"):
        of_columns(Event, 1, op=(0,), storage=(4,))


def test_ops_from_columns_are_those_of_the_class():
    ops = perceptron().ops
    names = [name for name in Op.__slots__ if name not in ("id", "inputs", "outputs")]
    made = ops_of(**{name: [getattr(op, name) for op in ops] for name in names})
    assert made == ops and len(ops) > 5
    assert [(op.inputs, op.outputs) for op in made] == [(op.inputs, op.outputs) for op in ops]
