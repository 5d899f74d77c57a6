"""A cache of keys and values that blocks are given -> what one block put into it, to be put in for another.

A *cache* is what transformers hands to every block of a decoder (``transformers.cache_utils``): a list ``layers`` with
one object for each block, found by the block's number. A block may do nothing with it but fill its own layer, and
nothing with its number but find that layer: `Number` stands for it while the block runs, and tells of any other use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from torch import nn

from .alike import NumberOf

ROOM = "transformers.cache_utils"


def is_cache(value: Any) -> bool:
    """Whether it is such a cache, and one that keeps everything as it comes."""
    kind = type(value)
    return kind.__module__ == ROOM and kind.__name__ == "DynamicCache" and not getattr(value, "offloading", True)


class Held(NamedTuple):
    """A tensor in a layer, without holding it."""

    storage: int
    kind: Any
    values: bytes | None
    """What is in it, where that is known."""


Layer = dict[str, Any]
"""What is in a layer by attribute, with `Held` for tensors."""


class Filled(NamedTuple):
    """What a block did: to which layer, of what class, and what was in it before."""

    number: int
    kind: type
    before: Layer | None
    """None where the layer was appended."""

    @property
    def storages(self) -> dict[str, int]:
        """The storages that were in it before."""
        return {name: value.storage for name, value in (self.before or {}).items() if type(value) is Held}


def layers(cache: Any, told: Callable[[Any], Any]) -> list[tuple[int, type, Layer]]:
    """The layers as they are; `told` makes a `Held` of a tensor, and of anything else itself."""
    return [(id(layer), type(layer), contents(layer, told)) for layer in cache.layers]


def contents(layer: Any, told: Callable[[Any], Any]) -> Layer:
    """What is in one layer."""
    return {name: told(value) for name, value in vars(layer).items()}


def filled(before: list[tuple[int, type, Layer]], cache: Any, told: Callable[[Any], Any]) -> Filled | None:
    """What has happened since; None where it is not that one layer was filled."""
    now = layers(cache, told)
    changed = [number for number, layer in enumerate(now) if number >= len(before) or layer != before[number]]
    if len(changed) != 1 or len(now) < len(before):
        return None
    number = changed[0]
    if number >= len(before):
        return Filled(number, now[number][1], None)
    return Filled(number, now[number][1], before[number][2]) if now[number][:2] == before[number][:2] else None


def layer(cache: Any, number: int, like: Filled) -> Any:
    """The layer of that number, if it is of the same class; where it is to be appended, one without contents."""
    if like.before is None:
        return object.__new__(like.kind) if len(cache.layers) == number else None
    found = cache.layers[number] if number < len(cache.layers) else None
    return found if type(found) is like.kind else None


def fill(cache: Any, layer: Any, like: Filled, after: dict[str, Any]) -> None:
    """Put `after` into the layer."""
    inside = vars(layer)
    inside.clear()
    inside.update(after)
    if like.before is None:
        cache.layers.append(layer)


# -- numbers that only find a layer ---------------------------------------------------------------


class Number:
    """A whole number that may be handed on, and may be used by a cache, but tells of any other use."""

    def __init__(self, value: int, used: Callable[[], None]) -> None:
        object.__setattr__(self, "_value", value)
        object.__setattr__(self, "_used", used)

    __class__ = property(lambda self: int)


def _telling(name: str) -> Callable[..., Any]:
    stock = getattr(int, name)

    def method(self: Any, *others: Any) -> Any:
        if sys._getframe(1).f_globals.get("__name__") != ROOM:
            object.__getattribute__(self, "_used")()
        others = tuple(object.__getattribute__(o, "_value") if type(o) is Number else o for o in others)
        return stock(object.__getattribute__(self, "_value"), *others)

    return method


for _name in dir(int):
    _special = _name not in ("__class__", "__new__", "__init__", "__init_subclass__", "__subclasshook__", "__dir__")
    if callable(getattr(int, _name)) and _special and _name not in ("__getattribute__", "__setattr__", "__delattr__"):
        setattr(Number, _name, _telling(_name))


@contextmanager
def numbers(of: frozenset[NumberOf], modules: list[nn.Module], used: Callable[[], None]) -> Iterator[None]:
    """While it lasts, such numbers of these modules tell `used` when they are used."""
    with ExitStack() as undo:
        for module in modules:
            for kind, name in of:
                if type(module) is kind:
                    value = module.__dict__[name]
                    undo.callback(module.__dict__.__setitem__, name, value)
                    module.__dict__[name] = Number(value, used)
        yield
