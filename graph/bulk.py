"""Making very many objects at once, without the garbage collector looking at all others again and again.

What a step is made of (ops, tensors, events) refers to nothing in a circle, so a collection finds nothing there. But
Python starts one after every few hundred new objects, and from time to time one of everything that lives, a model and
its framework included.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


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
