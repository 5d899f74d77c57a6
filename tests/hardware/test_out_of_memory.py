from __future__ import annotations

import pytest

from foretrace.hardware.blocks import Counters
from foretrace.hardware.out_of_memory import OutOfMemory, format_size

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

PRINTED = (
    "CUDA out of memory. Tried to allocate 192.00 MiB. GPU 0 has a total capacity of 79.19 GiB of which 46.50 MiB is "
    "free. Including non-PyTorch memory, this process has 79.13 GiB memory in use. Of the allocated memory 77.91 GiB "
    "is allocated by PyTorch, and 648.28 MiB is reserved by PyTorch but unallocated. If reserved but unallocated "
    "memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  "
    "See documentation for Memory Management  (https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)"
)
"""What a run on an H100 PCIe printed, with an earlier PyTorch, whose link was another."""


def error(**changed: object) -> OutOfMemory:
    allocated = round(77.91 * GIB)
    given: dict[str, object] = {
        "key": "a",
        "requested_bytes": 192 * MIB - 7,
        "segment_bytes": 192 * MIB,
        "total_bytes": round(79.19 * GIB),
        "free_bytes": round(46.5 * MIB),
        "used_bytes": round(79.13 * GIB),
        "allowed_bytes": None,
        "counters": Counters(
            allocated_bytes=allocated,
            requested_bytes=allocated,
            active_bytes=allocated,
            reserved_bytes=allocated + round(648.28 * MIB),
            inactive_split_bytes=0,
        ),
    }
    return OutOfMemory(**{**given, **changed})  # type: ignore[arg-type]


def test_the_message_is_pytorchs() -> None:
    link = "https://docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage-with-pytorch-cuda-alloc-conf"
    older = "https://pytorch.org/docs/stable/notes/cuda.html#environment-variables"
    assert error().message() == PRINTED.replace(older, link) == str(error())


def test_the_message_names_the_gpu_and_the_limit() -> None:
    message = error(allowed_bytes=40 * GIB).message(gpu=3)
    assert " GPU 3 has a total capacity" in message
    assert "memory in use. 40.00 GiB allowed; Of the allocated memory" in message


def test_a_rejected_request_has_a_message_of_its_own() -> None:
    assert error(is_rejected=True).message() == (
        "CUDA out of memory. Allocation was preemptively rejected because it would exceed per_process_memory_fraction "
        "limit. Requested size: 192.00 MiB"
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1024, "1024 bytes"),
        (1025, "1.00 KiB"),
        (MIB, "1024.00 KiB"),
        (MIB + 1, "1.00 MiB"),
        (GIB, "1024.00 MiB"),
        (GIB + 1, "1.00 GiB"),
        (5000 * GIB, "5000.00 GiB"),
    ],
)
def test_sizes_change_their_unit_after_1024(count: int, text: str) -> None:
    assert format_size(count) == text
