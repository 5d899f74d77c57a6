"""The largest number that fits: a question with a yes for small numbers and a no for large ones becomes that number.

*Fits* is monotone: what holds for a number holds for every smaller one. Only the numbers that decide are asked,
since each costs a trace.
"""

from __future__ import annotations

from collections.abc import Callable

LARGEST = 1 << 20
"""Where the search gives up doubling."""


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
