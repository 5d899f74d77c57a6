"""The fit of the host's constants finds what made the times that it is given, and a run is what the queue says."""

from __future__ import annotations

import numpy as np
import pytest
from fit_host import SHARE, Launched, cost, fitted
from hypothesis import given
from hypothesis import strategies as st

from foretrace.graph.phase import Phase
from foretrace.hardware.dispatch import KINDS, Issued, run

VALUES = {kind: (place + 1) * 1e-6 for place, kind in enumerate(KINDS)} | {SHARE: 0.5, "h20": 1.0}


def row(counts: dict[str, int], profile: str = "a100", kernels: float = 0.0, measured: float = 1.0) -> Launched:
    """One op for each kind, so many times over, all of equally long kernels."""
    kinds = [kind for kind, times in counts.items() for _ in range(times)]
    recorded = np.zeros((len(kinds), len(KINDS)))
    for place, kind in enumerate(kinds):
        recorded[place, KINDS.index(kind)] = 1
    each = np.full(len(kinds), kernels)
    return Launched((profile,), profile, measured, recorded, np.zeros_like(recorded), each)


@given(st.lists(st.tuples(st.integers(0, len(KINDS) - 1), st.integers(1, 30)), min_size=1, max_size=20))
def test_a_row_takes_what_the_queue_takes(ops: list[tuple[int, int]]) -> None:
    recorded = np.zeros((len(ops), len(KINDS)))
    for place, (kind, _) in enumerate(ops):
        recorded[place, kind] = 1
    kernels = np.array([length * 1e-6 for _, length in ops])
    one = Launched(("here",), "a100", 1.0, recorded, np.zeros_like(recorded), kernels)
    issued = [Issued(Phase.FORWARD, VALUES[KINDS[kind]], length * 1e-6) for kind, length in ops]
    assert one.seconds(VALUES) == pytest.approx(run(issued).seconds)


def test_what_autograd_does_not_record_takes_its_share() -> None:
    one = row({"kernel": 4})
    alone = Launched(one.group, one.profile, 1.0, one.alone, one.recorded, one.kernels)
    assert alone.seconds(VALUES) == pytest.approx(VALUES[SHARE] * one.seconds(VALUES))


def test_the_constant_that_was_twice_as_large_is_found_and_no_other_moves() -> None:
    true = {**VALUES, "kernel": 2 * VALUES["kernel"]}
    rows = [row({"kernel": n}) for n in (10, 20)]
    rows = [Launched(r.group, r.profile, r.seconds(true), r.recorded, r.alone, r.kernels) for r in rows]
    found = fitted(rows, VALUES)
    assert found["kernel"] == pytest.approx(true["kernel"], rel=0.02)
    assert {name: value for name, value in found.items() if name != "kernel"} == {
        name: value for name, value in VALUES.items() if name != "kernel"
    }
    assert cost(rows, found) < 0.02 < cost(rows, VALUES)


def test_a_gpu_with_faster_hosts_gets_its_own_speed() -> None:
    true = {**VALUES, "h20": 1.5}
    rows = [row({"view": 10}), row({"view": 10}, "h20")]
    rows = [Launched(r.group, r.profile, r.seconds(true), r.recorded, r.alone, r.kernels) for r in rows]
    found = fitted(rows, VALUES)
    assert (found["h20"], found["view"]) == (pytest.approx(1.5, rel=0.02), VALUES["view"])
