"""A report and ways to change its step -> what each change would save, the largest saving first.

A *change* is traced again where the step's code can be run in another way, told from the trace where its storages say
enough (an *estimate*: its work and time are not known), or a setting of the allocator. A change that the step
has no use for is left out, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from textwrap import wrap

from tabulate import tabulate

from ..costmodels.edits import EDITS
from ..graph import ForetraceError, StepGraph
from ..hardware import DeviceMemory, device_memory
from ..hardware.alloc_conf import parse
from .format import bytes_text, seconds_text
from .result import Report, price

TraceAgain = Callable[..., StepGraph]
"""Traces the same step again with other options of `trace`, such as ``variant="checkpointed"``."""

TRACED: Mapping[str, Mapping[str, str]] = {
    "bfloat16 autocast": {"autocast": "bfloat16"},
    "each block checkpointed": {"variant": "checkpointed"},
    "attention written out": {"variant": "written-out-attention"},
    "fused attention": {"variant": "fused-attention"},
    "for-loop optimizer": {"variant": "for-loop-optimizer"},
    "foreach optimizer": {"variant": "foreach-optimizer"},
    "fused optimizer": {"variant": "fused-optimizer"},
    "gradients kept as zeros": {"variant": "zeroed-gradients"},
}
"""What is traced again, and the options that it takes."""
EXPANDABLE = "expandable segments"
FUSED_ATTENTION = frozenset(f"aten._scaled_dot_product_{kind}_attention" for kind in ("flash", "efficient", "cudnn"))
WIDTH = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change, in bytes on the device; ``step_seconds`` is None where it is not known."""

    name: str
    how: str
    """``traced``, ``estimate`` or ``setting``."""
    allocated_peak_bytes: int
    reserved_peak_bytes: int
    saved_bytes: int
    """Of the reserved bytes for a setting of the allocator, else of the allocated ones; negative where it costs."""
    step_seconds: float | None
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """All changes of one step."""

    report: Report
    changes: tuple[Change, ...]
    left_out: Mapping[str, str]
    """The reason why a change does not apply, by its name."""


ALREADY = "the step does so already"


def what_if(report: Report, trace_again: TraceAgain | None = None) -> WhatIf:
    """Ask all changes of a step for CUDA; without `trace_again` those that its trace alone can tell.

    Raises `ForetraceError` for a step that was not traced for CUDA.
    """
    if report.device_memory is None:
        raise ForetraceError("what-ifs are asked of a step for CUDA", 'Trace with device="cuda"; that needs no GPU.')
    found: dict[str, Change] = {}
    left_out: dict[str, str] = {}
    for name, options in TRACED.items():
        if trace_again is None:
            left_out[name] = "it takes another trace"
            continue
        try:
            graph = _again(report, trace_again, options)
        except ForetraceError as error:
            left_out[name] = error.message
            continue
        if graph is None:
            left_out[name] = ALREADY
        else:
            found[name] = _traced(report, name, graph)
    for name, edit in EDITS.items():
        edited = edit(report.trace) if name not in found else None
        if edited is not None:
            found[name] = _estimated(report, name, edited)
            left_out.pop(name, None)
        elif name not in found and left_out.get(name) != ALREADY:
            left_out[name] = ALREADY if _does_so(report.trace, name) else "the step has nothing of the kind"
    found[EXPANDABLE] = _expandable(report)
    changes = sorted(found.values(), key=lambda change: (-change.saved_bytes, change.name))
    return WhatIf(report=report, changes=tuple(changes), left_out=left_out)


def _does_so(graph: StepGraph, name: str) -> bool:
    """Whether a step has nothing to exchange since it runs that way."""
    return name == "fused attention" and any(op.packet in FUSED_ATTENTION for op in graph.ops)


def _again(report: Report, trace_again: TraceAgain, options: Mapping[str, str]) -> StepGraph | None:
    """The step traced again; None where that changes nothing."""
    if options.get("autocast") is not None and report.trace.facts.autocast is not None:
        return None
    graph = trace_again(**options)
    same = len(graph.ops) == len(report.trace.ops) and graph.events == report.trace.events
    return None if same else graph


def _traced(report: Report, name: str, graph: StepGraph) -> Change:
    changed = price(graph, report.profile, conf=report.conf)
    return _change(report, name, "traced", changed.device_memory, changed.time.step_seconds)


def _estimated(report: Report, name: str, graph: StepGraph) -> Change:
    return _change(report, name, "estimate", device_memory(graph, report.profile, conf=report.conf), None)


def _expandable(report: Report) -> Change:
    after = device_memory(report.trace, report.profile, conf=parse("expandable_segments:True"))
    return _change(report, EXPANDABLE, "setting", after, report.time.step_seconds)


def _change(report: Report, name: str, how: str, after: DeviceMemory | None, seconds: float | None) -> Change:
    before = report.device_memory
    assert before is not None and after is not None
    saved = (
        before.reserved_peak_bytes - after.reserved_peak_bytes
        if how == "setting"
        else before.allocated_peak_bytes - after.allocated_peak_bytes
    )
    return Change(
        name=name,
        how=how,
        allocated_peak_bytes=after.allocated_peak_bytes,
        reserved_peak_bytes=after.reserved_peak_bytes,
        saved_bytes=saved,
        step_seconds=seconds,
        fits=after.fits,
    )


# -- views ----------------------------------------------------------------------------------------


def what_if_table(found: WhatIf) -> str:
    """The table, as text that ends in a newline."""
    rows = [
        (
            change.name,
            _signed(change.saved_bytes),
            bytes_text(change.allocated_peak_bytes),
            bytes_text(change.reserved_peak_bytes),
            "yes" if change.fits else "no",
            seconds_text(change.step_seconds) if change.step_seconds is not None else "not known",
        )
        for change in found.changes
    ]
    headers = ("what if", "saves", "allocated", "reserved", "fits", "step time")
    align = ("left", "right", "right", "right", "left", "right")
    lines = tabulate(rows, headers, tablefmt="plain", colalign=align, disable_numparse=True).splitlines()
    estimates = [change.name for change in found.changes if change.how == "estimate"]
    lines += wrap(f"estimates from the trace alone: {', '.join(estimates)}", WIDTH) if estimates else []
    for name, reason in sorted(found.left_out.items()):
        lines += wrap(f"left out: {name}: {reason}", WIDTH, subsequent_indent="  ")
    return "\n".join(lines) + "\n"


def _signed(count: int) -> str:
    return f"-{bytes_text(-count)}" if count < 0 else bytes_text(count)


def what_if_document(found: WhatIf) -> list[dict[str, object]]:
    """The changes as plain dicts, for JSON."""
    return [
        {
            "name": change.name,
            "how": change.how,
            "saved_bytes": change.saved_bytes,
            "allocated_peak_bytes": change.allocated_peak_bytes,
            "reserved_peak_bytes": change.reserved_peak_bytes,
            "step_seconds": change.step_seconds,
            "fits": change.fits,
        }
        for change in found.changes
    ]
