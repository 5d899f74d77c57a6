"""A target, a module or a step -> `Outcomes`: run for real on the CPU, with every decision of data written down.

The run listens where a trace listens, so that each op is met at the same place and in the same order. Unlike in a
trace, every op is really computed. Its bytes are not those of a run alone, which is why `measure` has a run of its own.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from ..graph import Outcome, Outcomes
from .assumptions import most_of
from .disguise import subclasses
from .key import quiet
from .modules import module_paths
from .randomness import seeded
from .real import real_loop, real_step
from .record import Recorder
from .replay import READ, READS, can_be_read, depends_on_data, result_of, shapes_of, whole
from .signature import Signature
from .step import Step


class Observer(Recorder):
    """Runs every op for real, and notes the outcome of those whose result data decides."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.steps: list[dict[tuple[str, str], list[Outcome]]] = []
        self.begin()

    def begin(self) -> None:
        """What comes now belongs to the next step."""
        self.steps.append(defaultdict(list))

    def dispatch(self, sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one op, and note its outcome."""
        if not depends_on_data(sig, args):
            return sig.func(*args, **kwargs)
        given, most = shapes_of((*args, *kwargs.values())), most_of(sig.name, args, kwargs)
        result = sig.func(*args, **kwargs)
        listed = result if isinstance(result, (tuple, list)) else (result,)
        share = listed[0].numel() / most if most else None
        self._note(sig.name, Outcome(given, tuple(result_of(sig, value) for value in listed), share))
        return result

    def saw(self, tensor: torch.Tensor) -> None:
        """Python reads a whole tensor."""
        if can_be_read(tensor):
            with quiet():
                self._note(READ, Outcome((tuple(tensor.shape),), (whole(tensor),)))

    def _note(self, op: str, outcome: Outcome) -> None:
        self.steps[-1][op, self.where()].append(outcome)


def observe(
    target: str | Step | nn.Module | Callable[[], Any],
    parameters: dict[str, Any] | None = None,
    *,
    inputs: str | None = None,
    optimizer: Any = None,
    autocast: Any = None,
    warmup: int = 1,
) -> Outcomes:
    """Run a step on real tensors of the CPU, ``warmup + 1`` turns, and note what data decided in each.

    Everything is as for `measure`; a module that is given is trained by the turns. ``trace(..., outcomes=...)`` takes
    what is returned. Raises `ForetraceError` for a step that does not run.
    """
    observer = Observer()
    with seeded(), subclasses(), _reads(observer), observer:
        step = real_step(target, parameters, inputs, optimizer, warmup)
        with module_paths(step.model, observer), real_loop(step, observer, autocast) as loop:
            for _ in range(warmup + 1):
                observer.begin()
                next(loop)
    return Outcomes(tuple({place: tuple(found) for place, found in step.items()} for step in observer.steps))


@contextmanager
def _reads(observer: Observer) -> Iterator[None]:
    """Note what Python reads of whole tensors, which C++ answers without any op."""
    with ExitStack() as undo:
        for name in READS:
            stock = getattr(torch.Tensor, name)
            setattr(torch.Tensor, name, _noted(observer, stock))
            undo.callback(setattr, torch.Tensor, name, stock)
        yield


def _noted(observer: Observer, stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def read(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        observer.saw(self)
        return stock(self, *args, **kwargs)

    return read
