"""A report, or what went wrong -> a *row*: all that a sweep keeps of one point.

A row says what was asked and either the `Figures` or the `Failure`. It holds nothing that depends on the machine or on
the order of work, so that the same sweep gives the same rows wherever it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .point import Plain, Point

if TYPE_CHECKING:
    from ..report import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures of a report that fit into a line; exact bytes and FLOPs, seconds."""

    fits: bool | None
    """None for a step that was not traced for CUDA."""
    needed_bytes: int
    """What the step takes of the device, the caching allocator's rounding included."""
    available_bytes: int
    peak_bytes: int
    """Live tensors at the peak."""
    saved_for_backward_bytes: int
    parameters: int
    ops: int
    assumed_ops: int
    """Ops that no cost rule knows."""
    assumptions: int
    """Answers of data that were assumed."""
    flops: int
    step_seconds: float
    low_seconds: float
    high_seconds: float
    mfu: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a point has no figures."""

    kind: str
    """The class of the error; ``TimeLimit`` or ``MemoryLimit`` where its process was ended, ``Died`` where it died."""
    message: str
    mend: str = ""
    line: str = ""
    """The user's line that raised it, as ``file:line``; empty where none did."""

    def __str__(self) -> str:
        """All of it on one line, but the mend."""
        known = not self.line or self.message.endswith(self.line)
        return f"{self.kind}: {self.message}" + ("" if known else f" ({self.line})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One point and what came of it: ``figures``, or the ``failure`` in their place."""

    number: int
    """The point's place in the table."""
    target: str
    parameters: Mapping[str, Plain]
    hardware: str
    figures: Figures | None = None
    failure: Failure | None = None
    stored: bool = field(default=False, compare=False)
    """True for a row that was found in the store."""

    def to_dict(self) -> dict[str, Any]:
        """The row as flat columns: what was asked, the figures by their names, and ``error`` columns."""
        figures = asdict(self.figures) if self.figures else dict.fromkeys(Figures.__dataclass_fields__)
        failure = asdict(self.failure) if self.failure else dict.fromkeys(Failure.__dataclass_fields__)
        return {
            "number": self.number,
            "target": self.target,
            **{name if name not in RESERVED else f"parameter_{name}": v for name, v in self.parameters.items()},
            "hardware": self.hardware,
            **figures,
            "error": failure["kind"],
            "error_message": failure["message"],
            "error_mend": failure["mend"],
            "error_line": failure["line"],
        }


RESERVED = frozenset(
    ("number", "target", "hardware", "error", "error_message", "error_mend", "error_line")
) | frozenset(Figures.__dataclass_fields__)
"""Columns of every table; a parameter of such a name has ``parameter_`` in front."""


def figures(report: Report) -> Figures:
    """The line of a report."""
    return Figures(
        fits=report.fits,
        needed_bytes=report.needed_bytes,
        available_bytes=report.available_bytes,
        peak_bytes=report.memory.peak_bytes,
        saved_for_backward_bytes=report.memory.saved_for_backward_bytes,
        parameters=report.parameters.total,
        ops=report.coverage.ops,
        assumed_ops=sum(one.count for one in report.coverage.assumed),
        assumptions=len(report.coverage.assumptions),
        flops=report.flops.total,
        step_seconds=report.time.step_seconds,
        low_seconds=report.time.low_seconds,
        high_seconds=report.time.high_seconds,
        mfu=report.time.mfu,
    )


def row(point: Point, answer: Figures | Failure, stored: bool = False) -> Row:
    """The row of a point."""
    return Row(
        number=point.number,
        target=point.target,
        parameters=point.parameters,
        hardware=point.profile.name,
        figures=answer if isinstance(answer, Figures) else None,
        failure=answer if isinstance(answer, Failure) else None,
        stored=stored,
    )
