"""The *turn* of a run of blocks: what one step showed of how each was called, without holding a tensor of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from . import caches
from .alike import State


class Unfoldable(BaseException):
    """Something could make one block differ from another. No model's code shall catch it."""


class Mark(NamedTuple):
    """A place in the log: how many ops, events and autograd nodes there are before it."""

    ops: int
    events: int
    sequence: int


class Kind(NamedTuple):
    """A tensor without its storage."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: str
    requires_grad: bool
    offset: int
    nbytes: int
    """Of the whole storage."""


class Given(NamedTuple):
    """A tensor that a block is given."""

    whose: tuple[str, int]
    """("carried", which of the results of the block before) or ("shared", its storage)."""
    kind: Kind
    is_leaf: bool
    of: type


@dataclass(slots=True)
class Call:
    """How a block was called and what it returned, without holding a tensor of it."""

    around: tuple[Any, ...]
    """Where it was called from, and under which switches."""
    given: list[Any]
    structure: Any
    """The result with a `Kind` for each new tensor and an `Argument` for each thing that it was given."""
    kinds: list[Kind]
    order: list[int]
    """The new tensors in the order of their birth."""
    values: dict[int, torch.Tensor]
    """The values of those that are known."""
    choices: Counter[str]
    shared: State
    cached: tuple[caches.Filled, Any] | None = None
    """What the block put into its cache, and the same with its new tensors described."""
    written: list[str] = field(default_factory=list)
    """The buffers that it wrote to."""
    kept: list[int] = field(default_factory=list)
    """The new tensors that their own nodes save, as that of a relu does."""


class Argument(NamedTuple):
    """What the block was given at this place."""

    place: int


class New(NamedTuple):
    """The new tensor of this number."""

    place: int


class Before(NamedTuple):
    """What was in the layer of the cache by this name."""

    name: str


Gradient = tuple[int, Kind] | None


@dataclass(slots=True)
class Turn:
    """What one step showed of one run, by the block's place in it."""

    calls: dict[int, Call] = field(default_factory=dict)
    entries: list[Mark] = field(default_factory=list)
    exits: list[Mark] = field(default_factory=list)
    results: list[list[int]] = field(default_factory=list)
    """The storages of each block's new tensors."""
    cached: dict[int, dict[str, int]] = field(default_factory=dict)
    """The storages that each block found in its layer of a cache."""
    gradients: dict[int, list[Gradient]] = field(default_factory=dict)
    """The gradients with respect to them, as they came."""
    own_gradients: dict[int, list[tuple[int, Kind]]] = field(default_factory=dict)
    """What kinds of gradients the parameters of a block got, by their places among them, in order of birth."""
    backward: dict[int, Mark] = field(default_factory=dict)
    """Where the backward of a folded block begins."""
    differentiable: bool = False


VALUES = (type(None), bool, int, float, str, torch.dtype, torch.device, torch.Size)
"""What may be handed to a block, or come from it, beside tensors."""


def filled(structure: Any, leaves: list[Any], made: tuple[torch.Tensor, ...]) -> Any:
    """A structure with what was given and what was made in their places."""
    kind = type(structure)
    if kind is Argument:
        return leaves[structure.place]
    if kind is New:
        return made[structure.place]
    if kind is tuple or kind is list:
        return kind(filled(item, leaves, made) for item in structure)
    if kind is dict:
        return {key: filled(item, leaves, made) for key, item in structure.items()}
    return structure
