"""What an op reads from L2 follows from what was moved since its tensors were touched."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from foretrace.costmodels import Priced
from foretrace.costmodels.work import Work
from foretrace.graph.op import Op, Tensor
from foretrace.graph.phase import Phase
from foretrace.hardware import estimate, load
from foretrace.hardware.cache import Cache
from foretrace.hardware.constants import constants

A100 = load("a100-sxm4-80gb")
FULL = int(A100.l2_bytes * constants()["cache_share.full"])
NONE = int(A100.l2_bytes * constants()["cache_share.none"])
MEGABYTE = 1_000_000


def copy(source: int, target: int, size: int) -> tuple[Op, Work]:
    """One storage read and another written, `size` bytes each."""
    tensors = [Tensor(storage, "uint8", (size,), (1,)) for storage in (source, target)]
    op = Op(id=0, name="aten.neg.default", phase=Phase.FORWARD, args={"self": tensors[0]}, result=tensors[1])
    return op, Work(vector_flops=size, read_bytes=size, written_bytes=size)


def test_nothing_is_there_before_it_was_touched() -> None:
    assert Cache(A100).hits(*copy(0, 1, MEGABYTE)) == 0


def test_what_was_just_written_or_read_is_there_whole() -> None:
    cache = Cache(A100)
    cache.hits(*copy(0, 1, MEGABYTE))
    assert cache.hits(*copy(1, 2, MEGABYTE)) == MEGABYTE
    assert cache.hits(*copy(0, 3, MEGABYTE)) == MEGABYTE


def test_halfway_between_the_two_sizes_half_is_there() -> None:
    cache = Cache(A100)
    size = (FULL + NONE) // 4
    cache.hits(*copy(0, 1, size))  # moves twice that, halfway from full to none
    assert abs(cache.hits(*copy(1, 2, MEGABYTE)) - MEGABYTE / 2) < 10


def test_after_more_than_the_cache_holds_nothing_is_there() -> None:
    cache = Cache(A100)
    cache.hits(*copy(0, 1, MEGABYTE))
    cache.hits(*copy(2, 3, NONE))
    assert cache.hits(*copy(1, 4, MEGABYTE)) == 0


def test_a_tensor_given_twice_is_read_once() -> None:
    cache = Cache(A100)
    cache.hits(*copy(0, 1, MEGABYTE))
    one = Tensor(1, "uint8", (MEGABYTE,), (1,))
    square = Op(id=0, name="aten.mul.Tensor", phase=Phase.FORWARD, args={"self": one, "other": one}, result=one)
    assert cache.hits(square, Work(read_bytes=MEGABYTE, written_bytes=MEGABYTE)) == MEGABYTE


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 80)), max_size=20))
def test_never_more_than_is_read(steps: list[tuple[int, int, int]]) -> None:
    cache = Cache(A100)
    for source, target, size in steps:
        op, work = copy(source, target, size * MEGABYTE)
        assert 0 <= cache.hits(op, work) <= work.read_bytes


def seconds(size: int, profile: str) -> list[float]:
    ops = [Priced(op, work, "rule", "here") for op, work in (copy(0, 1, size), copy(1, 2, size))]
    return [time.seconds for time in estimate(ops, load(profile)).ops]


def test_a_step_reads_at_the_speed_of_l2_what_the_op_before_wrote() -> None:
    size = 8 * MEGABYTE
    first, second = seconds(size, "a100-sxm4-80gb")
    achieved = A100.memory_bandwidth_bytes_per_second * A100.memory_bandwidth_efficiency.typical
    saved = size / achieved - size / A100.l2_bandwidth_bytes_per_second
    assert abs(first - second - saved) < 1e-12
    assert 2 * size / (second - A100.kernel_floor_seconds.typical) < A100.l2_bandwidth_bytes_per_second


def test_a_large_copy_gains_nothing() -> None:
    first, second = seconds(NONE, "a100-sxm4-80gb")
    assert first == second


def test_a_device_whose_l2_bandwidth_is_not_known_reads_nothing_from_it() -> None:
    first, second = seconds(MEGABYTE, "t4")
    assert load("t4").l2_bandwidth_bytes_per_second == 0
    assert first == second
