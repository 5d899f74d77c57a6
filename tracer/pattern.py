"""The arguments and results of some ops -> a *pattern*, which makes the same over other storages, again and again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

from ..graph import Tensor
from ..graph.op import tensors

Pool = list[object]
"""All values that the ops have: tensors, then what is no tensor, then tuples of these."""
Picked = Callable[[Pool], tuple[object, ...]]


class Stamp(NamedTuple):
    """What a pattern makes: for each op its arguments, its result, and the tensors in both."""

    args: list[dict[str, object]]
    results: list[object]
    inputs: list[tuple[Tensor, ...]]
    outputs: list[tuple[Tensor, ...]]


class Pattern:
    """Some ops' values by their places in a pool, so that what all copies have in common is found out once."""

    def __init__(self, args: Sequence[Mapping[str, object]], results: Sequence[object]) -> None:
        self._places: dict[int, int] = {}
        """In the pool, by identity."""
        self._tuples: list[Picked] = []
        values = [value for given in args for value in given.values()] + [*results]
        leaves = {id(leaf): leaf for value in values for leaf in _leaves(value)}
        self._tensors = [leaf for leaf in leaves.values() if type(leaf) is Tensor]
        self._others = [leaf for leaf in leaves.values() if type(leaf) is not Tensor]
        self._places = {id(leaf): place for place, leaf in enumerate((*self._tensors, *self._others))}
        self._rows = [
            (
                tuple(given),
                self._picked(given.values()),
                self._place(result),
                self._picked(t for value in given.values() for t in tensors(value)),
                self._picked(tensors(result)),
            )
            for given, result in zip(args, results, strict=True)
        ]

    def stamp(self, storages: Mapping[int, int]) -> Stamp:
        """The same with other storages in the place of these."""
        number = storages.get
        pool: Pool = [
            tuple.__new__(Tensor, (number(storage, storage), dtype, shape, strides, offset))
            for storage, dtype, shape, strides, offset in self._tensors
        ]
        pool += self._others
        for picked in self._tuples:
            pool.append(picked(pool))
        made = Stamp([], [], [], [])
        for names, given, result, inputs, outputs in self._rows:
            made.args.append(dict(zip(names, given(pool), strict=True)))
            made.results.append(pool[result])
            made.inputs.append(inputs(pool))  # type: ignore[arg-type]
            made.outputs.append(outputs(pool))  # type: ignore[arg-type]
        return made

    def _picked(self, values: object) -> Picked:
        return _picker([self._place(value) for value in values])  # type: ignore[attr-defined]

    def _place(self, value: object) -> int:
        place = self._places.get(id(value))
        if place is None:
            self._tuples.append(self._picked(value))
            place = self._places[id(value)] = len(self._tensors) + len(self._others) + len(self._tuples) - 1
        return place


def _leaves(value: object) -> list[object]:
    return [leaf for item in value for leaf in _leaves(item)] if type(value) is tuple else [value]


def _picker(places: list[int]) -> Picked:
    """What is at these places of a list, as a tuple."""
    if len(places) > 1:
        return itemgetter(*places)
    return (lambda pool: (pool[places[0]],)) if places else (lambda pool: ())
