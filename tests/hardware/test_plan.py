"""Steps, batches and GPUs become days, GPU-hours and money: the textbook's question among others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from foretrace.costmodels.work import Work
from foretrace.graph.errors import ForetraceError
from foretrace.graph.phase import Phase
from foretrace.graph.step_graph import Named
from foretrace.hardware import Span, estimate, load
from foretrace.hardware.plan import assumed, batch_of, modelled, run_of, textbook, tokens_of
from handmade import perceptron

STEP = replace(
    estimate([], load("a100-sxm4-80gb")),
    phases={
        Phase.FORWARD: Span(0.1, 0.05, 0.2),
        Phase.BACKWARD: Span(0.2, 0.1, 0.4),
        Phase.OPTIMIZER: Span(0.03, 0.02, 0.04),
        Phase.ZERO_GRAD: Span(0.01, 0.01, 0.01),
    },
    peak_flops_per_second=1e12,
)


def test_the_textbook_answer_is_thousands_of_days() -> None:
    run = run_of(steps=400_000, global_batch=1024, micro_batch=1, gpus=1)
    way = textbook(run, 1_635_537_600, 1024, 19.5e12, 0.5)
    assert way.flops == 6 * 1_635_537_600 * 1024 * 1024 * 400_000
    assert way.days == pytest.approx(6 * 1_635_537_600 * 1024 * 1024 * 400_000 / 9.75e12 / 86_400)
    assert 4_800 < way.days < 4_900


def test_micro_batches_repeat_forward_and_backward_only() -> None:
    run = run_of(steps=10, global_batch=64, micro_batch=4, gpus=2)
    way = modelled(run, STEP, Work(tensor_flops=10**10))
    assert run.accumulated == 8
    assert way.seconds == pytest.approx(10 * (8 * (0.1 + 0.2) + 0.03 + 0.01))
    assert way.low_seconds == pytest.approx(10 * (8 * (0.05 + 0.1) + 0.02 + 0.01))
    assert way.high_seconds == pytest.approx(10 * (8 * (0.2 + 0.4) + 0.04 + 0.01))
    assert way.flops == 10 * 16 * 10**10
    assert way.mfu == pytest.approx(16 * 10**10 / (2.44 * 2 * 1e12))
    assert way.gpu_hours == pytest.approx(24.4 * 2 / 3600)
    assert way.cost(3.0) == pytest.approx(24.4 * 2 / 3600 * 3)


def test_an_assumed_mfu_needs_no_model() -> None:
    way = assumed(run_of(steps=5, global_batch=8, micro_batch=8, gpus=1), Work(tensor_flops=10**12), 1e13, 0.25)
    assert way.seconds == pytest.approx(5 * 10**12 / (0.25 * 1e13))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"steps": 0}, "--steps is 0"),
        ({"gpus": -1}, "--gpus is -1"),
        ({"global_batch": 100}, "no whole number of micro-batches of 8 on 4 GPUs"),
    ],
)
def test_an_impossible_run_is_refused(changed: dict[str, int], said: str) -> None:
    asked = {"steps": 10, "global_batch": 64, "micro_batch": 8, "gpus": 4} | changed
    with pytest.raises(ForetraceError) as caught:
        run_of(**asked)
    assert said in caught.value.message and caught.value.mend


@pytest.mark.parametrize("mfu", [0.0, -0.1, 1.1])
def test_an_impossible_mfu_is_refused(mfu: float) -> None:
    with pytest.raises(ForetraceError, match="--mfu"):
        assumed(run_of(steps=1, global_batch=1, micro_batch=1, gpus=1), Work(), 1e12, mfu)


def test_batch_and_tokens_follow_from_the_inputs() -> None:
    graph = perceptron(layers=1, batch=4, width=8)
    assert (batch_of(graph), tokens_of(graph)) == (4, None)

    def having(*inputs: Named) -> object:
        changed = replace(graph, facts=replace(graph.facts, inputs=inputs))
        return batch_of(changed), tokens_of(changed)

    ids = Named("ids", 0, (4, 16), "int64")
    assert having(ids, Named("mask", 0, (4,), "bool"), Named("rate", 0, (), "float32")) == (4, 64)
    assert having(ids, Named("other", 0, (5, 16), "int64")) == (None, 64)
