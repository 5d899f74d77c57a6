"""Everything about a training step that is not a plain stack of layers, predicted and run for real on the CPU."""

from __future__ import annotations

import pytest
import torch

from foretrace.costmodels import timeline
from foretrace.graph import Phase
from foretrace.tracer import trace
from foretrace.tracer.measure import measure
from zoo_oddities import ODDITIES

OFF_AFTER_FORWARD = {
    "masked_select_of_data": "how much is selected depends on values, and is assumed",
}
"""The steps whose live bytes after forward are not those of a real run, and why."""


@pytest.mark.parametrize("name", ODDITIES)
def test_live_bytes_are_those_of_a_real_run(name: str) -> None:
    torch.manual_seed(0)
    step = ODDITIES[name]()
    graph = trace(step.model, step.inputs, loss=step.loss, optimizer=step.optimizer, step=step.step, device="cpu")
    torch.manual_seed(0)
    measured = measure(ODDITIES[name]())
    predicted = timeline(graph)
    ends = {phase: memory.end_bytes - predicted.start_bytes for phase, memory in predicted.phases.items()}
    assert ends[Phase.BACKWARD] == measured.ends[Phase.BACKWARD]
    assert (ends[Phase.FORWARD] == measured.ends[Phase.FORWARD]) is (name not in OFF_AFTER_FORWARD)
