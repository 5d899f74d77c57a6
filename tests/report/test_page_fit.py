"""The slider of the page: every stop is a traced step's peak to the byte, and the card says what the search found."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from foretrace import ForetraceError, load, price, save
from foretrace.commands.fit import fit_step
from foretrace.costmodels import timeline
from foretrace.graph import StepGraph
from foretrace.hardware.fit import Fit, fit
from foretrace.hardware.profile import load as load_profile
from foretrace.report import to_html
from foretrace.report.page_fit import MOST_STOPS, best, fit_data, fit_table, stops
from handmade import perceptron

TOY = Path(__file__).parents[1] / "support" / "toy.toml"


def step(batch: int = 4) -> StepGraph:
    return perceptron(layers=3, batch=batch, width=64)


def found_at(limit: int, **more: object) -> Fit:
    return fit(lambda batch: step(batch), "batch", limit, **more)


def test_every_stop_is_the_peak_of_a_trace() -> None:
    found = found_at(300_001)
    shown = fit_data(found, 4)
    assert shown["value"] == stops(found, 4)
    assert shown["peak_bytes"] == [timeline(step(value)).peak_bytes for value in shown["value"]]
    assert {4, found.largest, found.largest + 1, found.largest_with_headroom} <= set(shown["value"])
    fits = [value for value, peak in zip(shown["value"], shown["peak_bytes"], strict=True) if peak <= 300_001]
    assert max(fits) == found.largest == shown["largest"]


def test_many_values_are_evenly_thinned_and_those_that_decide_are_kept() -> None:
    found = found_at(80_000_000)
    values = stops(found, 7)
    assert found.largest > 2 * MOST_STOPS and len(values) <= MOST_STOPS + 8
    assert {7, found.largest, found.largest + 1} <= set(values)
    some = values[:: len(values) // 5]
    assert [found.peak(value) for value in some] == [timeline(step(value)).peak_bytes for value in some]


def test_stops_of_a_formula_that_holds_for_some_remainders_are_those() -> None:
    def at(width: int) -> StepGraph:
        return perceptron(layers=3, batch=4, width=8 + width // 4 * 4 + (width % 4 > 1))

    found = fit(at, "width", 500_001)
    assert found.pieces[0].modulus == 64
    shown = fit_data(found, None)
    assert shown["peak_bytes"] == [timeline(at(value)).peak_bytes for value in shown["value"]]


def test_what_nothing_is_known_of_is_not_drawn() -> None:
    found = found_at(100)
    assert found.largest == 0
    shown = fit_data(found, None)
    assert shown["peak_bytes"] == [timeline(step(value)).peak_bytes for value in shown["value"]]
    assert "largest batch  0" in fit_table(found)


def test_the_answer_is_by_reserved_bytes_where_they_were_asked_for() -> None:
    found = found_at(300_001, reserved=lambda graph: timeline(graph).peak_bytes + 20_000)
    assert found.largest_reserved is not None and best(found) == found.largest_reserved < found.largest
    words = fit_table(found)
    assert words.startswith(f"largest batch  {best(found)}, by allocated bytes alone {found.largest}, peak ")
    assert max(map(len, words.splitlines())) <= 80
    page = to_html(price(step(), on=TOY), fit=found)
    (said,) = re.findall(r"<h2>Largest batch</h2><p class=answer><data value='(\d+)'>", page)
    assert int(said) == best(found)
    assert f"<data value='{found.confirmed_bytes}'>" in page and f"<data value='{found.limit_bytes}'>" in page
    inside = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert inside and json.loads(inside[1])["fit"] == fit_data(found, 4)


def test_a_page_without_a_fit_has_no_slider() -> None:
    page = to_html(price(step(), on=TOY))
    assert "id=fit" not in page and "Largest" not in page


def test_a_name_that_is_markup_is_text() -> None:
    found = fit(lambda **sizes: step(*sizes.values()), "<script>x", 300_001)
    page = to_html(price(step(), on=TOY), fit=found)
    assert "<script>x" not in page


def test_a_saved_trace_has_no_other_sizes(tmp_path: Path) -> None:
    profile = load_profile(TOY)
    save(step(), tmp_path / "step.foretrace")
    with pytest.raises(ForetraceError, match="a saved trace cannot be made again at another batch"):
        fit_step(load(tmp_path / "step.foretrace"), profile, "batch")
