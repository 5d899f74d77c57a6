"""How PyTorch lays a reduction over thread blocks: worked cases, and laws over random shapes."""

from __future__ import annotations

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrace.graph import Tensor
from foretrace.hardware.gpu import Gpu
from foretrace.hardware.reductions import Dimension, Kernel, accumulation_bytes, iteration, launches

FLOAT = Kernel(value_bytes=4, partial_bytes=4, result_bytes=4)
BLACKWELL = Gpu(capability=(12, 0), sm_count=188, threads_per_sm=1536, cublas_workspace_bytes=0)
AMPERE = Gpu(capability=(8, 0), sm_count=108, threads_per_sm=2048, cublas_workspace_bytes=0)


def tensor(*shape: int, strides: tuple[int, ...] | None = None, offset: int = 0, dtype: str = "float32") -> Tensor:
    dense = tuple(prod(shape[i + 1 :]) for i in range(len(shape)))
    return Tensor(0, dtype, shape, strides or dense, offset)


def buffers(value: Tensor, dims: set[int], kernel: Kernel = FLOAT, gpu: Gpu = BLACKWELL) -> list[tuple[int, int]]:
    return [tuple(b) for b in launches(gpu, kernel, iteration(value, frozenset(dims), kernel), value.offset)]


def test_batch_and_sequence_are_one_dimension_behind_the_channels() -> None:
    # The result's step is 4 bytes along the channels, 0 along what is reduced; 4 x 512 rows are one run of rows.
    assert iteration(tensor(4, 512, 2560), frozenset({0, 1}), FLOAT) == [
        Dimension(size=2048, result=0, value=2560 * 4),
        Dimension(size=2560, result=4, value=4),
    ]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # 640 groups of 4 channels over blocks of 32 x 4 threads: 20 blocks. A thread has 2048 / 4 = 512 values, so
        # that the rows are shared: wanted 188 * 12 / 20 -> 113 blocks, at most 512 / 16 = 32. Each leaves 2560 sums,
        # for which 32 threads x 4 channels are reserved: 4 * 2560 * 32 * 32 * 4 bytes, and 20 counters.
        (4 * 512, (4 * 2560 * 32 * 32 * 4, 4 * 20)),
        # 512 / 4 = 128 values for a thread are too few to share.
        (4 * 128, (0, 0)),
        # From 256 on they are shared, among 256 / 16 = 16 blocks; 255 are not.
        (1024, (4 * 2560 * 16 * 32 * 4, 4 * 20)),
        (1020, (0, 0)),
    ],
)
def test_sums_over_rows(rows: int, expected: tuple[int, int]) -> None:
    assert buffers(tensor(rows, 2560), {0}) == [expected]


def test_a_sum_of_everything_is_shared_by_rows_of_threads() -> None:
    # 2**24 values in vectors of 4, 512 threads in a row: 2**24 / 512 = 32768 values each. 108 * (2048 / 512) = 432
    # blocks fill the GPU; at least 32768 / 256 = 128 and at most 32768 / 16 = 2048: 432 parts of 4 bytes, one counter.
    assert buffers(tensor(4096, 4096), {0, 1}, gpu=AMPERE) == [(4 * 432, 4)]


def test_a_sum_over_the_last_dimension_needs_nothing_when_rows_are_many() -> None:
    assert buffers(tensor(4096, 4096), {1}, gpu=AMPERE) == [(0, 0)]


def test_an_odd_offset_forbids_vectors() -> None:
    # Blocks of 32 x 16 threads, one channel each: 80 blocks, 2048 / 16 = 128 values for a thread.
    assert buffers(tensor(2048, 2560, offset=1), {0}) == [(0, 0)]
    # With 8 times the rows: 1024 values; 188 * 3 / 80 -> 8 blocks, 1024 / 256 = 4 at least, 64 at most.
    assert buffers(tensor(8 * 2048, 2560, offset=1), {0}) == [(4 * 2560 * 8 * 32, 4 * 80)]


def test_what_32_bits_do_not_reach_is_halved() -> None:
    # 2**30 floats are 4 GiB; the last element of a half begins at 2**31 - 4, which a signed number still says.
    assert buffers(tensor(2**20, 2**10), {0}) == 2 * buffers(tensor(2**19, 2**10), {0})
    assert len(buffers(tensor(2**19, 2**10), {0})) == 1
    assert len(buffers(tensor(2**19 + 1, 2**10), {0})) == 2


def test_halves_add_up_elsewhere_when_their_result_is_narrow() -> None:
    half = Kernel(value_bytes=2, partial_bytes=4, result_bytes=2, accumulates_in_result=False)
    large, small = tensor(2**21, 2**10, dtype="bfloat16"), tensor(2**10, 2**10, dtype="bfloat16")
    assert accumulation_bytes(half, iteration(large, frozenset({0}), half)) == 2**10 * 4
    assert accumulation_bytes(half, iteration(small, frozenset({0}), half)) == 0
    assert accumulation_bytes(FLOAT, iteration(tensor(2**20, 2**10), frozenset({0}), FLOAT)) == 0


def test_a_number_and_a_single_row_need_nothing() -> None:
    assert buffers(tensor(), set()) == [(0, 0)]
    assert buffers(tensor(1, 2560), {0}) == [(0, 0)]


SHAPES = st.lists(st.sampled_from([1, 2, 3, 5, 8, 64, 100, 1024, 4096]), min_size=1, max_size=3).filter(
    lambda shape: prod(shape) <= 2**27
)


@given(SHAPES, st.data(), st.sampled_from([BLACKWELL, AMPERE]))
def test_buffers_hold_a_part_of_every_result(shape: list[int], data: st.DataObject, gpu: Gpu) -> None:
    reduced = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    results = prod(size for i, size in enumerate(shape) if i not in reduced)
    for partials, semaphores in launches(gpu, FLOAT, iteration(tensor(*shape), frozenset(reduced), FLOAT)):
        assert (partials == 0) == (semaphores == 0)
        if partials:
            assert partials % (4 * results) == 0
            assert partials // (4 * results) >= 2


@given(SHAPES, st.data())
def test_dimensions_of_one_change_nothing(shape: list[int], data: st.DataObject) -> None:
    reduced = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    dims = iteration(tensor(*shape), frozenset(reduced), FLOAT)
    place = data.draw(st.integers(0, len(shape)))
    longer = [*shape[:place], 1, *shape[place:]]
    moved = frozenset(i + (i >= place) for i in reduced)
    again = iteration(tensor(*longer), moved, FLOAT)
    assert list(launches(AMPERE, FLOAT, dims)) == list(launches(AMPERE, FLOAT, again))
