"""Values of a quantity at many sizes -> the least polynomial that is never below them, or the largest never above.

A *bound* is no formula: it is what can still be said of a quantity that is no polynomial (padding by a remainder, a
branch on parity, a power). Its coefficients are not negative, chosen so that the sum of the slack over
the values is least: a linear program, solved in exact fractions. It is then held against traces that it was not
made from; one that goes beyond it is taken in (from half of the rounds on a distance is kept as well), and others are
drawn, until a whole round agrees.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, product
from math import exp, log, prod

from ...graph import ForetraceError
from .derive import quantities_of
from .expression import letters_for
from .instances import Asked, Instances, Sizes, TraceAt
from .polynomial import Atom, Monomial, Polynomial, monomial

SIDES = ("above", "below")
HIGHEST_POWER = 2
HIGHEST_DEGREE = 4
MOST_NAMES = 4
POINTS_PER_TERM = 2
DRAWN = 5_000
ROUNDS = 10
"""From the second half on a distance is kept as well."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A polynomial that `name` is never above (``side`` "above") or never below, at all sizes that were traced."""

    name: str
    side: str
    polynomial: Polynomial
    letters: Mapping[str, str]
    full: Sizes
    traced_at_full: int
    slack: tuple[float, float]
    """The least and the largest distance to a traced value, as a share of that value."""
    made_from: int
    """How many traces it was made from."""
    held_out: tuple[Sizes, ...]
    """The instances that it was held against afterwards; none where those it was made from are all there are."""

    @property
    def at_full(self) -> int:
        """The bound at the full sizes, a fraction rounded to the safe side."""
        value = Fraction(self.polynomial.at(**self.full))
        return -int(-value // 1) if self.side == "above" else int(value // 1)


def bound(
    trace_at: TraceAt,
    full: Sizes,
    of: str = "peak",
    *,
    side: str = "above",
    letters: Mapping[str, str] | None = None,
    held_out: int = 20,
    asked: Asked | None = None,
) -> Bound:
    """The bound of the quantity `of`, for sizes from 1 to `full` (at least 8): powers up to 2 of each size.

    Raises `ForetraceError` for a quantity that there is not, for more than `MOST_NAMES` sizes, and where no bound
    holds on a whole round of traces.
    """
    if side not in SIDES:
        raise ForetraceError(f"{side!r} is no side of a bound", f"Say {' or '.join(SIDES)}.")
    if len(full) > MOST_NAMES:
        raise ForetraceError(
            f"a bound over {len(full)} sizes", f"Take {MOST_NAMES} at the most, and set others with -p."
        )
    instances = Instances(trace_at, asked)
    value_at = _reader(instances, full, of)
    terms = _terms(tuple(full))
    drawn = _drawn(instances, full)
    known = {tuple(full.values()): value_at(full)}
    known |= {tuple(s.values()): value_at(s) for s in islice(drawn, POINTS_PER_TERM * len(terms) + 5)}
    used, margin = dict(known), Fraction(0)
    for number in range(ROUNDS):
        found = _fitted(terms, tuple(full), used, side, margin)
        fresh = {tuple(s.values()): value_at(s) for s in islice(drawn, held_out)}
        known |= fresh
        slack = {v: _slack(found, tuple(full), v, y, side) for v, y in known.items()}
        if min(slack.values()) >= 0:
            shares = [rest / max(known[v], 1) for v, rest in slack.items()]
            proved = tuple(dict(zip(full, values, strict=True)) for values in fresh)
            return Bound(
                name=of,
                side=side,
                polynomial=found,
                letters=letters_for(list(full), letters),
                full=dict(full),
                traced_at_full=known[tuple(full.values())],
                slack=(float(min(shares)), float(max(shares))),
                made_from=len(known) - len(fresh),
                held_out=proved,
            )
        used |= {v: known[v] for v, rest in slack.items() if rest < 0}
        margin -= min(slack.values()) if number >= ROUNDS // 2 else 0
    raise ForetraceError(
        f"after {ROUNDS} rounds a trace is still beyond the bound of {of} over {', '.join(full)}",
        "Take fewer sizes, or a smaller range, with -p.",
    )


def _reader(instances: Instances, full: Sizes, of: str) -> Callable[[Sizes], int]:
    known = quantities_of(instances.at(full))
    if of not in known:
        raise ForetraceError(f"there is no quantity {of!r}", f"There are {', '.join(sorted(known))}.")
    return lambda sizes: quantities_of(instances.at(sizes)).get(of, 0)


def _terms(names: Sequence[str]) -> list[Monomial]:
    powers = product(range(HIGHEST_POWER + 1), repeat=len(names))
    return [
        monomial({Atom(n): p for n, p in zip(names, each, strict=True)})
        for each in powers
        if sum(each) <= HIGHEST_DEGREE
    ]


def _drawn(instances: Instances, full: Sizes) -> Iterator[dict[str, int]]:
    """Sizes from 1 to the full ones that can be built, small ones as likely as large ones; each once."""
    chance = random.Random(0)
    seen = {tuple(full.values())}
    for _ in range(DRAWN):
        sizes = {name: round(exp(chance.uniform(0, log(max(value, 8))))) for name, value in full.items()}
        if tuple(sizes.values()) not in seen and instances.builds(sizes):
            yield sizes
        seen.add(tuple(sizes.values()))


def _slack(found: Polynomial, names: Sequence[str], values: Sequence[int], value: int, side: str) -> Fraction:
    rest = Fraction(found.at(**dict(zip(names, values, strict=True)))) - value
    return rest if side == "above" else -rest


def _fitted(
    terms: Sequence[Monomial], names: Sequence[str], known: Mapping[tuple[int, ...], int], side: str, margin: Fraction
) -> Polynomial:
    """The polynomial with the least slack that keeps `margin` away, its coefficients rounded to that side."""
    points = [dict(zip(names, values, strict=True)) for values in known]
    table = [[prod(point[a.name] ** power for a, power in term) for term in terms] for point in points]
    costs = [sum(Fraction(row[k]) for row in table) for k in range(len(terms))]
    scale = [Fraction(1, max(row[k] for row in table)) for k in range(len(terms))]
    quanta = [_quantum(max(1, *known.values()), s) for s in scale]
    if side == "below":
        rows = [[Fraction(x) * s for x, s in zip(row, scale, strict=True)] for row in table]
        found, _ = maximize(
            [c * s for c, s in zip(costs, scale, strict=True)],
            rows,
            [max(y - margin, Fraction(0)) for y in known.values()],
        )
        coefficients = [x * s // q * q for x, s, q in zip(found, scale, quanta, strict=True)]
    else:
        columns = [[Fraction(row[k]) * scale[k] for row in table] for k in range(len(terms))]
        goal = [y + margin for y in known.values()]
        _, prices = maximize(goal, columns, [c * s for c, s in zip(costs, scale, strict=True)])
        coefficients = [-(-(x * s) // q * q) for x, s, q in zip(prices, scale, quanta, strict=True)]
    return Polynomial({term: Fraction(c) for term, c in zip(terms, coefficients, strict=True) if c})


def _quantum(largest: int, value: Fraction) -> Fraction:
    """What a coefficient is rounded to: 1, or so small a power of two that it changes the largest value by 1/1,000."""
    found = Fraction(1)
    while found / value > Fraction(largest, 1000):
        found /= 2
    return found


def maximize(
    goal: Sequence[Fraction], rows: Sequence[Sequence[Fraction]], limits: Sequence[Fraction]
) -> tuple[list[Fraction], list[Fraction]]:
    """The x >= 0 with the largest ``goal . x`` for which ``rows . x <= limits``, and the price of each limit.

    The limits are not negative, so that 0 is a beginning: the simplex method in exact fractions, by Bland's rule, which
    cannot go round in circles. The prices are the solution of the dual program.

    >>> maximize([Fraction(3), Fraction(2)], [[Fraction(1), Fraction(1)], [Fraction(1), Fraction(0)]],
    ...          [Fraction(4), Fraction(3)])[0] == [3, 1]
    True

    Raises ``ValueError`` where there is no largest.
    """
    wide = len(goal)
    table = [
        [*row, *(Fraction(i == j) for j in range(len(rows))), limit]
        for i, (row, limit) in enumerate(zip(rows, limits, strict=True))
    ]
    last = [-c for c in goal] + [Fraction(0)] * (len(rows) + 1)
    basis = [wide + i for i in range(len(rows))]
    while True:
        enter = next((j for j, c in enumerate(last[:-1]) if c < 0), None)
        if enter is None:
            break
        ratios = [(row[-1] / row[enter], basis[i], i) for i, row in enumerate(table) if row[enter] > 0]
        if not ratios:
            raise ValueError("there is no largest")
        leave = min(ratios)[2]
        pivot = table[leave][enter]
        table[leave] = [x / pivot for x in table[leave]]
        for i, row in enumerate(table):
            if i != leave and row[enter]:
                factor = row[enter]
                table[i] = [x - factor * y if y else x for x, y in zip(row, table[leave], strict=True)]
        factor = last[enter]
        last = [x - factor * y if y else x for x, y in zip(last, table[leave], strict=True)]
        basis[leave] = enter
    found = [Fraction(0)] * wide
    for i, column in enumerate(basis):
        if column < wide:
            found[column] = table[i][-1]
    return found, last[wide:-1]
