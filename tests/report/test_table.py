"""The screen: 80 columns whatever the names, and what it says when there is something to doubt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from foretrace import price
from foretrace.graph import Source, StepGraph
from foretrace.report import to_table
from foretrace.report.layout import Rows, terminal_width
from foretrace.report.tree import tree_table
from handmade import perceptron

TOY = Path(__file__).parents[1] / "support" / "toy.toml"
NAMES = st.text(st.characters(codec="ascii", exclude_characters="\0", categories=["L", "N"]), max_size=90)


def renamed(graph: StepGraph, module: str, file: str) -> StepGraph:
    source = Source(f"{file}.py", 123_456, "forward")
    return replace(graph, ops=tuple(replace(op, module=module, source=source) for op in graph.ops))


@settings(max_examples=40, deadline=None)
@example(module="0", file="_" * 20, layers=3)
@given(module=NAMES, file=st.text("abc_/", max_size=20), layers=st.integers(1, 4))
def test_eighty_columns(module: str, file: str, layers: int) -> None:
    text = to_table(price(renamed(perceptron(layers, 4, 64), f"h.0.{module}", file), on=TOY))
    long = [line for line in text.splitlines() if len(line) > 80]
    assert all(module in line for line in long if not line.startswith("peak"))
    assert not [line for line in long if line.startswith("  ")]
    assert text.endswith("\n") and not text.endswith("\n\n")
    assert all(line == line.rstrip() for line in text.splitlines())


def test_a_long_name_keeps_its_end() -> None:
    graph = renamed(perceptron(2, 4, 64), "model.decoder.layers.0.feed_forward.experts.gate_projection", "model")
    lines = to_table(price(graph, on=TOY)).splitlines()
    cut = [line for line in lines if line.startswith("  ..")]
    assert cut and not [line for line in cut if " model.decoder" in line]
    assert any(line.startswith("  .._forward.experts.gate_projection relu ") for line in cut)


def test_a_line_of_code_gives_way_to_names_that_would_read_the_same() -> None:
    rows = [
        (f"model.layers.*.mlp.{name} _to_copy", "gradient", "32 x 224 MiB", "7.00 GiB", "15 %", "modeling_llama.py:164")
        for name in ("gate_proj", "up_proj")
    ]
    assert Rows(rows, "llrrrl", spare=(2, 1)).lines(80) == [
        "  ..mlp.gate_proj _to_copy  gradient  32 x 224 MiB  7.00 GiB  15 %  .._llama:164",
        "  ..*.mlp.up_proj _to_copy  gradient  32 x 224 MiB  7.00 GiB  15 %  .._llama:164",
    ]
    assert Rows(rows, "llrrrl", spare=(2, 1)).lines(56) == [
        "  ..mlp.gate_proj _to_copy  7.00 GiB  15 %  .._llama:164",
        "  ..*.mlp.up_proj _to_copy  7.00 GiB  15 %  .._llama:164",
    ]


def test_names_with_one_end_are_cut_in_their_middle() -> None:
    rows = [
        (f"{side}.blocks.*.attention.projection.default mm", "8 ops", "model.py:1") for side in ("encoder", "decoder")
    ]
    first, second = Rows(rows, "lrl").lines(48)
    assert first.startswith("  encoder.") and second.startswith("  decoder.") and ".." in first
    assert max(len(first), len(second)) <= 48


@pytest.mark.parametrize("width", [48, 60, 100, 132])
def test_narrow_and_wide_terminals(width: int) -> None:
    report = price(
        renamed(perceptron(3, 4, 64), "model.decoder.layers.0.feed_forward.experts.gate", "modeling"), on=TOY
    )
    lines = (to_table(report, width) + tree_table(report, width=width)).splitlines()
    assert not [line for line in lines if len(line) > width and "foretrace run" not in line and "gate," not in line]
    assert max(map(len, to_table(report, width).splitlines())) > width - 24


def test_the_width_is_the_terminal_s(monkeypatch: pytest.MonkeyPatch) -> None:
    assert terminal_width() == 80
    for columns, width in (("60", 60), ("20", 48), ("500", 132)):
        monkeypatch.setenv("COLUMNS", columns)
        assert terminal_width() == width


def test_the_very_first_step_and_no_optimizer_are_said() -> None:
    graph = perceptron()
    graph = replace(graph, facts=replace(graph.facts, warmup=0, optimizer={}, autocast="bfloat16", target=""))
    header = to_table(price(graph, on=TOY)).splitlines()[:2]
    assert header == ["a training step", "  cuda, bfloat16 autocast, no optimizer, the very first step; 27 ops"]


def test_no_colours_and_nothing_but_ascii() -> None:
    text = to_table(price(perceptron(), on=TOY))
    assert text.isascii() and "\x1b" not in text
