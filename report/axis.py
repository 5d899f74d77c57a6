"""How far a picture's *axis* goes -> the distance of the lines, or numbers, along it: such as people would choose."""

from __future__ import annotations

from math import floor, log2, log10


def binary_step(most: float) -> float:
    """A power of two.

    >>> binary_step(100)
    32.0
    """
    return 2.0 ** floor(log2(most / 3))


def decimal_step(most: float) -> float:
    """One, two or five times a power of ten.

    >>> decimal_step(13.3), decimal_step(0.7)
    (5.0, 0.2)
    """
    power = 10.0 ** floor(log10(most / 2.5))
    return next(power * n for n in (5, 2, 1) if power * n <= most / 2.5)
