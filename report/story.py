"""A `Story` -> the screen that tells what is alive at an instant of a step: who made it, what keeps it, what if not."""

from __future__ import annotations

from textwrap import wrap

from ..costmodels.story import Kept, Story
from ..graph import Op
from .format import bytes_text, screen, share_text
from .json import portable
from .layout import MOST_PART, MOST_TEXT, WIDTH, tail
from .words import line_text, phase_text, short


def story_text(story: Story) -> str:
    """The whole screen, as text that ends in a newline."""
    return screen([_header(story), *(_kept(row, story) for row in story.kept)])


def _header(story: Story) -> list[str]:
    graph = story.timeline.graph
    where = ", ".join(_place(story.op)) if story.op else "the start of the step"
    shown = sum(row.holder.bytes for row in story.kept)
    lines = [
        portable(graph.facts.target) or "a training step",
        *wrap(f"{bytes_text(story.live_bytes)} live at {where}", WIDTH, initial_indent="  ", subsequent_indent="    "),
    ]
    if shown < story.live_bytes:
        lines.append(f"  the {len(story.kept)} largest groups, {share_text(shown, story.live_bytes)} of it")
    return lines


def _place(op: Op) -> list[str]:
    parts = (f"{short(op.packet)} in {phase_text(op.phase)}", op.module, line_text(op.source))
    return [tail(part, MOST_PART) for part in parts if part]


def _kept(row: Kept, story: Story) -> list[str]:
    holder = row.holder
    count = f"{holder.count:,} x {bytes_text(holder.bytes_each)}, " if holder.count > 1 else ""
    kind = str(holder.category).replace("_", " ") if holder.category else "unknown"
    share = share_text(holder.bytes, story.live_bytes)
    shape = f"  {row.shapes[0]}" if row.shapes else ""
    peak = story.timeline.peak_bytes
    without = row.without
    saved = bytes_text(peak - without.peak_bytes)
    there = ", ".join(_place(without.op)) if without.op else "the start"
    made = ", ".join(_place(row.made_by)) if row.made_by else "before the step"
    reader = f", next by {', '.join(_place(row.reader))}" if row.reader else ""
    what = f"{holder.module or '(no module)'}: {count}{bytes_text(holder.bytes)} ({share}), {kind}{shape}"
    return [
        *wrap(what[:MOST_TEXT], WIDTH, subsequent_indent="  ", break_on_hyphens=False),
        *_line("made by", made),
        *_line("kept by", row.kept_by + reader),
        *_line("without", f"the step would peak {saved} lower, at {bytes_text(without.peak_bytes)} in {there}"),
    ]


def _line(label: str, text: str) -> list[str]:
    return wrap(
        text[:MOST_TEXT], WIDTH, initial_indent=f"  {label}  ", subsequent_indent=" " * 11, break_on_hyphens=False
    )
