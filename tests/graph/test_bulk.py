"""Making many objects without collections, and leaving the collector as it was."""

import gc

import pytest

from foretrace.graph.bulk import uncollected


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
