"""A step graph -> its *areas*: the live bytes of each category at the start and after every event.

The areas at one place add up to the timeline's live bytes there. Like the timeline they count only what is on the
device that was traced.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..graph import Category, StepGraph
from .timeline import Timeline

Areas = dict[Category, NDArray[np.int64]]
"""For each category as many numbers as there are events and one more: the first is the start of the step."""


def areas(graph: StepGraph) -> Areas:
    """The areas of all categories, those without bytes too."""
    steps = {category: np.zeros(len(graph.events) + 1, dtype=np.int64) for category in Category}
    for storage in graph.at_start:
        if graph.on_device[storage.id]:
            steps[storage.category][0] += storage.bytes
    for place, event in enumerate(graph.events, 1):
        if graph.on_device[event.storage]:
            steps[graph.storages[event.storage].category][place] += event.bytes
    return {category: np.cumsum(changes) for category, changes in steps.items()}


def columns(timeline: Timeline, count: int) -> list[int]:
    """`count` places of the areas, for a picture with so many columns: the step cut into equal runs of places, and of
    each run the place with the most bytes, so that no peak is lost. A short step has places more than once.
    """
    live = (timeline.start_bytes, *timeline.live_bytes)
    edges = [len(live) * column // count for column in range(count + 1)]
    return [max(range(a, max(b, a + 1)), key=live.__getitem__) for a, b in pairwise(edges)]
