"""The oddities and the unusual models again, for a GPU: each is traced, priced and reported, or refused by name."""

from __future__ import annotations

import pytest
import torch

from foretrace.graph import ForetraceError
from foretrace.report import price
from foretrace.tracer import trace
from zoo_oddities import ODDITIES
from zoo_unusual import UNUSUAL

WRAPPED = "a NestedTensor wraps other tensors, which a trace for CUDA cannot follow"
REFUSED = {
    "jagged_nested_tensors": WRAPPED,
    "nested_padded": WRAPPED,
    "sparse_rows": r"aten\._to_sparse_csr\.default cannot be traced at",
}


@pytest.mark.parametrize("name", {**ODDITIES, **UNUSUAL})
def test_a_report_for_a_gpu(name: str) -> None:
    torch.manual_seed(0)
    step = {**ODDITIES, **UNUSUAL}[name]()
    how = {"loss": step.loss, "optimizer": step.optimizer, "step": step.step, "device": "cuda"}
    if name in REFUSED:
        with pytest.raises(ForetraceError, match=REFUSED[name]):
            trace(step.model, step.inputs, **how)
        return
    report = price(trace(step.model, step.inputs, **how), on="a100-sxm4-80gb")
    assert report.device_memory is not None
    assert report.device_memory.allocated_peak_bytes >= report.parameters.bytes
    assert "fits           yes" in str(report)
