"""A limit in bytes and a function that traces -> the largest value of a size whose step *fits*, and the curve to it.

*Fits* is monotone: what holds for a number holds for every smaller one. `largest` asks about the numbers that decide;
`fit` asks for a handful of small traces, takes the timeline at every other value from exact formulas of its storages,
and traces the answer once to confirm it. A *piece* is a range of values over which the program runs the same ops; where
the confirming trace is not as predicted there is a *threshold* on the way, and another piece begins behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import gcd
from typing import Any

import numpy as np

from ..costmodels.formula import HIGHEST_DEGREE, Axis, Condition, Formula, Instances, NoInstance, line, longer
from ..graph import ForetraceError, StepGraph

MEND = "Vary a size that the target takes, such as batch."

LARGEST = 1 << 40
"""Where the search gives up doubling: with a tenth of a byte for each, that many would not fit on any device."""


def largest(fits: Callable[[int], bool]) -> int:
    """The largest whole number, from 1 on, for which `fits` says yes; 0 where it says no to 1.

    Doubles until the first no, then halves the interval: about 2 log2(n) questions.

    >>> largest(lambda number: number <= 37)
    37

    Raises ``ValueError`` when `fits` still says yes at `LARGEST`.
    """
    low, high = 0, 1
    while fits(high):
        if high >= LARGEST:
            raise ValueError(f"{high:,} fits, and so may anything")
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


AT_ONCE = 1 << 16
"""How many values of a size are looked at together."""

ONE_BY_ONE = 1 << 22
"""Among more values than these who has the peak is looked for by halving."""

MOST_PIECES = 8
"""How many thresholds are followed before the search traces whatever it asks about."""

REMAINDER = 64
"""A size with a default from twice this on is followed on values with the default's remainder by it: padding and
alignment ask no more. What lies between is found to be rounded, or not, by `costmodels.formula`."""

FIRST_LAYERS = 3
"""Where a size lengthens the program its values are followed from here on, where traces are short: a first, a middle
and a last layer differ."""

FEW = 2
"""The highest degree looked for among the smallest values, so that a size that is no polynomial there costs little."""

ALIGNED = 8
"""Where the model can be built at multiples only, every so manieth of them is aligned as kernels like it."""

KEPT = 3
"""How many of the last traces are kept."""

ASKED_ALIKE = 2
"""So many questions suppose that what an allocator reserves grows as what is allocated does."""

ASKED_EVENLY = 5
"""After so many questions what an allocator reserves is taken to grow unevenly, and the interval is halved."""

TraceAt = Callable[..., StepGraph]
Asked = Callable[[Mapping[str, int], int], None]


@dataclass(frozen=True, slots=True)
class Piece:
    """The sizes from ``first`` on, up to the next piece, over which the live bytes of every moment are one formula."""

    first: int
    formula: Formula

    @property
    def modulus(self) -> int:
        """The formula holds for the remainder that ``first`` leaves by this."""
        return max((condition.modulus for condition in self.formula.conditions), default=1)


@dataclass(frozen=True)
class Fit:
    """The largest value of a size whose step fits in ``limit_bytes``; 0 where not even 1 does."""

    name: str
    limit_bytes: int
    headroom: float
    largest: int
    largest_with_headroom: int
    largest_reserved: int | None
    """The same by what a caching allocator reserves; None where that was not asked."""
    confirmed_bytes: int
    """The peak of the trace at ``largest``, which is what the curve says there; 0 where nothing fits."""
    breaks: str
    """Where in the step one more goes beyond the limit."""
    pieces: tuple[Piece, ...]
    apart_bytes: Mapping[int, int]
    """The peak of values that no piece holds for, each traced: those below the first one, or of another remainder."""
    traces: int
    why_no_pieces: str = ""
    """Why there are none, where there are none: then every value that was asked about was traced."""
    unit: int = 1
    """The model can be built at multiples of this alone, and was asked about those."""
    why_refused: str = ""
    """Why one more cannot be traced, where that ends the search: a sequence longer than the model has positions."""

    @property
    def refused(self) -> str:
        """The same as a sentence, with the size; empty where one more can be traced."""
        more = f"{self.name}={self.largest + self.unit}"
        return f"{more} cannot be traced: {self.why_refused}" if self.why_refused else ""

    def __repr__(self) -> str:
        found = f"{self.name}={self.largest:,} within {self.limit_bytes:,} bytes"
        reserved = "" if self.largest_reserved is None else f", {self.largest_reserved:,} by reserved bytes"
        return f"<Fit {found}{reserved}; {self.traces} traces>"

    def peak(self, value: Any) -> Any:
        """The peak in bytes at a value of the size, a whole number or a numpy array of them.

        Where a piece holds for one remainder only, and the value was not traced, it is that of the next smaller value
        it holds for. Raises ``ValueError`` for a value that no piece is near, and that was not traced.
        """
        if isinstance(value, np.ndarray):
            return np.array([self.peak(int(v)) for v in value.ravel()], dtype=object).reshape(value.shape)
        if value in self.apart_bytes:
            return self.apart_bytes[value]
        near = [piece for piece in self.pieces if piece.first <= value]
        if not near:
            raise ValueError(f"{self.name}={value} was not traced, and no formula holds for it")
        piece = near[-1]
        return piece.formula.peak.at(**{self.name: value - (value - piece.first) % piece.modulus})

    @property
    def expressions(self) -> list[Any]:
        """The peak of each piece as a sympy expression."""
        return [piece.formula.peak.expression for piece in self.pieces]

    def regimes(self) -> list[tuple[int, int, str]]:
        """From which value to which each point of the step has the peak, up to one more than the largest."""
        found: list[tuple[int, int, str]] = []
        if not self.pieces:
            return found
        ends = [piece.first for piece in self.pieces[1:]] + [max(self.largest, self.pieces[-1].first) + 2]
        for piece, end in zip(self.pieces, ends, strict=True):
            values = range(piece.first, min(end, self.largest + 2), piece.modulus)
            for value, point in (self._turns if len(values) <= ONE_BY_ONE else self._turns_far_on)(piece, values):
                _extend(found, value, point)
            if values:
                found[-1] = (found[-1][0], values[-1], found[-1][2])
        return found

    def _turns(self, piece: Piece, values: range) -> Iterator[tuple[int, str]]:
        """From which of these values on each point has the peak."""
        candidates = piece.formula.peak.candidates
        for first in range(0, len(values), AT_ONCE):
            part = values[first : first + AT_ONCE]
            numbers = np.arange(part.start, part.stop, part.step)
            levels = [np.broadcast_to(c.polynomial.at(**{self.name: numbers}), numbers.shape) for c in candidates]
            best = np.array(levels).argmax(axis=0)
            for start in np.flatnonzero(np.diff(best, prepend=-1)).tolist():
                yield part[start], str(candidates[best[start]].point)

    def _turns_far_on(self, piece: Piece, values: range) -> Iterator[tuple[int, str]]:
        """The same among very many. What grows evenly and is highest at both ends of an interval is so all through it;
        a batch that large has nothing that grows otherwise."""
        points: dict[int, str] = {}

        def at(place: int) -> str:
            if place not in points:
                points[place] = str(piece.formula.peak.winner(**{self.name: values[place]}).point)
            return points[place]

        waiting = [(0, len(values) - 1)]
        yield values[0], at(0)
        while waiting:
            low, high = waiting.pop()
            if at(low) == at(high):
                continue
            if high - low == 1:
                yield values[high], at(high)
            else:
                middle = (low + high) // 2
                waiting += [(middle, high), (low, middle)]


def _extend(found: list[tuple[int, int, str]], value: int, point: str) -> None:
    """From `value` on it is `point`; what came before ends there."""
    if found:
        found[-1] = (found[-1][0], value - 1, found[-1][2])
    if not found or found[-1][2] != point:
        found.append((value, value, point))


def fit(
    trace_at: TraceAt,
    name: str,
    limit_bytes: int,
    *,
    near: int = 8,
    headroom: float = 0.05,
    reserved: Callable[[StepGraph], int] | None = None,
    asked: Callable[[Mapping[str, int], int], None] | None = None,
) -> Fit:
    """The largest value of the size `name` whose peak is at most `limit_bytes`, from a handful of traces.

    `trace_at` gives the trace at a value of the size, as a keyword argument. The storages of a few small values are
    fitted exactly and the timeline is taken anew at every value; the answer is then traced itself, and where it is not
    what was predicted, the threshold in between is found and the search goes on from there. `near` is a value that is
    usual; `headroom` the share of the limit to be left free for the second answer; `reserved` gives what an allocator
    reserves for a trace, for the third.

    Raises `ForetraceError` where the size changes the program from value to value.
    """
    return _Search(trace_at, asked, name, limit_bytes, near).run(headroom, reserved)


class _Search:
    """Follows the peak upward, piece by piece."""

    def __init__(self, trace_at: TraceAt, asked: Asked | None, name: str, limit_bytes: int, near: int) -> None:
        self.trace_at, self.name, self.limit_bytes = trace_at, name, limit_bytes
        self.instances = Instances(self.kept, asked)
        self.step = REMAINDER if near >= 2 * REMAINDER else 1
        self.start = REMAINDER + near % REMAINDER if self.step > 1 else 2
        self.near, self.unit = near, 1
        self.end, self.why_refused = LARGEST, ""
        """The least value that is known not to be traced, and why."""
        self.pieces: list[Piece] = []
        self.apart: dict[int, int] = {}
        self.why = ""
        self.latest: dict[int, StepGraph] = {}

    def kept(self, **sizes: int) -> StepGraph:
        """A trace, the last of which are kept: what is reserved is asked of the same ones."""
        value = sizes[self.name]
        self.latest[value] = self.trace_at(**sizes)
        for old in list(self.latest)[:-KEPT]:
            del self.latest[old]
        return self.latest[value]

    def graph(self, value: int) -> StepGraph:
        if value not in self.latest:
            self.instances.traces += 1
            return self.kept(**{self.name: value})
        return self.latest[value]

    def run(self, headroom: float, reserved: Callable[[StepGraph], int] | None) -> Fit:
        self.begin()
        best = self.traceable(self.search(self.limit_bytes))
        while self.pieces and best >= self.pieces[-1].first and not self.agrees(best):
            if len(self.pieces) >= MOST_PIECES:
                self.pieces, self.why = [], f"{self.name} changes the program at more than {MOST_PIECES} places"
                break
            self.add_piece(self.threshold(best))
            best = self.traceable(self.search(self.limit_bytes))
        best = self.exactly(best, self.limit_bytes)
        by_reserved = None if reserved is None else self.by_reserved(reserved, best)
        more = best + self.unit if best else min((v for v, size in self.apart.items() if size), default=self.start)
        refused = self.why_refused if best + self.unit >= self.end else ""
        spared = int(self.limit_bytes * (1 - headroom))
        return Fit(
            name=self.name,
            limit_bytes=self.limit_bytes,
            headroom=headroom,
            largest=best,
            largest_with_headroom=self.exactly(self.search(spared), spared),
            largest_reserved=by_reserved,
            confirmed_bytes=self.traced(best) if best else 0,
            breaks="" if refused else self.breaks(more),
            pieces=tuple(self.pieces),
            apart_bytes={value: size for value, size in sorted(self.apart.items()) if size},
            traces=self.instances.traces,
            why_no_pieces="" if self.pieces else self.why,
            unit=self.unit,
            why_refused=refused,
        )

    def traceable(self, best: int) -> int:
        """The largest value that fits among those that can be traced, if not all up to `best` can."""
        if not best or self.all_build(best):
            return best
        self.ends_between(self.pieces[-1].first, best)
        return self.search(self.limit_bytes)

    def ends_between(self, low: int, high: int) -> None:
        """Find the least value that cannot be traced between one that can and one that cannot."""
        while high - low > self.unit:
            middle = (low + high) // 2 // self.unit * self.unit
            low, high = (middle, high) if self.all_build(middle) else (low, middle)
        try:
            self.instances.at({self.name: high})
        except NoInstance as error:
            self.end, self.why_refused = high, error.reason

    def begin(self) -> None:
        """The first piece, if there is one: on small values where these are needed, on values of one remainder where
        those are no polynomial."""
        if self.step > 1 or not self.beyond(self.start):
            self.find_unit()
        unit = self.unit
        if self.step > unit and (self.beyond(self.start) or self.lengthens()):
            self.step, self.start = unit, unit * (2 if self.beyond(self.start) else FIRST_LAYERS)
        if self.step == unit and self.beyond(2 * unit):
            self.start = 2 * unit
            self.why = f"{self.name}={self.start} is too much already"
            return
        again = (REMAINDER * unit, REMAINDER * unit + self.near % (REMAINDER * unit))
        for step, start in dict.fromkeys(((self.step, self.start), again)):
            try:
                self.step, self.start = step, start
                return self.add_piece(start, FEW if step == unit else HIGHEST_DEGREE)
            except ForetraceError as error:
                self.why = error.message

    def find_unit(self) -> None:
        """Where small values cannot be built, the multiples that can be: a width that heads must divide."""
        if self.all_build(self.start, self.start + self.step):
            return
        try:
            self.instances.at({self.name: self.near})
        except ForetraceError as error:
            raise ForetraceError(error.message, MEND) from error
        units = (d for d in divisors(self.near) if self.all_build(*(self.near + k * d for k in range(3))))
        self.unit = next(units, 0)
        if not self.unit:
            raise ForetraceError(
                f"{self.name}={self.near} can be built, but no evenly spaced values from there on",
                "Vary another size: what fits is looked for among all values, or among all multiples of one.",
            )
        self.step = self.unit * (ALIGNED if self.near >= 2 * ALIGNED * self.unit else 1)
        first = self.step + self.near % self.step
        self.start = first if self.all_build(first, first + self.step) else self.near

    def all_build(self, *values: int) -> bool:
        """Whether the model can be built at all of these values."""
        return all(self.instances.builds({self.name: value}) for value in values)

    def beyond(self, value: int) -> bool:
        """Whether a value can be built, and is too much."""
        return self.all_build(value) and self.traced(value) > self.limit_bytes

    def lengthens(self) -> bool:
        """Whether the size lengthens the program: then small values are cheap, and alignment is of no concern."""
        values = self.start, self.start + self.step
        return self.all_build(*values) and longer(*(self.instances.at({self.name: value}) for value in values))

    def add_piece(self, first: int, highest: int = HIGHEST_DEGREE) -> None:
        axis = Axis(self.name, first, self.step)
        formula = line(self.instances, [axis], highest=highest)
        if self.unit > 1:
            only = Condition(self.name, "the model cannot be built at others", self.unit)
            formula = replace(formula, conditions=(*formula.conditions, only))
        self.pieces.append(Piece(first, formula))

    def search(self, limit_bytes: int) -> int:
        """The largest value that the last pieces say fits; 0 where none of them does."""
        for place in reversed(range(len(self.pieces))):
            piece = self.pieces[place]
            end = self.pieces[place + 1].first if place + 1 < len(self.pieces) else self.end
            found = _last_that_fits(piece, self.name, end, limit_bytes)
            if found + piece.modulus >= LARGEST:
                raise _anything_fits(self.name)
            if found:
                return found
        return 0

    def agrees(self, value: int) -> bool:
        predicted: int = self.pieces[-1].formula.peak.at(**{self.name: value})
        return self.traced(value) == predicted

    def traced(self, value: int) -> int:
        return self.instances.at({self.name: value}).peak_bytes

    def threshold(self, wrong: int) -> int:
        """The first value at which the last piece's formula is not the trace, between its start and `wrong`."""
        low, high, modulus = self.pieces[-1].first, wrong, self.pieces[-1].modulus
        while high - low > modulus:
            middle = low + (high - low) // modulus // 2 * modulus
            low, high = (middle, high) if self.agrees(middle) else (low, middle)
        return high

    def exactly(self, best: int, limit_bytes: int) -> int:
        """The largest value that fits, from the largest that a piece holds for: what lies between is traced."""
        if not self.pieces:
            low, high = 0, self.unit
            while self.known_apart(high) <= limit_bytes and high < self.end:
                if high >= LARGEST:
                    raise _anything_fits(self.name)
                if low and not self.all_build(high):
                    self.ends_between(low, high)
                else:
                    low, high = high, 2 * high
            high = min(high, self.end)
        elif not best:
            low, high = 0, self.start // self.unit * self.unit
        else:
            piece = [piece for piece in self.pieces if piece.first <= best][-1]
            low, high = best, min(best + piece.modulus, self.end)
            known = {**self.apart, low: self.traced(low)} if piece.modulus > 1 else {}
            low = max((v for v, size in known.items() if low <= v < high and size <= limit_bytes), default=low)
            high = min((v for v, size in known.items() if low < v < high and size > limit_bytes), default=high)
            if high - low > FEW * self.unit:
                likely = self.by_stairs(piece, limit_bytes)
                low, high = self.narrowed(low, high, (likely, likely + self.unit), limit_bytes)
                for _ in range(FEW):
                    low, high = self.narrowed(low, high, (self.evenly(piece, low, high, limit_bytes),), limit_bytes)
        while high - low > self.unit:
            low, high = self.narrowed(low, high, ((low + high) // 2,), limit_bytes)
        return low if best or self.apart.get(low) else 0

    def narrowed(self, low: int, high: int, values: tuple[int, ...], limit_bytes: int) -> tuple[int, int]:
        """The interval between what fits and what does not, after some values in it were traced."""
        for value in (value // self.unit * self.unit for value in values):
            if low < value < high:
                low, high = (value, high) if self.known_apart(value) <= limit_bytes else (low, value)
        return low, high

    def evenly(self, piece: Piece, low: int, high: int, limit_bytes: int) -> int:
        """The last value between two to fit if the peak grows evenly from what was traced at the lower one."""
        start, more = self.traced(low), piece.formula.peak.at(**{self.name: low})

        def fits(k: int) -> bool:
            return k < high - low and start + piece.formula.peak.at(**{self.name: low + k}) - more <= limit_bytes

        return low + max(largest(fits), self.unit)

    def by_stairs(self, piece: Piece, limit_bytes: int) -> int:
        """The value that is likely the last to fit, if between a piece's values the peak goes in stairs.

        How long a stair is, and whether it rises at its first value or after its last, is what explains the neighbours
        of the piece's first value best.
        """
        first, step = piece.first, self.step

        def level(value: int) -> int:
            return int(piece.formula.peak.at(**{self.name: value}))

        beside = [v for v in (first + self.unit, first + step - self.unit) if self.all_build(v)]
        known = [(v, self.traced(v)) for v in beside]
        stairs = [
            (length, up) for length in divisors(gcd(first, step)) if not length % self.unit for up in (True, False)
        ]
        off = {s: sum(abs(level(on_stair(v, *s)) - traced) for v, traced in known) for s in stairs}
        length, up = min(stairs, key=lambda s: off[s])
        even = first + largest(lambda more: level(first + more) <= limit_bytes)
        return even // length * length if up else -(-(even + 1) // length) * length - self.unit

    def known_apart(self, value: int) -> int:
        """The peak at a value that no piece holds for; 0 where there is no instance of it."""
        if value not in self.apart:
            there = self.instances.builds({self.name: value})
            self.apart[value] = self.traced(value) if there else 0
        return self.apart[value]

    def by_reserved(self, reserved: Callable[[StepGraph], int], most: int) -> int:
        """Search downwards from what fits by allocated bytes: reserved are no fewer, and grow much as these do."""
        over = {most: reserved(self.graph(most)) - self.limit_bytes} if most else {}
        unit = self.unit
        low, high = (0, most) if over and over[most] > 0 else (most, most + unit)
        while high - low > unit:
            value = min(max(self.guess(over, low, high) // unit * unit, low + unit), high - unit)
            over[value] = reserved(self.graph(value)) - self.limit_bytes
            low, high = (low, value) if over[value] > 0 else (value, high)
        return low

    def guess(self, over: Mapping[int, int], low: int, high: int) -> int:
        """The last value between two that may not be too much, if what is reserved grows evenly, or as what is
        allocated does."""
        if len(over) > ASKED_EVENLY:
            return (low + high) // 2
        if low in over:
            return low + (high - low) * -over[low] // max(over[high] - over[low], 1)
        if len(over) > ASKED_ALIKE:
            return (low + high) // 2
        allocated = self.limit_bytes * self.traced(high) // (over[high] + self.limit_bytes)
        return self.search(allocated) or (low + high) // 2

    def breaks(self, value: int) -> str:
        if value in self.apart:
            return str(self.instances.at({self.name: value}).highest())
        below = [piece for piece in self.pieces if piece.first <= value]
        if not below:
            raise ForetraceError(self.why, MEND)
        return str(below[-1].formula.peak.winner(**{self.name: value}).point)


def divisors(number: int) -> list[int]:
    """The whole numbers that divide one, in order."""
    return [d for d in range(1, number + 1) if number % d == 0]


def on_stair(value: int, length: int, up: bool) -> int:
    """A value rounded up or down to a multiple.

    >>> on_stair(33, 32, True), on_stair(33, 32, False)
    (64, 32)
    """
    return (-(-value // length) if up else value // length) * length


def _anything_fits(name: str) -> ForetraceError:
    return ForetraceError(f"{name}={LARGEST:,} fits still, and so may anything: {name} takes no memory", MEND)


def _last_that_fits(piece: Piece, name: str, end: int, limit_bytes: int) -> int:
    """The largest value from the piece's first on and below `end` with a peak of at most `limit_bytes`, else 0."""
    modulus, first = piece.modulus, piece.first
    if piece.formula.peak.at(**{name: first}) > limit_bytes:
        return 0
    low, high = 0, 1
    while first + high * modulus < end and piece.formula.peak.at(**{name: first + high * modulus}) <= limit_bytes:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        value = first + middle * modulus
        fits = value < end and piece.formula.peak.at(**{name: value}) <= limit_bytes
        low, high = (middle, high) if fits else (low, middle)
    return first + low * modulus


@dataclass(frozen=True)
class Frontier:
    """For each value of one size the largest value of another that fits."""

    name: str
    other: str
    limit_bytes: int
    points: tuple[tuple[int, int], ...]
    """A value of ``other``, and the largest of ``name`` with it; 0 where none fits."""
    confirmed: tuple[int, int]
    """The point that was traced itself."""
    formula: Formula
    traces: int

    def __repr__(self) -> str:
        points = ", ".join(f"{value}: {most:,}" for value, most in self.points)
        return f"<Frontier of {self.name} over {self.other} within {self.limit_bytes:,} bytes: {points}>"


def frontier(
    trace_at: TraceAt,
    name: str,
    other: str,
    limit_bytes: int,
    *,
    near: Mapping[str, int],
    asked: Callable[[Mapping[str, int], int], None] | None = None,
) -> Frontier:
    """The largest value of `name` for each of several values of `other`, from one set of traces; one is confirmed.

    `near` are usual values of both. Raises `ForetraceError` where the confirming trace is not what was predicted.
    """
    instances = Instances(trace_at, asked)
    axes = [_axis(size, near[size]) for size in (name, other)]
    formula = line(instances, axes)
    everywhere = Condition(other, "", least=min(2, axes[1].start))
    condition = next((c for c in formula.conditions if c.name == other), everywhere)
    values = _around(near[other], condition)
    points = tuple(
        (value, _largest_beside(formula, name, other, value, axes[0].start, limit_bytes)) for value in values
    )
    usual = min((p for p in points if p[1]), key=lambda p: abs(p[0] - near[other]), default=None)
    if usual is None:
        return Frontier(name, other, limit_bytes, points, (0, 0), formula, instances.traces)
    found = instances.at({name: usual[1], other: usual[0]})
    predicted = formula.peak.at(**{name: usual[1], other: usual[0]})
    if found.peak_bytes != predicted:
        raise ForetraceError(
            f"at {other}={usual[0]} {name}={usual[1]} the peak is {found.peak_bytes:,}, predicted {predicted:,}",
            f"The program changes on the way there: vary {name} alone, which follows it piece by piece.",
        )
    return Frontier(name, other, limit_bytes, points, (usual[0], usual[1]), formula, instances.traces)


def _axis(name: str, near: int) -> Axis:
    return Axis(name, REMAINDER + near % REMAINDER, REMAINDER) if near >= 2 * REMAINDER else Axis(name, 2, 1)


def _around(near: int, condition: Condition) -> list[int]:
    """Values from an eighth of the usual one to eight times it at which the formula holds; evenly spaced where
    doubling leaves its remainder."""
    doubled = sorted({near * 2**k // 8 for k in range(7)})
    fitting = [v for v in doubled if v >= 1 and condition.holds(v)]
    if len(fitting) > 3:
        return fitting
    first = next(v for v in range(max(1, near // 4), near + condition.modulus + 1) if condition.holds(v))
    step = condition.modulus * max(1, (3 * near) // (6 * condition.modulus))
    return sorted({first + step * k for k in range(8)} | ({near} if condition.holds(near) else set()))


def _largest_beside(formula: Formula, name: str, other: str, value: int, start: int, limit_bytes: int) -> int:
    low, high = start - 1, start
    while formula.peak.at(**{name: high, other: value}) <= limit_bytes:
        if high >= LARGEST:
            raise _anything_fits(name)
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        fits = formula.peak.at(**{name: middle, other: value}) <= limit_bytes
        low, high = (middle, high) if fits else (low, middle)
    return low if low >= start else 0
