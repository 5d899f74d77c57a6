"""Sizes and their full values -> the lattice that a formula is recovered on: small, buildable, and of the same kind.

*The same kind* means that the small instances run the kernels of the full one. So a large size keeps the full one's
remainder by `STEP` (padding and alignment ask no more), a count that lengthens the program (layers) begins at 3, where
a first, a middle and a last one differ, and no size is 1, which PyTorch often treats apart. Where a value does not
divide as the model wants (heads and width), the other size's values are multiplied until it does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from math import lcm

from ...graph import ForetraceError
from .digest import Digest, Made, Place, Spent
from .instances import Instances, Sizes, in_words
from .lattice import Axis
from .result import Condition

STEP = 64
REMAINDERS = (2, 3)
"""A program that differs between neighbours may be the same for those that leave one remainder by these."""

FIRST_LAYERS = 3
DEEPEST = 2
"""How many axes may be enlarged for the sake of one another."""

LINE = 6
"""How many steps along an axis the recovery may take."""

CLOSER = (32, 16, 8, 4, 2, 1)
"""The steps that are tried where the range of a size is too narrow for the usual one."""

LOOKAHEAD = 4
"""How many steps along each axis are tried before the recovery begins."""


@dataclass
class Plan:
    """A lattice in the making."""

    instances: Instances
    full: Sizes
    given: Mapping[str, Sequence[int]]
    axes: dict[str, Axis] = field(default_factory=dict)
    structural: set[str] = field(default_factory=set)
    """The sizes that lengthen the program."""
    within: tuple[Condition, ...] = ()
    """What the sizes must meet."""

    @cached_property
    def reference(self) -> Digest:
        """The instance at the full sizes, or its like with 2 in place of 1 where that can be built."""
        like = {name: max(value, 2) for name, value in self.full.items()}
        return self.instances.at(like if self.inside(like) and self.instances.builds(like) else self.full)

    def inside(self, sizes: Sizes) -> bool:
        """Whether `sizes` are of those that the formula is for."""
        return all(c.holds_at(self.instances.complete(sizes)) for c in self.within)

    def base(self, **other: int) -> dict[str, int]:
        """The first value along every axis, but for `other`."""
        return {name: axis.start for name, axis in self.axes.items()} | other

    def node(self, **steps: int) -> dict[str, int]:
        """The values at some steps along some axes."""
        return self.base(**{name: self.axes[name].value(k) for name, k in steps.items()})

    def at(self, index: Sequence[int]) -> dict[str, int]:
        """The values at a lattice point."""
        return {name: axis.value(k) for (name, axis), k in zip(self.axes.items(), index, strict=True)}

    def suits(self, sizes: Sizes) -> bool:
        """Whether the model can be built at `sizes`, and then runs what it runs at its full size."""
        return (
            self.inside(sizes)
            and self.instances.builds(sizes)
            and self.instances.at(sizes).regime == self.reference.regime
        )

    def check(self, sizes: Sizes) -> None:
        """Raise `ForetraceError` for sizes that do not suit."""
        self.check_inside(sizes)
        check_same_regime(self.reference, self.instances.at(sizes), "the full-size instance")

    def check_inside(self, sizes: Sizes) -> None:
        """Raise `ForetraceError` where sizes are not of those that the formula is for."""
        broken = next((c for c in self.within if not c.holds_at(self.instances.complete(sizes))), None)
        if broken:
            raise ForetraceError(
                f"too few small instances have {broken}: {in_words(sizes)} has not",
                "Name small sizes of that kind with --at.",
            )

    def mark_structure(self) -> None:
        """Note which sizes lengthen the program."""
        first = self.instances.at(self.base())
        self.structural = {n for n in self.axes if longer(first, self.instances.at(self.node(**{n: 1})))}

    def line_suits(self, name: str) -> bool:
        """Whether the first values along an axis suit."""
        return all(self.suits(self.node(**{name: k})) for k in range(LOOKAHEAD))

    def pair_suits(self, name: str, other: str) -> bool:
        """Whether the first values along two axes suit together."""
        return all(self.suits(self.node(**{name: k, other: j})) for k, j in ((1, 1), (2, 1), (1, 2)))


def plan(
    instances: Instances, full: Sizes, given: Mapping[str, Sequence[int]], within: tuple[Condition, ...] = ()
) -> Plan:
    """The lattice for the sizes `full`, with the values that were `given` for some of them, all `within` conditions."""
    made = Plan(instances, full, given, within=within)
    made.axes = {
        name: _given_axis(name, given[name]) if name in given else _between(name, size, within)
        for name, size in full.items()
    }
    _make_base(made)
    for name in full:
        _count_layers(made, name)
    for name in full:
        _make_room(made, name)
    return made


def _given_axis(name: str, values: Sequence[int]) -> Axis:
    ordered = sorted(set(values))
    steps = {b - a for a, b in pairwise(ordered)}
    if len(steps) != 1 or ordered[0] < 1:
        raise ForetraceError(
            f"the values {', '.join(map(str, values))} of {name} are not equally spaced",
            f"Give two or more, such as {name}=64,128; more of the kind are taken where they are needed.",
        )
    return Axis(name, ordered[0], steps.pop())


def _first(full: int) -> Axis:
    if full >= 2 * STEP:
        return Axis("", STEP + full % STEP, STEP)
    return Axis("", 4, 4) if full >= 16 else Axis("", 2, 1)


def _between(name: str, full: int, within: Sequence[Condition]) -> Axis:
    """The first values, which lie in the range that some conditions leave: closer together where it is narrow."""
    first = _first(full)
    alone = [c for c in within if c.name == name and not c.by]
    least = max([0, *(max(c.least, int(c.above) + 1) for c in alone)])
    most = min((int(c.most) for c in alone if c.most is not None), default=None)
    for step in (first.step, *(s for s in CLOSER if s < first.step)):
        start = max(least, first.start if step == first.step else step, 2)
        start += (full - start) % step if start > first.start or step < first.step else 0
        if most is None or start + LINE * step <= most:
            break
    return Axis(name, start, step)


def _make_base(made: Plan) -> None:
    """Have the first instance suit, if need be by larger values along one axis."""
    if made.suits(made.base()):
        return
    for name, axis in made.axes.items():
        for factor in (2, 3, 4, 8) if name not in made.given else ():
            made.axes[name] = replace(axis, start=factor * axis.start)
            if made.suits(made.base()):
                return
        made.axes[name] = axis
    for name in made.axes:
        if _keep_the_remainder(made, name) or _divide_the_full(made, name):
            return
    if not _begin_higher(made):
        made.check(made.base())


def _begin_higher(made: Plan) -> bool:
    """For a program that changes on the way from small sizes to the full ones: begin behind the change; whether that
    suits.

    From the full sizes on, each is lowered to its small value if that suits, or as far as it does by halving.
    """
    before = dict(made.axes)
    here = {name: made.reference.sizes[name] for name in before}
    for name, axis in before.items():
        if made.suits(here | {name: axis.start}):
            here[name] = axis.start
    for name, axis in before.items():
        if here[name] != axis.start and name not in made.given:
            here[name] = _lowered(made, here, axis)
            made.axes[name] = replace(axis, start=here[name])
    if made.suits(made.base()):
        return True
    made.axes = before
    return False


def _lowered(made: Plan, here: Sizes, axis: Axis) -> int:
    """The smallest value along an axis that suits beside other sizes, which it does from there on."""
    low, high = 0, -(-(here[axis.name] - axis.start) // axis.step)
    if not made.suits({**here, axis.name: axis.value(high)}):
        return here[axis.name]
    while high - low > 1:
        middle = (low + high) // 2
        suits = made.suits({**here, axis.name: axis.value(middle)})
        low, high = (low, middle) if suits else (middle, high)
    return axis.value(high)


def _divide_the_full(made: Plan, name: str) -> bool:
    """Try the multiples of each divisor of the full value, for a model that wants them divisible; whether they suit."""
    before = made.axes[name]
    for step in (d for d in range(2, made.full[name]) if made.full[name] % d == 0) if name not in made.given else ():
        made.axes[name] = Axis(name, step if step > 2 else 2 * step, step)
        if made.suits(made.base()) and made.line_suits(name):
            return True
    made.axes[name] = before
    return False


def _keep_the_remainder(made: Plan, name: str) -> bool:
    """Try the values that leave the full one's remainder by 2 or 3, for a model that branches on it; whether they
    suit."""
    before, full = made.axes[name], made.full[name]
    for modulus in REMAINDERS if name not in made.given else ():
        step = modulus * before.step
        made.axes[name] = Axis(name, before.start + (full - before.start) % step, step)
        if made.line_suits(name):
            return True
    made.axes[name] = before
    return False


def _make_room(made: Plan, name: str, depth: int = 0) -> bool:
    """Have the first values along an axis suit, if need be by larger values along another; whether they do.

    The last of them may be one too many. Raises `ForetraceError` where the others do not suit.
    """
    bad = _first_that_does_not(made, name, depth)
    if bad >= LOOKAHEAD - 1 or depth:
        return bad >= LOOKAHEAD
    if _keep_the_remainder(made, name) or _divide_the_full(made, name) or _take_odd_multiples(made, name):
        return True
    made.check(made.node(**{name: bad}))
    return False


def _first_that_does_not(made: Plan, name: str, depth: int) -> int:
    """The first step along an axis whose value does not suit, whatever larger values another axis takes."""
    suits = (made.suits(made.node(**{name: k})) or _enlarge_another(made, name, k, depth) for k in range(LOOKAHEAD))
    return next((k for k, there in enumerate(suits) if not there), LOOKAHEAD)


def _take_odd_multiples(made: Plan, name: str) -> bool:
    """Try the odd multiples of the first value, which divide what is no multiple of a power of two; whether they
    suit."""
    before = dict(made.axes)
    if name not in made.given:
        made.axes[name] = replace(before[name], step=2 * before[name].start)
        if _first_that_does_not(made, name, 0) == LOOKAHEAD:
            return True
    made.axes = before
    return False


def _enlarge_another(made: Plan, name: str, k: int, depth: int) -> bool:
    """Try larger first values along the other axes."""
    value, before = made.axes[name].value(k), dict(made.axes)
    others = [other for other in before if other != name and other not in made.given]
    for other in sorted(others, key=lambda o: -before[o].start):
        for start in _larger(before[other].start, value):
            for step in dict.fromkeys((before[other].step, start // 4, start // 3, start // 2, start, 2 * start)):
                made.axes = before | {other: Axis(other, start, step)}
                if not made.suits(made.node(**{name: k})):
                    break
                if _fits_together(made, name, other, k, depth):
                    return True
    made.axes = before
    return False


def _larger(start: int, value: int) -> list[int]:
    """The first values to try in place of `start`: one that `value` divides, and multiples."""
    common = lcm(start, value)
    found = ([common] if common != start else []) + [2 * start, 3 * start, 4 * start]
    return [size for size in dict.fromkeys(found) if size <= 32 * start]


def _fits_together(made: Plan, name: str, other: str, k: int, depth: int) -> bool:
    return (
        all(made.suits(made.node(**{name: j})) for j in range(k))
        and (made.line_suits(other) or (depth < DEEPEST and _make_room(made, other, depth + 1)))
        and made.pair_suits(name, other)
    )


def _count_layers(made: Plan, name: str) -> None:
    """Where a size lengthens the program, count it from `FIRST_LAYERS` on: before all else, as it makes the others
    cheap."""
    axis = made.axes[name]
    if name in made.given or (axis.start, axis.step) == (FIRST_LAYERS, 1):
        return
    if not made.suits(made.node(**{name: 1})):
        return
    first, second = (made.instances.at(made.node(**{name: k})) for k in (0, 1))
    if longer(first, second):
        made.axes[name] = Axis(name, FIRST_LAYERS, 1)
        if not all(made.suits(made.node(**{name: k})) for k in range(LOOKAHEAD)):
            made.axes[name] = axis


def longer(first: Digest, second: Digest) -> bool:
    """Whether two instances differ in how many ops or moments they have."""
    return first.ops != second.ops or {p: len(e) for p, e in first.moments.items()} != {
        p: len(e) for p, e in second.moments.items()
    }


def check_same_regime(reference: Digest, other: Digest, who: str) -> None:
    """Raise `ForetraceError` where two instances run different kernels or branches, and say which."""
    only = difference(reference, other)
    if only:
        raise ForetraceError(
            f"{in_words(other.sizes)} runs other ops than {who}, {in_words(reference.sizes)}: {only}",
            "Ask for a formula of each piece with --pieces, name small sizes of the same kind with --at, such as --at "
            "width=128,256, or leave out the size that changes the program.",
        )


def difference(reference: Digest, other: Digest) -> str:
    """The ops that only one of two instances runs, in words; empty where there are none."""
    missing = _ops_of(reference) - _ops_of(other)
    more = _ops_of(other) - _ops_of(reference)
    parts = [f"{sign} {text}" for sign, found in (("without", missing), ("with", more)) for text in sorted(found)[:3]]
    return ", ".join(parts) + (", ..." if len(missing) > 3 or len(more) > 3 else "")


def _ops_of(d: Digest) -> set[str]:
    """What an instance runs and holds, in words."""
    found = set()
    for series in d.regime:
        if isinstance(series, Spent):
            found.add(_words(series.of))
        elif isinstance(series, Made):
            found.add(_words(series.of.maker) or series.of.name)
    return found


def _words(place: Place) -> str:
    return " ".join(part for part in (place[2], place[1], place[3]) if part)
