"""A function that traces + full sizes -> the `Formula`: recovered on a lattice, rounded where it must be, proved.

In order: plan a lattice of small instances; recover every class of storages and ops, and the live bytes of every
point, as polynomials; find what is rounded (padding) by instances between the lattice points; give the values that
run another program (a batch of 1) a formula of their own; take the candidates for the peak apart into classes; compare
everything with traces that had no part in it, the full-size one among them.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice, pairwise

import numpy as np

from ...graph import Category, ForetraceError, Phase
from . import peak as peaks
from .digest import AFTER_FORWARD, Counted, Digest, Live, Made, Point, Series, Spent, StorageClass
from .expression import letters_for
from .instances import Asked, Instances, Pinned, Sizes, TraceAt, in_words
from .lattice import HIGHEST_DEGREE, Axis, Index, Recovery, recover
from .plan import Plan, check_same_regime, difference, plan
from .polynomial import Atom, Polynomial
from .result import (
    Candidate,
    Condition,
    Formula,
    Part,
    Peak,
    Proof,
    Quantity,
    Regime,
    Residue,
    largest_first,
)

HELD_OUT = 20
"""How many instances the proof takes, where there are so many."""

LARGE = 64
"""So many times its first value a size is large beside the others."""

TRIES = 40
"""How many random sizes are tried for each of them; the later ones are larger."""

PIECES = (2, 3)
"""Remainders by these are looked for where a quantity is no polynomial over small values."""

ROUNDINGS = (2, 4, 8, 16, 32, 64, 128, 256)

BYTES = {
    "parameter_bytes": ("parameters", Category.PARAMETER),
    "buffer_bytes": ("buffers", Category.BUFFER),
    "gradients": ("gradients", Category.GRADIENT),
    "optimizer_state": ("optimizer state", Category.OPTIMIZER_STATE),
    "saved_for_backward": ("saved for backward", Category.SAVED),
}
"""The quantities that are a category of storages on the device."""


LATER_LAYERS = (5, 6)
"""How many layers, or steps of a loop, are counted from if counting from fewer missed the one that has the peak: it may
be neither among the first nor among the last."""


def derive(
    trace_at: TraceAt,
    full: Sizes,
    *,
    at: Mapping[str, Sequence[int]] | None = None,
    letters: Mapping[str, str] | None = None,
    held_out: int = HELD_OUT,
    prove_at: Sequence[Sizes] = (),
    apart: AbstractSet[str] = frozenset(),
    asked: Asked | None = None,
) -> Formula:
    """The formula over the sizes that `full` names, from small instances, proved at `full` and at others.

    `trace_at` gives the trace at any sizes. `at` has values for the lattice of a size where the ones chosen here do
    not suit the model; `prove_at` are instances to prove it on besides. Where a size is 1 at its full value, or is in
    `apart`, and the program is another at 1, that value gets a formula of its own; else the formula says that it holds
    from 2 on.

    Where a quantity is one polynomial for each remainder by a small number, it is the formula of those values that
    leave the full one's.

    Raises `ForetraceError` where no lattice can be built, where a quantity is no polynomial, and where a held-out
    instance disagrees: a formula that is returned was exact on all of them.
    """
    instances, chosen = Instances(trace_at, asked), dict(at or {})
    while True:
        deriver = _Deriver(instances, full, chosen, letters_for(list(full), letters), apart)
        try:
            return deriver.run(held_out, prove_at)
        except NoPolynomial as error:
            if not error.modulus or error.axis.name in chosen:
                raise
            chosen[error.axis.name] = error.of_one_remainder(full[error.axis.name])
        except NotProved as error:
            later = {name: LATER_LAYERS for name in error.layers if name not in chosen}
            if not later:
                raise
            chosen |= later


def line(
    instances: Instances,
    axes: Sequence[Axis],
    letters: Mapping[str, str] | None = None,
    *,
    highest: int = HIGHEST_DEGREE,
) -> Formula:
    """The memory's formula on lattices that the caller chose, with no proof: it is to be compared with other traces.

    It has no FLOPs, which may need more points, and no count of parameters. Between the values of an axis it holds
    where what is rounded there is known; else for the axis's values alone. Raises `ForetraceError` as `derive` does,
    and where a quantity is of a degree above `highest`.
    """
    starts = {axis.name: axis.start for axis in axes}
    deriver = _Deriver(instances, starts, {}, letters_for(list(starts), letters), memory_alone=True, highest=highest)
    return deriver.on(Plan(instances, starts, {}, {axis.name: axis for axis in axes}))


class NotProved(ForetraceError):
    """A formula is wrong on instances that it was not made from; `layers` are the sizes that lengthen the program."""

    def __init__(self, wrong: Sequence[Residue], proved: int, layers: Collection[str]) -> None:
        super().__init__(
            f"the formula is wrong on {len({in_words(r.sizes) for r in wrong})} of {proved} held-out "
            f"instances: {'; '.join(str(r) for r in wrong[:3])}",
            "No formula is given where one is wrong. Ask for a formula of each piece with --pieces, choose sizes of "
            "one kind with --at, or set the size with -p.",
        )
        self.layers = tuple(layers)


class NoPolynomial(ForetraceError):
    """Some quantities are no polynomial along an axis; with a `modulus` they seem to be one for each remainder."""

    def __init__(self, axis: Axis, modulus: int, values: Sequence[tuple[str, Sequence[int]]], series: Hashable) -> None:
        what, seen = values[0]
        places = ", ".join(str(axis.value(k)) for k in range(len(seen)))
        more = f" (and {len(values) - 1} more)" if len(values) > 1 else ""
        residues = ", ".join(f"{r:+,}" if r else "0" for r in off_the_parabola(seen))
        name = axis.name
        super().__init__(
            f"{what} is no polynomial in {name}: at {places} it is {', '.join(f'{v:,}' for v in seen)}, which is "
            f"{residues} off the parabola through the first three{more}",
            f"Ask for a formula of each piece with --pieces, choose values of one kind with --at {name}=A,B (one "
            f"remainder, one side of a threshold), leave {name} out (foretrace fit --vary {name} follows it piece by "
            "piece), or take a bound in place of a formula: --bound above.",
        )
        self.axis, self.modulus = axis, modulus
        self.series, self.all_values = series, tuple(seen)

    def of_one_remainder(self, full: int) -> list[int]:
        """The first two values along the axis that leave the remainder of the full one."""
        step = self.axis.step * self.modulus
        first = self.axis.start + (full - self.axis.start) % step
        return [first, first + step]


def is_piecewise(values: Sequence[int], modulus: int) -> bool:
    """Whether every so manieth value lies on a parabola, or where there are but three, on a line."""
    kept = [Fraction(v) for v in values[::modulus]]
    for _ in range(len(kept) - 1):
        kept = [b - a for a, b in pairwise(kept)]
    return kept == [0]


def off_the_parabola(values: Sequence[int]) -> list[int]:
    """How far values are from the polynomial of second degree through the first three.

    >>> off_the_parabola([1, 4, 9, 16, 26])
    [0, 0, 0, 0, 1]
    """
    first, second, third = values[:3]
    slope, bend = second - first, third - 2 * second + first
    return [v - (first + k * slope + k * (k - 1) // 2 * bend) for k, v in enumerate(values)]


@dataclass
class _Deriver:
    """Finds the formula of the sizes within some conditions."""

    instances: Instances
    full: Sizes
    given: Mapping[str, Sequence[int]]
    letters: Mapping[str, str]
    apart: AbstractSet[str] = frozenset()
    """Sizes whose 1 shall have a formula of its own, as those have that are 1 at the full sizes."""
    among: AbstractSet[Index] | None = None
    """The lattice points to which the recovery is limited; None for whatever it needs."""
    memory_alone: bool = False
    """Whether FLOPs and parameters are left out, and a rounding that is not known is not looked into."""
    highest: int = HIGHEST_DEGREE
    within: tuple[Condition, ...] = ()
    """What the sizes must meet."""

    def run(self, held_out: int, prove_at: Sequence[Sizes]) -> Formula:
        formula = self.formula(pin=True)
        formula = replace(formula, conditions=(*formula.conditions, *self.beyond(formula)))
        self.conditions_now = formula.conditions
        proof = self.prove(formula, held_out, prove_at)
        return replace(formula, proof=proof, traces=self.instances.traces)

    # --- recovery ---

    def formula(self, *, pin: bool) -> Formula:
        formula = self.on(plan(self.instances, self.full, self.given, self.within))
        return self.pinned(formula) if pin else formula

    def on(self, planned: Plan) -> Formula:
        """The formula on a lattice."""
        self.plan = planned
        self.plan.mark_structure()
        self.base = self.instances.at(self.plan.base())
        self.points = peaks.points(self.base, [self.neighbour(name) for name in sorted(self.plan.structural)])
        self.lives = self.live_series()
        self.found: Recovery[Series] = recover(
            list(self.plan.axes.values()),
            [*self.numbers, *self.lives],
            self.values,
            among=self.among,
            highest=self.highest,
        )
        self.check_polynomial()
        self.atoms: dict[Series, dict[str, Atom]] = {}
        formula = self.assemble(tuple(self.rounding()))
        return formula if self.memory_alone else self.with_ratios(formula)

    @property
    def numbers(self) -> list[Series]:
        """The series that are asked for, but for what is live at a point."""
        return [s for s in self.base.numbers if isinstance(s, Made) or not self.memory_alone]

    def neighbour(self, name: str) -> Digest:
        return self.instances.at(self.plan.node(**{name: 1}))

    def digest(self, index: Sequence[int]) -> Digest:
        self.plan.check_inside(self.plan.at(index))
        found = self.instances.at(self.plan.at(index))
        check_same_regime(self.base, found, "the first of the lattice")
        return found

    def live_series(self) -> list[Live]:
        """What may be live at a point: what is in the first instance and its neighbours along each axis."""
        points = [AFTER_FORWARD, *self.points]
        found: dict[Live, None] = {}
        for known in (self.base, *(self.neighbour(name) for name in self.plan.axes)):
            self.check_points(known)
            table = known.live_at(points)
            for i, k in zip(*(where.tolist() for where in table.nonzero()), strict=True):
                found[Live(points[i], known.classes[k])] = None
        return list(found)

    def check_points(self, found: Digest) -> None:
        try:
            for point in self.points:
                found.row(point)
        except KeyError as error:
            raise ForetraceError(
                f"{in_words(found.sizes)} has no {error.args[0]}, which {in_words(self.base.sizes)} has",
                "A size that changes the program's structure cannot be in a formula: set it with -p.",
            ) from error

    def values(self, index: Sequence[int]) -> list[int]:
        found = self.digest(index)
        self.check_points(found)
        points = {point: i for i, point in enumerate((AFTER_FORWARD, *self.points))}
        classes = {of: i for i, of in enumerate(found.classes)}
        table = np.pad(found.live_at(list(points)), ((0, 0), (0, 1)))  # a class that is not there has no bytes
        live = table[[points[s.at] for s in self.lives], [classes.get(s.of, -1) for s in self.lives]]
        return [*found.numbers_of(self.numbers), *live.tolist()]

    def check_polynomial(self) -> None:
        failures = [f for f in self.found.failures if not isinstance(f.series, Live)]
        if not failures:
            return
        axis = failures[0].axis
        modulus = next((m for m in PIECES if all(is_piecewise(f.values, m) for f in failures if f.axis is axis)), 0)
        said = [(describe(f.series), f.values) for f in failures if f.axis is axis]
        raise NoPolynomial(axis, modulus, said, failures[0].series)

    def polynomial(self, series: Series) -> Polynomial:
        return self.found.polynomial(series, self.atoms.get(series))

    # --- rounding ---

    def rounding(self) -> Iterator[Condition]:
        """Find what is rounded between the lattice points; what cannot be explained becomes a condition."""
        for name, axis in self.plan.axes.items():
            if axis.step == 1 or name in self.plan.structural:
                continue
            divisors = (d for d in range(3, axis.step // 2) if self.memory_alone and axis.step % d == 0)
            offsets = dict.fromkeys(
                d for d in (1, axis.step - 1, 2, 4, 8, 16, axis.step // 2, *divisors) if d % axis.step
            )
            there = (axis.start + d for d in offsets if self.is_there(name, axis.start + d))
            seen = [self.instances.at(self.plan.base(**{name: v})) for v in islice(there, 2)]
            alike = [d for d in seen if d.regime == self.base.regime]
            every = len(alike) == len(seen)
            before = dict(self.atoms)
            unexplained = self.explain_rounding(name, alike)
            if every and not unexplained:
                continue
            self.atoms = before
            if unexplained:
                why = f"{describe(unexplained)} is rounded in a way that is not known"
            else:
                other = next(d for d in seen if d.regime != self.base.regime)
                why = f"at {name}={other.sizes[name]} other ops run: {difference(self.base, other)}"
            modulus = axis.step if self.memory_alone and unexplained else self.finest(name)
            yield Condition(name, why, modulus, axis.start % modulus)

    def finest(self, name: str) -> int:
        """The smallest divisor of an axis's step whose multiples from its start on need no rounding."""
        axis = self.plan.axes[name]
        for modulus in (d for d in range(2, axis.step) if axis.step % d == 0):
            values = [axis.start + modulus * k for k in (1, 2, 3)]
            if all(
                self.is_there(name, v) and self.is_plain(self.instances.at(self.plan.base(**{name: v}))) for v in values
            ):
                return modulus
        return axis.step

    def is_plain(self, seen: Digest) -> bool:
        return seen.regime == self.base.regime and all(
            self.polynomial(series).at(**seen.sizes) == seen.numbers[series] for series in self.numbers
        )

    def is_there(self, name: str, value: int) -> bool:
        sizes = self.plan.base(**{name: value})
        return self.plan.inside(sizes) and self.instances.builds(sizes)

    def explain_rounding(self, name: str, seen: list[Digest]) -> Series | None:
        """Give each series that differs between the lattice points its rounded size; the first that has none.

        `seen` grows where several roundings explain all of it.
        """
        for series in self.numbers:
            polynomial = self.polynomial(series)
            if all(polynomial.at(**d.sizes) == d.numbers[series] for d in seen):
                continue
            atom = self.rounded_as(series, name, seen)
            if atom is None:
                return series
            self.atoms[series] = {**self.atoms.get(series, {}), name: atom}
        return None

    def rounded_as(self, series: Series, name: str, seen: list[Digest]) -> Atom | None:
        """The one rounding that explains a series; what tells several apart is traced."""
        axis = self.plan.axes[name]
        atoms = [a for a in self.roundings(name) if self.is_rounded(series, a, seen)]
        for value in range(axis.start + 1, axis.start + axis.step):
            if len(atoms) < 2:
                break
            sizes = self.plan.base(**{name: value})
            if len({self.with_atom(series, a).at(**sizes) for a in atoms}) > 1 and self.is_there(name, value):
                seen += [d for d in [self.instances.at(sizes)] if d.regime == self.base.regime]
                atoms = [a for a in atoms if self.is_rounded(series, a, seen)]
        return atoms[0] if atoms else None

    def with_atom(self, series: Series, atom: Atom) -> Polynomial:
        return self.found.polynomial(series, {**self.atoms.get(series, {}), atom.name: atom})

    def roundings(self, name: str) -> Iterator[Atom]:
        step = self.plan.axes[name].step
        for up in (True, False):
            yield from (Atom(name, multiple, up) for multiple in ROUNDINGS if step % multiple == 0)

    def is_rounded(self, series: Series, atom: Atom, seen: Sequence[Digest]) -> bool:
        polynomial = self.with_atom(series, atom)
        return all(polynomial.at(**d.sizes) == d.numbers[series] for d in seen)

    # --- assembly ---

    def assemble(self, conditions: tuple[Condition, ...]) -> Formula:
        chosen = peaks.candidates(self.found, self.points, self.full)
        live = self.live([AFTER_FORWARD, *chosen])
        storages = {s.of: self.polynomial(s) for s in self.base.numbers if isinstance(s, Made)}
        totals = [self.bytes_at(point, "peak", live[point]) for point in chosen]
        shares = peaks.winners([quantity.polynomial for quantity in totals], self.full)
        best = tuple(Candidate(*item) for item in zip(chosen, totals, shares, strict=True))
        return Formula(
            names=tuple(self.full),
            letters=self.letters,
            full=dict(self.full),
            axes=tuple(self.plan.axes.values()),
            quantities=self.quantities(storages, live[AFTER_FORWARD]),
            peak=Peak(best, self.letters),
            conditions=conditions,
            elsewhere=storages,
        )

    def live(self, points: Sequence[Point]) -> dict[Point, dict[StorageClass, Polynomial]]:
        """Live bytes of each class at some points."""
        result: dict[Point, dict[StorageClass, Polynomial]] = {point: {} for point in points}
        for s in self.lives:
            if s.at in result:
                result[s.at][s.of] = self.found.polynomial(s, self.atoms.get(Made(s.of)))
        return result

    def bytes_at(self, point: Point, name: str, live: Mapping[StorageClass, Polynomial]) -> Quantity:
        return self.quantity(name, str(point), "bytes", [self.part(c, p) for c, p in live.items()])

    def part(self, of: StorageClass, polynomial: Polynomial) -> Part:
        return Part(of, polynomial, self.base.keeps.get(of, ""))

    def quantity(self, name: str, title: str, unit: str, parts: Sequence[Part]) -> Quantity:
        there = [part for part in parts if part.polynomial]
        return Quantity(name, title, unit, largest_first(there, self.full), self.letters)

    def quantities(
        self, storages: Mapping[StorageClass, Polynomial], after_forward: Mapping[StorageClass, Polynomial]
    ) -> dict[str, Quantity]:
        counted = [Part(s.of, self.polynomial(s)) for s in self.numbers if isinstance(s, Counted)]
        spent = [Part(s.of, self.polynomial(s)) for s in self.numbers if isinstance(s, Spent)]
        found = [] if self.memory_alone else [self.quantity("parameters", "parameters", "numbers", counted)]
        for name, (title, category) in BYTES.items():
            on_device = [self.part(c, p) for c, p in storages.items() if c.on_device and c.category is category]
            if on_device:
                found.append(self.quantity(name, title, "bytes", on_device))
        found.append(self.bytes_at(AFTER_FORWARD, "after_forward", after_forward))
        for phase in Phase:
            if any(part.kind == phase for part in spent):
                parts = [part for part in spent if part.kind == phase]
                found.append(self.quantity(f"flops_{phase}", f"FLOPs of {phase.replace('_', ' ')}", "FLOPs", parts))
        if not self.memory_alone:
            found.append(self.quantity("flops", "FLOPs of the step", "FLOPs", spent))
        return {quantity.name: quantity for quantity in found}

    # --- conditions on the ratio of two sizes ---

    def with_ratios(self, formula: Formula) -> Formula:
        """What was found between the values of an axis may be a condition on the ratio of two sizes."""
        base = self.plan.base()
        for condition in formula.conditions:
            rest = replace(formula, conditions=tuple(c for c in formula.conditions if c is not condition))
            modulus = condition.modulus
            values = [base[condition.name] + d for d in (1, 4, 8, modulus // 2, modulus)]
            ratios = list(self.of_ratios(condition, base))
            found = self.best(rest, base, [condition, *ratios], values) if ratios else None
            formula = replace(
                formula, conditions=tuple(found or c if c is condition else c for c in formula.conditions)
            )
        for condition in formula.conditions:
            rest = replace(formula, conditions=tuple(c for c in formula.conditions if c is not condition))
            if rest.conditions and not any(self.is_wrong(rest, d.sizes) for d in self.instances.digests):
                formula = rest
        return formula

    def beside(self, name: str, good: Sizes) -> list[str]:
        """The sizes that the ratio to one may matter of."""
        return [by for by in good if by != name and good[by] > 1 and by not in self.plan.structural]

    def of_ratios(self, alone: Condition, good: Sizes) -> Iterator[Condition]:
        """The same remainder for the ratio to each other size."""
        for by in self.beside(alone.name, good):
            per = good[by]
            if alone.modulus % per == 0 and alone.remainder % per == 0 and alone.modulus > per:
                yield replace(alone, by=by, modulus=alone.modulus // per, remainder=alone.remainder // per)

    def best(
        self, formula: Formula, good: Sizes, conditions: Sequence[Condition], values: Sequence[int]
    ) -> Condition | None:
        """The first condition that tells where the formula is right at these values and at others beside them, with
        other values of every other size."""
        name = conditions[0].name
        tried = [{**good, name: value} for value in values]
        for other in dict.fromkeys(size for c in conditions for size in (c.name, c.by) if size and size != name):
            more = self.plan.axes[other].value(1)
            both = dict.fromkeys((*values, *(value * more // good[other] for value in values)))
            tried += [{**good, other: more, name: value} for value in both]
        there = [s for s in tried if self.is_within(formula, s) and self.instances.builds(s)]
        right = [self.holds_at(formula, sizes) for sizes in there]
        for condition in conditions:
            holds = (bool(condition.holds_at(self.instances.complete(sizes))) for sizes in there)
            if all(told == is_right for told, is_right in zip(holds, right, strict=True)):
                return condition
        return None

    def is_wrong(self, formula: Formula, sizes: Sizes) -> bool:
        """Whether the formula ought to be that of an instance and is not."""
        return self.is_within(formula, sizes) and self.instances.builds(sizes) and not self.holds_at(formula, sizes)

    def is_within(self, formula: Formula, sizes: Sizes) -> bool:
        return self.plan.inside(sizes) and all(c.holds_at(self.instances.complete(sizes)) for c in formula.conditions)

    # --- regimes ---

    def pinned(self, formula: Formula) -> Formula:
        """Look at 1 of every size, and give it a formula of its own where the program or its bytes differ."""
        regimes: list[Regime] = []
        conditions: list[Condition] = []
        for name, axis in self.plan.axes.items():
            if name in self.plan.structural:
                conditions += self.from_layers_on(name, formula)
                continue
            sizes = self.plan.base(**{name: 1})
            if axis.start == 1 or not self.is_there(name, 1) or not self.is_within(formula, sizes):
                continue
            found = self.instances.at(sizes)
            if not residues(formula, found) and found.regime == self.base.regime:
                continue
            differs = difference(self.base, found) or str(residues(formula, found)[0])
            wanted = self.full[name] == 1 or name in self.apart
            if wanted and len(self.plan.axes) > 1:
                regimes.append(Regime(name, 1, differs, self.at_one(name)))
            else:
                conditions += self.from_on(name, formula, differs)
        return replace(formula, regimes=tuple(regimes), conditions=(*formula.conditions, *conditions))

    def from_on(self, name: str, formula: Formula, why: str) -> list[Condition]:
        """The smallest size from which on the formula holds, and what is different at 1."""
        modulus = next((c.modulus for c in formula.conditions if c.name == name), 1)
        start = self.plan.axes[name].start
        values = range(start % modulus or modulus, start + 1, modulus)
        low, high = 0 if values[0] == 1 else -1, len(values) - 1
        while high - low > 1:
            middle = low + 1 if low <= 0 else (low + high) // 2
            holds = self.holds_at(formula, self.plan.base(**{name: values[middle]}))
            low, high = (low, middle) if holds else (middle, high)
            if holds and middle - low == 1:
                break
        why = f"{name}=1 is different: {why}"
        return [Condition(name, why, least=values[high])] if values[high] > 1 and values[high] != modulus else []

    def from_layers_on(self, name: str, formula: Formula) -> list[Condition]:
        """The fewest layers from which on the formula holds: with few of them a moment counted from the front may be
        one that is counted from the back, which shows where another size is large."""
        large = [{n: LARGE * a.start} for n, a in self.plan.axes.items() if n not in self.plan.structural]
        others = [{}, *(other for other in large if self.holds_at(formula, self.plan.base(**other)))]
        for value in reversed(range(1, self.plan.axes[name].start)):
            for sizes in (self.plan.base(**{**other, name: value}) for other in others):
                if self.plan.inside(sizes) and self.instances.builds(sizes) and not self.holds_at(formula, sizes):
                    found = self.instances.at(sizes)
                    why = difference(self.base, found) or str((residues(formula, found) or ("",))[0])
                    return [Condition(name, f"{in_words(sizes)} is different: {why}", least=value + 1)]
        return []

    def holds_at(self, formula: Formula, sizes: Sizes) -> bool:
        if not self.plan.inside(sizes) or not self.instances.builds(sizes):
            return False
        found = self.instances.at(sizes)
        return found.regime == self.base.regime and not residues(formula, found)

    def at_one(self, name: str) -> Formula:
        """The formula at 1 of a size, from the lattice points that the other formula needed: it has no other terms."""
        others = {n: v for n, v in self.full.items() if n != name}
        axes = {n: [a.start, a.start + a.step] for n, a in self.plan.axes.items() if n != name}
        place = list(self.plan.axes).index(name)
        among = frozenset((*index[:place], *index[place + 1 :]) for index in self.found.indices)
        inner = _Deriver(Pinned(self.instances, {name: 1}), others, axes, self.letters, among=among)
        return inner.formula(pin=False)

    def beyond(self, formula: Formula) -> Iterator[Condition]:
        """Look at twice the full value of every size that does not lengthen the program."""
        for name, value in self.full.items():
            step = self.plan.axes[name].step
            far = 2 * value - (2 * value - self.plan.axes[name].start) % step
            sizes = self.plan.base(**{name: far})
            if name in self.plan.structural or far <= value or not self.is_there(name, far):
                continue
            found = self.instances.at(sizes)
            if found.regime == self.base.regime and residues(formula, found):
                yield Condition(name, f"beyond, {residues(formula, found)[0]}", most=value)

    # --- proof ---

    def prove(self, formula: Formula, held_out: int, more: Sequence[Sizes]) -> Proof:
        """Compare with instances that the formula was not made from."""
        proved: list[Sizes] = []
        wrong: list[Residue] = []
        others: dict[str, Sizes] = {}
        for sizes in self.held_out(held_out, more):
            part = _regime(formula, sizes)
            if part is formula and not all(c.holds_at(self.instances.complete(sizes)) for c in formula.conditions):
                continue
            found = self.instances.at(sizes)
            reference = self.base if part is formula else None
            if reference is not None and found.regime != reference.regime:
                others.setdefault(difference(reference, found), sizes)
                continue
            proved.append(sizes)
            wrong += residues(part, found)
            if len(proved) >= held_out + len(more):
                break
        if wrong:
            raise NotProved(wrong, len(proved), self.plan.structural)
        return Proof(tuple(proved), (), others)

    def held_out(self, count: int, more: Sequence[Sizes]) -> Iterator[Sizes]:
        """The full sizes, those asked for, and random small ones, on the lattice's remainders and off them."""
        known = {in_words(self.plan.base())}
        for sizes in (self.full, self.plan.reference.sizes, *more):
            if in_words(sizes) not in known and self.plan.inside(sizes):
                known.add(in_words(sizes))
                yield sizes
        asked = self.lattice_asked()
        chance = random.Random(0)
        for number in range(TRIES * count):
            sizes = self.random_sizes(chance, 5 + number // count)
            if in_words(sizes) in known or tuple(sizes.items()) in asked or not self.plan.inside(sizes):
                continue
            if self.instances.builds(sizes):
                known.add(in_words(sizes))
                yield sizes

    def lattice_asked(self) -> set[tuple[tuple[str, int], ...]]:
        return {tuple(self.plan.at(index).items()) for index in self.found.indices}

    def random_sizes(self, chance: random.Random, steps: int) -> dict[str, int]:
        """Sizes up to so many steps along each axis, or between them."""
        between = chance.random() < 0.5
        sizes = {}
        for name, axis in self.plan.axes.items():
            value = axis.value(chance.randrange(min(steps, 8) if name in self.plan.structural else steps))
            modulus = next((c.modulus for c in self.conditions_now if c.name == name), 1)
            if between and axis.step > 1 and chance.random() < 0.5:
                value += chance.randrange(0, axis.step, modulus)
            sizes[name] = value
        return sizes

    conditions_now: tuple[Condition, ...] = ()


def _regime(formula: Formula, sizes: Sizes) -> Formula:
    """The formula for these sizes."""
    return next((r.formula for r in formula.regimes if sizes[r.name] == r.value), formula)


def residues(formula: Formula, found: Digest) -> list[Residue]:
    """Where a formula and an instance of its regime differ."""
    sizes = {name: found.sizes[name] for name in formula.names}
    traced = quantities_of(found)
    predicted = {name: quantity.at(**sizes) for name, quantity in formula.quantities.items()}
    predicted["peak"] = formula.peak.at(**sizes)
    return [
        Residue(found.sizes, name, value, traced.get(name, 0))
        for name, value in predicted.items()
        if value != traced.get(name, 0)
    ]


def quantities_of(found: Digest) -> dict[str, int]:
    """The quantities of one instance, counted."""
    values = {"peak": found.peak_bytes, "after_forward": found.level(AFTER_FORWARD)}

    def add(name: str, value: int) -> None:
        return values.update({name: values.get(name, 0) + value})

    for series, value in found.numbers.items():
        if isinstance(series, Counted):
            add("parameters", value)
        elif isinstance(series, Spent):
            add(f"flops_{series.of[0]}", value)
            add("flops", value)
        elif isinstance(series, Made) and series.of.on_device:
            for name, (_, category) in BYTES.items():
                if series.of.category is category:
                    add(name, value)
    return values


def describe(series: object) -> str:
    """A series in words."""
    match series:
        case Made(of=of):
            return f"the {of.category.replace('_', ' ')} of {' '.join(p for p in (of.module, of.what, of.at) if p)}"
        case Spent(of=of):
            return f"the FLOPs of {peaks.place_in_words(of)}"
        case Counted(of=of):
            return f"the parameter {of}"
    return str(series)
