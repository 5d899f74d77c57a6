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
from heapq import heappop, heappush

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
    lowest = TOP
    left_over: list[list[int]] = [[] for _ in range(REGION // PAGE)]
    """By room in pages, where what is left over of a region begins, negated: heaps, the highest address first."""

    def place(size: int) -> int:
        nonlocal lowest
        pages = -(-size // PAGE)
        fits = [(heap[0], room) for room, heap in enumerate(left_over[pages:], pages) if heap]
        if fits:
            # Regions are taken downwards: the highest address is in the oldest one.
            room = min(fits)[1]
            start = -heappop(left_over[room])
        else:
            room = -(-size // REGION) * (REGION // PAGE)
            lowest -= room * PAGE
            start = lowest
        if room > pages:
            heappush(left_over[room - pages], -(start + pages * PAGE))
        return start

    return place


def ties_go_by_address(torch_version: str | None) -> bool:
    """Whether that version of PyTorch takes the lowest address of equal blocks, as all did before 2.14.

    >>> [ties_go_by_address(version) for version in ("2.13.0+cu130", "2.14.1", None)]
    [True, False, False]
    """
    numbers = (torch_version or "").split(".")[:2]
    return len(numbers) == 2 and all(map(str.isdecimal, numbers)) and tuple(map(int, numbers)) < (2, 14)
