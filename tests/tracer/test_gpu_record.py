"""A CUDA trace against a real GPU's record: every allocation of a training step of 3.4 billion parameters, in order."""

from __future__ import annotations

import gzip
from difflib import SequenceMatcher
from pathlib import Path

import pytest

from foretrace.graph import StepGraph
from foretrace.tracer import trace
from transformer_on_gpu import recorded_step

DATA = Path(__file__).parents[1] / "data"
KERNEL_INTERNAL = [4096, 4096, 4096, 4096, 4096, 1]
"""What the embedding's gradient (``index_put_`` with accumulation) takes inside, to sort the indices."""


RECORDED = {"float32": (4872, 13_647_718_404), "bfloat16": (6158, 13_637_478_404)}
"""Allocations of the record, and its peak above the start in bytes."""


def recorded(name: str) -> list[int]:
    return [int(line) for line in gzip.decompress((DATA / f"{name}.txt.gz").read_bytes()).split()]


def peak(sizes: list[int]) -> int:
    live = highest = 0
    for size in sizes:
        live += size
        highest = max(highest, live)
    return highest


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def both(request: pytest.FixtureRequest) -> tuple[list[int], list[int]]:
    """Predicted and recorded sizes, births positive and deaths negative."""
    graph: StepGraph = trace(lambda: recorded_step(128, request.param == "bfloat16"), device="cuda")
    on_gpu = [event.bytes for event in graph.events if graph.storages[event.storage].device != "cpu"]
    return on_gpu, recorded(f"full_step_{request.param}")


def test_every_allocation_comes_in_order_with_its_size(both: tuple[list[int], list[int]]) -> None:
    predicted, real = ([size for size in sizes if size > 0] for sizes in both)
    missing, surplus = [], []
    for tag, a, b, c, d in SequenceMatcher(None, predicted, real, autojunk=False).get_opcodes():
        if tag != "equal":
            surplus += predicted[a:b]
            missing += real[c:d]
    assert surplus == []
    assert missing == KERNEL_INTERNAL


@pytest.mark.parametrize("name", RECORDED)
def test_the_record_is_what_the_accuracy_page_says_it_is(name: str) -> None:
    sizes = recorded(f"full_step_{name}")
    assert (sum(size > 0 for size in sizes), peak(sizes)) == RECORDED[name]


def test_the_peak_above_the_start_is_the_gpus_to_the_byte(both: tuple[list[int], list[int]]) -> None:
    assert peak(both[0]) == peak(both[1])
    assert sum(both[0]) == sum(both[1]) == 0
