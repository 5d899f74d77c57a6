"""What CUB asks for to sort and to add up: its layouts, added up by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from foretrace.hardware.gpu import Gpu
from foretrace.hardware.sorts import bits_of, radix_sort_bytes, scan_bytes, segmented_sort_bytes


def gpu(major: int, minor: int) -> Gpu:
    return Gpu(capability=(major, minor), sm_count=108, threads_per_sm=2048, cublas_workspace_bytes=0)


def test_bits() -> None:
    assert [bits_of(most) for most in (0, 1, 2, 255, 256, 50_256)] == [1, 1, 2, 8, 9, 16]


def test_one_block_needs_one_byte() -> None:
    # 256 threads with 19 * 4 / 8 = 9 elements of 8 bytes each.
    assert radix_sort_bytes(gpu(8, 0), 2304, 8, 8, 14) == 1
    assert radix_sort_bytes(gpu(8, 0), 2305, 8, 8, 14) > 1
    assert radix_sort_bytes(gpu(8, 0), 4864, 4, 4, 14) == 1


def test_a_sort_of_two_passes() -> None:
    # 14 bits are 2 passes over 8. Tiles of 384 threads with 21 * 4 / 8 = 10 elements: 8192 / 3840 -> 3.
    counters, lookback, copy, tickets = 2 * 256 * 8, 3 * 256 * 4, 8192 * 8, 256
    assert radix_sort_bytes(gpu(8, 0), 8192, 8, 8, 14) == counters + lookback + 2 * copy + tickets + 255
    # On 9.0 a thread has 24 * 4 / 8 = 12: 8192 / 4608 -> 2 tiles.
    assert radix_sort_bytes(gpu(9, 0), 8192, 8, 8, 14) == counters + 2 * 256 * 4 + 2 * copy + tickets + 255
    # On 7.5, 256 threads with 23 * 4 / 8 = 11: 8192 / 2816 -> 3 tiles.
    assert radix_sort_bytes(gpu(7, 5), 8192, 8, 8, 14) == counters + lookback + 2 * copy + tickets + 255


def test_a_single_pass_needs_no_copies() -> None:
    assert radix_sort_bytes(gpu(8, 0), 8192, 8, 8, 8) == 256 * 8 + 3 * 256 * 4 + 256 + 255


def test_segments_and_scans() -> None:
    assert segmented_sort_bytes(10_000, 4, 8) == 40_192 + 80_128 + 255
    # 128 threads with 15 * 4 / 8 = 7 elements: 10,000 / 896 -> 12 tiles, and 32 more states of 16 bytes.
    assert scan_bytes(10_000, 8) == 768 + 255
    assert -(-(12 + 32) * 16 // 256) * 256 == 768


@given(st.integers(1, 10**7), st.integers(1, 10**7), st.integers(1, 64))
def test_more_elements_never_need_less(first: int, second: int, bits: int) -> None:
    few, many = sorted((first, second))
    for device in (gpu(7, 0), gpu(8, 0), gpu(9, 0)):
        assert radix_sort_bytes(device, few, 8, 8, bits) <= radix_sort_bytes(device, many, 8, 8, bits)
