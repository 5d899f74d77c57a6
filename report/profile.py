"""`Profile` -> a table of its numbers, each with the source that it comes from."""

from __future__ import annotations

from textwrap import wrap

from ..hardware import Profile, Range
from .format import bytes_text, count_text, seconds_text

WIDTH = 80


def facts_table(profile: Profile) -> str:
    """Every fact of the profile: one line for the number, and below it the lines of its source."""
    lines = []
    for key, value, unit, source in profile.facts():
        lines.append(f"{key:<44}{_value(value, unit)}")
        lines += wrap(source, WIDTH, initial_indent="    ", subsequent_indent="    ", break_long_words=False)
    return "\n".join(lines) + "\n"


def _value(value: str | float | Range, unit: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Range):
        return f"{value} {unit}"
    if unit == "bytes":
        return f"{value:,} ({bytes_text(int(value))})"
    if unit == "s":
        return seconds_text(value)
    return count_text(value, unit) if unit in ("FLOP", "FLOP/s", "Hz") else f"{value:,} {unit}"
