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
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from ..graph.serde import write_whole
from .json import portable
from .page_about import arguments, doubts, settings
from .page_changes import changes, verdicts
from .page_data import STACK, page_data
from .page_figures import text, verdict, why
from .page_fit import fit_card, fit_data, fit_section, size_now
from .page_what_if import what_if_section
from .table import BOUND_WORDS

if TYPE_CHECKING:
    from ..hardware.fit import Fit
    from .result import Report
    from .what_if import WhatIf

ASSETS = Path(__file__).parent / "assets"
LIBRARIES = ("uPlot.iife.min.js", "d3-hierarchy.min.js")
OURS = ("base", "runs", "timeline", "alive", "tree", "roofline", "fit", "ops", "page")
SCRIPTS = (*LIBRARIES, *(f"{name}.js" for name in OURS))
"""In the order in which they run: each may use what those before it define."""
STYLES = ("uPlot.min.css", "page.css")
LICENCES = ("uPlot.LICENSE.txt", "d3-hierarchy.LICENSE.txt")
MOST_CHANGES = 14
MOST_REASONS = 8
MOST_COMMAND = 5_000


def to_html(
    report: Report,
    before: Report | None = None,
    *,
    command: str = "",
    fit: Fit | None = None,
    what_if: WhatIf | None = None,
) -> str:
    """The page as text. With `before` it is a diff page, from that report to this one.

    `command` is the command line that makes the page again; left out, it is worked out from the trace. `fit` is the
    largest size that fits, with the curve to it, which becomes a card and a slider; `what_if` becomes a table.
    """
    reports = (report,) if before is None else (before, report)
    names = ("",) if before is None else ("before", "after")
    data = {
        "names": names,
        "stack": [str(category) for category in STACK],
        "bounds": BOUND_WORDS,
        "runs": [page_data(item) for item in reports],
        "fit": fit_data(fit, size_now(report, fit.name)) if fit else None,
    }
    card = fit_card(fit) if fit else ""
    parts = {
        "title": text(_title(reports)),
        "heading": _heading(reports, names),
        "verdict": verdict(report, card) if before is None else verdicts(before, report) + card,
        "changes": "" if before is None else changes(before, report),
        "why": why(report),
        "fit": fit_section(fit) if fit else "",
        "what_if": what_if_section(what_if) if what_if else "",
        "doubts": "".join(doubts(item, name) for item, name in zip(reports, names, strict=True)),
        "settings": "".join(
            settings(item, name, command if item is report else "") for item, name in zip(reports, names, strict=True)
        ),
        "data": script_safe(json.dumps(data, separators=(",", ":"), allow_nan=False)),
        "diff": "" if before is None else "diff",
    }
    return _filled(_frame(), parts)


def save_html(
    path: str | os.PathLike[str],
    report: Report,
    before: Report | None = None,
    *,
    command: str = "",
    fit: Fit | None = None,
    what_if: WhatIf | None = None,
) -> None:
    """Write the page to `path`, whole or not at all."""
    page = to_html(report, before, command=command, fit=fit, what_if=what_if)
    write_whole(os.fspath(path), page.encode("utf-8", "backslashreplace"))


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
    for name, part in parts.items():
        mark = f"<!--{{{name}}}-->"
        place = next(i for i, piece in enumerate(pieces) if i % 2 == 0 and mark in piece)
        before, after = pieces[place].split(mark, 1)
        pieces[place : place + 1] = [before, part, after]
    return "".join(pieces)


# --- the head ---


def _title(reports: Sequence[Report]) -> str:
    return " → ".join(_name(report) for report in reports)


def _name(report: Report) -> str:
    return portable(report.trace.facts.target) or "a training step"


def _heading(reports: Sequence[Report], names: Sequence[str]) -> str:
    lines = []
    for report, name in zip(reports, names, strict=True):
        facts = report.trace.facts
        optimizer, way = facts.optimizer.get("class"), facts.optimizer.get("implementation")
        about = (
            name,
            arguments(report),
            facts.precision,
            f"{optimizer} ({way})" if optimizer and way else str(optimizer or "no optimizer"),
            f"{len(report.trace.ops):,} ops",
            f"on {report.profile.full_name}",
        )
        lines.append(f"<h1>{text(_name(report))}</h1><p>{text(' · '.join(filter(None, about)))}</p>")
    return "".join(f"<div>{line}</div>" for line in lines)
