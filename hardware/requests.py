"""A stream of requests for memory -> a `Replay`: what the caching allocator makes of it.

A *request* is one thing that a program asks of the allocator: memory under a key, the end of that key, the use of
its memory by another stream, the end of a stream's work, or an empty cache. A *replay* ends with the stream, or at
the first request that finds no memory.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from .allocator import CachingAllocator
from .blocks import Counters, SegmentState
from .out_of_memory import OutOfMemory


class Malloc(NamedTuple):
    """Memory asked for."""

    key: Hashable
    bytes: int
    stream: int = 0


class Free(NamedTuple):
    """Memory given back."""

    key: Hashable


class RecordStream(NamedTuple):
    """Another stream uses the memory of a key (``Tensor.record_stream``)."""

    key: Hashable
    stream: int


class Synchronize(NamedTuple):
    """A stream has finished its work, or all have."""

    stream: int | None = None


class EmptyCache(NamedTuple):
    """Free memory goes back to the device (``torch.cuda.empty_cache``)."""


Request = Malloc | Free | RecordStream | Synchronize | EmptyCache


class Sample(NamedTuple):
    """The three curves at one moment: after request ``request``, counted from 0."""

    request: int
    allocated_bytes: int
    requested_bytes: int
    reserved_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What became of a stream of requests; peaks count from its beginning, what was live there included."""

    requests: int
    """How many were met."""
    peak_allocated_bytes: int
    peak_requested_bytes: int
    peak_active_bytes: int
    peak_reserved_bytes: int
    at_peak: Counters
    """The counters when the allocated bytes first reached their peak; its ``fragmentation`` is that of the peak."""
    at_end: Counters
    device_allocations: int
    """Calls of the device for memory."""
    retries: int
    """Requests for which everything free had to be given back to the device first."""
    curve: tuple[Sample, ...]
    segments: tuple[SegmentState, ...]
    """The segments at the end."""
    failed: OutOfMemory | None
    """The request that found no memory, if there was one: the one at index ``requests``."""


def ask(allocator: CachingAllocator, request: Request) -> None:
    """Ask one thing of the allocator."""
    match request:
        case Malloc(key, nbytes, stream):
            allocator.malloc(key, nbytes, stream)
        case Free(key):
            allocator.free(key)
        case RecordStream(key, stream):
            allocator.record_stream(key, stream)
        case Synchronize(stream):
            allocator.synchronize(stream)
        case EmptyCache():
            allocator.empty_cache()


def replay(requests: Iterable[Request], allocator: CachingAllocator | None = None, *, sample_every: int = 0) -> Replay:
    """Replay `requests`, on a fresh allocator without limits where none is given.

    The curve has a point after every `sample_every` requests, and none for 0. Peaks and counts begin anew.
    """
    allocator = allocator or CachingAllocator()
    allocator.reset_peaks()
    calls, retries = allocator.device_allocations, allocator.retries
    curve: list[Sample] = []
    done, failed = 0, None
    malloc, free = allocator.malloc, allocator.free
    try:
        for request in requests:
            if type(request) is Malloc:
                malloc(*request)
            elif type(request) is Free:
                free(request[0])
            else:
                ask(allocator, request)
            done += 1
            if sample_every and done % sample_every == 0:
                now = allocator.allocated_bytes, allocator.requested_bytes, allocator.reserved_bytes
                curve.append(Sample(done - 1, *now))
    except OutOfMemory as refused:
        failed = refused
    return Replay(
        requests=done,
        peak_allocated_bytes=allocator.peak_allocated_bytes,
        peak_requested_bytes=allocator.peak_requested_bytes,
        peak_active_bytes=allocator.peak_active_bytes,
        peak_reserved_bytes=allocator.peak_reserved_bytes,
        at_peak=allocator.at_peak,
        at_end=allocator.now(),
        device_allocations=allocator.device_allocations - calls,
        retries=allocator.retries - retries,
        curve=tuple(curve),
        segments=allocator.segments(),
        failed=failed,
    )
