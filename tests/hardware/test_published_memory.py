"""A few rows of the published memory figures, small enough to trace here, with the errors they may have."""

from __future__ import annotations

import pytest

import foretrace
from foretrace.hardware import load
from memory_models import build
from memory_rows import WARMUP, Prediction, measured_bytes, rows
from memory_runs import is_of_a_run, peaks, shape_of

LIMITS = {
    ("bert-base-uncased", "4", "256", "eager", ""): 0.02,
    ("bert-base-uncased", "4", "256", "sdpa", ""): 0.02,
    ("google/electra-base-generator", "16", "64", "sdpa", ""): 0.01,
    ("facebook/opt-350m", "1", "2048", "eager", ""): 0.0001,
    ("kl_div", "", "", "", "V=4096 B=8 T=2048"): 0.0001,
    ("rms_norm", "", "", "", "H=4096 M=2048"): 0.0001,
    ("geglu", "", "", "", "T=1024 bsz=8 hidden_size=4096 intermediate_size=11008"): 0.0001,
}
"""Model, batch, sequence, attention and sizes of a row, and the error that it may have."""


@pytest.mark.parametrize(("key", "limit"), LIMITS.items(), ids=[" ".join(key) for key in LIMITS])
def test_published_peaks_are_met(key: tuple[str, ...], limit: float) -> None:
    columns = ("model", "batch", "sequence", "attention")
    (row,) = (
        row for row in rows() if (*(row[name] for name in columns), row["note"]) == key and row["kind"] == "allocated"
    )
    graph = foretrace.trace(lambda: build(row), warmup=WARMUP)
    predicted = Prediction(graph, load(row["profile"]), alone=True).bytes_of(row)
    assert predicted == pytest.approx(measured_bytes(row), rel=limit)


def test_the_shapes_of_one_process_are_met_in_their_order() -> None:
    """To a part in ten thousand, but for the one that meets a block of 1 MiB more or less."""
    run = [row for row in rows() if is_of_a_run(row) and row["model"] == "albert/albert-base-v2"]
    found = peaks(run, lambda row: foretrace.trace(lambda: build(row), warmup=WARMUP))
    errors = sorted(abs(found[shape_of(row)] / measured_bytes(row) - 1) for row in run)
    assert len(errors) == 12
    assert errors[-2] < 1e-4
    assert errors[-1] < 1e-3
