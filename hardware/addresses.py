"""Sizes of segments, in the order in which they are taken -> the addresses that CUDA's driver gives them.

Until PyTorch 2.14 the caching allocator took, of free blocks of one size, the one at the lowest address, so that the
driver's order of addresses decides which segments fill up and which stay free. What the driver does is nowhere
written; the rule is read off memory histories of real GPUs (``tests/data/memory_history``): memory is taken downwards
in *regions* of whole 32 MiB, and what a region leaves over is filled upwards by later segments that fit in. In
``linear_grad``, the one history that begins with the first allocation, it gives four of six distances between
neighbours, and the other two are 32 and 64 MiB wider, which the driver took for something else.
"""

from __future__ import annotations

from collections.abc import Callable

REGION = 32 << 20
PAGE = 2 << 20
TOP = 1 << 47
"""Where the first region ends: only the order of addresses matters."""


def falling() -> Callable[[int], int]:
    """A function that says where the next segment of so many bytes lies, for `CachingAllocator`'s ``place``.

    >>> place = falling()
    >>> [TOP - place(mib << 20) >> 20 for mib in (100, 26, 192, 2)]
    [128, 28, 320, 2]
    """
    lowest, left_over = TOP, [(0, 0)]

    def place(size: int) -> int:
        nonlocal lowest
        size = -(-size // PAGE) * PAGE
        for i, (start, end) in enumerate(left_over):
            if end - start >= size:
                left_over[i] = (start + size, end)
                return start
        end = lowest
        lowest -= -(-size // REGION) * REGION
        if lowest + size < end:
            left_over.append((lowest + size, end))
        return lowest

    return place


def ties_go_by_address(torch_version: str | None) -> bool:
    """Whether that version of PyTorch takes the lowest address of equal blocks, as all did before 2.14.

    >>> [ties_go_by_address(version) for version in ("2.13.0+cu130", "2.14.1", None)]
    [True, False, False]
    """
    numbers = (torch_version or "").split(".")[:2]
    return len(numbers) == 2 and all(map(str.isdecimal, numbers)) and tuple(map(int, numbers)) < (2, 14)
