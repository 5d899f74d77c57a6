"""The nouns of what data decided: the outcome of every op of a real step whose result depends on values.

An *outcome* is what such an op gave at its place: the sizes of its results, and their values where these are few. A
trace that is handed outcomes takes them where it would have to assume.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ForetraceError
from .serde import write_whole

FORMAT = "foretrace-outcomes"
SCHEMA_VERSION = 1

Shape = tuple[int, ...]
Number = bool | int | float


@dataclass(frozen=True, slots=True)
class Result:
    """One tensor that an op returned; ``values`` in row-major order, None where they are too many or of no use.

    ``bytes`` is the size of its storage where it does not fill it.
    """

    shape: Shape
    dtype: str
    values: tuple[Number, ...] | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one call gave: ``results`` for the shapes of the tensors that it was ``given``.

    ``share`` is the size of the first result, as a part of what it would be if everything counted; None where no such
    part makes sense.
    """

    given: tuple[Shape, ...]
    results: tuple[Result, ...]
    share: float | None = None


Place = tuple[str, str]
"""An op, and where it stands: its module and the line of code."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """By place, the outcomes of the calls there in their order: first while the step was made, then of each turn."""

    steps: tuple[Mapping[Place, tuple[Outcome, ...]], ...]

    def save(self, path: str | Path) -> None:
        """Write them to a file of JSON, whole or not at all."""
        document = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "steps": [[_place(place, found) for place, found in step.items()] for step in self.steps],
        }
        write_whole(path, json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n")


def _place(place: Place, outcomes: tuple[Outcome, ...]) -> dict[str, Any]:
    op, at = place
    return {"op": op, "at": at, "outcomes": [_outcome(outcome) for outcome in outcomes]}


def _outcome(outcome: Outcome) -> dict[str, Any]:
    results = [{"shape": r.shape, "dtype": r.dtype, "values": r.values, "bytes": r.bytes} for r in outcome.results]
    return {"given": outcome.given, "results": results, "share": outcome.share}


def load_outcomes(path: str | Path) -> Outcomes:
    """Read what `Outcomes.save` wrote. Raises `ForetraceError` for a file that is anything else."""
    try:
        document = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ForetraceError(f"cannot read {path}: {error.strerror}", _MEND) from error
    except ValueError as error:
        raise ForetraceError(f"{path} holds no outcomes", _MEND) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ForetraceError(f"{path} holds no outcomes", _MEND)
    if document.get("schema_version") != SCHEMA_VERSION:
        raise ForetraceError(f"{path} was written by another version of foretrace", _MEND)
    try:
        return Outcomes(tuple(_read_step(step) for step in document["steps"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ForetraceError(f"{path} is damaged", _MEND) from error


_MEND = "Write one with foretrace measure TARGET --save-outcomes FILE."


def _read_step(step: list[dict[str, Any]]) -> dict[Place, tuple[Outcome, ...]]:
    return {
        (str(place["op"]), str(place["at"])): tuple(_read_outcome(found) for found in place["outcomes"])
        for place in step
    }


def _read_outcome(found: dict[str, Any]) -> Outcome:
    given = tuple(_shape(shape) for shape in found["given"])
    share = found["share"]
    return Outcome(given, tuple(map(_read_result, found["results"])), None if share is None else float(share))


def _read_result(found: dict[str, Any]) -> Result:
    values, size = found["values"], found["bytes"]
    kept = None if values is None else tuple(values)
    return Result(_shape(found["shape"]), str(found["dtype"]), kept, None if size is None else int(size))


def _shape(found: list[Any]) -> Shape:
    return tuple(int(size) for size in found)
