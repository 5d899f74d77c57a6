"""A step graph -> its *areas*: the live bytes of each category at the start and after every event.

The areas at one place add up to the timeline's live bytes there. Like the timeline they count only what is on the
device that was traced.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..graph import Category, StepGraph
from .timeline import Timeline, shares

Areas = dict[Category, NDArray[np.int64]]
"""For each category as many numbers as there are events and one more: the first is the start of the step."""


def areas(graph: StepGraph) -> Areas:
    """The areas of all categories, those without bytes too."""
    on_device, storages = graph.on_device, graph.storages
    start = shares([s for s in graph.at_start if on_device[s.id]])
    categories = [s.category if there else None for s, there in zip(storages, on_device, strict=True)]
    places: dict[Category | None, list[int]] = defaultdict(list)
    for place, event in enumerate(graph.events, 1):
        places[categories[event.storage]].append(place)
    changes = np.array([0, *[event.bytes for event in graph.events]], dtype=np.int64)
    return {category: _summed(start[category], changes, places[category]) for category in Category}


def _summed(start: int, changes: NDArray[np.int64], places: list[int]) -> NDArray[np.int64]:
    """The running sum of the changes at some places, from a start on."""
    steps = np.zeros_like(changes)
    steps[places] = changes[places]
    steps[0] = start
    return np.cumsum(steps)


def columns(timeline: Timeline, count: int) -> list[int]:
    """`count` places of the areas, for a picture with so many columns: the step cut into equal runs of places, and of
    each run the place with the most bytes, so that no peak is lost. A short step has places more than once.
    """
    live = (timeline.start_bytes, *timeline.live_bytes)
    edges = [len(live) * column // count for column in range(count + 1)]
    runs = [(a, live[a : max(b, a + 1)]) for a, b in pairwise(edges)]
    return [a + run.index(max(run)) for a, run in runs]
