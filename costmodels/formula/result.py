"""What a formula is: every quantity of a step as an exact polynomial in the model's sizes, and where each term is from.

A *quantity* is a sum of *parts*, one for each class of storages or of ops, so that every coefficient can be asked
which line of code it comes from. The *peak* is the largest of its *candidates*. A *regime* is a value of a size at
which the program itself differs (a batch of 1 needs no copy of its targets); it has a formula of its own. A *condition*
says where the formula holds, where it does not everywhere. The *proof* is what was compared with traces afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
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
    """The formula holds where ``name`` leaves ``remainder`` by ``modulus`` and lies from ``least`` to ``most``."""

    name: str
    why: str
    modulus: int = 1
    remainder: int = 0
    least: int = 1
    most: int | None = None

    def holds(self, size: Any) -> Any:
        """Whether it holds; for an array, where."""
        inside = (size % self.modulus == self.remainder) & (size >= self.least)
        return inside if self.most is None else inside & (size <= self.most)

    def __str__(self) -> str:
        parts = [f"{self.name} = {self.remainder} mod {self.modulus}"] if self.modulus > 1 else []
        parts += [f"{self.name} >= {self.least}"] if self.least > 1 else []
        return " and ".join(parts + ([f"{self.name} <= {self.most}"] if self.most is not None else []))


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
        for condition in self.conditions:
            if not condition.holds(given[condition.name]):
                raise ValueError(f"the formula holds for {condition}, not for {in_words(given)}: {condition.why}")
        return (self.peak if name == "peak" else self.quantities[name]).at(**given)

    def _over_arrays(self, name: str, sizes: Mapping[str, np.ndarray]) -> np.ndarray:
        for condition in self.conditions:
            if not np.all(condition.holds(sizes[condition.name])):
                raise ValueError(f"the formula holds for {condition}: {condition.why}")
        value = (self.peak if name == "peak" else self.quantities[name]).at(**sizes)
        found = np.broadcast_to(value, np.broadcast_shapes(*(v.shape for v in sizes.values()))).copy()
        for regime in self.regimes:
            inside = sizes[regime.name] == regime.value
            if np.any(inside):
                others = {n: v for n, v in sizes.items() if n != regime.name}
                found = np.where(inside, regime.formula.at(name, **others), found)
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
