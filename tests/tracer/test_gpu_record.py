"""CUDA traces against real GPUs' records: every allocation of a training step of 3.4 billion parameters, in order."""

from __future__ import annotations

import gzip
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from foretrace.graph import StepGraph
from foretrace.hardware.profile import load
from foretrace.hardware.recording import start
from foretrace.hardware.replay import BEFORE, requests
from foretrace.hardware.requests import Free, Malloc
from foretrace.hardware.script import Extra, Extras, Lasting, Scratch
from foretrace.hardware.workspaces import extras
from foretrace.tracer import Step, trace
from memory_history import read
from transformer_on_gpu import recorded_step

DATA = Path(__file__).parents[1] / "data"
RTX_PRO_6000 = replace(load("a100-sxm4-80gb"), compute_capability="12.0", sm_count=188)
"""What kernels ask about on the GPU of the recorded steps. There cuBLAS's workspace had its usual 8,519,680 bytes."""


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


def asked(graph: StepGraph, extras: Extras | None = None, *, steps: int = 3) -> list[int]:
    """What the last of some steps asks for, births positive and deaths negative; not what is live when it begins."""
    held: dict[object, int] = {}
    found = []
    for request, place in requests([graph] * steps, extras):
        if isinstance(request, Malloc):
            held[request.key] = request.bytes
            if place.step == steps - 1 and place.op != BEFORE:
                found.append(request.bytes)
        elif (
            isinstance(request, Free) and place.step == steps - 1 and (place.op != BEFORE or place.storage is not None)
        ):
            found.append(-held[request.key])
    return found


def births(sizes: list[int]) -> list[int]:
    return [size for size in sizes if size > 0]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def step(request: pytest.FixtureRequest) -> tuple[StepGraph, list[int]]:
    """The trace and the recorded sizes."""
    graph = trace(lambda: recorded_step(128, request.param == "bfloat16"), device="cuda")
    return graph, recorded(f"full_step_{request.param}")


@pytest.fixture
def both(step: tuple[StepGraph, list[int]]) -> tuple[list[int], list[int]]:
    """What storages ask for, without what kernels take inside, and the recorded sizes."""
    return asked(step[0], steps=1), step[1]


def test_every_allocation_comes_in_order_with_its_size(step: tuple[StepGraph, list[int]]) -> None:
    graph, real = step
    assert births(asked(graph, extras(RTX_PRO_6000))) == births(real)


def test_what_sorts_the_indices_is_given_back_as_recorded(step: tuple[StepGraph, list[int]]) -> None:
    inside = [4096, 4096, -4096, 4096, 4096, 4096, 1, -1, -4096, -4096, -4096, -4096]
    for sizes in (asked(step[0], extras(RTX_PRO_6000)), step[1]):
        place = sizes.index(1)
        assert sizes[place - 6 : place + 6] == inside


def test_a_longer_context_lets_blocks_meet_in_memory() -> None:
    graph = trace(lambda: recorded_step(512, False), device="cuda")
    of = extras(RTX_PRO_6000)
    taken: Counter[Extra] = Counter(extra for op in graph.ops if op.packet == "aten.sum" for extra in of(op))
    assert {extra: count for extra, count in taken.items() if isinstance(extra, Scratch)} == {
        # One sum of 2048 rows of 2560 for each of the 65 norms, as a GPU's record of that step has them.
        Scratch(40 << 20, "partial results"): 65,
        Scratch(80, "semaphores"): 65,
    }


def test_cublas_keeps_one_workspace_for_each_thread(step: tuple[StepGraph, list[int]]) -> None:
    of = extras(RTX_PRO_6000)
    kept = {extra for op in step[0].ops for extra in of(op) if isinstance(extra, Lasting)}
    assert [extra.bytes for extra in kept] == [8_519_680] * 2
    _, segments = read("xl_ctx128_full_step_none")
    blocks = [block for segment in segments for block in segment.blocks if block.requested_bytes == 8_519_680]
    assert len(blocks) == 2


def linear_three_times() -> Step:
    def step(model: nn.Module, optimizer: object, inputs: object) -> None:
        for _ in range(3):
            inputs = torch.randn(5_000, 10_000, device="cuda")
            outputs = model(inputs)
        del outputs

    return Step(nn.Linear(10_000, 50_000), (), step=step, optimizer=None)


def test_a_linear_layer_from_the_first_allocation_on() -> None:
    """Recorded before cuBLASLt worked in cuBLAS's workspace, on a GPU whose workspace has 32 MiB."""
    graph = trace(linear_three_times, device="cuda", warmup=0)
    predicted = asked(graph, extras(load("h100-sxm5-80gb"), cublaslt="passing"), steps=1)
    events, _ = read("linear_grad")
    real = [e.bytes if e.action == "alloc" else -e.bytes for e in events if e.action != "segment_alloc"]
    parameters, step = real[:2], real[2:]
    assert parameters == [2_000_000_000, 200_000]
    assert predicted[: len(step)] == step


@pytest.mark.parametrize("name", RECORDED)
def test_the_record_is_what_the_accuracy_page_says_it_is(name: str) -> None:
    sizes = recorded(f"full_step_{name}")
    assert (sum(size > 0 for size in sizes), peak(sizes)) == RECORDED[name]


def test_the_peak_above_the_start_is_the_gpus_to_the_byte(both: tuple[list[int], list[int]]) -> None:
    assert peak(both[0]) == peak(both[1])
    assert sum(both[0]) == sum(both[1]) == 0


Live = tuple[Counter[int], dict[int, int]]
"""What is alive at the peak: of what was there before, how many of each size; of the step's own, number -> bytes."""


def live_at_peak(actions: list[tuple[object, int]], before: dict[object, int]) -> Live:
    """Of births (their bytes) and deaths (0) by key, and what was alive before, the set at the first highest sum."""
    held: dict[object, tuple[int | None, int]] = {key: (None, size) for key, size in before.items()}
    total = highest = sum(before.values())
    born, best = 0, dict(held)
    for key, size in actions:
        if not size:
            total -= held.pop(key)[1]
            continue
        held[key], total, born = (born, size), total + size, born + 1
        if total > highest:
            highest, best = total, dict(held)
    there = Counter(size for number, size in best.values() if number is None)
    return there, {number: size for number, size in best.values() if number is not None}


def predicted_at_peak(graph: StepGraph) -> Live:
    before: dict[object, int] = {}
    actions: list[tuple[object, int]] = []
    for request, place in requests([graph] * 3, extras(RTX_PRO_6000)):
        counted = place.step == 2 and (place.op != BEFORE or (isinstance(request, Free) and place.storage is not None))
        if isinstance(request, Malloc):
            if counted:
                actions.append((request.key, request.bytes))
            else:
                before[request.key] = request.bytes
        elif isinstance(request, Free):
            if counted:
                actions.append((request.key, 0))
            else:
                del before[request.key]
    return live_at_peak(actions, before)


def recorded_at_peak(name: str) -> Live:
    events, end = read(name)
    before: dict[object, int] = {}
    for segment in start(events, end):
        address = segment.address
        for block in segment.blocks:
            if block.requested_bytes:
                before[address] = block.requested_bytes
            address += block.bytes
    sizes = {"alloc": True, "free_completed": False}
    actions = [(e.address, e.bytes if sizes[e.action] else 0) for e in events if e.action in sizes]
    return live_at_peak(actions, before)


HISTORIES = {4872: "xl_ctx128_full_step_none", 6158: "xl_ctx128_full_step_bf16"}
"""The same steps with addresses, by their number of allocations."""


def test_what_is_alive_at_the_peak_is_the_gpus_one_by_one(step: tuple[StepGraph, list[int]]) -> None:
    """The same births of the step by their number, each with its size, and as much of every size from before it."""
    (there, made), (really_there, really_made) = (
        predicted_at_peak(step[0]),
        recorded_at_peak(HISTORIES[len(births(step[1]))]),
    )
    assert made == really_made
    assert there == really_there
    assert (there.total(), len(made)) == (878, 584)
