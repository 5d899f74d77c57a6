"""A function that traces -> digests by sizes, each traced once."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping

from ...graph import ForetraceError, StepGraph
from .digest import Digest, digest

TraceAt = Callable[..., StepGraph]
"""Called with sizes as keyword arguments, it gives the trace of the model of those sizes."""

Sizes = Mapping[str, int]
Asked = Callable[[Sizes, int], None]
"""Called after each trace with its sizes and the number of traces so far."""


class NoInstance(ForetraceError):
    """The model cannot be built, or cannot run, at these sizes."""

    def __init__(self, sizes: Sizes, error: ForetraceError) -> None:
        super().__init__(f"{in_words(sizes)} cannot be traced: {error.message}", error.mend)
        self.sizes, self.reason = dict(sizes), error.message


def in_words(sizes: Sizes) -> str:
    """Sizes in a line.

    >>> in_words({"batch": 2, "seq": 64})
    'batch=2 seq=64'
    """
    return " ".join(f"{name}={value}" for name, value in sizes.items())


class Instances:
    """Digests by sizes."""

    def __init__(self, trace_at: TraceAt, asked: Asked | None = None) -> None:
        self.trace_at, self.asked = trace_at, asked
        self.traces = 0
        self._known: dict[tuple[tuple[str, int], ...], Digest | NoInstance] = {}

    def at(self, sizes: Sizes) -> Digest:
        """The digest at `sizes`. Raises `NoInstance` where there is none."""
        key = tuple(sorted(sizes.items()))
        if key not in self._known:
            self._known[key] = self._traced(sizes)
        found = self._known[key]
        if isinstance(found, NoInstance):
            raise found
        return found

    def complete(self, sizes: Sizes) -> Sizes:
        """All sizes of an instance, those that are set among them."""
        return sizes

    @property
    def digests(self) -> list[Digest]:
        """All that were traced; none of those that others set some sizes of."""
        return [found for found in self._known.values() if isinstance(found, Digest)]

    def builds(self, sizes: Sizes) -> bool:
        """Whether there is an instance of these sizes."""
        try:
            self.at(sizes)
        except NoInstance:
            return False
        return True

    def _traced(self, sizes: Sizes) -> Digest | NoInstance:
        self.traces += 1
        try:
            found: Digest | NoInstance = digest(self.trace_at(**sizes), sizes)
        except Exception as error:
            mistake = _mistake(error)
            if mistake is None:
                raise
            found = NoInstance(sizes, mistake)
            _let_go(error)
        if self.asked:
            self.asked(sizes, self.traces)
        return found


class Pinned(Instances):
    """The instances where some sizes are set."""

    def __init__(self, inside: Instances, pinned: Sizes) -> None:
        super().__init__(inside.trace_at, inside.asked)
        self.inside, self.pinned = inside, dict(pinned)

    def at(self, sizes: Sizes) -> Digest:
        """The digest at the other sizes."""
        return self.inside.at(self.complete(sizes))

    def complete(self, sizes: Sizes) -> Sizes:
        """All sizes of an instance, those that are set among them."""
        return {**sizes, **self.pinned}


def _mistake(error: BaseException | None) -> ForetraceError | None:
    """The mistake that an exception is, or that was being handled when it came: a model that fails half-way through
    its forward still holds on to its parameters, and may so fail a second time when they are put back."""
    while error is not None and not isinstance(error, ForetraceError):
        error = error.__context__
    return error


def _let_go(error: BaseException | None) -> None:
    """Empty the frames of a traceback, which hold on to the model."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
