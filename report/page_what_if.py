"""`WhatIf` -> its part of an HTML page: what each change of the step would save, the largest saving first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .format import bytes_text, exact_bytes_text
from .page_figures import bytes_cell, seconds_cell, text

if TYPE_CHECKING:
    from .what_if import Change, WhatIf

HEADS = ("change", "saves", "allocated", "reserved", "fits", "step time", "known by")


def what_if_section(found: WhatIf) -> str:
    """The table of the changes, and what was left out."""
    kinds = ("text", *["number"] * 5, "text")
    head = "".join(f"<th scope=col class={kind}>{name}</th>" for kind, name in zip(kinds, HEADS, strict=True))
    body = "".join(map(_row, found.changes))
    left = "".join(f"<li>{text(name)}: {text(why)}</li>" for name, why in sorted(found.left_out.items()))
    folded = f"<details><summary>left out</summary><ul>{left}</ul></details>" if left else ""
    return (
        "<section id=what-if aria-labelledby=h-what-if><h2 id=h-what-if>What would save memory</h2>"
        "<p class=hint>The same step with one thing changed, on the same device: traced anew, an estimate from the "
        "trace alone, or a setting of the allocator.</p>"
        f"<div class=scroll><table class=wordy><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f"{folded}</section>"
    )


def _row(change: Change) -> str:
    sign, saved = ("-", -change.saved_bytes) if change.saved_bytes < 0 else ("", change.saved_bytes)
    exact = exact_bytes_text(change.saved_bytes)
    direction = "more" if change.saved_bytes < 0 else "less" if change.saved_bytes else ""
    seconds = "not known" if change.step_seconds is None else seconds_cell(change.step_seconds)
    saving = f"<data value='{change.saved_bytes}' title='{exact}'>{sign}{bytes_text(saved)}</data>"
    cells = (
        f"<span class='{direction}'>{saving}</span>",
        bytes_cell(change.allocated_peak_bytes),
        bytes_cell(change.reserved_peak_bytes),
        "yes" if change.fits else "no",
        seconds,
    )
    named = zip(HEADS[1:-1], cells, strict=True)
    columns = "".join(f"<td data-label='{name}'>{cell}</td>" for name, cell in named)
    return (
        f"<tr><th scope=row>{text(change.name)}</th>{columns}"
        f"<td class=text data-label='{HEADS[-1]}'>{text(change.how)}</td></tr>"
    )
