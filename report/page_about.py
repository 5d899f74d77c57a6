"""`Report` -> the last part of its HTML page: what is assumed and left out, the settings, and how to make it again."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING

from .format import bytes_text, count_text
from .json import portable
from .page_figures import text

if TYPE_CHECKING:
    from .result import Report

MOST_COMMAND = 5_000


def arguments(report: Report) -> str:
    """What the target was called with, as ``name=value``."""
    return " ".join(f"{key}={value}" for key, value in report.trace.facts.arguments.items())


def doubts(report: Report, name: str) -> str:
    """What the figures rest on, under the report's `name` where there are two."""
    coverage = report.coverage
    items = [
        f"{row.count:,} x {row.name}, which no rule knows: "
        f"{count_text(row.flops, 'FLOP')} and {bytes_text(row.bytes)} assumed"
        for row in coverage.assumed
    ]
    items += [_assumption(item) for item in coverage.assumptions]
    return (
        f"<div><h3>{text(name)}</h3>" * bool(name)
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
    return f"<h3>{title}</h3><ul>{''.join(f'<li>{text(item)}</li>' for item in items)}</ul>"


def settings(report: Report, name: str, command: str) -> str:
    """What the step was traced and priced with, and the command that does it again: `command`, or one worked out."""
    facts = report.trace.facts
    versions = {"foretrace": _version(), **facts.versions}
    rows: list[tuple[str, object]] = [
        ("made with", ", ".join(f"{key} {value}" for key, value in versions.items())),
        ("device", facts.device),
        ("autocast", facts.autocast or "none"),
        *([("autocast of its own", ", ".join(facts.own_autocast))] if facts.own_autocast else []),
        ("steps before the recorded one", facts.warmup),
        ("arguments", arguments(report) or "none"),
        ("optimizer", ", ".join(f"{key} {value}" for key, value in facts.optimizer.items()) or "none"),
        ("hardware profile", f"{report.profile.name}: {report.profile.full_name}"),
    ]
    body = "".join(f"<dt>{label}</dt><dd>{text(str(value))}</dd>" for label, value in rows)
    again = escape((command or reproduction(report))[:MOST_COMMAND])
    return (
        f"{f'<h3>{text(name)}</h3>' if name else ''}<dl>{body}</dl>"
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
