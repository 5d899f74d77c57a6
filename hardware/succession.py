"""The end of one recorded step and the start of another -> which storage goes on as which.

A step graph is one step; a training run is many. A storage that is live when a step ends *goes on* as one that is
live when the next begins: a parameter as itself, the optimizer state that the first step made as that of the second,
the logits that a loop still names as the ones which die in the next forward. What goes on as nothing has died
between the steps, and what comes from nothing, such as a batch of another shape, was allocated there.

Matched are, in this order: equal names of equal size; equal category and size; equal size; and of activations that
the loop keeps, where batch shapes differ, the largest with the largest. Storages elsewhere than on the traced device,
and those of 0 bytes, are left out.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable

from ..costmodels.timeline import LASTING
from ..graph import Category, ForetraceError, StepGraph, Storage


def starting(graph: StepGraph) -> list[Storage]:
    """What is live on the device when the step begins, by id."""
    return [s for s in graph.at_start if graph.on_device[s.id] and s.bytes]


def surviving(graph: StepGraph) -> list[Storage]:
    """What is live on the device when the step has ended, by id."""
    dead = {event.storage for event in graph.events if event.bytes < 0}
    return [s for s, on in zip(graph.storages, graph.on_device, strict=True) if on and s.bytes and s.id not in dead]


def succession(before: StepGraph, after: StepGraph) -> dict[int, int]:
    """For storages live when `after` begins, the id of the storage of `before` that it goes on from.

    Raises `ForetraceError` where the two are steps of different models.
    """
    old, new = surviving(before), starting(after)
    found: dict[int, int] = {}
    for rule in (_by_name, _by_category, _by_size):
        _match(rule, old, new, found)
    _check_same_model(before, after, found)
    taken = set(found.values())
    kept = sorted((s for s in old if s.id not in taken and _may_be_kept(s)), key=_largest_first)
    wanted = sorted((s for s in new if s.id not in found and s.category not in LASTING), key=_largest_first)
    found.update((s.id, t.id) for s, t in zip(wanted, kept, strict=False))
    return found


def _by_name(storage: Storage) -> Hashable:
    return (storage.name, storage.bytes) if storage.name else None


def _by_category(storage: Storage) -> Hashable:
    return None if _goes_by_name(storage) else (storage.category, storage.bytes)


def _by_size(storage: Storage) -> Hashable:
    return None if _goes_by_name(storage) else storage.bytes


def _goes_by_name(storage: Storage) -> bool:
    """Named storages that last go on under their names only."""
    return bool(storage.name) and storage.category in LASTING


def _match(
    rule: Callable[[Storage], Hashable], old: Iterable[Storage], new: Iterable[Storage], found: dict[int, int]
) -> None:
    """Match what is left and alike under a rule, in order of ids; None is like nothing."""
    taken = set(found.values())
    waiting: dict[Hashable, deque[int]] = defaultdict(deque)
    for storage in old:
        if storage.id not in taken:
            waiting[rule(storage)].append(storage.id)
    waiting.pop(None, None)
    for storage in new:
        if storage.id not in found:
            alike = waiting.get(rule(storage))
            if alike:
                found[storage.id] = alike.popleft()


def _may_be_kept(storage: Storage) -> bool:
    return storage.born is not None and storage.category not in LASTING


def _largest_first(storage: Storage) -> tuple[int, int]:
    return -storage.bytes, storage.id


def _check_same_model(before: StepGraph, after: StepGraph, found: dict[int, int]) -> None:
    for storage in starting(after):
        if storage.category is Category.PARAMETER and storage.id not in found:
            raise ForetraceError(
                f"the steps are not of one model: parameter {storage.name!r} of {storage.bytes:,} bytes is in "
                f"{after.facts.target or 'one'} and not in {before.facts.target or 'the one before'}",
                "Give traces of the same model, at different inputs if you like",
            )
