"""Live bytes at many points -> the few *candidates* for the peak: no other point is always at least as high.

The peak is the largest of the candidates, whatever the sizes. A point is left out only when another one's polynomial
minus its own has no negative coefficient in (size - 1), so that it is never higher for sizes from 1 on. Which of the
candidates wins where is found by trying many sizes around the full ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import lcm, prod

import numpy as np

from .digest import AT_START, Digest, Live, Place, Point, Series
from .lattice import Axis, Index, Recovery
from .polynomial import Polynomial

TRIED = 4096
"""How many random sizes say which candidate wins where."""

Powers = tuple[int, ...]


def points(base: Digest, longer: Sequence[Digest]) -> list[Point]:
    """The points that mean the same in `base` and in every instance that has more layers, `longer` being the next ones.

    Of a class that grows, as many are counted from the front as there are without the last layer, and as many from
    the back.
    """
    found = [AT_START]
    for place, events in base.moments.items():
        more = max((len(other.moments.get(place, ())) - len(events) for other in longer), default=0)
        if any(place not in other.moments for other in longer):
            continue
        kept = max(len(events) - more, (len(events) + 1) // 2) if more > 0 else len(events)
        found += [Point(place, False, i) for i in range(kept)]
        found += [Point(place, True, i) for i in range(kept) if more]
    return found


def candidates(recovery: Recovery[Series], points: Sequence[Point], full: Mapping[str, int]) -> list[Point]:
    """Those of `points` that some sizes from 1 on may have their peak at, the highest at `full` first."""
    table, at_full, there = _shifted(recovery, points, full)
    order = sorted(range(len(there)), key=lambda i: (-at_full[i], there[i].op[0], there[i].from_end, i))
    kept: list[int] = []
    for i in order:
        if not any((table[j] >= table[i]).all() for j in kept):
            kept = [j for j in kept if not (table[i] >= table[j]).all()] + [i]
    return [there[i] for i in kept]


def _shifted(
    recovery: Recovery[Series], points: Sequence[Point], full: Mapping[str, int]
) -> tuple[np.ndarray, list[float], list[Point]]:
    """Whole coefficients in (size - 1) of the level at each point that is a polynomial, all times one positive factor.

    With them go the levels at the full sizes and the points. A level is the sum of what is live; classes that are
    divided by the same sizes are added up first.
    """
    live = [(i, s) for i, s in enumerate(recovery.series) if isinstance(s, Live)]
    failed = {s.at for _, s in live if not recovery.is_polynomial[s]}
    there = [point for point in points if point not in failed]
    row = {point: i for i, point in enumerate(there)}
    most = np.max([recovery.divisions[:, i] for i, _ in live], axis=0)
    sums: dict[Powers, np.ndarray] = {}
    for i, s in live:
        if s.at in row:
            extra = tuple((most - recovery.divisions[:, i]).tolist())
            if extra not in sums:
                sums[extra] = np.zeros((len(there), len(recovery.indices)), dtype=np.int64)
            sums[extra][row[s.at]] += recovery.coefficients[:, i]
    expanded = {extra: [_expand(recovery.axes, index, extra) for index in recovery.indices] for extra in sums}
    powers = sorted({p for bases in expanded.values() for basis in bases for p in basis})
    scale = lcm(1, *(c.denominator for bases in expanded.values() for basis in bases for c in basis.values()))
    table = np.zeros((len(there), len(powers)), dtype=object)
    for extra, bases in expanded.items():
        matrix = np.array([[int(basis.get(p, 0) * scale) for p in powers] for basis in bases], dtype=object)
        table = table + sums[extra].astype(object) @ matrix
    shifted = [full[axis.name] - 1 for axis in recovery.axes]
    values = np.array([prod(x**k for x, k in zip(shifted, p, strict=True)) for p in powers], dtype=object)
    return table, [float(v) for v in table @ values], there


def _expand(axes: Sequence[Axis], index: Index, extra: Powers) -> dict[Powers, Fraction]:
    """Binomials along the axes, times powers of the sizes, in powers of (size - 1)."""
    lines = [_line(axis, k, e) for axis, k, e in zip(axes, index, extra, strict=True)]
    found: dict[Powers, Fraction] = {(): Fraction(1)}
    for line in lines:
        found = {(*p, i): c * d for p, c in found.items() for i, d in enumerate(line) if d}
    return found


def _line(axis: Axis, degree: int, extra: int) -> list[Fraction]:
    line = [Fraction(1)]
    factors = [
        (Fraction(1 - axis.start - j * axis.step, axis.step * (j + 1)), Fraction(1, axis.step * (j + 1)))
        for j in range(degree)
    ]
    for constant, slope in [*factors, *[(Fraction(1), Fraction(1))] * extra]:
        line = [constant * a + slope * b for a, b in zip([*line, Fraction(0)], [Fraction(0), *line], strict=True)]
    return line


def tried_sizes(full: Mapping[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    """The full sizes, then random ones from a sixteenth of them to four times, small ones as likely as large ones."""
    random = np.random.default_rng(seed)
    found = {}
    for name, value in full.items():
        low, high = np.log(max(1, value / 16)), np.log(4 * value)
        found[name] = np.concatenate(([value], np.exp(random.uniform(low, high, TRIED)).astype(np.int64)))
    return found


def winners(levels: Sequence[Polynomial], full: Mapping[str, int]) -> list[float]:
    """For each of some polynomials the share of the `tried_sizes` where it is the largest, the earlier of equals."""
    sizes = tried_sizes(full)
    values = np.array([np.broadcast_to(_approximately(p, sizes), (TRIED + 1,)) for p in levels])
    wins = values.argmax(axis=0)
    return [float((wins == i).mean()) for i in range(len(levels))]


def _approximately(polynomial: Polynomial, sizes: Mapping[str, np.ndarray]) -> np.ndarray:
    found = np.zeros(TRIED + 1)
    for m, c in polynomial.terms.items():
        found = found + float(c) * prod((a.value(sizes[a.name]).astype(float) ** p for a, p in m), start=1.0)
    return found


def place_in_words(place: Place) -> str:
    """The class of an op in a line."""
    phase, module, packet, source = place
    return " ".join(part for part in (f"{phase}: {packet}", module and f"in {module}", source) if part)
