"""What changes of a step would save: told from its trace, or from another one."""

from __future__ import annotations

import re
from dataclasses import replace
from math import ceil
from pathlib import Path

import pytest

from foretrace import ForetraceError, price
from foretrace.costmodels import timeline
from foretrace.costmodels.edits import eight_bit_state, resized
from foretrace.graph import StepGraph
from foretrace.graph.laws import events_conserve, spans_tile_the_step
from foretrace.report import to_html
from foretrace.report.what_if import TRACED, what_if, what_if_table
from handmade import perceptron

TOY = Path(__file__).parents[1] / "support" / "toy.toml"


def test_state_in_8_bits_is_a_byte_a_number_and_a_scale_for_256() -> None:
    graph = perceptron(3, 16, 64)
    edited = eight_bit_state(graph)
    assert edited is not None
    numbers = 64 * 64  # of each of two moments of each of three layers
    saved = 6 * (4 * numbers - numbers - 4 * ceil(numbers / 256))
    assert timeline(graph).start_bytes - timeline(edited).start_bytes == saved
    assert eight_bit_state(perceptron(3, 16, 32)) is None  # below 4,096 numbers each


def test_a_storage_of_no_bytes_has_no_events() -> None:
    graph = perceptron(2, 4, 64)
    born = [s.id for s in graph.storages if s.born is not None]
    edited = resized(graph, dict.fromkeys(born, 0))
    assert edited.events == () and timeline(edited).peak_bytes == timeline(graph).start_bytes
    half = resized(graph, {s: graph.storages[s].bytes // 2 for s in born})
    assert events_conserve(half) == spans_tile_the_step(half) == []


def test_changes_come_largest_saving_first_and_the_others_with_a_reason() -> None:
    smaller, larger = perceptron(3, 16, 512), perceptron(3, 16, 1536)

    def again(**options: str) -> StepGraph:
        if "autocast" in options:
            return smaller
        if options["variant"] == "checkpointed":
            raise ForetraceError("the module has no repeated blocks to checkpoint", "Checkpoint by hand.")
        return larger if options["variant"] == "zeroed-gradients" else perceptron(3, 16, 1024)

    report = price(perceptron(3, 16, 1024), on=TOY)
    found = what_if(report, again)
    saved = [change.saved_bytes for change in found.changes]
    assert saved == sorted(saved, reverse=True)
    by_name = {change.name: change for change in found.changes}
    assert report.device_memory is not None
    changed = price(smaller, on=TOY).device_memory
    assert changed is not None
    assert by_name["bfloat16 autocast"].allocated_peak_bytes == changed.allocated_peak_bytes
    assert by_name["gradients kept as zeros"].saved_bytes < 0
    assert found.left_out["each block checkpointed"] == "the module has no repeated blocks to checkpoint"
    assert found.left_out["fused optimizer"] == found.left_out["fused attention"] == "the step does so already"
    text = what_if_table(found)
    assert all(len(line) <= 80 for line in text.splitlines())


def test_a_saved_trace_tells_what_it_can() -> None:
    found = what_if(price(perceptron(3, 16, 64), on=TOY))
    assert {change.name for change in found.changes} == {"8-bit optimizer state", "expandable segments"}
    assert set(TRACED) <= set(found.left_out)


def test_a_step_for_the_cpu_has_no_what_ifs() -> None:
    graph = perceptron()
    with pytest.raises(ForetraceError, match="for CUDA"):
        what_if(price(replace(graph, facts=replace(graph.facts, device="cpu")), on=TOY))


def test_the_page_has_the_same_table() -> None:
    report = price(perceptron(), on=TOY)
    found = what_if(report)
    page = to_html(report, what_if=found)
    section = page.split("<section id=what-if")[1].split("</section>")[0]
    assert re.findall(r"<th scope=row>([^<]+)</th>", section) == [change.name for change in found.changes]
    values = [int(value) for value in re.findall(r"<data value='(-?\d+)' ", section)]
    figures = [(c.saved_bytes, c.allocated_peak_bytes, c.reserved_peak_bytes) for c in found.changes]
    assert values == [count for row in figures for count in row]
    assert all(name in section for name in found.left_out)
    assert "id=what-if" not in to_html(report)
