"""Names of a trace on a terminal: shown, never obeyed, and no longer than anybody reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from foretrace import cli, price, save
from foretrace.costmodels.story import story
from foretrace.report import Report, to_table
from foretrace.report.side_by_side import side_by_side
from foretrace.report.story import story_text
from foretrace.report.tree import tree_table
from foretrace.report.what_if import what_if, what_if_table
from handmade import perceptron
from hostile import hostile

TOY = Path(__file__).parents[1] / "support" / "toy.toml"
ESCAPES = "\x1b[31mred\x1b]0;title\x07\r\nstep time   ~ 1 us\n\u202egnp.\x9b2J\x00"
SCREENS: dict[str, Callable[[Report], str]] = {
    "table": to_table,
    "narrow": lambda report: to_table(report, 48),
    "tree": tree_table,
    "story": lambda report: story_text(story(report.memory, "peak", 8)),
    "side by side": lambda report: side_by_side([report, report]),
    "what if": lambda report: what_if_table(what_if(report)),
}


@pytest.mark.parametrize("name", SCREENS)
def test_nothing_in_a_name_is_obeyed(name: str) -> None:
    shown = SCREENS[name](price(hostile(ESCAPES), on=TOY))
    assert all(line.isprintable() for line in shown.splitlines()) and "\x0b" not in shown
    plain = SCREENS[name](price(hostile("red"), on=TOY))
    assert sum(line.startswith("step time") for line in shown.split("\n")) == plain.count("\nstep time")


@pytest.mark.parametrize("name", SCREENS)
def test_a_megabyte_of_name_is_cut(name: str) -> None:
    shown = SCREENS[name](price(hostile("x" * 1_000_000), on=TOY))
    assert len(shown) < 40_000


def test_an_error_does_not_reach_the_terminal_either(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(perceptron(), tmp_path / "step.foretrace")
    assert cli.main(["export", str(tmp_path / "step.foretrace"), "--to", "json", "-o", f"{tmp_path}/\x1b[31m/x"]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said and "?[31m" in said
