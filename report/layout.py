"""Parts of a screen -> lines of a given width: labelled lists, rows that begin with a name, paragraphs.

A *part* knows what it says; how wide it may be is told when it is laid out, so that one report fits a narrow terminal
and a wide one. What a terminal does not say is `WIDTH`.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap

from tabulate import tabulate

WIDTH = 80
NARROWEST, WIDEST = 48, 132
LABEL = 15
MOST_PART, MOST_TEXT = 300, 3_000
"""Letters of a part and of a paragraph: a name may be of any length."""
LEAST_NAME = 16
LEAST_LAST = 12
ENOUGH_NAME, ENOUGH_LAST = 24, 22
"""Letters for which the last column, a line of code, gives way to the name; below `LEAST_NAME` spare columns do."""


def terminal_width() -> int:
    """The columns of the terminal, or of ``COLUMNS``; `WIDTH` where what is printed goes to a file."""
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        return WIDTH
    return min(max(shutil.get_terminal_size((WIDTH, 24)).columns, NARROWEST), WIDEST)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A label, and parts wrapped beside it; a line break divides only a part that is wider than a line."""

    label: str
    parts: Sequence[str]

    def lines(self, width: int) -> list[str]:
        """The lines, the label before the first; none where there are no parts."""
        room = width - LABEL
        whole = ", ".join(part.replace(" ", "\0") if len(part) <= room else part[:MOST_PART] for part in self.parts)
        broken = wrap(whole, room, break_long_words=False, break_on_hyphens=False)
        heads = [self.label, *[""] * (len(broken) - 1)][: len(broken)]
        return [f"{head:<{LABEL}}{line}".replace("\0", " ") for head, line in zip(heads, broken, strict=True)]


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A text whose further lines are indented, and all of it by `indent`."""

    text: str
    indent: str = ""

    def lines(self, width: int) -> list[str]:
        """The lines of at most that width, single words that are longer apart."""
        first, later = self.indent, f"{self.indent}  "
        return wrap(self.text[:MOST_TEXT], width, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that begin with a name and end in a line of code, both cut on the left to what the other columns leave."""

    rows: Sequence[tuple[str, ...]]
    alignment: str
    """A letter for each column: ``l`` or ``r``."""
    spare: tuple[int, ...] = ()
    """Columns that are left out, in this order, where there is no room for the name."""

    def lines(self, width: int) -> list[str]:
        """The rows as a table, indented by two."""
        widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
        kept = list(range(len(widths)))
        for column in self.spare:
            if _room(widths, kept, width) >= LEAST_NAME + min(LEAST_LAST, widths[-1]):
                break
            kept.remove(column)
        name_room, last_room = _shared(_room(widths, kept, width), widths[0], widths[-1])
        names = _cut_apart([row[0] for row in self.rows], name_room)
        shown = [
            (name, *(row[column] for column in kept[1:-1]), _line(row[-1], last_room))
            for name, row in zip(names, self.rows, strict=True)
        ]
        align = ["left" if self.alignment[column] == "l" else "right" for column in kept]
        table = tabulate(shown, tablefmt="plain", colalign=align, disable_numparse=True)
        return [f"  {line}" for line in table.splitlines()]


Part = str | Labelled | Paragraph | Rows


def laid_out(parts: Iterable[Part], width: int) -> list[str]:
    """The lines of several parts; text is a line as it is."""
    return [line for part in parts for line in ([part] if isinstance(part, str) else part.lines(width))]


def _room(widths: Sequence[int], kept: Sequence[int], width: int) -> int:
    """What the columns between leave for the first and the last together."""
    return width - 2 - sum(widths[column] + 2 for column in kept[1:-1]) - 2


def _shared(room: int, name: int, last: int) -> tuple[int, int]:
    """The widths of the name and of the last column: the last gives way to a name that would be cut too short."""
    least_last = min(last, LEAST_LAST)
    for_name = max(room - min(last, ENOUGH_LAST), min(ENOUGH_NAME, room - least_last), LEAST_NAME)
    for_name = min(name, for_name)
    return for_name, max(room - for_name, 0)


def _cut_apart(names: Sequence[str], width: int) -> list[str]:
    """Names cut to their ends; those whose ends are the same are cut in the middle."""
    ends: dict[str, set[str]] = {}
    for name in names:
        ends.setdefault(tail(name, width), set()).add(name)
    return [tail(name, width) if len(ends[tail(name, width)]) == 1 else _middle(name, width) for name in names]


def tail(text: str, width: int) -> str:
    """The end of a text, which tells more of a module or a path than its beginning.

    >>> tail("transformer.h.0.mlp", 8), tail("h.0.mlp", 8)
    ('...0.mlp', 'h.0.mlp')
    """
    return text if len(text) <= width else ".." + text[len(text) - width + 2 :]


def _line(text: str, width: int) -> str:
    """A line of code, its file cut to the end of its name.

    >>> _line("modeling_llama.py:164", 13)
    '..g_llama:164'
    """
    return text if len(text) <= width else tail(text.replace(".py:", ":"), width)


def _middle(text: str, width: int) -> str:
    """The beginning and the end of a text."""
    if len(text) <= width:
        return text
    begin = (width - 2) // 2
    return f"{text[:begin]}..{text[len(text) - (width - 2 - begin) :]}"
