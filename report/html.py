"""`Report` -> one HTML page that works alone: no network, no other file, and nothing in it that a name could start.

The figures that answer, the doubts and the settings are plain HTML, so that they are there without a script; charts,
live sets and the table of ops are drawn in the browser from `page_data`. Two reports make a *diff page*: the same page
with a switch between them, and the differences first.

Names in a trace are untrusted. Here they pass through ``html.escape``; in the data every ``<`` is ``\\u003c``; in the
browser they become text nodes. The page's content security policy admits its own scripts by their hashes and nothing
else, and no request to anywhere.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ..costmodels.story import Kept, story
from ..graph import Category, Phase
from ..graph.serde import write_whole
from ..hardware import MFU_DEFINITION
from .changes import Amount, Change, holder_changes, taker_changes
from .format import bytes_text, count_text, doubt_text, exact_bytes_text, seconds_text, share_text
from .json import portable
from .page_data import STACK, page_data, shortened
from .table import BOUND_WORDS
from .words import line_text, short

if TYPE_CHECKING:
    from .result import Report

ASSETS = Path(__file__).parent / "assets"
LIBRARIES = ("uPlot.iife.min.js", "d3-hierarchy.min.js")
OURS = ("base", "runs", "timeline", "alive", "tree", "roofline", "ops", "page")
SCRIPTS = (*LIBRARIES, *(f"{name}.js" for name in OURS))
"""In the order in which they run: each may use what those before it define."""
STYLES = ("uPlot.min.css", "page.css")
LICENCES = ("uPlot.LICENSE.txt", "d3-hierarchy.LICENSE.txt")
MOST_CHANGES = 14
MOST_REASONS = 8
MOST_COMMAND = 5_000


def to_html(report: Report, before: Report | None = None, *, command: str = "") -> str:
    """The page as text. With `before` it is a diff page, from that report to this one.

    `command` is the command line that makes the page again; left out, it is worked out from the trace.
    """
    reports = (report,) if before is None else (before, report)
    names = ("",) if before is None else ("before", "after")
    data = {
        "names": names,
        "stack": [str(category) for category in STACK],
        "bounds": BOUND_WORDS,
        "runs": [page_data(item) for item in reports],
    }
    parts = {
        "title": _text(_title(reports)),
        "heading": _heading(reports),
        "verdict": _verdict(report) if before is None else _verdicts(before, report),
        "changes": "" if before is None else _changes(before, report),
        "why": _why(report),
        "doubts": "".join(_doubts(item, name) for item, name in zip(reports, names, strict=True)),
        "settings": "".join(_settings(item, name, command) for item, name in zip(reports, names, strict=True)),
        "data": script_safe(json.dumps(data, separators=(",", ":"), allow_nan=False)),
        "diff": "" if before is None else "diff",
    }
    return _filled(_frame(), parts)


def save_html(path: str | os.PathLike[str], report: Report, before: Report | None = None, *, command: str = "") -> None:
    """Write the page to `path`, whole or not at all."""
    write_whole(os.fspath(path), to_html(report, before, command=command).encode("utf-8", "backslashreplace"))


def _text(text: str) -> str:
    """Anybody's text as HTML, cut in the middle where it is longer than a line can be."""
    return escape(shortened(text))


def script_safe(text: str) -> str:
    """JSON that may stand in a ``<script>``: nothing in it closes the element or opens a comment.

    >>> script_safe('["</script>", "a&b"]')
    '["\\\\u003c/script\\\\u003e", "a\\\\u0026b"]'
    """
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# --- the frame: everything that does not depend on a report ---


@cache
def _frame() -> str:
    """The page with its styles, scripts and policy, and a mark for each part."""
    scripts, styles = [_asset(name) for name in SCRIPTS], [_asset(name) for name in STYLES]
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(map(_hash, scripts))}",
            f"style-src {' '.join(map(_hash, styles))}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    parts = {
        "policy": policy,
        "licences": "\n\n".join(_asset(name) for name in LICENCES),
        "styles": "".join(f"<style>{style}</style>\n" for style in styles),
        "scripts": "".join(f"<script>{script}</script>\n" for script in scripts),
    }
    return _filled(_asset("page.html"), parts)


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _filled(frame: str, parts: Mapping[str, str]) -> str:
    """`frame` with each mark ``<!--{name}-->`` replaced once; what is put in is not looked at again."""
    pieces = [frame]
    for name, text in parts.items():
        mark = f"<!--{{{name}}}-->"
        place = next(i for i, piece in enumerate(pieces) if i % 2 == 0 and mark in piece)
        before, after = pieces[place].split(mark, 1)
        pieces[place : place + 1] = [before, text, after]
    return "".join(pieces)


# --- the head ---


def _title(reports: Sequence[Report]) -> str:
    return " → ".join(_name(report) for report in reports)


def _name(report: Report) -> str:
    return portable(report.trace.facts.target) or "a training step"


def _arguments(report: Report) -> str:
    return " ".join(f"{key}={value}" for key, value in report.trace.facts.arguments.items())


def _heading(reports: Sequence[Report]) -> str:
    lines = []
    for report in reports:
        facts = report.trace.facts
        optimizer, way = facts.optimizer.get("class"), facts.optimizer.get("implementation")
        about = (
            _arguments(report),
            f"{facts.autocast} autocast" if facts.autocast else "no autocast",
            f"{optimizer} ({way})" if optimizer and way else str(optimizer or "no optimizer"),
            f"{len(report.trace.ops):,} ops",
            f"on {report.profile.full_name}",
        )
        lines.append(f"<h1>{_text(_name(report))}</h1><p>{_text(' · '.join(filter(None, about)))}</p>")
    return "<div class='arrow' aria-label='to'>→</div>".join(f"<div>{line}</div>" for line in lines)


# --- the verdict ---


def _card(label: str, answer: str, about: str, rows: Iterable[tuple[str, str]] = (), state: str = "") -> str:
    """One figure of the strip; its parts fold under it. `answer` and `about` are HTML, the rest is text."""
    table = "".join(f"<tr><th scope=row>{_text(name)}</th><td>{value}</td></tr>" for name, value in rows)
    folded = f"<details><summary>exactly</summary><table>{table}</table></details>" if table else ""
    return (
        f"<article class='card {state}'><h2>{_text(label)}</h2><p class=answer>{answer}</p>"
        f"<p class=about>{about}</p>{folded}</article>"
    )


def _bytes(count: int) -> str:
    """Bytes for the eye, and exactly for whoever asks."""
    return f"<data value='{count}' title='{exact_bytes_text(count)}'>{bytes_text(count)}</data>"


def _exact(count: int) -> str:
    return f"<data value='{count}'>{exact_bytes_text(count)}</data>"


def _seconds(seconds: float) -> str:
    return f"<data value='{seconds!r}'>{seconds_text(seconds)}</data>"


def _verdict(report: Report) -> str:
    return "".join((_fits(report), _peak(report), _time(report), _compute(report), _trust(report)))


def _fits(report: Report) -> str:
    if report.fits is None:
        return _card("Does it fit?", "not asked", "traced for the CPU, whose memory this is")
    share = min(report.needed_bytes / report.available_bytes, 1.0)
    over = max(report.needed_bytes - report.available_bytes, 0)
    words = share_text(report.needed_bytes, report.available_bytes) if report.fits else f"{bytes_text(over)} too much"
    about = (
        f"{_bytes(report.needed_bytes)} of {_bytes(report.available_bytes)}: {words}"
        f"<meter min=0 max=1 high=0.92 optimum=0 value='{share:.4f}' aria-label='share of the memory'></meter>"
    )
    rows = _allocator(report)
    return _card("Does it fit?", "Yes" if report.fits else "No", about, rows, "good" if report.fits else "bad")


def _allocator(report: Report) -> list[tuple[str, str]]:
    """What ``torch.cuda`` would say, and where a step fails that does not fit."""
    found = report.device_memory
    if found is None:
        return []
    rows = [
        ("allocated at most", _exact(found.allocated_peak_bytes)),
        ("reserved at most", _exact(found.reserved_peak_bytes)),
        ("there, beside the CUDA context", _exact(report.available_bytes)),
        ("CUDA context", _exact(found.context_bytes)),
        ("device total", _exact(found.device_peak_bytes)),
    ]
    if found.failure:
        op = found.failure.op
        where = " ".join(filter(None, (op.module, short(op.packet), line_text(op.source)))) if op else "the start"
        rows.append(("fails at", _text(where)))
    return rows


def _where(report: Report) -> str:
    op = report.peak_op
    if op is None:
        return "at the start of the step"
    where = (f"in {op.phase}", op.module, op.packet.removeprefix("aten."))
    line = f"{os.path.basename(op.source.file)}:{op.source.line}" if op.source else ""
    return _text(", ".join(filter(None, (*where, line))))


def _peak(report: Report) -> str:
    rows = [
        (str(category).replace("_", " "), _exact(count))
        for category in Category
        if (count := report.memory.at_peak.get(category, 0))
    ]
    return _card("Peak memory", _bytes(report.memory.peak_bytes), _where(report), rows)


def _time(report: Report) -> str:
    time = report.time
    doubt = doubt_text(time.low_seconds, time.step_seconds, time.high_seconds)
    shares = sorted(((share, bound) for bound, share in time.bound_shares.items() if share), reverse=True)
    spent = ", ".join(f"{share_text(share, 1)} {BOUND_WORDS.get(bound, bound)}" for share, bound in shares[:2])
    rows = [(str(phase).replace("_", " "), _seconds(time.phases[phase].seconds)) for phase in Phase]
    rows += [("if every kernel is fast", _seconds(time.low_seconds)), ("slow", _seconds(time.high_seconds))]
    return _card("Step time", f"~ {_seconds(time.step_seconds)}", _text(f"{doubt}; {spent}"), rows)


def _compute(report: Report) -> str:
    flops = report.flops
    about = "no matrix arithmetic"
    if report.time.peak_unit:
        peak = count_text(report.time.peak_flops_per_second, "FLOP/s")
        about = (
            f"<abbr title='{_text(MFU_DEFINITION)}'>MFU</abbr> {share_text(report.time.mfu, 1)} of {peak}, "
            + _text(str(report.time.peak_unit))
        )
    phases = (("forward", flops.forward), ("backward", flops.backward), ("optimizer", flops.optimizer))
    rows = [(name, f"<data value='{count}'>{count:,}</data>") for name, count in phases]
    rows.append(
        ("without what a causal mask throws away", f"<data value='{flops.causal_total}'>{flops.causal_total:,}</data>")
    )
    rows.append(("parameters", f"<data value='{report.parameters.total}'>{report.parameters.total:,}</data>"))
    return _card("Compute", f"<data value='{flops.total}'>{count_text(flops.total, 'FLOP')}</data>", about, rows)


def _trust(report: Report) -> str:
    coverage = report.coverage
    assumed = sum(row.count for row in coverage.assumed) + len(coverage.assumptions)
    share = share_text(coverage.assumed_seconds, report.time.step_seconds)
    about = f"assumed, {share} of the time; <a href='#doubts'>{len(coverage.not_modelled)} things not modelled</a>"
    return _card("Doubts", f"{assumed:,}" if assumed else "None", about, (), "warn" if assumed else "")


# --- why the peak is there ---


def _why(report: Report) -> str:
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
    saved = f"{_bytes(without)} ({bytes_text(peak_bytes - without)} less)"
    cells = (_text(what), _text(made), _text(row.kept_by))
    return (
        f"<tr><th scope=row>{cells[0]}</th><td data-label=together>{_bytes(held.bytes)}</td>"
        f"<td class=text data-label='made by'>{cells[1]}</td><td class=text data-label='kept by'>{cells[2]}</td>"
        f"<td data-label='peak without it'>{saved}</td></tr>"
    )


# --- two reports ---


def _verdicts(before: Report, after: Report) -> str:
    """The figures of both, and their difference."""
    rows = [
        ("Peak memory", *_delta(before.memory.peak_bytes, after.memory.peak_bytes)),
        ("Saved for backward", *_delta(before.memory.saved_for_backward_bytes, after.memory.saved_for_backward_bytes)),
        ("At the start", *_delta(before.memory.start_bytes, after.memory.start_bytes)),
        ("Step time", *_time_delta(before.time.step_seconds, after.time.step_seconds)),
        ("Compute", *_flop_delta(before.flops.total, after.flops.total)),
        (
            "Ops",
            f"{len(before.trace.ops):,}",
            f"{len(after.trace.ops):,}",
            f"{len(after.trace.ops) - len(before.trace.ops):+,}",
            0,
        ),
        ("Fits", _yes(before), _yes(after), "", 0),
    ]
    body = "".join(
        f"<tr><th scope=row>{name}</th><td>{was}</td><td>{now}</td><td class='{_direction(sign)}'>{change}</td></tr>"
        for name, was, now, change, sign in rows
    )
    head = "<tr><th></th><th scope=col>before</th><th scope=col>after</th><th scope=col>change</th></tr>"
    return f"<table class=verdicts><thead>{head}</thead><tbody>{body}</tbody></table>"


def _yes(report: Report) -> str:
    return "not asked" if report.fits is None else "yes" if report.fits else "no"


def _direction(sign: float) -> str:
    return "more" if sign > 0 else "less" if sign < 0 else ""


def _percent(was: float, now: float) -> str:
    return f" ({100 * (now - was) / was:+.1f} %)" if was and was != now else ""


def _signed_bytes(change: int) -> str:
    """A difference: what rounding would hide is written out, as in ``+12 B``."""
    sign = "+" if change > 0 else "-" if change < 0 else ""
    return (
        f"<data value='{change}' title='{exact_bytes_text(change, signed=True)}'>{sign}{bytes_text(abs(change))}</data>"
    )


def _delta(was: int, now: int) -> tuple[str, str, str, int]:
    return _bytes(was), _bytes(now), _signed_bytes(now - was) + _percent(was, now), now - was


def _time_delta(was: float, now: float) -> tuple[str, str, str, float]:
    sign = "+" if now > was else "-" if now < was else ""
    return _seconds(was), _seconds(now), f"{sign}{seconds_text(abs(now - was))}{_percent(was, now)}", now - was


def _flop_delta(was: int, now: int) -> tuple[str, str, str, int]:
    sign = "+" if now > was else "-" if now < was else ""
    texts = [f"<data value='{count}'>{count_text(count, 'FLOP')}</data>" for count in (was, now)]
    return texts[0], texts[1], f"{sign}{count_text(abs(now - was), 'FLOP')}{_percent(was, now)}", now - was


def _changes(before: Report, after: Report) -> str:
    memory = _change_table("At the peak", holder_changes(before, after), _bytes, _signed_bytes)
    time = _change_table("In the time", taker_changes(before, after), _seconds, _signed_seconds)
    opening = "<section id=changes aria-labelledby=h-changes>"
    return f"{opening}<h2 id=h-changes>What changed</h2><div class=two>{memory}{time}</div></section>"


def _signed_seconds(change: float) -> str:
    return f"{'+' if change > 0 else '-'}{seconds_text(abs(change))}"


def _change_table(
    title: str, changes: Sequence[Change[Amount]], text: Callable[[Amount], str], signed: Callable[[Amount], str]
) -> str:
    if not changes:
        return f"<div><h3>{title}</h3><p>nothing</p></div>"
    rows = "".join(
        f"<tr><th scope=row>{_text(row.what)}</th><td>{text(row.before)}</td><td>{text(row.after)}</td>"
        f"<td class='{_direction(row.change)}'>{signed(row.change)}</td></tr>"
        for row in changes[:MOST_CHANGES]
    )
    more = f"<p>and {len(changes) - MOST_CHANGES:,} smaller ones</p>" if len(changes) > MOST_CHANGES else ""
    head = "<tr><th></th><th scope=col>before</th><th scope=col>after</th><th scope=col>change</th></tr>"
    return f"<div class=scroll><h3>{title}</h3><table><thead>{head}</thead><tbody>{rows}</tbody></table>{more}</div>"


# --- doubts and settings ---


def _doubts(report: Report, name: str) -> str:
    coverage = report.coverage
    items = [
        f"{row.count:,} x {row.name}, which no rule knows: "
        f"{count_text(row.flops, 'FLOP')} and {bytes_text(row.bytes)} assumed"
        for row in coverage.assumed
    ]
    items += [_assumption(item) for item in coverage.assumptions]
    return (
        f"<div><h3>{_text(name)}</h3>" * bool(name)
        + _listed("Assumed", items or ["nothing"])
        + (_listed("Noted", coverage.notes) if coverage.notes else "")
        + _listed("Not modelled", coverage.not_modelled)
        + "</div>" * bool(name)
    )


def _assumption(item: object) -> str:
    if not isinstance(item, Mapping):
        return str(item)
    count, place = item.get("count", ""), item.get("at", "")
    times = f", {count} times" if count else ""
    return f"{item.get('assumed', '')} ({item.get('op', '')}{f' at {place}' if place else ''}{times})"


def _listed(title: str, items: Iterable[str]) -> str:
    return f"<h3>{title}</h3><ul>{''.join(f'<li>{_text(item)}</li>' for item in items)}</ul>"


def _settings(report: Report, name: str, command: str) -> str:
    facts = report.trace.facts
    versions = {"foretrace": _version(), **facts.versions}
    rows: list[tuple[str, object]] = [
        ("made with", ", ".join(f"{key} {value}" for key, value in versions.items())),
        ("device", facts.device),
        ("autocast", facts.autocast or "none"),
        ("steps before the recorded one", facts.warmup),
        ("arguments", _arguments(report) or "none"),
        ("optimizer", ", ".join(f"{key} {value}" for key, value in facts.optimizer.items()) or "none"),
        ("hardware profile", f"{report.profile.name}: {report.profile.full_name}"),
    ]
    body = "".join(f"<dt>{label}</dt><dd>{_text(str(value))}</dd>" for label, value in rows)
    again = escape((command or reproduction(report))[:MOST_COMMAND])
    return (
        f"{f'<h3>{_text(name)}</h3>' if name else ''}<dl>{body}</dl>"
        f"<p>To make it again:</p><pre class=command><code>{again}</code></pre>"
    )


def _version() -> str:
    """Of the package, which is loaded wherever this is; no arrow of imports leads back up to it."""
    return str(sys.modules[__name__.partition(".")[0]].__dict__["__version__"])


def reproduction(report: Report) -> str:
    """The command that traces and prices the step again, as far as the trace tells."""
    facts = report.trace.facts
    words = ["foretrace", "run", portable(facts.target) or "TARGET"]
    for key, value in facts.arguments.items():
        words += ["-p", f"{key}={value}"]
    if report.device == "cpu":
        words += ["--device", "cpu"]
    if facts.autocast:
        words += ["--autocast", facts.autocast]
    if facts.warmup != 1:
        words += ["--warmup", str(facts.warmup)]
    return shlex.join([*words, "--on", report.profile.name])
