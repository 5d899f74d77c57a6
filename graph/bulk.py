"""Making very many objects at once, without the garbage collector looking at all others again and again.

What a step is made of (ops, tensors, events) refers to nothing in a circle, so a collection finds nothing there. But
Python starts one after every few hundred new objects, and from time to time one of everything that lives, a model and
its framework included.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import fields
from itertools import repeat
from typing import Any, TypeVar

Made = TypeVar("Made")


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection starts by itself while the block runs; also a decorator."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            _settle()
            gc.enable()


def _settle() -> None:
    """What was made counts as old, as if collections had found it alive: else the next one looks at all of it.

    Not where a program has frozen objects of its own, which would be thawed.
    """
    if not gc.get_freeze_count():
        gc.freeze()
        gc.unfreeze()


def of_columns(kind: type[Made], count: int, /, **columns: Collection[Any]) -> list[Made]:
    """`count` objects of a frozen dataclass with slots, from a column of values for each of its fields.

    They are what the class itself makes of such values, a ``__post_init__`` left out. Raises ``ValueError`` for columns
    of another length, and ``TypeError`` where a field lacks its column.
    """
    if columns.keys() != {field.name for field in fields(kind)}:  # type: ignore[arg-type]
        raise TypeError(f"{kind.__name__} has other fields than {', '.join(columns)}")
    made = list(map(object.__new__, repeat(kind, count)))
    for name, column in columns.items():
        if len(column) != count:
            raise ValueError(f"{len(column)} of {count} values for {name}")
        deque(map(getattr(kind, name).__set__, made, column), maxlen=0)
    return made
