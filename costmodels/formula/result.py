"""What a formula is: every quantity of a step as an exact polynomial in the model's sizes, and where each term is from.

A *quantity* is a sum of *parts*, one for each class of storages or of ops, so that every coefficient can be asked
which line of code it comes from. The *peak* is the largest of its *candidates*. A *regime* is a value of a size at
which the program itself differs (a batch of 1 needs no copy of its targets); it has a formula of its own. A *condition*
says where the formula holds, where it does not everywhere; a *piece* is the formula of the sizes that meet some
conditions. The *proof* is what was compared with traces afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, reduce
from typing import Any, NamedTuple

import numpy as np

from ...graph import Phase
from .digest import Place, Point, StorageClass
from .instances import Sizes, in_words
from .lattice import Axis
from .polynomial import Monomial, Number, Polynomial, total

Class = StorageClass | Place | str
"""What a part is of: storages, ops, or parameters by name."""


class Part(NamedTuple):
    """A summand of a quantity: what it is of, and how large."""

    of: Class
    polynomial: Polynomial
    why: str = ""
    """For what is saved for backward: which op keeps it."""

    @property
    def module(self) -> str:
        """The rolled module."""
        if isinstance(self.of, str):
            return self.of.rpartition(".")[0]
        return self.of.module if isinstance(self.of, StorageClass) else self.of[1]

    @property
    def what(self) -> str:
        """The op, or the name within the module."""
        if isinstance(self.of, str):
            return self.of.rpartition(".")[2]
        return self.of.what if isinstance(self.of, StorageClass) else self.of[2]

    @property
    def at(self) -> str:
        """The line of code."""
        if isinstance(self.of, str):
            return ""
        return self.of.at if isinstance(self.of, StorageClass) else self.of[3]

    @property
    def kind(self) -> str:
        """Why the bytes are there, or the phase of the FLOPs."""
        if isinstance(self.of, str):
            return "parameter"
        return str(self.of.category) if isinstance(self.of, StorageClass) else self.of[0]


@dataclass(frozen=True)
class Quantity:
    """A quantity of the step as a polynomial, part by part."""

    name: str
    title: str
    unit: str
    parts: tuple[Part, ...]
    letters: Mapping[str, str] = field(repr=False)

    @cached_property
    def polynomial(self) -> Polynomial:
        """The sum of the parts."""
        return total(part.polynomial for part in self.parts)

    @property
    def expression(self) -> Any:
        """The sum as a sympy expression, in letters, with common factors taken out."""
        from .view import factored

        return factored(self.polynomial, self.letters)

    def at(self, **sizes: Any) -> Any:
        """The value at `sizes`, whole numbers or numpy arrays; of this regime, whatever the sizes."""
        return self.polynomial.at(**sizes)

    __call__ = at

    def by_module(self) -> dict[str, Polynomial]:
        """The sum of each kind of module."""
        found: dict[str, list[Polynomial]] = {}
        for part in self.parts:
            found.setdefault(part.module, []).append(part.polynomial)
        return {module: total(polynomials) for module, polynomials in found.items()}

    def sources(self, of: Monomial) -> tuple[Part, ...]:
        """The parts that a term comes from, each with its share of it, the largest first."""
        shares = [
            part._replace(polynomial=Polynomial({of: part.polynomial.terms[of]}))
            for part in self.parts
            if of in part.polynomial.terms
        ]
        return tuple(sorted(shares, key=lambda p: (-abs(p.polynomial.terms[of]), p.module, p.what)))


@dataclass(frozen=True)
class Candidate:
    """A point that has the peak for some sizes. ``share`` of the sizes tried have it here."""

    point: Point
    live: Quantity
    share: float

    @property
    def polynomial(self) -> Polynomial:
        """Live bytes at the point."""
        return self.live.polynomial


@dataclass(frozen=True)
class Peak:
    """The largest of the candidates."""

    candidates: tuple[Candidate, ...]
    letters: Mapping[str, str] = field(repr=False)

    @property
    def expression(self) -> Any:
        """The maximum of the candidates that win somewhere, as a sympy expression."""
        import sympy

        return sympy.Max(*(c.live.expression for c in self.winning))

    @property
    def winning(self) -> tuple[Candidate, ...]:
        """The candidates that win somewhere among the sizes tried, the most often winning first."""
        return tuple(sorted((c for c in self.candidates if c.share), key=lambda c: -c.share))

    def at(self, **sizes: Any) -> Any:
        """The peak at `sizes`, whole numbers or numpy arrays; of this regime, whatever the sizes."""
        values = [c.polynomial.at(**sizes) for c in self.candidates]
        arrays = any(isinstance(v, np.ndarray) for v in values)
        return np.maximum.reduce(np.broadcast_arrays(*values)) if arrays else max(values)

    __call__ = at

    def winner(self, **sizes: int) -> Candidate:
        """The candidate that is the peak at `sizes`."""
        return max(self.candidates, key=lambda c: c.polynomial.at(**sizes))


@dataclass(frozen=True, slots=True)
class Condition:
    """The formula holds where ``name``, or its ratio to ``by``, meets this.

    It leaves ``remainder`` by ``modulus`` (or any other one, where that is ``excluded``), is ``least`` or more and more
    than ``above``, and ``most`` or less.
    """

    name: str
    why: str
    modulus: int = 1
    remainder: int = 0
    least: int = 1
    most: Number | None = None
    above: Number = 0
    by: str = ""
    excluded: bool = False

    def holds(self, size: Any, per: Any = 1) -> Any:
        """Whether it holds for a size, over `per` where it is of a ratio; for arrays, where."""
        inside = (size >= (1 if self.by else self.least)) & _more(size, self.above, per)
        if self.modulus > 1:
            inside = inside & ((size % (self.modulus * per) == self.remainder * per) != self.excluded)
        return inside if self.most is None else inside & np.logical_not(_more(size, self.most, per))

    def holds_at(self, sizes: Mapping[str, Any]) -> Any:
        """Whether it holds at sizes by name; for arrays, where."""
        return self.holds(np.asarray(sizes[self.name]), np.asarray(sizes[self.by]) if self.by else 1)

    @property
    def exactly(self) -> int | None:
        """The one value that it holds for, where there is but one."""
        return int(self.least) if self.most == self.least and not self.by else None

    def negated(self) -> Condition:
        """Where it does not hold; of a condition that asks one thing."""
        if self.modulus > 1:
            return replace(self, excluded=not self.excluded)
        if self.most is None:
            return replace(self, least=1, above=0, most=self.above or self.least - 1)
        if self.by:
            return replace(self, most=None, above=self.most)
        return replace(self, most=None, least=int(self.most) + 1)

    def said(self, letters: Mapping[str, str] | None = None) -> str:
        """It in words, with letters for the sizes where they are given."""
        of = "/".join((letters or {}).get(name, name) for name in (self.name, self.by) if name)
        if self.exactly is not None:
            return f"{of} = {self.exactly}"
        parts = [f"{of} {'≠' if self.excluded else '='} {self.remainder} mod {self.modulus}"] * (self.modulus > 1)
        parts += [f"{of} >= {self.least}"] * (self.least > 1) + [f"{of} > {self.above}"] * (self.above > 0)
        return " and ".join(parts + [f"{of} <= {self.most}"] * (self.most is not None))

    def __str__(self) -> str:
        return self.said()


def simplified(conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    """The same conditions with those on one size, or one ratio, put together where they can be.

    >>> print(*simplified([Condition("T", "", most=9), Condition("T", "", modulus=2, excluded=True),
    ...                    Condition("T", "", above=4)]))
    T > 4 and T <= 9 T = 1 mod 2
    """
    groups: dict[tuple[str, str], list[Condition]] = {}
    for condition in conditions:
        groups.setdefault((condition.name, condition.by), []).append(condition)
    return tuple(c for group in groups.values() for c in (*_range(group), *_remainders(group)))


def _range(group: Sequence[Condition]) -> Iterator[Condition]:
    """What conditions on one size leave of its range."""
    bounds = [c for c in group if c.modulus == 1]
    if bounds:
        most = min((c.most for c in bounds if c.most is not None), default=None)
        least, above = max(c.least for c in bounds), max(c.above for c in bounds)
        yield replace(bounds[-1], least=1 if above >= least else least, above=above if above >= least else 0, most=most)


def _remainders(group: Sequence[Condition]) -> Iterator[Condition]:
    """What conditions on one size leave of its remainders by each number."""
    for modulus in dict.fromkeys(c.modulus for c in group if c.modulus > 1):
        same = [c for c in group if c.modulus == modulus]
        left = [r for r in range(modulus) if all((r == c.remainder) != c.excluded for c in same)]
        if len(left) == 1:
            yield replace(same[-1], remainder=left[0], excluded=False)
        else:
            yield from {(c.remainder, c.excluded): c for c in same if c.excluded or not left}.values()


def _more(size: Any, than: Number, per: Any) -> Any:
    """Whether the ratio of two sizes is more than a number."""
    whole = Fraction(than)
    return size * whole.denominator > whole.numerator * per


@dataclass(frozen=True, slots=True)
class Residue:
    """A place where the formula is not the trace."""

    sizes: Sizes
    what: str
    predicted: Number
    traced: int

    def __str__(self) -> str:
        predicted = f"{self.predicted:,}" if isinstance(self.predicted, int) else str(self.predicted)
        return f"{in_words(self.sizes)}: {self.what} is {self.traced:,}, the formula says {predicted}"


@dataclass(frozen=True, slots=True)
class Proof:
    """Instances that the formula was not made from. ``other_regimes`` are those that run other ops, by which."""

    instances: tuple[Sizes, ...]
    residues: tuple[Residue, ...] = ()
    other_regimes: Mapping[str, Sizes] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether every quantity was exact on all of them."""
        return not self.residues


@dataclass(frozen=True)
class Regime:
    """The formula at a value of a size where the program differs, and how."""

    name: str
    value: int
    differs: str
    formula: Formula


@dataclass(frozen=True)
class Piece:
    """The formula of the sizes that meet ``conditions``: those at which the program ``differs`` in one way.

    Where a size has one value only, ``formula`` is over the others. It is None where none was found: ``why_none``.
    """

    conditions: tuple[Condition, ...]
    differs: str
    formula: Formula | None
    why_none: str = ""

    def holds_at(self, sizes: Mapping[str, Any]) -> Any:
        """Whether it is the piece for these sizes; for arrays, where."""
        return reduce(np.logical_and, (c.holds_at(sizes) for c in self.conditions), True)

    def at(self, name: str, **sizes: Any) -> Any:
        """A quantity at sizes that it holds for; 0 where there is nothing of that name. Raises ``ValueError`` where it
        has no formula."""
        if self.formula is None:
            raise ValueError(f"there is no formula for {self}: {self.why_none}")
        if name != "peak" and name not in self.formula.quantities:
            return 0
        return self.formula.at(name, **{n: sizes[n] for n in self.formula.names})

    def said(self, letters: Mapping[str, str] | None = None) -> str:
        """Its conditions in words, with letters for the sizes where they are given."""
        return " and ".join(condition.said(letters) for condition in self.conditions) or "all sizes"

    def __str__(self) -> str:
        return self.said()


@dataclass(frozen=True)
class Formula:
    """Every quantity of a step over some sizes; the others were ``fixed``."""

    names: tuple[str, ...]
    letters: Mapping[str, str]
    full: Sizes
    axes: tuple[Axis, ...]
    quantities: Mapping[str, Quantity]
    peak: Peak
    conditions: tuple[Condition, ...] = ()
    regimes: tuple[Regime, ...] = ()
    proof: Proof = Proof(())
    traces: int = 0
    elsewhere: Mapping[StorageClass, Polynomial] = field(default_factory=dict, repr=False)
    """All storages of the step by class, live at the peak or not."""
    further: tuple[Piece, ...] = ()
    """The pieces beyond this one, which holds for the full sizes; they do not overlap."""

    def __repr__(self) -> str:
        proved = f"{'exact' if self.proof.holds else 'not exact'} on {len(self.proof.instances)} held-out traces"
        return f"<Formula over {', '.join(self.names)}: {', '.join(self.quantities)}, peak; {proved}>"

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All pieces, this one first."""
        return (Piece(self.conditions, "", self), *self.further)

    def __getitem__(self, name: str) -> Quantity:
        """A quantity by name; ``peak`` is the candidate that wins at the full sizes."""
        return self.peak.winner(**self.full).live if name == "peak" else self.quantities[name]

    @property
    def parameters(self) -> Quantity:
        """How many numbers the parameters hold."""
        return self["parameters"]

    @property
    def saved_for_backward(self) -> Quantity:
        """Bytes that autograd keeps."""
        return self["saved_for_backward"]

    def at(self, name: str, **sizes: Any) -> Any:
        """A quantity at `sizes`, whole numbers or numpy arrays that broadcast, each value by the regime it lies in.

        `name` is that of a quantity, or ``peak``. Raises ``ValueError`` where a condition does not hold.
        """
        given = {n: sizes[n] for n in self.names}
        if any(isinstance(v, np.ndarray) for v in given.values()):
            return self._over_arrays(name, {n: np.asarray(v) for n, v in given.items()})
        for regime in self.regimes:
            if given[regime.name] == regime.value:
                return regime.formula.at(name, **{n: v for n, v in given.items() if n != regime.name})
        for piece in self.further:
            if piece.holds_at(given):
                return piece.at(name, **given)
        for condition in self.conditions:
            if not condition.holds_at(given):
                raise ValueError(self._refusal(condition, in_words(given)))
        return (self.peak if name == "peak" else self.quantities[name]).at(**given)

    def _refusal(self, condition: Condition, where: str) -> str:
        if self.further:
            return f"no piece of the formula holds for {where}: the pieces are {'; '.join(map(str, self.pieces))}"
        return f"the formula holds for {condition}, not for {where}: {condition.why}"

    def _over_arrays(self, name: str, sizes: Mapping[str, np.ndarray]) -> np.ndarray:
        shape = np.broadcast_shapes(*(v.shape for v in sizes.values()))
        left = np.ones(shape, dtype=bool)
        elsewhere = []
        others = [(sizes[regime.name] == regime.value, regime.formula.at) for regime in self.regimes]
        others += [(piece.holds_at(sizes), piece.at) for piece in self.further]
        for holds, value_at in others:
            inside = left & holds
            if np.any(inside):
                there = {n: np.broadcast_to(v, shape)[inside] for n, v in sizes.items()}
                elsewhere.append((inside, value_at(name, **there)))
            left = left & ~inside
        for condition in self.conditions:
            if not np.all(condition.holds_at(sizes) | ~left):
                raise ValueError(self._refusal(condition, "some of the sizes"))
        value = (self.peak if name == "peak" else self.quantities[name]).at(**sizes)
        exact = any(np.asarray(values).dtype == object for _, values in elsewhere)
        found = np.broadcast_to(value, shape).astype(object if exact else None)
        for inside, values in elsewhere:
            found[inside] = values
        return found

    def function(self, name: str) -> Callable[..., Any]:
        """A quantity as a function of the sizes by keyword, vectorised over numpy arrays."""
        return lambda **sizes: self.at(name, **sizes)

    @property
    def flops(self) -> Mapping[Phase, Quantity]:
        """FLOPs of each phase."""
        return {phase: self.quantities[f"flops_{phase}"] for phase in Phase if f"flops_{phase}" in self.quantities}


def largest_first(parts: Sequence[Part], full: Sizes) -> tuple[Part, ...]:
    """Parts by their value at the full sizes."""
    return tuple(sorted(parts, key=lambda p: (-p.polynomial.at(**full), p.kind, p.module, p.what, p.at)))
