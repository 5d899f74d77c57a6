"""`Report` -> its memory over the step as lines of letters: each letter is a category, its height the bytes.

A column stands for a run of events, the births and deaths of storages, and shows the one with the most bytes. A row
that a category fills less than half of is left to what lies above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..costmodels.areas import areas, columns
from ..graph import Category
from .format import bytes_text
from .layout import WIDTH, Paragraph
from .words import phase_text

if TYPE_CHECKING:
    from .result import Report

HEIGHT = 7
MARGIN = 12

LETTERS = {
    Category.PARAMETER: "p",
    Category.BUFFER: "b",
    Category.OPTIMIZER_STATE: "o",
    Category.INPUT: "i",
    Category.GRADIENT: "g",
    Category.SAVED: "s",
    Category.WORKSPACE: "w",
    Category.TEMPORARY: "t",
}
"""From the bottom: what lasts, then what comes and goes."""


def timeline_lines(report: Report, width: int = WIDTH) -> list[str]:
    """The picture, its phases and its key; nothing for a step that holds no memory."""
    if not report.memory.peak_bytes:
        return []
    places = columns(report.memory, width - MARGIN)
    stacks = _stacks(report, places)
    rows = ["".join(stack[height] for stack in stacks) for height in reversed(range(HEIGHT))]
    heads = [bytes_text(report.memory.peak_bytes), *[""] * (HEIGHT - 2), "0 B"]
    drawn = [f"{head:>{MARGIN - 3}} |{row}" for head, row in zip(heads, rows, strict=True)]
    used = dict.fromkeys(letter for stack in stacks for letter in stack if letter != " ")
    key = ", ".join(f"{letter} {phase_text(category)}" for category, letter in LETTERS.items() if letter in used)
    return [
        "memory over the step",
        *drawn,
        " " * (MARGIN - 2) + "|" + _phases(report, places),
        *Paragraph(key, "  ").lines(width),
    ]


def _stacks(report: Report, places: Sequence[int]) -> list[str]:
    """The letters of each column, from the bottom, blanks above them."""
    held, peak = areas(report.trace), report.memory.peak_bytes
    found = []
    for place in places:
        stack, total = "", 0
        for category, letter in LETTERS.items():
            total += int(held[category][place])
            stack += letter * (round(total * HEIGHT / peak) - len(stack))
        found.append(stack.ljust(HEIGHT))
    return found


def _phases(report: Report, places: Sequence[int]) -> str:
    """The name of each phase where its first column is, cut to its width."""
    line = ""
    for number, span in enumerate(report.trace.spans):
        last = number == len(report.trace.spans) - 1
        end = len(places) if last else sum(place <= span.end_event for place in places)
        width = end - len(line)
        if width > 0:
            line += ("" if not line else "|") + phase_text(span.phase)[: width - 1].ljust(width - bool(line))
    return line
