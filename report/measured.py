"""`Comparison` -> the screen, or the JSON, that shows predicted beside measured live bytes of one step.

Phase by phase and to the byte; then whether the peak's difference is kernels' scratch, where the two first part, and
what the real run did where the trace had to assume.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Mapping
from textwrap import wrap

from tabulate import tabulate

from ..costmodels import Beside, Comparison, Difference, How, Reading, Scratch
from ..graph import Op
from .format import exact_bytes_text, screen
from .json import portable

WIDTH = 80
LABEL = 18
MOST_KERNELS = 4
MOST_ASSUMPTIONS = 6
SCHEMA_VERSION = 1

HOW_WORDS = {
    How.MISSING: "predicted {predicted} that the real run did not allocate",
    How.UNPREDICTED: "the real run allocated {measured} that were not predicted",
    How.RESIZED: "predicted {predicted}, the real run allocated {measured}",
    How.FREED_EARLIER: "the real run had freed {predicted} that were predicted live",
    How.FREED_LATER: "the real run still held {measured} that were predicted free",
}


def measured_table(comparison: Comparison, as_run: Comparison | None = None) -> str:
    """The whole screen, as text that ends in a newline; `as_run` is the same with what data decided in a real run."""
    blocks = [_header(comparison), _numbers(comparison), _verdict(comparison), _assumptions(comparison)]
    return screen([*blocks, [] if as_run is None else _set_to_run(as_run)])


def _header(comparison: Comparison) -> list[str]:
    facts = comparison.graph.facts
    optimizer = str(facts.optimizer.get("class") or "no optimizer")
    steps = f"step {facts.warmup + 1}" if facts.warmup else "the very first step"
    return [
        portable(facts.target) or "a training step",
        f"  cpu, {optimizer}, {steps}; {len(comparison.graph.ops):,} ops",
        "  live bytes, counted from the start of the step",
    ]


def _numbers(comparison: Comparison) -> list[str]:
    rows = [_row(f"end of {str(phase).replace('_', ' ')}", end) for phase, end in comparison.ends.items()]
    rows.append(_row("peak", comparison.peak))
    headers = ("", "predicted", "measured", "difference")
    align = ("left", "right", "right", "right")
    return tabulate(rows, headers, tablefmt="plain", colalign=align, disable_numparse=True).splitlines()


def _row(name: str, beside: Beside) -> tuple[str, ...]:
    difference = exact_bytes_text(beside.difference_bytes, signed=True)
    return name, exact_bytes_text(beside.predicted_bytes), exact_bytes_text(beside.measured_bytes), difference


# --- what it means ---


def _verdict(comparison: Comparison) -> list[str]:
    return [
        *_labelled("live bytes", _live(comparison)),
        *_labelled("peak", _peak(comparison)),
        *_labelled("first difference", _first(comparison.first)),
    ]


def _live(comparison: Comparison) -> str:
    if comparison.agrees:
        return "equal at the end of every phase"
    return "not equal: the first difference says where to look"


def _peak(comparison: Comparison) -> str:
    without = comparison.peak_without_scratch.difference_bytes
    if not comparison.peak.difference_bytes:
        return "equal"
    if not comparison.scratch:
        return "not equal, and no scratch inside kernels makes the difference"
    rest = "equal" if comparison.peak_is_explained else f"off by {exact_bytes_text(without, signed=True)}"
    return f"{rest} without scratch inside kernels: {_kernels(comparison.scratch)}"


def _kernels(scratch: Iterable[Scratch]) -> str:
    shown = [f"{_short(row.kernel)} {exact_bytes_text(row.bytes)}" for row in scratch]
    more = f", and {len(shown) - MOST_KERNELS} more" if len(shown) > MOST_KERNELS else ""
    return ", ".join(shown[:MOST_KERNELS]) + more


def _first(first: Difference | None) -> str:
    if first is None:
        return "none"
    predicted, measured = first.bytes.predicted_bytes, first.bytes.measured_bytes
    said = HOW_WORDS[first.how].format(predicted=exact_bytes_text(predicted), measured=exact_bytes_text(measured))
    running = f"; running: {' > '.join(map(_short, first.running))}" if first.running else ""
    return f"{_place(first.op)}: {said}{running}"


def _place(op: Op | None) -> str:
    """An op with its phase, its module and its line."""
    if op is None:
        return "no predicted op"
    line = f"{posixpath.basename(op.source.file)}:{op.source.line}" if op.source else ""
    return ", ".join(filter(None, (_short(op.packet), f"in {str(op.phase).replace('_', ' ')}", op.module, line)))


# --- what was assumed ---


def _assumptions(comparison: Comparison) -> list[str]:
    readings = comparison.readings
    lines = [line for reading in readings[:MOST_ASSUMPTIONS] for line in _wrapped(_reading(reading), 2)]
    more = len(readings) - MOST_ASSUMPTIONS
    heading = ["assumed of the data, and what the real run did"] if readings else []
    return [*heading, *lines, *([f"  and {more} more"] if more > 0 else [])]


def _set_to_run(comparison: Comparison) -> list[str]:
    """The same numbers once more, with every assumption set to what the real run did."""
    heading = "with every assumption set to what the real run did"
    return [heading, *(f"  {line}" for line in _numbers(comparison)), *_verdict(comparison)]


def _reading(reading: Reading) -> str:
    fact = reading.assumption
    said = f"{fact.get('assumed', '')} ({_short(str(fact.get('op', '')))} at {fact.get('at', '')})"
    if reading.bytes is None:
        return f"{said}: cannot be read off"
    assumed, real = exact_bytes_text(reading.bytes.predicted_bytes), exact_bytes_text(reading.bytes.measured_bytes)
    setting = _setting(reading)
    return f"{said}: {assumed}, in the real run {real}" + (f"; --assume {setting}" if setting else "")


def _setting(reading: Reading) -> str:
    """What makes the trace assume what the run did."""
    counts, place = reading.real_counts, str(reading.assumption.get("at", ""))
    if not counts or counts == reading.assumed_counts:
        return ""
    line = posixpath.basename(place.rpartition("(")[2].rstrip(")"))
    shown = counts[:1] if len(set(counts)) == 1 else counts
    return f"{line}={','.join(map(str, shown))}"


# --- words ---


def _labelled(label: str, text: str) -> list[str]:
    heads = (label, *[""] * len(text))
    return [f"{head:<{LABEL}}{line}" for head, line in zip(heads, _lines(text, WIDTH - LABEL), strict=False)]


def _wrapped(text: str, indent: int) -> list[str]:
    first, *rest = _lines(text, WIDTH - indent - 2)
    return [" " * indent + first, *(" " * (indent + 2) + line for line in rest)]


def _lines(text: str, width: int) -> list[str]:
    """Text wrapped so that no number is parted from its unit."""
    joined = text.replace(" B", "\0B")
    return [line.replace("\0", " ") for line in wrap(joined, width, break_on_hyphens=False)]


def _short(name: str) -> str:
    return name.removeprefix("aten.").removeprefix("aten::")


# --- JSON ---


def measured_json(comparison: Comparison, as_run: Comparison | None = None) -> str:
    """The comparison as JSON with sorted keys, in text that ends in a newline; `as_run` is as for `measured_table`."""
    facts = comparison.graph.facts
    document = {
        "schema_version": SCHEMA_VERSION,
        "target": portable(facts.target),
        "versions": dict(facts.versions),
        **_compared(comparison),
        "as_run": None if as_run is None else _compared(as_run),
        "assumptions": [_assumption(reading) for reading in comparison.readings],
    }
    return json.dumps(document, indent=2, sort_keys=True, allow_nan=False, default=str) + "\n"


def _compared(comparison: Comparison) -> dict[str, object]:
    """What holds of one trace beside the real run."""
    return {
        "agrees": comparison.agrees,
        "start_bytes": comparison.start_bytes,
        "ends": {str(phase): _beside(end) for phase, end in comparison.ends.items()},
        "peak": {
            **_beside(comparison.peak),
            "without_scratch": _beside(comparison.peak_without_scratch),
            "scratch": [{"kernel": row.kernel, "bytes": row.bytes} for row in comparison.scratch],
        },
        "first_difference": _difference(comparison.first),
    }


def _beside(beside: Beside) -> dict[str, int]:
    return {"predicted_bytes": beside.predicted_bytes, "measured_bytes": beside.measured_bytes}


def _difference(first: Difference | None) -> Mapping[str, object] | None:
    if first is None:
        return None
    op = first.op
    return {
        "how": str(first.how),
        "op": op.id if op else None,
        "name": op.name if op else None,
        "phase": str(op.phase) if op else None,
        "module": op.module if op else None,
        "source": str(op.source) if op and op.source else None,
        "running": list(first.running),
        **_beside(first.bytes),
    }


def _assumption(reading: Reading) -> Mapping[str, object]:
    return {
        **reading.assumption,
        "read_off": _beside(reading.bytes) if reading.bytes else None,
        "assumed_counts": list(reading.assumed_counts),
        "real_counts": list(reading.real_counts),
    }
