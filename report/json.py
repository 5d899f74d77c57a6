"""`Report` -> the JSON that other programs load: a contract, described by ``report.schema.json`` beside this file.

The same trace and profile give the same bytes: keys are sorted, and nothing in it tells the time, the machine, or
where on it the files lie. Within one ``schema_version`` keys are only added.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..costmodels import Holder
from ..graph import Category, Phase, Source

if TYPE_CHECKING:
    from ..hardware.replay import Failure
    from .result import Report, Taker

SCHEMA_VERSION = 1


def to_json(report: Report, **more: object) -> str:
    """The report as text that ends in a newline; `more` are keys that were asked for beside those of every report."""
    return json.dumps({**document(report), **more}, indent=2, sort_keys=True, allow_nan=False) + "\n"


def document(report: Report) -> dict[str, object]:
    """The report as plain dicts, lists, strings and numbers."""
    facts = report.trace.facts
    return {
        "schema_version": SCHEMA_VERSION,
        "target": portable(facts.target),
        "hardware": report.profile.name,
        "device": report.device,
        "step": {
            "autocast": facts.autocast,
            "own_autocast": list(facts.own_autocast),
            "warmup": facts.warmup,
            "optimizer": _plain(facts.optimizer),
            "versions": _plain(facts.versions),
        },
        "memory": _memory(report),
        "flops": _flops(report),
        "time": _time(report),
        "parameters": {
            "total": report.parameters.total,
            "trainable": report.parameters.trainable,
            "bytes": report.parameters.bytes,
        },
        "max_batch": None,  # a report is of one batch size; see Report.max_batch
        "coverage": _coverage(report),
    }


def portable(target: str) -> str:
    """A target without the folders that only this machine has.

    >>> portable("/home/me/train.py:make"), portable("work/train.py:make"), portable("package.module:make")
    ('train.py:make', 'work/train.py:make', 'package.module:make')
    """
    place, colon, name = target.rpartition(":")
    return os.path.basename(place) + colon + name if os.path.isabs(place) else target


def _memory(report: Report) -> dict[str, object]:
    memory = report.memory
    return {
        "start_bytes": memory.start_bytes,
        "peak_bytes": memory.peak_bytes,
        "end_bytes": memory.end_bytes,
        **_device_memory(report),
        "saved_for_backward_bytes": memory.saved_for_backward_bytes,
        "activation_bytes": memory.activation_bytes,
        "needed_bytes": report.needed_bytes,
        "available_bytes": report.available_bytes,
        "fits": report.fits,
        "phases": {
            str(phase): {"peak_bytes": held.peak_bytes, "end_bytes": held.end_bytes}
            for phase, held in memory.phases.items()
        },
        "at_peak": {str(category): memory.at_peak.get(category, 0) for category in Category},
        "peak": _peak(report),
    }


def _device_memory(report: Report) -> dict[str, object]:
    found = report.device_memory
    return {
        "allocated_peak_bytes": found.allocated_peak_bytes if found else None,
        "reserved_peak_bytes": found.reserved_peak_bytes if found else None,
        "workspace_bytes": report.workspace_bytes,
        "device_peak_bytes": found.device_peak_bytes if found else None,
        "fragmentation": found.at_peak.fragmentation if found else None,
        "out_of_memory": _failure(found.failure) if found and found.failure else None,
    }


def _failure(failure: Failure) -> dict[str, object]:
    op = failure.op
    return {
        "step": failure.step + 1,
        "op": op.id if op else None,
        "name": op.name if op else None,
        "phase": str(op.phase) if op else None,
        "module": failure.module or None,
        "source": _source(failure.source),
        "requested_bytes": failure.error.requested_bytes,
        "message": failure.message,
        "holders": [_holder(holder) for holder in failure.holders],
    }


def _peak(report: Report) -> dict[str, object]:
    op = report.peak_op
    return {
        "op": op.id if op else None,
        "name": op.name if op else None,
        "phase": str(op.phase) if op else None,
        "module": op.module if op else None,
        "source": _source(op.source if op else None),
        "holders": [_holder(holder) for holder in report.holders],
    }


def _holder(holder: Holder) -> dict[str, object]:
    return {
        "module": holder.module,
        "category": str(holder.category) if holder.category else None,
        "op": holder.packet or None,
        "source": _source(holder.source),
        "count": holder.count,
        "bytes": holder.bytes,
    }


def _flops(report: Report) -> dict[str, object]:
    flops = report.flops
    return {
        "forward": flops.forward,
        "backward": flops.backward,
        "optimizer": flops.optimizer,
        "zero_grad": flops.zero_grad,
        "total": flops.total,
        "causal_forward": flops.causal_forward,
        "causal_backward": flops.causal_backward,
        "causal_total": flops.causal_total,
    }


def _time(report: Report) -> dict[str, object]:
    time = report.time
    return {
        "step_seconds": time.step_seconds,
        "low_seconds": time.low_seconds,
        "high_seconds": time.high_seconds,
        **{f"{phase}_seconds": time.phases[phase].seconds for phase in Phase},
        "mfu": time.mfu,
        "hfu": time.hfu,
        "kernel_seconds": time.kernel_seconds,
        "host_seconds": time.host_seconds,
        "waiting_seconds": time.waiting_seconds,
        "launch_bound": time.is_launch_bound,
        "batch": report.batch,
        "samples_per_second": report.samples_per_second,
        "tokens_per_second": report.tokens_per_second,
        "tier_seconds": dict(time.tier_seconds),
        "peak_flops_per_second": time.peak_flops_per_second,
        "bound_seconds": dict(time.bound_seconds),
        "takers": [_taker(taker) for taker in report.takers],
    }


def _taker(taker: Taker) -> dict[str, object]:
    return {
        "module": taker.module,
        "op": taker.packet,
        "count": taker.count,
        "seconds": taker.seconds,
        "flops": taker.flops,
        "source": _source(taker.source),
    }


def _coverage(report: Report) -> dict[str, object]:
    coverage = report.coverage
    return {
        "ops": coverage.ops,
        "ops_by_kind": {str(kind): count for kind, count in coverage.kinds.items()},
        "ops_assumed": [
            {"name": row.name, "count": row.count, "flops": row.flops, "bytes": row.bytes} for row in coverage.assumed
        ],
        "assumed_seconds": coverage.assumed_seconds,
        "assumptions": [_plain(assumption) for assumption in coverage.assumptions],
        "notes": list(coverage.notes),
        "not_modelled": list(coverage.not_modelled),
    }


def _source(source: Source | None) -> str | None:
    return str(source) if source else None


def _plain(value: object) -> object:
    """A fact of a trace as JSON has it; what JSON has no word for becomes text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return [_plain(item) for item in value]
    known = value is None or isinstance(value, (bool, int, str))
    finite = isinstance(value, float) and abs(value) < float("inf")
    return value if known or finite else str(value)
