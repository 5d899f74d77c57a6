"""What fits: the answer of a few traces is that of trying every value, thresholds included."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from foretrace.costmodels import timeline
from foretrace.graph import ForetraceError, StepGraph
from foretrace.hardware.fit import fit, frontier, largest
from foretrace.report.fit import fit_json, fit_text, picture
from foretrace.report.page_fit import fit_card, fit_table
from handmade import perceptron


def step(batch: int = 4, width: int = 64, layers: int = 3) -> StepGraph:
    return perceptron(layers=layers, batch=batch, width=width)


def by_trying(at, limit: int, most: int = 400) -> int:
    return max((n for n in range(1, most) if timeline(at(n)).peak_bytes <= limit), default=0)


@pytest.mark.parametrize("limit", [100_000, 245_763, 245_764, 300_001, 345_678])
def test_the_batch_is_that_of_trying_every_one(limit: int) -> None:
    at = lambda batch: step(batch=batch)  # noqa: E731
    found = fit(at, "batch", limit)
    assert found.largest == by_trying(at, limit)
    assert found.traces < 12
    if found.largest:
        assert found.confirmed_bytes == timeline(at(found.largest)).peak_bytes == found.peak(found.largest)


def test_layers_and_width_can_be_varied_too() -> None:
    for name, near in (("layers", 3), ("width", 64)):
        at = lambda name=name, **sizes: step(**sizes)  # noqa: E731
        found = fit(at, name, 500_000, near=near)
        fits = lambda n, name=name: timeline(step(**{name: n})).peak_bytes <= 500_000  # noqa: E731
        assert found.largest == largest(fits)


@pytest.mark.parametrize("multiple", [4, 3])
@pytest.mark.parametrize("limit", [400_000, 500_001, 700_000])
def test_between_the_values_of_a_formula_the_answer_is_traced(limit: int, multiple: int) -> None:
    def at(width: int) -> StepGraph:
        return step(width=8 + width // multiple * multiple + (width % multiple > 1))  # rounded in no known way

    found = fit(at, "width", limit)
    assert found.largest == by_trying(at, limit)
    assert found.peak(found.largest) == found.confirmed_bytes == timeline(at(found.largest)).peak_bytes
    assert found.peak(found.largest + 1) == timeline(at(found.largest + 1)).peak_bytes > limit
    if multiple == 4:
        assert found.pieces[0].modulus == 64
        assert "the largest that fits was found by traces" in fit_text(found)
    else:
        assert not found.pieces  # values 64 apart leave different remainders by 3
        assert "no formula, so that every value asked about was traced" in fit_text(found)
        assert json.loads(fit_json(found))["pieces"] == [] and picture(found).startswith("<svg")


def test_small_values_that_cannot_be_built_do_not_count() -> None:
    def at(width: int) -> StepGraph:
        if width < 7:
            raise ForetraceError("too small", "Give more.")
        return step(width=width)

    assert fit(at, "width", 1000, near=200).largest == 0
    assert fit(at, "width", timeline(step(width=9)).peak_bytes, near=200).largest == 9


@pytest.mark.parametrize(("limit", "near"), [(400_000, 15), (700_001, 250)])
def test_a_size_that_must_divide_is_searched_among_the_multiples(limit: int, near: int) -> None:
    def at(width: int) -> StepGraph:
        if width % 5:
            raise ForetraceError("width must divide by 5", "Give another.")
        return step(width=width)

    found = fit(at, "width", limit, near=near)
    assert found.unit == 5
    assert found.largest == max(n for n in range(5, 2000, 5) if timeline(at(n)).peak_bytes <= limit)
    assert f"{found.largest + 5} takes {timeline(at(found.largest + 5)).peak_bytes:,} bytes" in fit_text(found)


def test_a_size_whose_values_are_not_evenly_spaced_is_refused() -> None:
    def at(width: int) -> StepGraph:
        if width & (width - 1):
            raise ForetraceError("width must be a power of two", "Give another.")
        return step(width=width)

    with pytest.raises(ForetraceError, match="width=64 can be built, but no evenly spaced values from there on"):
        fit(at, "width", 400_000, near=64)


@pytest.mark.parametrize("limit", [246_100, 246_300, 246_600, 247_050, 256_004])
def test_where_next_to_nothing_fits_it_takes_as_few_traces_as_halving(limit: int) -> None:
    at = lambda batch: step(batch=batch)  # noqa: E731
    asked: list[int] = []
    expected = largest(lambda n: asked.append(n) is None and timeline(at(n)).peak_bytes <= limit)
    found = fit(at, "batch", limit)
    assert found.largest == expected
    assert found.traces <= len(asked)


@pytest.mark.parametrize("share", [0.5, 0.9, 1.3])
def test_what_is_reserved_takes_few_questions(share: float) -> None:
    at = lambda batch: step(batch=batch)  # noqa: E731
    reserved = lambda graph: -(-timeline(graph).peak_bytes // 20_000) * 20_000 + 30_000  # noqa: E731
    limit = int(share * 3_000_000)
    found = fit(at, "batch", limit, reserved=reserved)
    assert found.largest_reserved == largest(lambda n: reserved(at(n)) <= limit)
    assert found.traces < 14


def test_a_threshold_on_the_way_is_found() -> None:
    def at(batch: int) -> StepGraph:
        return step(batch=batch if batch < 37 else batch + 50)

    found = fit(at, "batch", 320_000)
    assert [piece.first for piece in found.pieces] == [2, 37]
    assert found.largest == by_trying(at, 320_000) > 37


def test_another_kernel_on_the_way_is_found() -> None:
    def at(batch: int) -> StepGraph:
        graph = step(batch=batch)
        if batch < 37:
            return graph
        ops = tuple(replace(op, name=op.name.replace("relu", "gelu")) for op in graph.ops)
        doubled = step(batch=batch + 10)
        return replace(doubled, ops=tuple(replace(op, name=n.name) for op, n in zip(doubled.ops, ops, strict=True)))

    found = fit(at, "batch", 320_000)
    assert found.largest == by_trying(at, 320_000)


def test_headroom_and_what_is_reserved() -> None:
    at = lambda batch: step(batch=batch)  # noqa: E731
    found = fit(at, "batch", 400_000, headroom=0.2, reserved=lambda graph: timeline(graph).peak_bytes + 65_536)
    assert found.largest_with_headroom == by_trying(at, 320_000)
    assert found.largest_reserved == by_trying(at, 400_000 - 65_536)


def test_the_peak_moves_from_the_optimizer_to_backward() -> None:
    found = fit(lambda batch: step(batch=batch), "batch", 400_000)
    first, last = found.regimes()[0], found.regimes()[-1]
    assert first[2].startswith("optimizer") and last[2].startswith("backward")
    assert found.breaks == last[2]
    for value in range(2, found.largest + 2):
        assert found.peak(value) == timeline(step(batch=value)).peak_bytes
    assert list(found.peak(np.arange(2, 5))) == [found.peak(n) for n in range(2, 5)]


def test_where_nothing_fits() -> None:
    found = fit(lambda batch: step(batch=batch), "batch", 1000)
    assert (found.largest, found.largest_with_headroom, found.confirmed_bytes) == (0, 0, 0)
    assert "largest batch by allocated bytes: 0" in fit_text(found)


def test_a_frontier_of_two_sizes() -> None:
    found = frontier(step, "batch", "width", 500_000, near={"batch": 4, "width": 64})
    assert len(found.points) > 3
    for width, most in found.points:
        expected = largest(lambda n, width=width: timeline(step(batch=n, width=width)).peak_bytes <= 500_000)
        assert most == (expected if expected > 1 else 0)
    assert found.confirmed in found.points
    assert json.loads(fit_json(found))["points"][0] == {"width": found.points[0][0], "batch": found.points[0][1]}


def test_a_frontier_with_a_threshold_is_refused() -> None:
    def at(batch: int, width: int) -> StepGraph:
        return step(batch=batch if batch < 20 else batch + 9, width=width)

    with pytest.raises(ForetraceError, match="predicted"):
        frontier(at, "batch", "width", 500_000, near={"batch": 4, "width": 64})


def test_the_views_of_a_fit() -> None:
    found = fit(lambda batch: step(batch=batch), "batch", 400_000)
    text = fit_text(found, "model.py:make")
    assert text.splitlines()[:2] == ["model.py:make", "  limit 400,000 bytes (0.00 GiB, 0.00 GB)"]
    assert all(len(line) <= 80 for line in text.splitlines())
    assert json.loads(fit_json(found))["largest"] == found.largest
    for drawn in (picture(found), picture(frontier(step, "batch", "width", 500_000, near={"batch": 4, "width": 64}))):
        assert drawn.startswith("<svg ") and drawn.endswith("</svg>\n") and "<polyline" in drawn


def test_the_curve_is_a_sympy_expression() -> None:
    found = fit(lambda batch: step(batch=batch), "batch", 400_000)
    (curve,) = found.expressions
    (symbol,) = curve.free_symbols
    assert [int(curve.subs({symbol: n})) for n in (2, 40)] == [found.peak(2), found.peak(40)]


def test_a_small_step_fits_more_often_than_can_be_looked_at_one_by_one() -> None:
    at = lambda batch: step(batch=batch, width=8, layers=1)  # noqa: E731
    limit = 80 * 2**30
    found = fit(at, "batch", limit)
    assert found.largest > 2**28
    assert found.peak(found.largest) == found.confirmed_bytes == timeline(at(found.largest)).peak_bytes <= limit
    assert found.peak(found.largest + 1) > limit
    (piece,) = found.pieces
    near = range(piece.first, 4000, piece.modulus)
    turns = list(found._turns(piece, near))
    assert len(turns) > 1
    assert turns == list(found._turns_far_on(piece, near))
    told = found.regimes()
    assert [(first, point) for first, _, point in told] == turns
    assert [last for _, last, _ in told] == [*(first - 1 for first, _ in turns[1:]), found.largest + 1]


def test_in_a_frontier_too() -> None:
    found = frontier(
        lambda batch, width: step(batch=batch, width=width, layers=1),
        "batch",
        "width",
        10**10,
        near={"batch": 4, "width": 8},
    )
    for width, most in found.points:
        fitted = [timeline(step(batch=batch, width=width, layers=1)).peak_bytes <= 10**10 for batch in (most, most + 1)]
        assert fitted == [True, False]
    assert max(most for _, most in found.points) > 2**21


def test_a_size_that_takes_no_memory_has_no_largest() -> None:
    with pytest.raises(ForetraceError, match="batch takes no memory"):
        fit(lambda batch: step(), "batch", 10**10)
    with pytest.raises(ForetraceError, match="batch takes no memory"):
        frontier(lambda batch, width: step(width=width), "batch", "width", 10**10, near={"batch": 4, "width": 8})


@pytest.mark.parametrize("multiple", [1, 4, 3])
@pytest.mark.parametrize("most", [77, 200])
def test_the_search_ends_where_the_step_cannot_be_traced(most: int, multiple: int) -> None:
    """As at a sequence that is longer than a model has positions."""

    def at(width: int) -> StepGraph:
        if width > most:
            raise ForetraceError(f"there is no width {width}", "take less")
        return step(width=8 + width // multiple * multiple + (multiple > 1 and width % multiple > 1))

    found = fit(at, "width", 10**9, reserved=lambda graph: timeline(graph).peak_bytes)
    assert (found.largest, found.largest_with_headroom, found.largest_reserved) == (most, most, most)
    assert found.confirmed_bytes == timeline(at(most)).peak_bytes
    assert (found.breaks, found.why_refused) == ("", f"there is no width {most + 1}")
    assert f"one more cannot be traced: there is no width {most + 1}" in fit_text(found)
    assert json.loads(fit_json(found))["refused"] == f"width={most + 1} cannot be traced: there is no width {most + 1}"
    assert f"{most + 1} cannot be traced: there is no width {most + 1}" in " ".join(fit_table(found).split())
    assert f"{most + 1} cannot be traced" in fit_card(found)
    less = fit(at, "width", timeline(at(most // 2)).peak_bytes)
    assert (less.largest, less.refused) == (by_trying(at, less.limit_bytes, most), "")


def test_what_is_found_is_one_line_where_it_is_shown_by_itself() -> None:
    found = fit(lambda batch: step(batch=batch), "batch", 300_001)
    assert repr(found) == f"<Fit batch={found.largest} within 300,001 bytes; {found.traces} traces>"
    along = frontier(
        lambda batch, width: step(batch=batch, width=width), "batch", "width", 10**7, near={"batch": 4, "width": 64}
    )
    points = ", ".join(f"{width}: {most:,}" for width, most in along.points)
    assert repr(along) == f"<Frontier of batch over width within 10,000,000 bytes: {points}>"
    quantities = "parameter_bytes, gradients, optimizer_state, saved_for_backward, after_forward, peak"
    assert repr(along.formula) == f"<Formula over batch, width: {quantities}; exact on 0 held-out traces>"
