"""A formula + one that a person wrote -> the difference term by term, and what each missing or surplus term is.

Each term of either side is a row. What the trace has of it is listed by where it comes from; what the hand formula has
too much of is looked for among the storages that the step makes but that are not live then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ...graph import ForetraceError
from .expression import parse
from .polynomial import Monomial, Polynomial
from .result import Formula, Part, Quantity


@dataclass(frozen=True, slots=True)
class Row:
    """One term: its coefficient by hand and by the trace, and the parts behind it."""

    term: Monomial
    hand: Fraction
    traced: Fraction
    sources: tuple[Part, ...]
    """What the trace's coefficient is made of."""
    elsewhere: tuple[Part, ...]
    """Storages that have this term, but are not part of the quantity."""

    @property
    def difference(self) -> Fraction:
        """What the hand formula has too much."""
        return self.hand - self.traced

    @property
    def agrees(self) -> bool:
        """Whether the two are the same."""
        return self.hand == self.traced


@dataclass(frozen=True, slots=True)
class HandComparison:
    """A hand formula beside a quantity of the trace."""

    text: str
    hand: Polynomial
    quantity: Quantity
    rows: tuple[Row, ...]
    full_by_hand: int | Fraction
    full_traced: int | Fraction

    @property
    def agrees(self) -> bool:
        """Whether every term is the same."""
        return all(row.agrees for row in self.rows)


def named(formula: Formula, name: str) -> Quantity:
    """A quantity of a formula. Raises `ForetraceError` where it has none of that name."""
    if name != "peak" and name not in formula.quantities:
        known = ", ".join(("peak", *formula.quantities))
        raise ForetraceError(f"the formula has no quantity {name!r}", f"Its quantities are {known}.")
    return formula[name]


def compare_by_hand(formula: Formula, text: str, of: str = "peak") -> HandComparison:
    """The formula that a person wrote in `text` beside the quantity `of`.

    Raises `ForetraceError` for a text that does not parse, and for a quantity that there is not.
    """
    quantity, hand = named(formula, of), parse(text, formula.letters)
    traced = quantity.polynomial
    rows = [
        Row(
            term,
            hand.terms.get(term, Fraction(0)),
            traced.terms.get(term, Fraction(0)),
            quantity.sources(term),
            _elsewhere(formula, quantity, term),
        )
        for term in {**traced.terms, **hand.terms}
    ]
    rows.sort(key=lambda row: (-abs(_value(row, formula)), str(row.term)))
    return HandComparison(text, hand, quantity, tuple(rows), hand.at(**formula.full), traced.at(**formula.full))


def _value(row: Row, formula: Formula) -> Fraction:
    larger = max(abs(row.hand), abs(row.traced))
    return Fraction(Polynomial({row.term: larger}).at(**formula.full))


def _elsewhere(formula: Formula, quantity: Quantity, term: Monomial) -> tuple[Part, ...]:
    """What the step makes of this term beyond what the quantity has of it."""
    if quantity.unit != "bytes":
        return ()
    inside = {part.of: part.polynomial for part in quantity.parts}
    found = []
    for of, polynomial in formula.elsewhere.items():
        rest = polynomial - inside.get(of, Polynomial({}))
        if of.on_device and rest.terms.get(term, 0) > 0:
            found.append(Part(of, Polynomial({term: rest.terms[term]})))
    return tuple(sorted(found, key=lambda part: (-part.polynomial.terms[term], part.module, part.what)))


def explain(formula: Formula, text: str, of: str | None = None) -> list[tuple[Quantity, Monomial, tuple[Part, ...]]]:
    """Where a term comes from, in the quantity `of` or in all: the coefficient in `text` does not matter.

    Raises `ForetraceError` where it is not one term, or no quantity has it.
    """
    asked = parse(text, formula.letters)
    if len(asked.terms) != 1:
        raise ForetraceError(f"{text!r} is {len(asked.terms)} terms", "Ask for one at a time, such as B*T*d.")
    (term,) = asked.terms
    quantities: Sequence[Quantity] = (
        [named(formula, of)] if of else [*formula.quantities.values(), *(c.live for c in formula.peak.winning)]
    )
    found = [(quantity, term, quantity.sources(term)) for quantity in quantities if term in quantity.polynomial.terms]
    if not found:
        raise ForetraceError(f"no quantity has a term {text!r}", "Ask for a term as the formula prints it.")
    return found
