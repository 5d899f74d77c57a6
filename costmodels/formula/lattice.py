"""A function of sizes, asked at a few points of a lattice -> the polynomial that it is, exactly.

An *axis* is a size with equally spaced values. On such a lattice every polynomial is a sum of products of binomial
coefficients of the steps along each axis (Newton's forward differences), and with whole values all coefficients are
whole: the recovery is exact in integers and needs no division.

The set of lattice points grows only where it must: a point is asked when, for some series, none of the coefficients
just below it is zero and no degree exceeds that of the line along its axis. Six sizes stay affordable so, because the
products that occur are few. A series that is no polynomial in a size may be one after multiplying by it (grouped heads
make width/heads): that is tried once its line along an axis does not end.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import product
from math import comb, lcm, prod
from typing import Generic, TypeVar

import numpy as np

from .polynomial import Atom, Monomial, Polynomial

HIGHEST_DEGREE = 5
"""A series whose line along an axis has not ended here is no polynomial in it."""

FIRST_DIVISION = 3
"""A line that has not ended here is tried with a division."""

MOST_DIVISIONS = 2
MOST_POINTS = 600

Index = tuple[int, ...]
"""How many steps along each axis."""

S = TypeVar("S", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Axis:
    """The values ``start + step * k`` of a size."""

    name: str
    start: int
    step: int = 1

    def value(self, k: int) -> int:
        """The value at step `k`."""
        return self.start + self.step * k


@dataclass(frozen=True, slots=True)
class NotPolynomial:
    """A series that is no polynomial along an axis, with its values there."""

    series: Hashable
    axis: Axis
    values: tuple[int, ...]


@dataclass(frozen=True)
class Recovery(Generic[S]):
    """Coefficients of binomials by lattice point, one column for each series."""

    axes: tuple[Axis, ...]
    series: tuple[S, ...]
    indices: tuple[Index, ...]
    coefficients: np.ndarray = field(repr=False)
    divisions: np.ndarray = field(repr=False)
    """By how many powers of each size a series is divided: what was recovered is the series times them."""
    asked: int
    failures: tuple[NotPolynomial, ...]

    @cached_property
    def column(self) -> Mapping[S, int]:
        """The column of each series."""
        return {s: i for i, s in enumerate(self.series)}

    @cached_property
    def is_polynomial(self) -> Mapping[S, bool]:
        """Whether it was recovered."""
        failed = {failure.series for failure in self.failures}
        return {s: s not in failed for s in self.series}

    def polynomial(self, series: S, atoms: Mapping[str, Atom] | None = None) -> Polynomial:
        """A series in its sizes, or in rounded sizes where `atoms` has them: their lattice is the rounded one."""
        column = self.column[series]
        coefficients, divisions = self.coefficients[:, column].tolist(), self.divisions[:, column].tolist()
        rounded = tuple(sorted((atoms or {}).items()))
        key = (tuple((i, c) for i, c in enumerate(coefficients) if c), tuple(divisions), rounded)
        if key not in self._known:
            self._known[key] = self._sum(key[0], divisions, dict(rounded))
        return self._known[key]

    def _sum(self, of: Sequence[tuple[int, int]], divisions: Sequence[int], atoms: Mapping[str, Atom]) -> Polynomial:
        scale, bases = self._bases(tuple(sorted(atoms.items())))
        found: dict[Monomial, int] = {}
        for i, coefficient in of:
            for m, whole in bases[i]:
                found[m] = found.get(m, 0) + coefficient * whole
        total = Polynomial({m: Fraction(c, scale) for m, c in found.items() if c})
        for axis, power in zip(self.axes, divisions, strict=True):
            if power:
                total = total * Polynomial.of(atoms.get(axis.name, Atom(axis.name))) ** -power
        return total

    def _bases(self, rounded: tuple[tuple[str, Atom], ...]) -> tuple[int, list[list[tuple[Monomial, int]]]]:
        """The binomials of every lattice point as terms, all times one number that makes them whole; and the number."""
        if rounded not in self._expanded:
            atoms = dict(rounded)
            lines = {
                (i, k): binomial(atoms.get(axis.name, Atom(axis.name)), axis, k)
                for i, axis in enumerate(self.axes)
                for k in {index[i] for index in self.indices}
            }
            products = [
                prod((lines[i, k] for i, k in enumerate(index) if k), start=Polynomial.of(1)) for index in self.indices
            ]
            scale = lcm(1, *(c.denominator for p in products for c in p.terms.values()))
            self._expanded[rounded] = scale, [[(m, int(c * scale)) for m, c in p.terms.items()] for p in products]
        return self._expanded[rounded]

    @cached_property
    def _expanded(self) -> dict[tuple[tuple[str, Atom], ...], tuple[int, list[list[tuple[Monomial, int]]]]]:
        return {}

    @cached_property
    def _known(self) -> dict[Hashable, Polynomial]:
        return {}


def binomial(atom: Atom, axis: Axis, degree: int) -> Polynomial:
    """``C(k, degree)`` where ``k = (size - start) / step`` counts the steps along the axis."""
    start = atom.value(axis.start)
    steps = (Polynomial.of(atom) - start) * Fraction(1, axis.step)
    return prod(((steps - j) * Fraction(1, j + 1) for j in range(degree)), start=Polynomial.of(1))


def recover(
    axes: Sequence[Axis],
    series: Sequence[S],
    ask: Callable[[Index], Sequence[int]],
    *,
    among: AbstractSet[Index] | None = None,
    most_points: int = MOST_POINTS,
    highest: int = HIGHEST_DEGREE,
) -> Recovery[S]:
    """The polynomials that `ask` gives the values of: one whole number for each of `series` at each lattice point.

    With `among`, a set of points with all those below them, no others are asked: where no others are needed. A series
    whose line has not ended at the degree `highest` is given up.

    >>> found = recover([Axis("x", 2), Axis("y", 2)], ["f"], lambda k: [(k[0] + 2) ** 2 * (k[1] + 2) + 7])
    >>> str(found.polynomial("f")), found.asked
    ('x**2*y + 7', 8)
    """
    return _Grower(tuple(axes), tuple(series), ask, most_points, among, highest).run()


class _Grower(Generic[S]):
    """Grows the set of points."""

    def __init__(
        self,
        axes: tuple[Axis, ...],
        series: tuple[S, ...],
        ask: Callable[[Index], Sequence[int]],
        most: int,
        among: AbstractSet[Index] | None,
        highest: int,
    ) -> None:
        self.axes, self.series, self.ask, self.most, self.among = axes, series, ask, most, among
        self.highest = highest
        self.values: dict[Index, np.ndarray] = {}
        self.found: dict[Index, np.ndarray] = {}
        self.divisions = np.zeros((len(axes), len(series)), dtype=np.int64)
        self.failed = np.zeros(len(series), dtype=bool)
        self.failures: list[NotPolynomial] = []

    def run(self) -> Recovery[S]:
        origin = (0,) * len(self.axes)
        if self.among is None:
            self.add(origin)
            for i in range(len(self.axes)):
                self.line(i)
            self.grow()
        else:
            for index in sorted({origin, *self.among}, key=lambda k: (sum(k), k)):
                self.add(index)
        kept = tuple(index for index in sorted(self.found, key=lambda k: (sum(k), k)) if self.found[index].any())
        table = np.array([self.found[index] for index in kept], dtype=np.int64).reshape(len(kept), len(self.series))
        return Recovery(
            axes=self.axes,
            series=self.series,
            indices=kept,
            coefficients=table,
            divisions=self.divisions,
            asked=len(self.values),
            failures=tuple(self.failures),
        )

    def add(self, index: Index) -> None:
        """Ask for the values at a point, and take its coefficients."""
        if index not in self.values:
            self.values[index] = np.array(self.ask(index), dtype=np.int64)
        self.take(index)

    def take(self, index: Index) -> None:
        scaled = self.values[index] * self.scale(index)
        for below in product(*(range(k + 1) for k in index)):
            if below != index and below in self.found:
                scaled = scaled - self.found[below] * prod(comb(k, j) for k, j in zip(index, below, strict=True))
        self.found[index] = np.where(self.failed, 0, scaled)

    def scale(self, index: Index) -> np.ndarray:
        factor = np.ones(len(self.series), dtype=np.int64)
        for i, (axis, k) in enumerate(zip(self.axes, index, strict=True)):
            if self.divisions[i].any():
                factor = factor * axis.value(k) ** self.divisions[i]
        return factor

    def on_axis(self, i: int, k: int) -> Index:
        return tuple(k if j == i else 0 for j in range(len(self.axes)))

    def line(self, i: int) -> None:
        """Go along an axis until every series has ended; multiply those that do not end by the size."""
        for k in range(1, self.highest + 2):
            self.add(self.on_axis(i, k))
            if k == FIRST_DIVISION:
                self.divide_early(i)
            if not self.found[self.on_axis(i, k)].any() and (k > 1 or len(self.axes) > 1):
                return  # where the only size does nothing at its first step, it may yet at the next
        for power in range(1, MOST_DIVISIONS + 1):
            going = self.found[self.on_axis(i, self.highest + 1)] != 0
            self.divisions[i] = np.where(going, power, self.divisions[i])  # those that ended stay as they are
            self.again()
            if not self.found[self.on_axis(i, self.highest + 1)].any():
                return
        self.give_up(i)

    def divide_early(self, i: int) -> None:
        """A series whose line ends once it is multiplied by the size is divided by it: ask no further for its sake."""
        last = self.on_axis(i, FIRST_DIVISION)
        going = self.found[last] != 0
        before = self.divisions[i].copy()
        self.divisions[i] = np.where(going, 1, before)
        self.again()
        self.divisions[i] = np.where(going & (self.found[last] != 0), before, self.divisions[i])
        self.again()

    def again(self) -> None:
        for index in sorted(self.found, key=lambda k: (sum(k), k)):
            self.take(index)

    def give_up(self, i: int) -> None:
        going = np.flatnonzero(self.found[self.on_axis(i, self.highest + 1)])
        line = [self.values[self.on_axis(i, k)] for k in range(self.highest + 2)]
        for column in going.tolist():
            values = tuple(int(v[column]) for v in line)
            self.failures.append(NotPolynomial(self.series[column], self.axes[i], values))
        self.failed[going] = True
        self.divisions[:, going] = 0
        self.again()

    def grow(self) -> None:
        """Ask at every point just above which something is left, level by level."""
        level = sorted(self.found)
        while level:
            above = sorted({_up(index, i) for index in level for i in range(len(self.axes))} - set(self.found))
            level = [index for index in above if self.is_due(index)]
            for index in level:
                if len(self.values) >= self.most:
                    return
                self.add(index)

    def is_due(self, index: Index) -> bool:
        below = [_down(index, i) for i, k in enumerate(index) if k]
        if any(b not in self.found for b in below):
            return False
        left = np.ones(len(self.series), dtype=bool)
        for b in below:
            left &= self.found[b] != 0
        for i, k in enumerate(index):
            left &= self.degrees[i] >= k
        return bool(left.any())

    @cached_property
    def degrees(self) -> list[np.ndarray]:
        """The degree of each series along each axis, which it does not exceed elsewhere."""
        return [
            np.max([np.where(self.found[k] != 0, sum(k), 0) for k in self.found if k[i] == sum(k)], axis=0)
            for i in range(len(self.axes))
        ]


def _up(index: Index, i: int) -> Index:
    return (*index[:i], index[i] + 1, *index[i + 1 :])


def _down(index: Index, i: int) -> Index:
    return (*index[:i], index[i] - 1, *index[i + 1 :])
