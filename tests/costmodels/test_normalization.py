"""Norms and softmax: exact work, from the terms that each constant lists."""

from hypothesis import given
from hypothesis import strategies as st
from opbuilder import new, work

from foretrace.costmodels import Work

ROWS, WIDTH = 6, 10
ELEMENTS = ROWS * WIDTH


def test_layer_norm():
    made = (new(ROWS, WIDTH), new(ROWS, 1), new(ROWS, 1))
    given = {"input": new(ROWS, WIDTH), "normalized_shape": (WIDTH,), "weight": new(WIDTH), "bias": new(WIDTH)}
    assert work("aten.native_layer_norm.default", made, **given, eps=1e-5) == Work(
        # mean, and subtract-square-add; subtract and multiply; scale and shift; four per row
        vector_flops=(1 + 3 + 2 + 2) * ELEMENTS + 4 * ROWS,
        read_bytes=4 * (ELEMENTS + 2 * WIDTH),
        written_bytes=4 * (ELEMENTS + 2 * ROWS),
    )


def layer_norm_backward(mask: tuple[bool, bool, bool]) -> Work:
    wanted = (new(ROWS, WIDTH), new(WIDTH), new(WIDTH))
    return work(
        "aten.native_layer_norm_backward.default",
        tuple(tensor if asked else None for tensor, asked in zip(wanted, mask, strict=True)),
        grad_out=new(ROWS, WIDTH),
        input=new(ROWS, WIDTH),
        normalized_shape=(WIDTH,),
        mean=new(ROWS, 1),
        rstd=new(ROWS, 1),
        weight=new(WIDTH),
        bias=new(WIDTH),
        output_mask=mask,
    )


def test_layer_norm_backward_does_what_its_mask_asks():
    # rebuild 2, scale 1, sums 1 + 2, result 4: ten; scale's gradient 2; shift's 1
    assert layer_norm_backward((True, True, True)).vector_flops == (10 + 2 + 1) * ELEMENTS
    assert layer_norm_backward((True, False, False)).vector_flops == 10 * ELEMENTS
    assert layer_norm_backward((False, True, False)).vector_flops == (2 + 2) * ELEMENTS
    assert layer_norm_backward((False, False, True)).vector_flops == ELEMENTS
    assert layer_norm_backward((True, True, True)).written_bytes == 4 * (ELEMENTS + 2 * WIDTH)


def test_rms_norm_has_no_mean():
    source, scale = new(ROWS, WIDTH), new(WIDTH)
    made = (new(ROWS, WIDTH), new(ROWS, 1))
    shape = (WIDTH,)
    forward = work("aten._fused_rms_norm.default", made, input=source, normalized_shape=shape, weight=scale, eps=None)
    assert forward.vector_flops == (2 + 1 + 1) * ELEMENTS + 3 * ROWS
    given = {"grad_out": new(ROWS, WIDTH), "input": source, "normalized_shape": shape, "rstd": made[1], "weight": scale}
    backward = work("aten._fused_rms_norm_backward.default", made, **given, output_mask=(True, True))
    # rebuild 1, scale 1, sum 2, result 3; scale's gradient 2
    assert backward.vector_flops == (7 + 2) * ELEMENTS


BATCH, CHANNELS, SIDE = 2, 3, 4
PIXELS = BATCH * CHANNELS * SIDE * SIDE


def batch_norm(**changed: object) -> Work:
    given = {
        "input": new(BATCH, CHANNELS, SIDE, SIDE),
        "weight": new(CHANNELS),
        "bias": new(CHANNELS),
        "running_mean": new(CHANNELS),
        "running_var": new(CHANNELS),
        "training": True,
    }
    made = (new(BATCH, CHANNELS, SIDE, SIDE), new(CHANNELS), new(CHANNELS))
    return work("aten.native_batch_norm.default", made, **(given | changed))


def test_batch_norm_in_training_reads_twice_and_moves_its_statistics():
    assert batch_norm() == Work(
        vector_flops=8 * PIXELS + (4 + 6) * CHANNELS,
        read_bytes=4 * (2 * PIXELS + 4 * CHANNELS),
        written_bytes=4 * (PIXELS + 2 * CHANNELS + 2 * CHANNELS),
    )


def test_batch_norm_without_statistics_of_its_own_writes_none():
    plain = batch_norm(running_mean=None, running_var=None)
    assert plain.vector_flops == 8 * PIXELS + 4 * CHANNELS
    assert plain.written_bytes == 4 * (PIXELS + 2 * CHANNELS)


def test_a_schema_that_declares_the_statistics_changed_does_not_count_them_twice():
    running = {"running_mean": new(CHANNELS), "running_var": new(CHANNELS)}
    given = {"input": new(BATCH, CHANNELS, SIDE, SIDE), "weight": new(CHANNELS), "bias": new(CHANNELS)} | running
    made = (new(BATCH, CHANNELS, SIDE, SIDE), new(CHANNELS), new(CHANNELS))
    declared = work("aten._native_batch_norm_legit.default", made, mutates=tuple(running), training=True, **given)
    assert declared == batch_norm()


def test_batch_norm_in_inference_only_rescales():
    assert batch_norm(training=False).vector_flops == 4 * PIXELS + 2 * CHANNELS
    assert batch_norm(training=False).read_bytes == 4 * (PIXELS + 4 * CHANNELS)


def test_batch_norm_backward_reads_input_and_gradient_twice():
    made = (new(BATCH, CHANNELS, SIDE, SIDE), new(CHANNELS), new(CHANNELS))
    counted = work(
        "aten.cudnn_batch_norm_backward.default",
        made,
        input=new(BATCH, CHANNELS, SIDE, SIDE),
        grad_output=new(BATCH, CHANNELS, SIDE, SIDE),
        weight=new(CHANNELS),
    )
    assert counted == Work(
        vector_flops=13 * PIXELS,
        read_bytes=4 * (4 * PIXELS + CHANNELS),
        written_bytes=4 * (PIXELS + 2 * CHANNELS),
    )


@given(st.integers(1, 20), st.integers(1, 20))
def test_softmax_is_five_per_element_and_its_derivative_four(rows: int, width: int):
    source, made = new(rows, width), new(rows, width)
    counted = work("aten._softmax.default", made, self=source, dim=-1, half_to_float=False)
    assert counted == Work(vector_flops=5 * rows * width, read_bytes=source.bytes, written_bytes=made.bytes)
    logarithm = work("aten._log_softmax.default", made, self=source, dim=-1, half_to_float=False)
    assert logarithm.vector_flops == 5 * rows * width + rows
    derivative = work("aten._softmax_backward_data.default", new(rows, width), grad_output=source, output=made, dim=-1)
    assert derivative == Work(vector_flops=4 * rows * width, read_bytes=2 * made.bytes, written_bytes=made.bytes)


def test_softmax_may_widen_its_type():
    counted = work("aten._softmax.default", new(2, 3), self=new(2, 3, dtype="float16"), dim=-1, half_to_float=True)
    assert (counted.read_bytes, counted.written_bytes) == (12, 24)


def test_batch_norm_over_several_devices():
    source, channel = new(BATCH, CHANNELS, SIDE, SIDE), new(CHANNELS)
    statistics = work("aten.batch_norm_stats.default", (new(CHANNELS), new(CHANNELS)), input=source, eps=1e-5)
    assert statistics.vector_flops == 4 * PIXELS + 4 * CHANNELS
    applied = work("aten.batch_norm_elemt.default", source, input=source, weight=channel, bias=channel, mean=channel)
    assert applied.vector_flops == 4 * PIXELS


def test_group_norm_reads_twice():
    made = (new(BATCH, CHANNELS, SIDE, SIDE), new(BATCH, 1), new(BATCH, 1))
    given = {"input": new(BATCH, CHANNELS, SIDE, SIDE), "weight": new(CHANNELS), "bias": new(CHANNELS)}
    assert work("aten.native_group_norm.default", made, **given) == Work(
        vector_flops=8 * PIXELS + 4 * BATCH,
        read_bytes=4 * (2 * PIXELS + 2 * CHANNELS),
        written_bytes=4 * (PIXELS + 2 * BATCH),
    )
