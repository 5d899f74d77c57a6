"""Polynomials, their recovery on a lattice, and the formula of a step written by hand, whose answer is known."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrace.costmodels import timeline
from foretrace.costmodels.formula import (
    Atom,
    Axis,
    Polynomial,
    bound,
    compare_by_hand,
    derive,
    explain,
    parse,
    recover,
    written,
)
from foretrace.costmodels.formula.bound import maximize
from foretrace.costmodels.formula.derive import off_the_parabola
from foretrace.costmodels.formula.digest import alike
from foretrace.graph import ForetraceError, StepGraph
from foretrace.report.formula import bound_text
from foretrace.report.formula_exports import bound_json, formula_python
from handmade import perceptron

B, W, L = Polynomial.of("batch"), Polynomial.of("width"), Polynomial.of("layers")
LETTERS = {"batch": "B", "seq": "T", "layers": "L", "width": "d", "heads": "H", "vocab": "V"}


def step(batch: int, layers: int, width: int) -> StepGraph:
    return perceptron(layers=layers, batch=batch, width=width)


@pytest.fixture(scope="module")
def formula():
    return derive(step, {"batch": 4, "layers": 12, "width": 1024}, letters={"width": "d"})


# --- polynomials ---

terms = st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 3), st.integers(0, 2)), max_size=6)


def made(parts: list[tuple[int, int, int]]) -> Polynomial:
    x, y = Polynomial.of("x"), Polynomial.of("y")
    return sum((c * x**i * y**j for c, i, j in parts), Polynomial({}))


@given(terms, terms, st.integers(1, 50), st.integers(1, 50))
def test_the_value_of_a_sum_and_of_a_product(left: list, right: list, x: int, y: int) -> None:
    p, q = made(left), made(right)
    values = sum(c * x**i * y**j for c, i, j in left), sum(c * x**i * y**j for c, i, j in right)
    assert (p + q).at(x=x, y=y) == values[0] + values[1]
    assert (p * q).at(x=x, y=y) == values[0] * values[1]
    assert p - p == Polynomial({})


@settings(deadline=None)
@given(terms, st.lists(st.integers(1, 10**7), min_size=1, max_size=5))
def test_arrays_give_what_numbers_give(parts: list, xs: list[int]) -> None:
    p = made(parts)
    assert [int(v) for v in np.broadcast_to(p.at(x=np.array(xs), y=7), len(xs))] == [p.at(x=x, y=7) for x in xs]


def test_a_value_beyond_64_bits_is_exact() -> None:
    p = Polynomial.of("x") ** 5
    assert p.at(x=np.array([10**6]))[0] == 10**30


def test_division_by_a_size() -> None:
    p = Polynomial.of("width") * Polynomial.of("heads") ** -1
    assert (p.at(width=64, heads=4), p.at(width=64, heads=3)) == (16, Fraction(64, 3))


@settings(deadline=None)
@given(terms)
def test_sympy_has_the_same_value(parts: list) -> None:
    p = made(parts)
    expression = p.sympy()
    assert int(expression.subs({s: {"x": 3, "y": 5}[s.name] for s in expression.free_symbols})) == p.at(x=3, y=5)


# --- recovery ---


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.integers(0, 3), st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=4
    )
)
def test_every_polynomial_with_positive_terms_is_recovered(parts: list[tuple[int, int, int, int]]) -> None:
    axes = [Axis("x", 2), Axis("y", 64, 64), Axis("z", 3)]

    def ask(index: tuple[int, ...]) -> list[int]:
        x, y, z = (axis.value(k) for axis, k in zip(axes, index, strict=True))
        return [sum(c * x**i * y**j * z**k for c, i, j, k in parts)]

    x, y, z = (Polynomial.of(name) for name in "xyz")
    expected = sum((c * x**i * y**j * z**k for c, i, j, k in parts), Polynomial({}))
    assert recover(axes, ["f"], ask).polynomial("f") == expected


def test_a_size_that_divides_is_found() -> None:
    axes = [Axis("heads", 2), Axis("width", 840, 840)]
    found = recover(axes, ["f", "g"], lambda k: [4 * (840 + 840 * k[1]) // (2 + k[0]), 7])
    width, heads = Polynomial.of("width"), Polynomial.of("heads")
    assert found.polynomial("f") == 4 * width * heads**-1
    assert found.polynomial("g") == Polynomial.of(7)


def test_a_series_that_is_no_polynomial_is_said_with_its_values() -> None:
    found = recover([Axis("x", 2)], ["good", "bad"], lambda k: [3 * (k[0] + 2), 2 ** (k[0] + 2)])
    assert [(f.series, f.axis.name, f.values) for f in found.failures] == [("bad", "x", (4, 8, 16, 32, 64, 128, 256))]
    assert found.polynomial("good") == 3 * Polynomial.of("x")


# --- expressions ---


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4*B*T", 24),
        ("4·B·T", 24),
        ("batch^2 + T²", 13),
        ("2*(B+T)**2/4", Fraction(25, 2)),
        ("-B + 1.5*T", Fraction(5, 2)),
        ("ceiling(T/32)*32", 32),
        ("floor(T/2)", 1),
        ("T/B", Fraction(3, 2)),
    ],
)
def test_what_people_write_is_read(text: str, value: Fraction) -> None:
    assert parse(text, LETTERS).at(batch=2, seq=3) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("4*B*", "does not parse at character 4"),
        ("4*Q", "'Q' in '4*Q' is none of the sizes"),
        ("B**T", "an exponent is a small whole number"),
        ("1/(B+T)", "only one term may be divided by"),
        ("__import__('os')", "is no arithmetic"),
        ("ceiling(B*T/2)", "only a size divided by a whole number is rounded"),
        ("B**99", "an exponent is a small whole number"),
    ],
)
def test_what_does_not_parse_is_said(text: str, why: str) -> None:
    with pytest.raises(ForetraceError) as error:
        parse(text, LETTERS)
    assert why in error.value.message
    assert error.value.mend


def test_a_formula_is_written_as_people_do() -> None:
    p = parse("16*L*B*T*d + 2*V*d - T/2", LETTERS) + Polynomial.of(Atom("seq", 32))
    assert written(p, LETTERS, list(LETTERS)) == "16·B·T·L·d + 2·d·V - T/2 + ⌈T⌉₃₂"
    assert parse(written(parse("3*d^2 - d + 1", LETTERS), LETTERS), LETTERS) == parse("3*d^2 - d + 1", LETTERS)


def test_names_of_recurrent_layers_are_alike() -> None:
    assert alike("rnn.weight_ih_l1/exp_avg") == alike("rnn.weight_ih_l0/exp_avg") == "rnn.weight_ih_l*/exp_avg"


# --- a step whose formulas can be counted on paper ---


def test_every_quantity_of_the_perceptron(formula) -> None:
    """L square layers of float32, two moments of each weight, the output of each layer saved."""
    assert {name: q.polynomial for name, q in formula.quantities.items()} == {
        "parameters": L * W * W,
        "parameter_bytes": 4 * L * W * W,
        "gradients": 4 * L * W * W + 4,
        "optimizer_state": 8 * L * W * W,
        "saved_for_backward": 4 * B * L * W,
        "after_forward": 12 * L * W * W + 4 * B * W + 4 * B * L * W + 4,
        # a product is 2 B d² and ReLU one FLOP an element; the sum adds all but one element of the last output
        "flops_forward": L * (2 * B * W * W + B * W) + B * W,
        # two products a layer, but one for the first, and the threshold
        "flops_backward": 4 * L * B * W * W - 2 * B * W * W + L * B * W,
        "flops_optimizer": formula["flops_optimizer"].polynomial,
        "flops": formula["flops"].polynomial,
    }


def test_the_peak_is_the_largest_of_its_candidates_at_any_size(formula) -> None:
    for batch, layers, width in ((4, 12, 1024), (2, 3, 7), (9999, 3, 16), (600, 5, 32), (64, 4, 64)):
        expected = timeline(step(batch, layers, width)).peak_bytes
        assert formula.at("peak", batch=batch, layers=layers, width=width) == expected
    phases = {formula.peak.winner(batch=b, layers=12, width=64).point.phase for b in (1, 10**6)}
    assert phases == {"backward", "optimizer"}


def test_it_is_proved_on_instances_that_it_was_not_made_from(formula) -> None:
    assert len(formula.proof.instances) == 20
    assert formula.full in formula.proof.instances
    assert formula.proof.holds


def test_arrays_of_sizes(formula) -> None:
    batch = np.arange(2, 200)[:, None]
    width = np.array([8, 64, 512])
    peaks = formula.at("peak", batch=batch, layers=4, width=width)
    assert peaks.shape == (198, 3)
    assert peaks[5, 1] == formula.at("peak", batch=7, layers=4, width=64)


def test_sympy_expressions(formula) -> None:
    import sympy

    B, L, d = (sympy.Symbol(name, integer=True, positive=True) for name in "BLd")
    assert sympy.expand(formula["saved_for_backward"].expression - 4 * B * L * d) == 0
    assert formula.peak.expression.func is sympy.Max


def test_beside_a_hand_formula(formula) -> None:
    compared = compare_by_hand(formula, "5*B*L*d + 8*L*d**2", of="saved_for_backward")
    (saved, moments) = sorted(compared.rows, key=lambda row: str(row.term))
    assert [(row.hand, row.traced) for row in (saved, moments)] == [(5, 4), (8, 0)]
    assert [(part.what, part.at, part.why) for part in saved.sources] == [
        ("relu", "model.py:12", "relu keeps its result, model.py:12; mm keeps its input, model.py:11")
    ]
    assert {part.kind for part in moments.elsewhere} == {"parameter", "optimizer_state", "gradient", "temporary"}
    assert not compared.agrees
    assert compare_by_hand(formula, "4*B*L*d", of="saved_for_backward").agrees


def test_where_a_term_comes_from(formula) -> None:
    (quantity, _, parts), *_ = explain(formula, "B*L*d", of="saved_for_backward")
    assert (quantity.name, [(part.module, part.what) for part in parts]) == ("saved_for_backward", [("h.*", "relu")])
    with pytest.raises(ForetraceError, match="no quantity has a term"):
        explain(formula, "B*B*d")
    with pytest.raises(ForetraceError, match="is 2 terms"):
        explain(formula, "B + d")
    with pytest.raises(ForetraceError, match="the formula has no quantity 'save'"):
        compare_by_hand(formula, "B", of="save")


# --- what cannot be put into a formula ---


def test_a_power_is_no_polynomial() -> None:
    def doubling(batch: int) -> StepGraph:
        return perceptron(layers=2, batch=2**batch, width=8)

    with pytest.raises(
        ForetraceError, match=r"is no polynomial in batch: at 2, 3, 4, 5, 6, 7, 8 it is .*128, 256, 512"
    ):
        derive(doubling, {"batch": 8})


def test_a_condition_on_the_ratio_of_two_sizes() -> None:
    """Between the values of the lattice heads are no multiple of 8 wide; that the full ones are is what matters."""

    def at(width: int, heads: int) -> StepGraph:
        graph = perceptron(layers=2, batch=heads, width=width)
        return with_gelu(graph) if width % (8 * heads) else graph

    found = derive(at, {"width": 8192, "heads": 64})
    assert [str(condition) for condition in found.conditions] == ["width/heads = 0 mod 8"]
    assert found.full in found.proof.instances
    assert found.at("saved_for_backward", width=80, heads=5) == 2 * 4 * 5 * 80
    with pytest.raises(ValueError, match="holds for width/heads = 0 mod 8, not for width=80 heads=4"):
        found.at("peak", width=80, heads=4)


def test_padding_is_a_rounded_size() -> None:
    def padded(seq: int) -> StepGraph:
        return perceptron(layers=2, batch=-(-seq // 32) * 32, width=8)

    found = derive(padded, {"seq": 1024})
    assert found["saved_for_backward"].polynomial == 64 * Polynomial.of(Atom("seq", 32))
    assert found.at("peak", seq=33) == found.at("peak", seq=64) != found.at("peak", seq=65)


@pytest.mark.parametrize("multiple", [2, 8, 64])
def test_roundings_that_the_first_probes_do_not_tell_apart(multiple: int) -> None:
    def padded(seq: int) -> StepGraph:
        return perceptron(layers=2, batch=-(-seq // multiple) * multiple, width=8)

    found = derive(padded, {"seq": 500}, held_out=6)  # on the lattice 116, 180, ... 16, 32 and 64 are alike
    assert found["saved_for_backward"].polynomial == 64 * Polynomial.of(Atom("seq", multiple))


def with_gelu(graph: StepGraph) -> StepGraph:
    """The same step with another activation."""
    return replace(graph, ops=tuple(replace(op, name=op.name.replace("relu", "gelu")) for op in graph.ops))


def test_a_program_that_branches_on_parity_has_the_formula_of_the_full_one() -> None:
    def branching(batch: int) -> StepGraph:
        graph = perceptron(layers=2, batch=batch, width=8)
        return with_gelu(graph) if batch % 2 else graph

    for full in (8, 9):
        found = derive(branching, {"batch": full}, held_out=4)
        assert [str(condition) for condition in found.conditions] == [f"batch = {full % 2} mod 2"]
        assert "other ops run" in found.conditions[0].why


def test_a_size_that_must_divide_is_found_among_multiples() -> None:
    def picky(width: int) -> StepGraph:
        if width % 12:
            raise ForetraceError("width must divide by 12", "Give another.")
        return perceptron(layers=2, batch=3, width=width)

    found = derive(picky, {"width": 60}, held_out=3)
    assert found.axes[0].step == 12
    assert found.parameters.polynomial == 2 * W * W


def test_a_remainder_that_changes_the_bytes_in_no_known_way_is_a_condition() -> None:
    def odd(seq: int) -> StepGraph:
        return perceptron(layers=2, batch=seq + 5 * (seq % 2), width=8)

    found = derive(odd, {"seq": 1024})
    assert [str(condition) for condition in found.conditions] == ["seq = 0 mod 2"]
    with pytest.raises(ValueError, match="holds for seq = 0 mod 2"):
        found.at("peak", seq=33)


def test_a_size_beyond_which_the_bytes_differ_is_a_condition() -> None:
    found = derive(lambda batch: perceptron(layers=2, batch=min(batch, 100), width=8), {"batch": 64})
    assert [str(condition) for condition in found.conditions] == ["batch <= 64"]


def of_stock(*there: int):
    """A perceptron of some batches alone, and of all above the last of them."""

    def picky(batch: int) -> StepGraph:
        if batch not in there and batch < there[-1]:
            raise ForetraceError("out of stock", "Give another.")
        return perceptron(layers=2, batch=batch, width=8)

    return picky


def test_a_lattice_that_does_not_build_says_where() -> None:
    with pytest.raises(ForetraceError, match="batch=9 cannot be traced: out of stock"):
        derive(of_stock(8, 12, 99), {"batch": 12})
    found = derive(of_stock(8, 12), {"batch": 20}, at={"batch": [12, 13]})
    assert found["saved_for_backward"].at(batch=8) == 2 * 8 * 8 * 4


def test_odd_multiples_make_a_lattice_where_the_values_between_do_not_build() -> None:
    found = derive(of_stock(8, 12), {"batch": 12}, held_out=4)
    assert (found.axes[0].start, found.axes[0].step) == (8, 16)
    assert found["saved_for_backward"].polynomial == 64 * B


def branching_at(first: int, last: int = 10**9):
    """A perceptron with another activation from one batch to another."""

    def branching(batch: int) -> StepGraph:
        graph = perceptron(layers=2, batch=batch, width=8)
        return with_gelu(graph) if first <= batch <= last else graph

    return branching


def test_a_size_that_changes_the_program_is_said() -> None:
    with pytest.raises(ForetraceError) as error:
        derive(branching_at(64, 64), {"batch": 64})
    assert "batch=68 runs other ops than the full-size instance, batch=64: " in error.value.message
    assert "without gelu h.* model.py:12" in error.value.message and "with relu" in error.value.message
    assert "--at" in error.value.mend


def test_the_lattice_begins_behind_a_size_that_changes_the_program() -> None:
    found = derive(branching_at(51), {"batch": 64})
    assert [str(condition) for condition in found.conditions] == ["batch >= 51"]
    assert found["saved_for_backward"].polynomial == 64 * B
    with pytest.raises(ValueError, match="holds for batch >= 51, not for batch=50"):
        found.at("peak", batch=50)


def test_few_layers_may_have_another_peak_where_another_size_is_large() -> None:
    found = derive(step, {"batch": 16, "layers": 6, "width": 256})
    assert [str(condition) for condition in found.conditions] == ["layers >= 3"]
    for layers, batch, width in ((3, 2, 1), (3, 4, 2), (4, 9, 3)):
        expected = timeline(step(batch, layers, width)).peak_bytes
        assert found.at("peak", batch=batch, layers=layers, width=width) == expected


def test_values_that_are_not_equally_spaced() -> None:
    with pytest.raises(ForetraceError, match="1, 2, 4 of batch are not equally spaced"):
        derive(lambda batch: perceptron(batch=batch), {"batch": 8}, at={"batch": [1, 2, 4]})


def test_a_batch_of_one_may_be_another_program() -> None:
    def copying(batch: int, width: int) -> StepGraph:
        return perceptron(layers=2, batch=batch if batch > 1 else 3, width=width)

    full = {"batch": 8, "width": 64}
    found = derive(copying, full, apart={"batch"}, held_out=4)
    (regime,) = found.regimes
    assert (regime.name, regime.value, regime.formula.names) == ("batch", 1, ("width",))
    assert regime.formula["saved_for_backward"].polynomial == 24 * W
    assert found.at("saved_for_backward", batch=1, width=10) == 240
    assert found.at("saved_for_backward", batch=2, width=10) == 160
    over = found.at("saved_for_backward", batch=np.array([1, 2, 3]), width=10)
    assert list(over) == [240, 160, 240]
    names: dict = {}
    exec(formula_python(found), names)
    assert [names["saved_for_backward"](batch, 10) for batch in (1, 2)] == [240, 160]
    assert names["saved_for_backward"](np.array([1, 2, 3]), width=10).tolist() == [240, 160, 240]
    without = derive(copying, full, held_out=4)
    assert [str(condition) for condition in without.conditions] == ["batch >= 2"]
    exec(formula_python(without), names)
    with pytest.raises(ValueError, match="no formula holds for these sizes"):
        names["saved_for_backward"](1, 10)


def test_the_parts_of_a_quantity_by_module(formula) -> None:
    assert formula["parameters"].by_module() == {"h.*": L * W * W}
    assert formula["optimizer_state"].by_module() == {"h.*": 8 * L * W * W}


# --- what is no polynomial ---


def test_remainders_are_told_apart() -> None:
    """A size on whose parity the bytes depend in no known way: the formula is that of the full one's remainder."""

    def odd(batch: int, width: int) -> StepGraph:
        return perceptron(layers=2, batch=4 * batch + 1 if batch % 2 else 3 * batch, width=width)

    for full, kept in ((8, 24 * B * W), (9, 32 * B * W + 8 * W)):
        found = derive(odd, {"batch": full, "width": 16}, held_out=4)
        assert [str(condition) for condition in found.conditions] == [f"batch = {full % 2} mod 2"]
        assert found["saved_for_backward"].polynomial == kept
        assert all(sizes["batch"] % 2 == full % 2 for sizes in found.proof.instances)


def test_what_is_off_the_parabola_is_said() -> None:
    assert off_the_parabola([1, 4, 9, 16, 26]) == [0, 0, 0, 0, 1]
    with pytest.raises(ForetraceError) as error:
        derive(lambda batch: perceptron(layers=2, batch=2**batch, width=8), {"batch": 8})
    assert "off the parabola through the first three (and" in error.value.message
    assert "--bound above" in error.value.mend


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_the_simplex_finds_the_largest(seed: int) -> None:
    """Weak duality: a feasible pair of equal value proves that both are the best."""
    chance = np.random.default_rng(seed)
    rows, columns = int(chance.integers(1, 6)), int(chance.integers(1, 6))
    table = [[Fraction(int(x)) for x in chance.integers(0, 9, columns)] for _ in range(rows)]
    table.append([Fraction(1)] * columns)  # so that there is a largest
    limits = [Fraction(int(x)) for x in chance.integers(0, 50, rows + 1)]
    goal = [Fraction(int(x)) for x in chance.integers(-9, 9, columns)]
    found, prices = maximize(goal, table, limits)
    assert min(found) >= 0 and min(prices) >= 0
    assert all(sum(a * x for a, x in zip(row, found, strict=True)) <= r for row, r in zip(table, limits, strict=True))
    for k in range(columns):
        assert sum(price * row[k] for price, row in zip(prices, table, strict=True)) >= goal[k]
    best = sum(c * x for c, x in zip(goal, found, strict=True))
    assert best == sum(price * r for price, r in zip(prices, limits, strict=True))


@pytest.mark.parametrize("side", ["above", "below"])
def test_a_bound_is_true_of_values_that_it_has_not_seen(side: str) -> None:
    def padded(batch: int, width: int) -> StepGraph:
        return perceptron(layers=2, batch=batch + 3 * (batch % 2), width=-(-width // 24) * 24)

    found = bound(padded, {"batch": 32, "width": 200}, "saved_for_backward", side=side)
    assert (found.name, found.side, len(found.held_out)) == ("saved_for_backward", side, 20)
    assert found.traced_at_full == 2 * 4 * 32 * 216
    least, most = found.slack
    assert 0 <= least <= most
    sign = 1 if side == "above" else -1
    for sizes in found.held_out:
        kept = 2 * 4 * (sizes["batch"] + 3 * (sizes["batch"] % 2)) * -(-sizes["width"] // 24) * 24
        assert sign * (found.polynomial.at(**sizes) - kept) >= 0
    assert abs(found.at_full - found.traced_at_full) < 0.2 * found.traced_at_full
    assert f"saved_for_backward is never {side} (a bound, not a formula)" in bound_text(found)
    assert json.loads(bound_json(found))["bound"] == side


def test_a_bound_of_a_polynomial_is_near_it() -> None:
    found = bound(lambda batch: perceptron(layers=2, batch=batch, width=8), {"batch": 50}, "saved_for_backward")
    assert found.polynomial == 64 * B
    assert found.slack == (0, 0)


def test_what_no_bound_is_asked_of() -> None:
    at = lambda **sizes: perceptron(layers=2, batch=sizes["a"])  # noqa: E731
    with pytest.raises(ForetraceError, match="there is no quantity 'speed'"):
        bound(at, {"a": 8}, "speed")
    with pytest.raises(ForetraceError, match="'beside' is no side of a bound"):
        bound(at, {"a": 8}, side="beside")
    with pytest.raises(ForetraceError, match="a bound over 5 sizes"):
        bound(at, dict.fromkeys("abcde", 8))
