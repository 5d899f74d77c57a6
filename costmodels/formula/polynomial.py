"""Exact polynomials in a model's sizes: sums of *terms*, each a rational number times powers of *atoms*.

An *atom* is a size itself (``batch``), or a size rounded up or down to a multiple (``32*ceiling(seq/32)``), which is
what padding makes of it: with such atoms a polynomial is a quasi-polynomial. An exponent may be negative: grouped
heads make ``width/heads``. Values are exact: whole numbers stay whole numbers, also over numpy arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, reduce
from math import lcm, prod
from typing import Any, NamedTuple

import numpy as np

Number = int | Fraction
SAFE = 2**62
"""Above this a 64-bit integer may overflow, and Python's own integers are used."""


class Atom(NamedTuple):
    """A size by name; ``multiple`` above 1 rounds it, ``up`` or down."""

    name: str
    multiple: int = 1
    up: bool = True

    def value(self, size: Any) -> Any:
        """The atom where the size is `size`, a number or an array of them.

        >>> Atom("seq", 32).value(33), Atom("seq", 32, up=False).value(33)
        (64, 32)
        """
        if self.multiple == 1:
            return size
        return (-(-size // self.multiple) if self.up else size // self.multiple) * self.multiple


Monomial = tuple[tuple[Atom, int], ...]
"""Atoms in order, each with an exponent other than 0; the empty one is the constant."""


def monomial(powers: Mapping[Atom, int]) -> Monomial:
    """A monomial from exponents by atom."""
    return tuple(sorted((atom, power) for atom, power in powers.items() if power))


def times(left: Monomial, right: Monomial) -> Monomial:
    """The product of two monomials."""
    powers = dict(left)
    for atom, power in right:
        powers[atom] = powers.get(atom, 0) + power
    return monomial(powers)


class _Whole(NamedTuple):
    """A polynomial in whole numbers: the sum of coefficients times powers, over ``scale`` and powers ``below``."""

    atoms: tuple[Atom, ...]
    scale: int
    below: tuple[int, ...]
    terms: tuple[tuple[int, tuple[int, ...]], ...]
    """A coefficient, and the power of each atom, none of them negative."""


@dataclass(frozen=True, eq=False)
class Polynomial:
    """Terms by monomial; none of them is zero.

    >>> x, y = Polynomial.of("x"), Polynomial.of("y")
    >>> square = (x + y) * (x + y)
    >>> square.at(x=3, y=4), square - 2 * x * y == x * x + y * y
    (49, True)
    """

    terms: Mapping[Monomial, Fraction]

    @classmethod
    def of(cls, size: str | Atom | Number) -> Polynomial:
        """A size, an atom, or a constant."""
        if isinstance(size, (str, Atom)):
            atom = Atom(size) if isinstance(size, str) else size
            return cls({((atom, 1),): Fraction(1)})
        return cls({(): Fraction(size)} if size else {})

    def __add__(self, other: Polynomial | Number) -> Polynomial:
        return total((self, other if isinstance(other, Polynomial) else Polynomial.of(other)))

    __radd__ = __add__

    def __neg__(self) -> Polynomial:
        return self * -1

    def __sub__(self, other: Polynomial | Number) -> Polynomial:
        return self + -(other if isinstance(other, Polynomial) else Polynomial.of(other))

    def __mul__(self, other: Polynomial | Number) -> Polynomial:
        if not isinstance(other, Polynomial):
            return Polynomial({m: c * other for m, c in self.terms.items()} if other else {})
        found: dict[Monomial, Fraction] = {}
        for left, a in self.terms.items():
            for right, b in other.terms.items():
                product = times(left, right)
                found[product] = found.get(product, Fraction(0)) + a * b
        return Polynomial({m: c for m, c in found.items() if c})

    __rmul__ = __mul__

    def __pow__(self, power: int) -> Polynomial:
        if power < 0:
            ((only, c),) = self.terms.items()
            return Polynomial({tuple((atom, e * power) for atom, e in only): c**power})
        return reduce(lambda left, right: left * right, [self] * power, Polynomial.of(1))

    def __bool__(self) -> bool:
        return bool(self.terms)

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Polynomial) and dict(self.terms) == dict(other.terms)

    @cached_property
    def atoms(self) -> tuple[Atom, ...]:
        """The atoms that occur, in order."""
        return tuple(sorted({atom for m in self.terms for atom, _ in m}))

    @property
    def names(self) -> tuple[str, ...]:
        """The sizes that occur."""
        return tuple(sorted({atom.name for atom in self.atoms}))

    def at(self, **sizes: Any) -> Any:
        """The value at `sizes`: whole numbers, or arrays of them that broadcast.

        A value that is no whole number is a ``Fraction``, which happens only where the sizes do not divide as the
        model's must.
        """
        if not self.terms:
            return 0
        whole = self._whole
        values = [atom.value(_exact(sizes[atom.name])) for atom in whole.atoms]
        if any(isinstance(value, np.ndarray) for value in values) and self._is_small(values):
            values = [v.astype(np.int64) if isinstance(v, np.ndarray) else v for v in values]
        above: Any = 0
        for coefficient, powers in whole.terms:
            for value, power in zip(values, powers, strict=True):
                if power:
                    coefficient = coefficient * (value if power == 1 else value**power)
            above = above + coefficient
        below = prod((v**power for v, power in zip(values, whole.below, strict=True) if power), start=whole.scale)
        return above if type(below) is int and below == 1 and isinstance(above, int) else _quotient(above, below)

    @cached_property
    def _whole(self) -> _Whole:
        scale = lcm(1, *(c.denominator for c in self.terms.values()))
        powers = [(int(c * scale), dict(m)) for m, c in self.terms.items()]
        below = tuple(-min(0, *(by.get(atom, 0) for _, by in powers)) for atom in self.atoms)
        terms = tuple(
            (c, tuple(by.get(atom, 0) + low for atom, low in zip(self.atoms, below, strict=True))) for c, by in powers
        )
        return _Whole(self.atoms, scale, below, terms)

    def _is_small(self, values: Sequence[Any]) -> bool:
        most = [float(np.max(np.asarray(v, dtype=float), initial=1.0)) for v in values]
        bound = sum(
            abs(float(c)) * prod(m**power for m, power in zip(most, powers, strict=True))
            for c, powers in self._whole.terms
        )
        return bound < SAFE

    def __call__(self, **sizes: Any) -> Any:
        """The same as `at`."""
        return self.at(**sizes)

    def subs(self, **sizes: int) -> Polynomial:
        """With some sizes replaced by numbers."""
        found: dict[Monomial, Fraction] = {}
        for m, c in self.terms.items():
            for atom, power in m:
                if atom.name in sizes:
                    c *= Fraction(atom.value(sizes[atom.name])) ** power
            rest = tuple((atom, power) for atom, power in m if atom.name not in sizes)
            found[rest] = found.get(rest, Fraction(0)) + c
        return Polynomial({m: c for m, c in found.items() if c})

    def sympy(self, letters: Mapping[str, str] | None = None) -> Any:
        """The same as a sympy expression in positive integer symbols, named by `letters` where they are given."""
        from .expression import as_sympy

        return as_sympy(self, letters or {})

    def __str__(self) -> str:
        return str(self.sympy())


def total(polynomials: Iterable[Polynomial]) -> Polynomial:
    """Their sum."""
    found: dict[Monomial, Fraction] = {}
    for polynomial in polynomials:
        for m, c in polynomial.terms.items():
            found[m] = found.get(m, Fraction(0)) + c
    return Polynomial({m: c for m, c in found.items() if c})


def _exact(size: Any) -> Any:
    if isinstance(size, np.ndarray):
        return size.astype(object)
    return size if isinstance(size, Fraction) else int(size)


def _quotient(above: Any, below: Any) -> Any:
    if isinstance(above, np.ndarray) or isinstance(below, np.ndarray):
        whole = above // below
        rest = above - whole * below
        return whole if not np.any(rest) else np.vectorize(Fraction, otypes=[object])(above, below)
    value = Fraction(above) / below
    return int(value) if value.denominator == 1 else value
