"""A function that traces + full sizes -> the formula of every *piece*: the sizes that run one program.

The first piece is that of the full sizes. Where an instance runs other ops or has other bytes, the *condition* is
looked for that sets it apart: a remainder of one size, or a threshold of one size or of the ratio of two (the width of
a head). What does not meet the condition is a region of its own, which gets a formula in the same way, from a lattice
inside it and with a proof of its own, and may be divided again. A range of two or three values has a formula over the
other sizes for each value. A region that has no formula is kept, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from math import lcm, prod
from typing import NamedTuple

from ...graph import ForetraceError
from .derive import HELD_OUT, LATER_LAYERS, NoPolynomial, NotProved, _Deriver, residues
from .digest import Digest
from .expression import letters_for
from .instances import Asked, Instances, NoInstance, Pinned, Sizes, TraceAt, in_words
from .lattice import Axis, Index
from .plan import difference
from .polynomial import Atom
from .result import Condition, Formula, Piece, Proof, Regime, simplified

OFFER = "Ask for a formula of each piece with --pieces, "

MEND = "Choose values of one kind with --at, or take a bound in place of a formula: --bound above."

MOST_PIECES = 8
FEW_VALUES = 3
"""A range of so few values is no place for a lattice."""

SPARE = 3
"""How many more values than its degree a polynomial must go through."""

NARROW = 64
"""In a range of so many values each is looked at."""

FAR = 8
"""Up to so many times the full value of each size what differs is looked for."""

MODULI = (2, 3, 4, 5, 6, 8, 16, 32, 64)
TRIED_BESIDE = 8
"""How many values that cannot be built are skipped in search of one that can."""


def piecewise(
    trace_at: TraceAt,
    full: Sizes,
    *,
    at: Mapping[str, Sequence[int]] | None = None,
    letters: Mapping[str, str] | None = None,
    held_out: int = HELD_OUT,
    prove_at: Sequence[Sizes] = (),
    apart: AbstractSet[str] = frozenset(),
    asked: Asked | None = None,
    most: int = MOST_PIECES,
) -> Formula:
    """The formula as `derive` gives it, and in ``further`` those of the pieces beyond it, `most` of them in all.

    Every piece is proved on `held_out` instances of its own, fewer where it has not so many. Raises `ForetraceError`
    where the full sizes' piece has no formula.
    """
    search = _Search(Instances(trace_at, asked), full, dict(at or {}), letters_for(list(full), letters), apart)
    return search.run(held_out, prove_at, most)


@dataclass(frozen=True)
class _Region:
    """The sizes that meet some conditions; `witness` is one of them, as large as the full one where that can be."""

    within: tuple[Condition, ...]
    witness: Sizes
    among: AbstractSet[Index] | None = None
    lines: Mapping[str, Sequence[int]] | None = None
    """For one value of a size: the lattice of the region beside it, which needs no others."""

    @property
    def pinned(self) -> dict[str, int]:
        """The sizes that have one value."""
        return {c.name: c.exactly for c in self.within if c.exactly is not None}


class _Found(NamedTuple):
    """A formula, where it holds, and the first instance of its lattice."""

    conditions: tuple[Condition, ...]
    formula: Formula
    base: Digest


@dataclass
class _Search:
    instances: Instances
    full: Sizes
    given: Mapping[str, Sequence[int]]
    letters: Mapping[str, str]
    apart: AbstractSet[str]

    def run(self, held_out: int, prove_at: Sequence[Sizes], most: int) -> Formula:
        self.held_out, self.prove_at = held_out, prove_at
        self.pending = [_Region((), self.full)]
        first, found = self.that_of_the_full()
        while self.pending and len(found) + 1 < most:
            found.append(self.tried(self.pending.pop(0)))
        others = [self.compared(first, each) for each in found]
        others += [Piece(simplified(r.within), "", None, f"there are more than {most} pieces") for r in self.pending]
        return replace(first.formula, further=tuple(others), traces=self.instances.traces)

    def that_of_the_full(self) -> tuple[_Found, list[_Found | Piece]]:
        """The formula of the piece that the full sizes lie in, and what was met before it."""
        before: list[_Found | Piece] = []
        while True:
            region = next((r for r in self.pending if all(c.holds_at(self.full) for c in r.within)), None)
            if region is None:
                raise ForetraceError(f"no piece was found that {in_words(self.full)} lies in", MEND)
            self.pending.remove(region)
            try:
                found = self.found(region)
            except ForetraceError as error:
                raise ForetraceError(error.message, error.mend.replace(OFFER, "No pieces were found: ")) from error
            if all(c.holds_at(self.full) for c in found.conditions):
                return found, before
            before.append(found)

    def tried(self, region: _Region) -> _Found | Piece:
        """What is found of a region, or a piece that says why there is nothing."""
        try:
            return self.found(region)
        except NoInstance as error:
            why = f"no lattice of small instances was found there: {error.message}"
        except ForetraceError as error:
            why = error.message
        return Piece(simplified(region.within), "", None, why)

    def compared(self, first: _Found, other: _Found | Piece) -> Piece:
        """A piece with the ops that only it or only the first one runs; where there are none, one of its bytes."""
        if isinstance(other, Piece):
            return other
        ops = difference(first.base, other.base)
        differs = ops or next((str(r) for r in residues(first.formula, other.base)), "")
        return Piece(other.conditions, differs, other.formula)

    def found(self, region: _Region) -> _Found:
        """The formula of a region, or of the part of it that the witness lies in; the other parts are left pending."""
        chosen: dict[str, Sequence[int]] = dict((region.lines if region.pinned else self.given) or {})
        while True:
            deriver = self.deriver(region, chosen)
            try:
                formula = deriver.run(self.held_out, self.prove_at)
                break
            except NoPolynomial as error:
                name = error.axis.name
                if error.modulus and name not in chosen:
                    chosen[name] = error.of_one_remainder(region.witness[name])
                    continue
                condition = deriver.broken(error)
                if condition is None:
                    raise
                region = self.divided(region, condition)
            except NotProved as error:
                if region.among is not None:
                    region = replace(region, among=None)  # it has terms that the others have not
                    continue
                later = {name: LATER_LAYERS for name in error.layers if name not in chosen}
                if not later:
                    raise
                chosen |= later
        self.leave_the_rest(region, deriver)
        return _Found(simplified((*region.within, *formula.conditions)), formula, deriver.base)

    def deriver(self, region: _Region, chosen: Mapping[str, Sequence[int]]) -> _Splitter:
        pinned = region.pinned
        return _Splitter(
            instances=Pinned(self.instances, pinned) if pinned else self.instances,
            full={name: value for name, value in region.witness.items() if name not in pinned},
            given=chosen,
            letters=self.letters,
            apart=self.apart,
            among=region.among,
            within=region.within,
        )

    def divided(self, region: _Region, condition: Condition) -> _Region:
        """The part of a region that a condition leaves, with the witness; the other part is left pending."""
        if not condition.holds_at(region.witness):
            condition = condition.negated()
        self.leave((*region.within, condition.negated()))
        return replace(region, within=(*region.within, condition))

    def leave_the_rest(self, region: _Region, deriver: _Splitter) -> None:
        """Note what does not meet the conditions that were found, one region for each of them."""
        before = list(region.within)
        for condition in deriver.own:
            self.leave((*before, condition.negated()), deriver)
            before.append(condition)

    def leave(self, within: tuple[Condition, ...], deriver: _Splitter | None = None) -> None:
        known = [d.sizes for d in self.instances.digests if all(c.holds_at(d.sizes) for c in within)]
        name = within[-1].name
        values = _values_left(name, within) if not within[-1].by else []
        values = values if len(values) <= FEW_VALUES else []
        if deriver is not None and values and name in deriver.plan.structural:
            return  # so few layers are no program that one asks about, and would double the pieces
        if deriver is not None and values and name in deriver.full:
            self.pending += self.one_by_one(within, name, values, deriver)
        elif known:
            self.pending.append(_Region(within, self.witness(within, max(known, key=lambda s: prod(s.values())))))

    def one_by_one(
        self, within: tuple[Condition, ...], name: str, values: Sequence[int], deriver: _Splitter
    ) -> Iterator[_Region]:
        place = list(deriver.plan.axes).index(name)
        among = frozenset((*index[:place], *index[place + 1 :]) for index in deriver.found.indices)
        lines = {n: [a.start, a.start + a.step] for n, a in deriver.plan.axes.items() if n != name}
        for value in values:
            if self.instances.builds({**self.full, name: value}):
                only = replace(within[-1], least=value, most=value, above=0, modulus=1, excluded=False)
                kept = tuple(c for c in within[:-1] if c.name != name or c.by)
                yield _Region((*kept, only), {**self.full, name: value}, among, lines)

    def witness(self, within: Sequence[Condition], known: Sizes) -> Sizes:
        """Sizes like the full ones, but within the conditions: of the program of those that are known to be there."""
        last = within[-1]
        for value in _near(last, self.full):
            sizes = {**self.full, last.name: value}
            inside = all(c.holds_at(sizes) for c in within) and self.instances.builds(sizes)
            if inside and self.instances.at(sizes).regime == self.instances.at(known).regime:
                return sizes
        return known


def _values_left(name: str, conditions: Sequence[Condition]) -> list[int]:
    """The values that conditions leave to a size; none where they are without end."""
    alone = [c for c in conditions if c.name == name and not c.by]
    most = min((int(c.most) for c in alone if c.most is not None), default=0)
    first = max((max(c.least, int(c.above) + 1) for c in alone), default=1)
    return [v for v in range(first, most + 1) if all(c.holds(v) for c in alone)]


def _near(condition: Condition, full: Sizes) -> list[int]:
    """Values of a condition's size close to the full one that may meet it."""
    per = full[condition.by] if condition.by else 1
    value = full[condition.name]
    if condition.modulus > 1:
        return [v for d in range(1, condition.modulus + 1) for v in (value - d * per, value + d * per) if v > 0]
    if condition.most is not None:
        edge = int(condition.most * per)
        return [v for v in (edge - edge % 64, edge) if v > 0]
    edge = int(condition.above * per)
    return [edge - edge % 64 + 128, edge - edge % per + per * 8, edge + per]


@dataclass
class _Splitter(_Deriver):
    """Finds the formula of one piece, and the conditions that set it apart from what else it meets."""

    own: tuple[Condition, ...] = ()
    """The conditions that were found, besides those it is within."""

    def run(self, held_out: int, prove_at: Sequence[Sizes]) -> Formula:
        formula = self.formula(pin=bool(self.full))
        if not self.full:
            return replace(formula, proof=Proof(({},)), conditions=())
        for name, sizes in self.ladders():
            formula = self.parted(formula, sizes)
            if sizes[name] > self.full[name] and self.is_wrong(formula, sizes):
                limit = Condition(name, f"beyond, {self.why(formula, sizes)}", most=self.full[name])
                formula = replace(formula, conditions=(*formula.conditions, limit))
        formula = self.parted_at_one(formula)
        formula = self.parted_from_held_out(formula, held_out, prove_at)
        formula = self.parted_in_narrow_ranges(formula)
        self.check_values(formula)
        self.conditions_now = self.own = formula.conditions
        proof = self.prove(formula, held_out, prove_at)
        mine = tuple(c for c in self.within if {c.name, c.by} <= {*self.full, ""})
        return replace(formula, proof=proof, conditions=simplified((*mine, *formula.conditions)))

    def pinned(self, formula: Formula) -> Formula:
        """With regimes for the 1 of some sizes, and the fewest layers that it holds for."""
        for name, axis in self.plan.axes.items():
            if name in self.plan.structural:
                few = self.from_layers_on(name, formula)
                formula = replace(formula, conditions=(*formula.conditions, *few))
                continue
            sizes = self.plan.base(**{name: 1})
            there = axis.start > 1 and self.is_there(name, 1)
            if there and self.is_wrong(formula, sizes) and self.is_regime(name, formula):
                regime = Regime(name, 1, self.why(formula, sizes), self.at_one(name))
                formula = replace(formula, regimes=(*formula.regimes, regime))
        return formula

    def parted_at_one(self, formula: Formula) -> Formula:
        """With conditions that leave 1 of a size out, where that differs."""
        for name in self.plan.axes:
            sizes = self.plan.base(**{name: 1})
            formula = self.parted(formula, sizes)
            if self.is_wrong(formula, sizes) and name not in self.plan.structural:
                since = self.from_on(name, formula, self.why(formula, sizes))
                formula = replace(formula, conditions=(*formula.conditions, *since))
        return formula

    def is_regime(self, name: str, formula: Formula) -> bool:
        """Whether 1 of a size, and nothing above it, is to have a formula beside the others'."""
        second = self.plan.base(**{name: 2})
        alone = self.holds_at(formula, second) or not self.is_there(name, 2)
        wanted = self.full[name] == 1 or name in self.apart
        return wanted and alone and len(self.plan.axes) > 1

    # --- what the formula does not hold for ---

    def ladders(self) -> Iterator[tuple[str, dict[str, int]]]:
        """For every size that does not lengthen the program: values doubled and halved from the first one on."""
        for name, axis in self.plan.axes.items():
            if name in self.plan.structural:
                continue
            value = axis.start // 2
            while value >= 2:
                yield name, self.plan.base(**{name: value})
                value //= 2
            steps = 1
            while axis.value(steps) <= FAR * self.full[name]:
                yield name, self.plan.base(**{name: axis.value(steps)})
                steps *= 2
            yield name, self.plan.base(**{name: axis.value(steps)})

    def parted_from_held_out(self, formula: Formula, count: int, more: Sequence[Sizes]) -> Formula:
        """With the conditions that set apart those held-out instances that run other ops or have other bytes."""
        self.conditions_now = formula.conditions
        for _, sizes in zip(range(count + len(more)), self.held_out(count, more), strict=False):
            formula = self.parted(formula, sizes)
        return formula

    def parted_in_narrow_ranges(self, formula: Formula) -> Formula:
        """Every value of a size that has few is looked at: a polynomial may go through the lattice's by chance."""
        for name in self.full:
            values = _values_left(name, (*self.within, *formula.conditions))
            for value in values if len(values) <= NARROW else ():
                formula = self.parted(formula, self.plan.base(**{name: value}))
        return formula

    def check_values(self, formula: Formula) -> None:
        """Raise `ForetraceError` where a size has so few values that a polynomial goes through any numbers there."""
        polynomials = [quantity.polynomial for quantity in formula.quantities.values()]
        polynomials += [candidate.polynomial for candidate in formula.peak.candidates]
        for name in self.full:
            values = _values_left(name, (*self.within, *formula.conditions))
            degree = max((p for f in polynomials for m in f.terms for a, p in m if a.name == name), default=0)
            if values and len(values) < degree + SPARE:
                raise ForetraceError(
                    f"{name} has but {len(values)} values there, which lie on no polynomial of a degree below {degree}",
                    "Set the size with -p.",
                )

    def parted(self, formula: Formula, sizes: Sizes) -> Formula:
        """With a condition that leaves `sizes` out, if the formula is not theirs and there is such a condition."""
        if not self.is_wrong(formula, sizes):
            return formula
        found = self.separator(formula, sizes)
        return replace(formula, conditions=(*formula.conditions, found)) if found else formula

    def is_wrong(self, formula: Formula, sizes: Sizes) -> bool:
        """Whether the formula ought to be that of the instance and is not."""
        there = self.is_within(formula, sizes) and self.instances.builds(sizes)
        return there and not self.is_right(formula, sizes)

    def is_right(self, formula: Formula, sizes: Sizes) -> bool:
        """Whether the formula, or that of the regime of the sizes, is that of the instance."""
        found = self.instances.at(sizes)
        regime = next((r for r in formula.regimes if sizes[r.name] == r.value), None)
        if regime is not None:
            return not residues(regime.formula, found)
        return found.regime == self.base.regime and not residues(formula, found)

    def separator(self, formula: Formula, bad: Sizes) -> Condition | None:
        """A condition that the first instance of the lattice meets, and `bad` does not."""
        place = self.turn(formula, bad)
        if place is None:
            return None
        good, name = place
        why = self.why(formula, {**good, name: bad[name]})
        for found in (self.by_remainder, self.by_threshold):
            condition = found(formula, good, name, bad[name], why)
            if condition is not None and not condition.holds_at(self.instances.complete(bad)):
                return condition if condition not in formula.conditions else None
        return None

    def turn(self, formula: Formula, bad: Sizes) -> tuple[dict[str, int], str] | None:
        """On the way from the first instance to `bad`, one size after the other: where the formula is right for the
        last time, and the size that comes next."""
        here = self.plan.base()
        for _ in range(2):  # a size may be built only after another one is set
            for name in sorted(self.full, key=lambda n: n not in self.plan.structural):
                there = {**here, name: bad[name]}
                if there == here or not self.instances.builds(there):
                    continue
                if not self.holds_at(formula, there):
                    return here, name
                here = there
        return None

    def why(self, formula: Formula, sizes: Sizes) -> str:
        found = self.instances.at(sizes)
        ops = difference(self.base, found)
        return f"at {in_words(sizes)} other ops run: {ops}" if ops else str(residues(formula, found)[0])

    # --- remainders ---

    def by_remainder(self, formula: Formula, good: Sizes, name: str, bad: int, why: str) -> Condition | None:
        """A condition on the remainder of a size, or of its ratio to another one."""
        first = good[name]

        def right(value: int) -> bool:
            return value > 0 and self.holds_at(formula, {**good, name: value})

        for modulus in dict.fromkeys((*MODULI, self.plan.axes[name].step)):
            rest = (bad - first) % modulus
            alike = (bad - rest, first + modulus, first + 2 * modulus)
            if rest and not right(first + rest) and all(v == first or right(v) for v in alike):
                alone = Condition(name, why, modulus, first % modulus)
                return self.best(formula, good, [alone, *self.of_ratios(alone, good)], [first + rest, *alike])
        return None

    # --- thresholds ---

    def by_threshold(self, formula: Formula, good: Sizes, name: str, bad: int, why: str) -> Condition | None:
        """A condition that a size, or its ratio to another one, lies on one side."""
        low, high = self.edge(formula, good, name, bad)
        alone = Condition(name, why, most=low) if low < high else Condition(name, why, least=high + 1)
        ratios = [_on_one_side(name, by, low, high, good[by], why) for by in self.beside(name, good)]
        return self.best(formula, good, [alone, *ratios], [low, high])

    def edge(self, formula: Formula, good: Sizes, name: str, bad: int) -> tuple[int, int]:
        """Neighbours on the way from a value that the formula is right for to one that it is not: the last and the
        first of their kind."""
        step = lcm(*(c.modulus * (good[c.by] if c.by else 1) for c in self.remainders(formula, name)))
        low, high = good[name], bad
        while abs(high - low) > step:
            middle = self.middle(good, name, low, high, step)
            if middle is None:
                break
            low, high = (middle, high) if self.holds_at(formula, {**good, name: middle}) else (low, middle)
        return low, high

    def remainders(self, formula: Formula, name: str) -> list[Condition]:
        """The conditions on a size's remainder."""
        asked = (*self.within, *formula.conditions)
        return [c for c in asked if c.name == name and c.modulus > 1 and not c.excluded]

    def middle(self, good: Sizes, name: str, low: int, high: int, step: int) -> int | None:
        """A value between two that can be built, and leaves the remainder of the first."""
        half = low + (high - low) // (2 * step) * step
        near = [half + sign * k * step for k in range(TRIED_BESIDE + 1) for sign in (1, -1)]
        inside = dict.fromkeys(v for v in near if min(low, high) < v < max(low, high))
        return next((v for v in inside if self.instances.builds({**good, name: v})), None)

    # --- thresholds that the lattice itself goes across ---

    def broken(self, error: NoPolynomial) -> Condition | None:
        """The threshold on an axis where a series that is no polynomial is one on one side; None where it is not."""
        found = _longest_run(error.all_values)
        if found is None:
            return None
        first, last = found
        axis, series = error.axis, error.series
        curve = _through(axis, first, error.all_values[first : last + 1])

        def right(value: int) -> bool:
            sizes = self.plan.base(**{axis.name: value})
            if not self.is_there(axis.name, value):
                return False
            traced = next((n for s, n in self.instances.at(sizes).numbers.items() if s == series), 0)
            return any(curve(r) == traced for r in _rounded(value, axis))

        after = first == 0
        good, bad = (axis.value(last), axis.value(last + 1)) if after else (axis.value(first), axis.value(first - 1))
        while abs(bad - good) > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if right(middle) else (good, middle)
        why = str(error.message)
        return Condition(axis.name, why, most=good) if after else Condition(axis.name, why, least=bad + 1)


def _on_one_side(name: str, by: str, low: int, high: int, per: int, why: str) -> Condition:
    """A threshold of the ratio of two sizes, the larger over the smaller, between where it is right and where not."""
    if low < per:
        name, by, right, wrong = by, name, Fraction(per, low), Fraction(per, high)
    else:
        right, wrong = Fraction(low, per), Fraction(high, per)
    if wrong > right:
        return Condition(name, why, by=by, most=_whole(right))
    return Condition(name, why, by=by, above=_whole(wrong))


def _whole(value: Fraction) -> int | Fraction:
    return value if value.denominator > 1 else int(value)


def _rounded(value: int, axis: Axis) -> set[int]:
    """A value, and what it is when it is rounded as an axis's values need not be."""
    multiples = [m for m in (1, *MODULI) if axis.step % m == 0 and axis.start % m == 0]
    return {Atom("", m, up).value(value) for m in multiples for up in (True, False)}


def _longest_run(values: Sequence[int]) -> tuple[int, int] | None:
    """The first and the last place of the longest run at one end that is a polynomial with a value to spare, at least
    four long; the later end is looked at first.

    >>> _longest_run([9, 9, 1, 4, 9, 16, 25]), _longest_run([1, 2, 4, 8, 16, 32, 64])
    ((2, 6), None)
    """
    for count in range(len(values) - 1, 3, -1):
        for first in (len(values) - count, 0):
            left = list(values[first : first + count])
            for _ in range(count - 1):
                left = [b - a for a, b in pairwise(left)]
            if left == [0]:
                return first, first + count - 1
    return None


def _through(axis: Axis, first: int, values: Sequence[int]) -> Callable[[int], Fraction]:
    """The polynomial through a run of values along an axis, by Lagrange."""
    places = [axis.value(first + k) for k in range(len(values))]

    def curve(x: int) -> Fraction:
        return sum(
            (
                y * prod((Fraction(x - other, place - other) for other in places if other != place), start=Fraction(1))
                for place, y in zip(places, values, strict=True)
            ),
            start=Fraction(0),
        )

    return curve
