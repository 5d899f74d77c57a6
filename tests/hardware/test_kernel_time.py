"""Work becomes time: exactly for hand-made work, never faster than the peak, never less for more work."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrace.costmodels.work import Work
from foretrace.graph.op import Op, Tensor
from foretrace.graph.phase import Phase
from foretrace.hardware import BOUNDS, load, names
from foretrace.hardware.constants import constants
from foretrace.hardware.kernel_time import Unit, job, kernel_time, launches, matmul_unit, vector_dtype

A100 = load("a100-sxm4-80gb")
H100 = load("h100-sxm5-80gb")


def tensor(dtype: str = "float32", *shape: int, storage: int = 0) -> Tensor:
    strides = tuple(1 for _ in shape)
    return Tensor(storage, dtype, shape or (8, 8), strides or (8, 1))


def op(name: str = "aten.mm.default", dtype: str = "float32", **args: object) -> Op:
    given = args or {"self": tensor(dtype), "mat2": tensor(dtype, storage=1)}
    return Op(id=0, name=name, phase=Phase.FORWARD, args=given, result=tensor(dtype, storage=2))


def work(tensor_flops: int = 0, vector_flops: int = 0, moved: int = 0, skippable: int = 0) -> Work:
    return Work(
        tensor_flops=tensor_flops,
        vector_flops=vector_flops,
        read_bytes=moved - moved // 3,
        written_bytes=moved // 3,
        skippable_flops=skippable,
    )


sizes = st.integers(0, 10**16)
works = st.builds(work, sizes, sizes, sizes)
dtypes = st.sampled_from(["float32", "float64", "bfloat16", "float16", "float8_e4m3fn", "int8", "int64", "complex64"])


def test_nothing_takes_no_time() -> None:
    time = kernel_time(work(), op(), A100)
    assert (time.seconds, time.low_seconds, time.high_seconds, time.bound) == (0.0, 0.0, 0.0, "free")


def square(size: int, dtype: str) -> Op:
    sides = Tensor(0, dtype, (size, size), (size, 1)), Tensor(1, dtype, (size, size), (size, 1))
    result = Tensor(2, dtype, (size, size), (size, 1))
    args = {"self": sides[0], "mat2": sides[1]}
    return Op(id=0, name="aten.mm.default", phase=Phase.FORWARD, args=args, result=result)


def test_a_large_bfloat16_matmul() -> None:
    time = kernel_time(work(2 * 8192**3, moved=3 * 2 * 8192**2), square(8192, "bfloat16"), A100)
    # 32 x 64 tiles of 256 x 128 on 108 multiprocessors are 19 waves; a tile starts as long as 96 terms take
    flops = 19 * 108 * 2 * 256 * 128 * (8192 + 96)
    assert time.seconds == pytest.approx(2.6e-6 + flops / (0.8 * 312e12))
    assert time.low_seconds == pytest.approx(1.3e-6 + flops / (0.939 * 312e12))
    assert time.high_seconds == pytest.approx(7e-6 + flops / (0.62 * 312e12))
    assert (time.bound, time.unit, time.tier) == ("tensor", Unit("tensor", "bfloat16"), "tiles")


def test_a_product_of_unknown_sizes_runs_at_the_usual_rate() -> None:
    time = kernel_time(work(10**12, moved=10), op("aten._grouped_mm.default", dtype="bfloat16"), A100)
    assert time.seconds == pytest.approx(2.6e-6 + 10**12 / (0.8 * 312e12))
    assert time.tier == "rate"


def test_a_large_copy() -> None:
    time = kernel_time(work(moved=10**9), op("aten.clone.default"), A100)
    assert time.seconds == pytest.approx(2.6e-6 + 10**9 / (0.855 * 2.039e12))
    assert (time.bound, time.unit) == ("memory", None)


def test_a_tiny_op_costs_a_launch() -> None:
    time = kernel_time(work(vector_flops=8, moved=64), op("aten.add.Tensor"), A100)
    assert time.bound == "floor"
    assert time.seconds == pytest.approx(2.6e-6, rel=1e-4)


def test_arithmetic_of_its_own() -> None:
    time = kernel_time(work(vector_flops=10**12, moved=8), op("aten.exp.default"), A100)
    assert time.seconds == pytest.approx(2.6e-6 + 10**12 / (0.9 * 19.5e12))
    assert time.bound == "vector"


def test_float32_products_and_other_arithmetic_share_the_cuda_cores() -> None:
    both = kernel_time(work(10**13, 10**12), op(), A100)
    alone = kernel_time(work(10**13), op(), A100)
    assert both.seconds - alone.seconds == pytest.approx(10**12 / (0.9 * 19.5e12))


def test_a_causal_kernel_leaves_out_what_it_can() -> None:
    attention = op("aten._scaled_dot_product_flash_attention.default", "bfloat16")  # of unknown sizes
    full, half = work(10**13), work(10**13, skippable=5 * 10**12)
    saved = kernel_time(full, attention, A100).seconds - kernel_time(half, attention, A100).seconds
    assert saved == pytest.approx(5e12 / (0.8 * 312e12))


@pytest.mark.parametrize(
    ("name", "dtype", "settings", "unit"),
    [
        ("aten.mm.default", "float32", {}, Unit("vector", "float32")),
        ("aten.mm.default", "float32", {"tf32": True}, Unit("tensor", "tfloat32")),
        ("aten.convolution.default", "float32", {}, Unit("tensor", "tfloat32")),
        ("aten.convolution_backward.default", "float32", {"cudnn_tf32": False}, Unit("vector", "float32")),
        ("aten._cudnn_rnn.default", "float32", {}, Unit("tensor", "tfloat32")),
        ("aten.mm.default", "float16", {}, Unit("tensor", "float16")),
        ("aten.mm.default", "float64", {}, Unit("tensor", "float64")),
        ("aten.mm.default", "complex64", {}, Unit("vector", "float32")),
        ("aten.mm.default", "complex128", {}, Unit("vector", "float64")),
        ("aten._int_mm.default", "int8", {}, Unit("tensor", "int8")),
        ("aten._scaled_mm.default", "float8_e4m3fn", {}, Unit("tensor", "bfloat16")),
    ],
)
def test_the_cores_follow_from_the_type(name: str, dtype: str, settings: dict[str, bool], unit: Unit) -> None:
    assert matmul_unit(op(name, dtype), A100, **settings) == unit


def test_an_h100_has_cores_for_float8() -> None:
    assert matmul_unit(op("aten._scaled_mm.default", "float8_e4m3fn"), H100) == Unit("tensor", "float8_e4m3fn")


def test_an_index_says_nothing_of_the_arithmetic() -> None:
    mixed = op("aten.mm.default", index=tensor("int64"), self=tensor("bfloat16"))
    assert matmul_unit(mixed, A100) == Unit("tensor", "bfloat16")


def test_half_precision_is_computed_in_float32() -> None:
    assert vector_dtype(op(dtype="bfloat16")) == "float32"
    assert vector_dtype(op(dtype="float64")) == "float64"


def image(*shape: int, dtype: str = "float32", last: bool = False) -> Tensor:
    channels, rows, columns = shape[1:]
    planes = (channels * rows * columns, rows * columns, columns, 1)
    return Tensor(0, dtype, shape, (planes[0], 1, channels * columns, channels) if last else planes)


def convolved(last: bool = False, bias: bool = False) -> Op:
    source, made = image(8, 64, 56, 56, last=last), image(8, 128, 56, 56, last=last)
    args = {"input": source, "weight": image(128, 64, 3, 3, last=last), "groups": 1,
            "bias": Tensor(1, "float32", (128,), (1,)) if bias else None}  # fmt: skip
    return Op(id=0, name="aten.convolution.default", phase=Phase.FORWARD, args=args, result=made)


def test_images_in_another_order_are_turned_for_tensor_cores() -> None:
    known = constants()["turned_share"]
    into, out = 8 * 64 * 56 * 56 * 4, 8 * 128 * 56 * 56 * 4
    assert job(work(1, moved=into + out), convolved(), A100).around_bytes == int(2 * (into + out) * known)
    assert job(work(1, moved=into + out), convolved(last=True), A100).around_bytes == 0
    assert job(work(1, moved=into + out), convolved(), A100, cudnn_tf32=False).around_bytes == 0


def test_a_bias_is_a_kernel_more_over_the_whole_output() -> None:
    out = 8 * 128 * 56 * 56 * 4
    plain, biased = (job(work(1), convolved(last=True, bias=bias), A100) for bias in (False, True))
    assert biased.around_bytes - plain.around_bytes == 2 * out


def test_backward_three_images_are_turned_and_the_gradient_is_summed_for_the_bias() -> None:
    source, made = image(8, 64, 56, 56), image(8, 128, 56, 56)

    def around(*mask: bool) -> int:
        args = {"grad_output": made, "input": source, "weight": image(128, 64, 3, 3), "groups": 1, "output_mask": mask}
        op = Op(id=0, name="aten.convolution_backward.default", phase=Phase.BACKWARD, args=args,
                result=(source._replace(storage=5), None, None))  # fmt: skip
        return job(work(1), op, A100).around_bytes

    into, out = source.bytes, made.bytes
    known = constants()["turned_share"]
    assert around(True, True, False) == int(2 * (out + into + into) * known)
    assert around(True, True, True) == int(2 * (out + into + into) * known) + out
    assert around(False, True, False) == int(2 * (out + into) * known)


def test_batch_norm_of_fewer_channels_than_multiprocessors_leaves_some_idle() -> None:
    def seconds(channels: int) -> float:
        source = image(8, channels, 512, 512 * 128 // channels)
        op = Op(id=0, name="aten.cudnn_batch_norm.default", phase=Phase.FORWARD, result=source,
                args={"input": source, "training": True})  # fmt: skip
        time = kernel_time(Work(read_bytes=2 * source.bytes, written_bytes=source.bytes), op, A100)
        return time.seconds - A100.kernel_floor_seconds.typical

    assert seconds(64) / seconds(128) == pytest.approx(A100.sm_count / 64)


def test_a_list_of_tensors_needs_several_launches() -> None:
    def foreach(count: int, elements: int, lists: int = 1) -> int:
        args = {f"list{i}": tuple(tensor("float32", elements) for _ in range(count)) for i in range(lists)}
        return launches(op("aten._foreach_add_.List", **args))

    assert foreach(1, 1) == 1
    assert foreach(770, 1) == 1
    assert foreach(771, 1) == 2  # a launch takes 770 tensors
    assert foreach(500, 1, lists=2) == 2  # or 448 pairs
    assert foreach(10, 65_536 * 224) == 1  # or 2,240 blocks of 65,536 elements
    assert foreach(10, 65_536 * 225) == 2
    assert launches(op("aten._foreach_add_.List")) == 1
    assert launches(op()) == 1


@given(works, dtypes, st.sampled_from(names()), st.booleans())
def test_the_interval_holds_the_time(one: Work, dtype: str, name: str, tf32: bool) -> None:
    time = kernel_time(one, op(dtype=dtype), load(name), tf32=tf32)
    assert 0 <= time.low_seconds <= time.seconds <= time.high_seconds
    assert time.bound in BOUNDS


@given(works, dtypes, st.sampled_from(names()), st.booleans())
def test_no_rate_passes_its_peak(one: Work, dtype: str, name: str, tf32: bool) -> None:
    profile, the_op = load(name), op(dtype=dtype)
    time = kernel_time(one, the_op, profile, tf32=tf32)
    once = 1 + 1e-9
    seconds = time.low_seconds
    assert one.bytes <= seconds * profile.memory_bandwidth_bytes_per_second * once
    vector_peak = profile.vector_flops_per_second[vector_dtype(the_op)]
    assert one.vector_flops <= seconds * vector_peak * once
    if time.unit:
        assert one.tensor_flops <= seconds * time.unit.peak(profile) * once
        if time.unit.cores == "vector" and time.unit.dtype == vector_dtype(the_op):
            assert one.flops <= seconds * vector_peak * once


@given(works, works, dtypes, st.sampled_from(names()))
def test_more_work_takes_no_less(one: Work, more: Work, dtype: str, name: str) -> None:
    before, after = (kernel_time(w, op(dtype=dtype), load(name)) for w in (one, one + more))
    assert before.seconds <= after.seconds * (1 + 1e-12)
    assert before.low_seconds <= after.low_seconds * (1 + 1e-12)
    assert before.high_seconds <= after.high_seconds * (1 + 1e-12)
