"""A request that found no memory -> the message that PyTorch prints.

The wording, the order of the numbers and their rounding are those of ``DeviceCachingAllocator::malloc`` and
``format_size`` (source: `allocator`); the library of PyTorch 2.14.1 holds the same texts.
The numbers are those after the allocator has given back to the device all that it could.
"""

from __future__ import annotations

from collections.abc import Hashable

from .blocks import Counters

ADVICE = (
    "If reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid"
    " fragmentation.  See documentation for Memory Management "
    " (https://docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage-with-pytorch-cuda-alloc-conf)"
)


def format_size(count: int) -> str:
    """A number of bytes as PyTorch's allocator prints it.

    >>> format_size(1536 * 2**20)
    '1.50 GiB'
    """
    if count <= 1 << 10:
        return f"{count} bytes"
    for unit, name in ((10, "KiB"), (20, "MiB")):
        if count <= 1 << (unit + 10):
            return f"{count / (1 << unit):.2f} {name}"
    return f"{count / (1 << 30):.2f} GiB"


class OutOfMemory(Exception):
    """The device could not give what a request needed; its text is PyTorch's message for GPU 0.

    ``requested_bytes`` is the request, ``segment_bytes`` what the allocator asked the device for. ``total_bytes`` is
    the device's memory and ``free_bytes`` what it had left. ``used_bytes`` is what the process held in all, the CUDA
    context included. ``allowed_bytes`` is the limit set by a memory fraction, or None. ``counters`` are those of the
    moment. ``is_rejected`` is True where the setting ``throw_on_cudamalloc_oom`` refused before asking the device.
    """

    def __init__(
        self,
        *,
        key: Hashable,
        requested_bytes: int,
        segment_bytes: int,
        total_bytes: int,
        free_bytes: int,
        used_bytes: int,
        allowed_bytes: int | None,
        counters: Counters,
        is_rejected: bool = False,
    ) -> None:
        super().__init__(key, requested_bytes)
        self.key = key
        self.requested_bytes = requested_bytes
        self.segment_bytes = segment_bytes
        self.total_bytes = total_bytes
        self.free_bytes = free_bytes
        self.used_bytes = used_bytes
        self.allowed_bytes = allowed_bytes
        self.counters = counters
        self.is_rejected = is_rejected

    def message(self, gpu: int = 0) -> str:
        """What PyTorch prints, for the GPU of that index."""
        if self.is_rejected:
            return (
                "CUDA out of memory. Allocation was preemptively rejected because it would exceed "
                f"per_process_memory_fraction limit. Requested size: {format_size(self.requested_bytes)}"
            )
        allowed = f"{format_size(self.allowed_bytes)} allowed; " if self.allowed_bytes is not None else ""
        return (
            f"CUDA out of memory. Tried to allocate {format_size(self.segment_bytes)}. GPU {gpu} has a total capacity "
            f"of {format_size(self.total_bytes)} of which {format_size(self.free_bytes)} is free. Including "
            f"non-PyTorch memory, this process has {format_size(self.used_bytes)} memory in use. {allowed}"
            f"Of the allocated memory {format_size(self.counters.allocated_bytes)} is allocated by PyTorch, and "
            f"{format_size(self.counters.unallocated_bytes)} is reserved by PyTorch but unallocated. {ADVICE}"
        )

    def __str__(self) -> str:
        return self.message()
