"""A *storage* is one allocation; views share it; bytes are counted on storages, never on tensors."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Category(StrEnum):
    """Why a storage is alive."""

    PARAMETER = "parameter"
    BUFFER = "buffer"
    GRADIENT = "gradient"
    OPTIMIZER_STATE = "optimizer_state"
    SAVED = "saved_for_backward"
    TEMPORARY = "temporary"
    INPUT = "input"
    WORKSPACE = "workspace"


@dataclass(frozen=True, slots=True)
class Storage:
    """One allocation of the step.

    ``born`` and ``died`` are ids of ops: the op that allocated it, and the last op
    that had finished when it was freed. ``born`` is None for what was live when the
    step began, ``died`` is None for what is live when it ends.
    """

    id: int
    bytes: int
    device: str
    category: Category
    born: int | None = None
    died: int | None = None
    name: str = ""
    """The parameter, buffer, gradient, state or input that it holds; empty for others."""


@dataclass(frozen=True, slots=True)
class Event:
    """One birth (``bytes > 0``) or death (``bytes < 0``) of a storage while op ``op`` was the latest.

    ``op`` is -1 before the first op. A birth belongs to that op; a death happened after it
    and before the next one.
    """

    op: int
    storage: int
    bytes: int
