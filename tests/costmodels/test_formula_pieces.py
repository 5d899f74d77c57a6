"""Programs that differ from size to size get a formula for each piece, and the pieces say exactly where they end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrace.costmodels import timeline
from foretrace.costmodels.formula import Atom, Condition, Formula, Polynomial, piecewise
from foretrace.costmodels.formula.result import simplified
from foretrace.graph import ForetraceError, StepGraph
from foretrace.report.formula import formula_text
from foretrace.report.formula_exports import formula_json, formula_latex, formula_python
from handmade import perceptron

B, T, W, H = (Polynomial.of(name) for name in ("batch", "seq", "width", "heads"))


def plain(batch: int, width: int = 8) -> StepGraph:
    return perceptron(layers=2, batch=batch, width=width)


def with_gelu(graph: StepGraph) -> StepGraph:
    """The same step with another activation."""
    return replace(graph, ops=tuple(replace(op, name=op.name.replace("relu", "gelu")) for op in graph.ops))


def found_for(at: Callable[..., StepGraph], full: dict[str, int], **how: int) -> Formula:
    return piecewise(at, full, held_out=6, **how)


def is_exact(found: Formula, at: Callable[..., StepGraph], sizes: Iterable[dict[str, int]]) -> None:
    for each in sizes:
        assert found.at("peak", **each) == timeline(at(**each)).peak_bytes, each


def saved(found: Formula) -> dict[str, Polynomial]:
    """What is saved for backward, by the piece's conditions."""
    return {
        str(piece): piece.formula["saved_for_backward"].polynomial
        for piece in found.pieces
        if piece.formula is not None
    }


# --- what sets pieces apart ---


@pytest.mark.parametrize("full", [8, 300])
@pytest.mark.parametrize("first", [21, 38])
def test_a_branch_on_a_size(full: int, first: int) -> None:
    def at(seq: int) -> StepGraph:
        return with_gelu(plain(3 * seq)) if seq >= first else plain(seq)

    found = found_for(at, {"seq": full})
    assert saved(found) == {f"seq <= {first - 1}": 64 * T, f"seq >= {first}": 192 * T}
    assert found.pieces[0].holds_at({"seq": full})
    (other,) = found.further
    assert "with gelu h.* model.py:12" in other.differs or "without gelu h.* model.py:12" in other.differs
    is_exact(found, at, [{"seq": n} for n in range(1, 120)])


@pytest.mark.parametrize("full", [300, 40, 37])
def test_the_same_ops_with_other_bytes(full: int) -> None:
    """Where small instances are not of the full one's piece, that one still comes first."""

    def at(batch: int) -> StepGraph:
        return plain(batch if batch < 37 else batch + 50)

    found = found_for(at, {"batch": full})
    assert found.pieces[0].holds_at({"batch": full})
    assert saved(found) == {"batch >= 37": 64 * B + 3200, "batch <= 36": 64 * B}
    is_exact(found, at, [{"batch": n} for n in range(1, 120)])


def test_a_lattice_that_lies_across_a_threshold() -> None:
    def at(batch: int) -> StepGraph:
        return plain(batch if batch < 6 else 4 * batch)

    found = found_for(at, {"batch": 12})
    assert saved(found) == {"batch >= 6": 256 * B, "batch <= 5": 64 * B}
    is_exact(found, at, [{"batch": n} for n in range(1, 60)])


@pytest.mark.parametrize("full", [8, 9, 1000, 1001])
def test_a_branch_on_parity(full: int) -> None:
    def at(batch: int) -> StepGraph:
        return with_gelu(plain(5 * batch)) if batch % 2 else plain(batch)

    found = found_for(at, {"batch": full})
    assert saved(found) == {"batch = 0 mod 2": 64 * B, "batch = 1 mod 2": 320 * B}
    is_exact(found, at, [{"batch": n} for n in range(1, 60)])


def test_three_remainders() -> None:
    def at(seq: int) -> StepGraph:
        return plain((3 * seq, 4 * seq + 1, 5 * seq)[seq % 3])

    found = found_for(at, {"seq": 1024})
    assert saved(found) == {"seq = 1 mod 3": 256 * T + 64, "seq = 0 mod 3": 192 * T, "seq = 2 mod 3": 320 * T}
    is_exact(found, at, [{"seq": n} for n in range(1, 150)])


def test_padding_that_is_done_only_where_it_must_be() -> None:
    def at(seq: int) -> StepGraph:
        return with_gelu(plain(-(-seq // 64) * 64)) if seq % 64 else plain(seq)

    found = found_for(at, {"seq": 1024})
    assert saved(found) == {"seq = 0 mod 64": 64 * T, "seq ≠ 0 mod 64": 64 * Polynomial.of(Atom("seq", 64))}
    is_exact(found, at, [{"seq": n} for n in range(1, 260)])


def heads_at(most: int, multiple: int = 1) -> Callable[..., StepGraph]:
    """Another kernel, which keeps twice as much, where a head is wider than `most`, or no multiple of `multiple`."""

    def at(width: int, heads: int) -> StepGraph:
        if width % heads:
            raise ForetraceError("width must divide by heads", "Give another.")
        head = width // heads
        return with_gelu(plain(2 * heads, width)) if head > most or head % multiple else plain(heads, width)

    return at


def test_the_width_of_a_head_that_is_beyond_a_kernel() -> None:
    at = heads_at(64)
    found = found_for(at, {"width": 1024, "heads": 16})
    assert saved(found) == {"width/heads <= 64": 8 * W * H, "width/heads > 64": 16 * W * H}
    is_exact(found, at, [{"width": w * h, "heads": h} for w in (1, 3, 63, 64, 65, 300) for h in (1, 2, 3, 8, 9)])


def test_the_width_of_a_head_that_is_no_multiple_of_eight() -> None:
    at = heads_at(10**6, 8)
    found = found_for(at, {"width": 1024, "heads": 16})
    assert saved(found) == {"width/heads = 0 mod 8": 8 * W * H, "width/heads ≠ 0 mod 8": 16 * W * H}
    is_exact(found, at, [{"width": w * h, "heads": h} for w in (1, 7, 8, 9, 16, 64, 65) for h in (1, 2, 3, 8, 9)])


def test_values_that_are_few_have_a_formula_each() -> None:
    def at(batch: int, width: int) -> StepGraph:
        return plain(batch, width) if batch > 3 else with_gelu(plain(batch**2 + 7, width))

    found = found_for(at, {"batch": 16, "width": 256})
    assert saved(found) == {
        "batch >= 4": 8 * B * W, "batch = 1": 64 * W, "batch = 2": 88 * W, "batch = 3": 128 * W
    }  # fmt: skip
    assert [piece.formula.names for piece in found.further if piece.formula] == [("width",)] * 3
    is_exact(found, at, [{"batch": b, "width": w} for b in (1, 2, 3, 4, 9) for w in (1, 7, 64, 300)])


def test_a_value_of_the_only_size_is_a_number() -> None:
    at = lambda batch: plain(batch if batch > 1 else 9)  # noqa: E731
    found = found_for(at, {"batch": 16})
    assert saved(found) == {"batch >= 2": 64 * B, "batch = 1": Polynomial.of(576)}
    is_exact(found, at, [{"batch": n} for n in range(1, 20)])
    assert "one trace is all there is" in formula_text(found)


def test_two_branches_make_up_to_four_pieces() -> None:
    def at(batch: int, width: int) -> StepGraph:
        graph = plain(batch if batch < 20 else 2 * batch, width)
        return graph if width < 100 else with_gelu(graph)

    found = found_for(at, {"batch": 64, "width": 512})
    assert (
        saved(found)
        == {
            "batch >= 20 and width >= 100": 16 * B * W,
            "batch <= 19": 8 * B * W,
            "batch >= 20 and width <= 99": 16 * B * W,
            "batch <= 19 and width >= 100": 8 * B * W,
        }
        or len(saved(found)) == 4
    )
    is_exact(found, at, [{"batch": b, "width": w} for b in (1, 19, 20, 90) for w in (1, 99, 100, 700)])


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 90), st.integers(1, 9), st.integers(0, 9), st.integers(4, 200))
def test_any_threshold_is_found_if_it_is_within_reach(first: int, times: int, more: int, full: int) -> None:
    """The first of the other kind lies between 2 and eight times the full size."""

    def at(batch: int) -> StepGraph:
        return with_gelu(plain(times * batch + more)) if batch >= min(first, 8 * full) else plain(batch)

    found = found_for(at, {"batch": full})
    is_exact(found, at, [{"batch": n} for n in (*range(1, 110), 8 * full)])


# --- what has no formula ---


def test_a_piece_without_a_formula_is_said_and_refused() -> None:
    found = found_for(lambda batch: plain(batch if batch <= 20 else 2 ** min(batch - 16, 30)), {"batch": 16})
    assert found.at("peak", batch=20) == timeline(plain(20)).peak_bytes
    assert {str(piece) for piece in found.further} == {"batch >= 46", "batch >= 21 and batch <= 45"}
    with pytest.raises(ValueError, match=r"there is no formula for batch >= 21 and batch <= 45: .* is no polynomial"):
        found.at("peak", batch=30)
    with pytest.raises(ValueError, match="there is no formula"):
        found.at("peak", batch=np.array([3, 30]))
    assert "no formula: " in formula_text(found)


def test_more_pieces_than_asked_for() -> None:
    at = lambda seq: plain((3 * seq, 4 * seq + 1, 5 * seq)[seq % 3])  # noqa: E731
    found = found_for(at, {"seq": 1024}, most=2)
    (second, third) = found.further
    assert second.formula is not None and third.formula is None
    assert third.why_none == "there are more than 2 pieces"
    with pytest.raises(ValueError, match="there are more than 2 pieces"):
        found.at("peak", seq=5)


def test_what_has_no_pieces_either_is_an_error_with_its_residues() -> None:
    with pytest.raises(ForetraceError) as error:
        found_for(lambda batch: plain(2**batch), {"batch": 8})
    assert "is no polynomial in batch: at 2, 3, 4, 5, 6, 7, 8 it is" in error.value.message
    assert "off the parabola through the first three" in error.value.message
    assert error.value.mend.startswith("No pieces were found: choose values") and "--bound above" in error.value.mend


# --- evaluation and views ---


@pytest.fixture(scope="module")
def found() -> Formula:
    return found_for(heads_and_batch, {"batch": 16, "width": 1024, "heads": 16})


def heads_and_batch(batch: int, width: int, heads: int) -> StepGraph:
    if width % heads:
        raise ForetraceError("width must divide by heads", "Give another.")
    graph = plain(batch * heads if batch % 2 else batch * heads + 1, width)
    return with_gelu(graph) if width // heads > 128 else graph


SIZES = [{"batch": b, "width": w * h, "heads": h} for b in (1, 2, 5, 8) for w in (3, 128, 129, 256) for h in (1, 4, 6)]


def test_every_piece_is_proved_on_instances_of_its_own(found: Formula) -> None:
    pieces = found.pieces
    assert len(pieces) == 4
    for piece in pieces:
        assert piece.formula is not None
        assert len(piece.formula.proof.instances) == 6
        assert all(piece.holds_at(sizes) for sizes in piece.formula.proof.instances)
        others = [other for other in pieces if other is not piece]
        assert not any(o.holds_at(sizes) for o in others for sizes in piece.formula.proof.instances)
    assert found.full in found.proof.instances


def test_arrays_that_lie_in_several_pieces(found: Formula) -> None:
    is_exact(found, heads_and_batch, SIZES)
    arrays = {name: np.array([sizes[name] for sizes in SIZES]) for name in found.names}
    assert found.at("peak", **arrays).tolist() == [found.at("peak", **sizes) for sizes in SIZES]
    batch, width = np.arange(1, 6)[:, None], np.array([64, 512, 4096])
    table = found.at("flops", batch=batch, width=width, heads=4)
    assert table.shape == (5, 3)
    assert table[2, 1] == found.at("flops", batch=3, width=512, heads=4)


def test_the_python_that_is_printed_picks_the_piece(found: Formula) -> None:
    names: dict = {}
    exec(formula_python(found), names)
    for sizes in SIZES:
        for name in ("saved_for_backward", "flops", "peak"):
            assert names[name](**sizes) == found.at(name, **sizes)
    arrays = [np.array([sizes[name] for sizes in SIZES]) for name in found.names]
    assert names["peak"](*arrays).tolist() == [found.at("peak", **sizes) for sizes in SIZES]
    missing = found_for(lambda batch: plain(batch if batch <= 20 else 2 ** min(batch - 16, 30)), {"batch": 16})
    exec(formula_python(missing), names)
    with pytest.raises(ValueError, match="no formula holds for these sizes"):
        names["peak"](30)
    assert "No formula for batch >= 21 and batch <= 45." in formula_python(missing)


def test_text_latex_and_json_name_every_piece(found: Formula) -> None:
    text = formula_text(found, "model.py:make")
    assert "piece 1 of 4, that of the full size" in text
    for number, piece in enumerate(found.further, 2):
        assert f"piece {number}: {piece}" in text
    assert all(len(line) <= 80 for line in text.splitlines())
    latex = formula_latex(found)
    assert latex.count(r"\begin{cases}") == len(found.quantities) + 1
    assert r"d/H \le 128" in latex and r"B = 1 \bmod 2" in latex
    content = json.loads(formula_json(found))
    assert [piece["holds_for"] for piece in content["pieces"]] == [
        [str(condition) for condition in piece.conditions] for piece in found.further
    ]
    assert content["pieces"][0]["formula"]["quantities"]["saved_for_backward"]["terms"]


@given(
    st.lists(
        st.one_of(
            st.builds(lambda n: Condition("x", "", most=n), st.integers(1, 40)),
            st.builds(lambda n: Condition("x", "", least=n), st.integers(2, 40)),
            st.builds(
                lambda m, r, other: Condition("x", "", modulus=m, remainder=r % m, excluded=other),
                st.integers(2, 4), st.integers(0, 3), st.booleans(),
            ),
            st.builds(lambda n: Condition("x", "", by="y", most=n), st.integers(1, 9)),
            st.builds(lambda n: Condition("x", "", by="y", above=n), st.integers(1, 9)),
        ),
        max_size=5,
    )
)  # fmt: skip
def test_conditions_put_together_hold_where_all_of_them_do(conditions: list[Condition]) -> None:
    together = simplified(conditions)
    for x in range(1, 50):
        sizes = {"x": x, "y": 3}
        assert all(c.holds_at(sizes) for c in together) == all(c.holds_at(sizes) for c in conditions)


@given(st.integers(1, 200), st.integers(1, 7))
def test_a_condition_or_its_opposite_holds(x: int, y: int) -> None:
    sizes = {"x": x, "y": y}
    for condition in (
        Condition("x", "", most=20),
        Condition("x", "", least=20),
        Condition("x", "", modulus=6, remainder=2),
        Condition("x", "", by="y", most=5),
        Condition("x", "", by="y", above=5),
        Condition("x", "", by="y", modulus=4),
    ):
        assert bool(condition.holds_at(sizes)) != bool(condition.negated().holds_at(sizes))
        assert bool(condition.holds_at(sizes)) == bool(condition.negated().negated().holds_at(sizes))
