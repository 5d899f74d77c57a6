"""`Report` -> the figures of its HTML page: the strip of cards that answers, and why the peak is there.

All of it is HTML text. What comes from a trace goes through `text`; a number of bytes stands as ``<data>``, rounded for
the eye and exact in its value.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from ..costmodels.story import Kept, story
from ..graph import Category, Phase
from ..hardware import MFU_DEFINITION
from .format import bytes_text, count_text, doubt_text, exact_bytes_text, seconds_text, share_text
from .page_data import shortened
from .table import BOUND_WORDS
from .words import line_text, short

if TYPE_CHECKING:
    from .result import Report

MOST_REASONS = 8


def text(text: str) -> str:
    """Anybody's text as HTML, cut in the middle where it is longer than a line can be."""
    return escape(shortened(text))


def card(label: str, answer: str, about: str, rows: Iterable[tuple[str, str]] = (), state: str = "") -> str:
    """One figure of the strip; its parts fold under it. `answer` and `about` are HTML, the rest is text."""
    table = "".join(f"<tr><th scope=row>{text(name)}</th><td>{value}</td></tr>" for name, value in rows)
    folded = f"<details><summary>exactly</summary><table>{table}</table></details>" if table else ""
    return (
        f"<article class='card {state}'><h2>{text(label)}</h2><p class=answer>{answer}</p>"
        f"<p class=about>{about}</p>{folded}</article>"
    )


def bytes_cell(count: int) -> str:
    """Bytes for the eye, and exactly for whoever asks."""
    return f"<data value='{count}' title='{exact_bytes_text(count)}'>{bytes_text(count)}</data>"


def exact_cell(count: int) -> str:
    """Bytes with every digit."""
    return f"<data value='{count}'>{exact_bytes_text(count)}</data>"


def seconds_cell(seconds: float) -> str:
    """Seconds for the eye, and exactly in the value."""
    return f"<data value='{seconds!r}'>{seconds_text(seconds)}</data>"


def verdict(report: Report, more: str = "") -> str:
    """The strip of cards; `more` are cards that were asked for beside those of every report."""
    return "".join((_fits(report), _peak(report), more, _time(report), _compute(report), _trust(report)))


def _fits(report: Report) -> str:
    if report.fits is None:
        return card("Does it fit?", "not asked", "traced for the CPU, whose memory this is")
    share = min(report.needed_bytes / report.available_bytes, 1.0)
    over = max(report.needed_bytes - report.available_bytes, 0)
    words = share_text(report.needed_bytes, report.available_bytes) if report.fits else f"{bytes_text(over)} too much"
    about = (
        f"{bytes_cell(report.needed_bytes)} of {bytes_cell(report.available_bytes)}: {words}"
        f"<meter min=0 max=1 high=0.92 optimum=0 value='{share:.4f}' aria-label='share of the memory'></meter>"
    )
    rows = _allocator(report)
    return card("Does it fit?", "Yes" if report.fits else "No", about, rows, "good" if report.fits else "bad")


def _allocator(report: Report) -> list[tuple[str, str]]:
    """What ``torch.cuda`` would say, and where a step fails that does not fit."""
    found = report.device_memory
    if found is None:
        return []
    rows = [
        ("allocated at most", exact_cell(found.allocated_peak_bytes)),
        ("reserved at most", exact_cell(found.reserved_peak_bytes)),
        ("there, beside the CUDA context", exact_cell(report.available_bytes)),
        ("CUDA context", exact_cell(found.context_bytes)),
        ("device total", exact_cell(found.device_peak_bytes)),
    ]
    if found.failure:
        op = found.failure.op
        where = " ".join(filter(None, (op.module, short(op.packet), line_text(op.source)))) if op else "the start"
        rows.append(("fails at", text(where)))
    return rows


def _where(report: Report) -> str:
    op = report.peak_op
    if op is None:
        return "at the start of the step"
    where = (f"in {op.phase}", op.module, op.packet.removeprefix("aten."))
    line = f"{os.path.basename(op.source.file)}:{op.source.line}" if op.source else ""
    return text(", ".join(filter(None, (*where, line))))


def _peak(report: Report) -> str:
    rows = [
        (str(category).replace("_", " "), exact_cell(count))
        for category in Category
        if (count := report.memory.at_peak.get(category, 0))
    ]
    return card("Peak memory", bytes_cell(report.memory.peak_bytes), _where(report), rows)


def _time(report: Report) -> str:
    time = report.time
    doubt = doubt_text(time.low_seconds, time.step_seconds, time.high_seconds)
    shares = sorted(((share, bound) for bound, share in time.bound_shares.items() if share), reverse=True)
    spent = ", ".join(f"{share_text(share, 1)} {BOUND_WORDS.get(bound, bound)}" for share, bound in shares[:2])
    rows = [(str(phase).replace("_", " "), seconds_cell(time.phases[phase].seconds)) for phase in Phase]
    rows += [("if every kernel is fast", seconds_cell(time.low_seconds)), ("slow", seconds_cell(time.high_seconds))]
    return card("Step time", f"~ {seconds_cell(time.step_seconds)}", text(f"{doubt}; {spent}"), rows)


def _compute(report: Report) -> str:
    flops = report.flops
    about = "no matrix arithmetic"
    if report.time.peak_unit:
        peak = count_text(report.time.peak_flops_per_second, "FLOP/s")
        about = f"<abbr title='{text(MFU_DEFINITION)}'>MFU</abbr> {share_text(report.time.mfu, 1)} of {peak}, " + text(
            str(report.time.peak_unit)
        )
    phases = (("forward", flops.forward), ("backward", flops.backward), ("optimizer", flops.optimizer))
    rows = [(name, f"<data value='{count}'>{count:,}</data>") for name, count in phases]
    rows.append(
        ("without what a causal mask throws away", f"<data value='{flops.causal_total}'>{flops.causal_total:,}</data>")
    )
    rows.append(("parameters", f"<data value='{report.parameters.total}'>{report.parameters.total:,}</data>"))
    return card("Compute", f"<data value='{flops.total}'>{count_text(flops.total, 'FLOP')}</data>", about, rows)


def _trust(report: Report) -> str:
    coverage = report.coverage
    assumed = sum(row.count for row in coverage.assumed) + len(coverage.assumptions)
    share = share_text(coverage.assumed_seconds, report.time.step_seconds)
    about = f"assumed, {share} of the time; <a href='#doubts'>{len(coverage.not_modelled)} things not modelled</a>"
    return card("Doubts", f"{assumed:,}" if assumed else "None", about, (), "warn" if assumed else "")


# --- why the peak is there ---


def why(report: Report) -> str:
    """The largest groups alive at the peak: what keeps each, and the peak of a step without it."""
    told = story(report.memory, "peak", MOST_REASONS)
    rows = "".join(_reason(row, report.memory.peak_bytes) for row in told.kept)
    heads = ("what", "together", "made by", "kept by", "peak without it")
    kinds = ("text", "number", "text", "text", "number")
    head = "".join(f"<th scope=col class={kind}>{name}</th>" for kind, name in zip(kinds, heads, strict=True))
    return f"<div class=scroll><table class=wordy><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


def _reason(row: Kept, peak_bytes: int) -> str:
    held, without = row.holder, row.without.peak_bytes
    kind = str(held.category).replace("_", " ") if held.category else ""
    count = f"{held.count:,} x " if held.count > 1 else ""
    what = f"{held.module or '(no module)'}: {count}{kind} {row.shapes[0] if row.shapes else ''}"
    made = f"{short(held.packet)} {line_text(held.source)}" if held.packet else "before the step"
    saved = f"{bytes_cell(without)} ({bytes_text(peak_bytes - without)} less)"
    cells = (text(what), text(made), text(row.kept_by))
    return (
        f"<tr><th scope=row>{cells[0]}</th><td data-label=together>{bytes_cell(held.bytes)}</td>"
        f"<td class=text data-label='made by'>{cells[1]}</td><td class=text data-label='kept by'>{cells[2]}</td>"
        f"<td data-label='peak without it'>{saved}</td></tr>"
    )
