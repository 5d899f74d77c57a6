"""Sizes become the share of the peak: exactly where waves are countable, never above the best, for any sizes."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrace.graph.op import Op, Tensor
from foretrace.graph.phase import Phase
from foretrace.hardware.constants import constants
from foretrace.hardware.problems import Problem, problems
from foretrace.hardware.tiles import share_of_peak

SIZES = st.integers(1, 10**5)
KINDS = st.sampled_from(
    ["matrix", "batched", "attention", "convolution", "grouped", "grouped_direct", "grouped_channels_last", "depthwise"]
)
CORES = st.sampled_from(["tensor", "vector"])


def share(problem: Problem, cores: str = "tensor", best: float = 0.8, multiprocessors: int = 108) -> float:
    return share_of_peak(problem, cores, best, multiprocessors, 150.0, constants())


@given(
    st.builds(Problem, KINDS, st.integers(1, 512), SIZES, SIZES, SIZES, st.just(2), st.booleans(), st.booleans()),
    CORES,
    st.floats(0.05, 1),
    st.integers(1, 200),
)
def test_no_share_passes_the_best(problem: Problem, cores: str, best: float, multiprocessors: int) -> None:
    assert 0 < share(problem, cores, best, multiprocessors) <= best


@given(SIZES, SIZES, SIZES, CORES)
def test_more_terms_take_no_less_time(m: int, n: int, k: int, cores: str) -> None:
    one, longer = Problem("batched", 4, m, n, k, 2), Problem("batched", 4, m, n, k + 1, 2)
    assert one.flops / share(one, cores) <= longer.flops / share(longer, cores) * (1 + 1e-9)


def test_one_tile_too_many_costs_a_whole_wave() -> None:
    full = Problem("batched", 108, 128, 128, 1024, 4)
    over = full._replace(batch=109)
    start = constants()["tile_terms.vector_batched"]
    assert share(full, "vector") == pytest.approx(0.8 * 1024 / (1024 + start))
    assert share(over, "vector") == pytest.approx(0.8 * 1024 / (1024 + start) * 109 / 216)


def test_a_narrow_batched_float32_product_pads_to_its_tile() -> None:
    wide, narrow = (Problem("batched", 1080, 512, n, 512, 4) for n in (128, 64))
    assert share(narrow, "vector") == pytest.approx(share(wide, "vector") / 2)


def test_few_tiles_split_the_contraction() -> None:
    deep = Problem("matrix", 1, 256, 256, 65_536, 2)
    largest_alone = 0.8 / 108 * 65_536 / (65_536 + constants()["tile_terms.tensor"]) * 2
    assert share(deep) > 4 * largest_alone


def test_rows_that_do_not_start_at_16_bytes_are_slower() -> None:
    plain = Problem("matrix", 1, 4096, 4096, 4096, 2)
    assert share(plain._replace(aligned=False)) == pytest.approx(share(plain) * constants()["unaligned_share"])


def op(name: str, result: Tensor, **args: object) -> Op:
    return Op(id=0, name=name, phase=Phase.FORWARD, args=args, result=result)


def dense(*shape: int, dtype: str = "float16") -> Tensor:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return Tensor(0, dtype, shape, tuple(reversed(strides)))


def test_a_linear_layer_is_a_matrix_product() -> None:
    one = op("aten.addmm.default", dense(8, 6), self=dense(6), mat1=dense(8, 16), mat2=dense(16, 6))
    assert problems(one) == (Problem("matrix", 1, 8, 6, 16, 2, aligned=False),)


def test_a_batch_of_one_is_a_matrix_product() -> None:
    several, single = (
        op("aten.bmm.default", dense(b, 8, 32), self=dense(b, 8, 64), mat2=dense(b, 64, 32)) for b in (3, 1)
    )
    assert problems(several) == (Problem("batched", 3, 8, 32, 64, 2),)
    assert problems(single) == (Problem("matrix", 1, 8, 32, 64, 2),)


def test_a_convolution_is_a_product_of_patches_and_its_gradients_are_two_more() -> None:
    image, weight, made = dense(4, 16, 10, 10), dense(32, 16, 3, 3), dense(4, 32, 8, 8)
    forward = op("aten.convolution.default", made, input=image, weight=weight, groups=1)
    positions = 4 * 8 * 8
    assert problems(forward) == (Problem("convolution", 1, positions, 32, 16 * 9, 2),)
    backward = op("aten.convolution_backward.default", image, grad_output=made, input=image, weight=weight, groups=1,
                  output_mask=(True, True, False))  # fmt: skip
    assert problems(backward) == (
        Problem("convolution", 1, positions, 16, 32 * 9, 2, backward=True),
        Problem("convolution", 1, 32, 16 * 9, positions, 2, backward=True),
    )
    assert {p.flops for p in problems(backward)} == {problems(forward)[0].flops}


def in_groups(groups: int, channels: int, last: bool = False) -> Problem:
    """The forward product of a convolution of that many groups of so many channels."""
    image, made = dense(4, groups * channels, 10, 10), dense(4, groups * channels, 8, 8)
    if last:
        image = image._replace(strides=(groups * channels * 100, 1, groups * channels * 10, groups * channels))
    weight = dense(groups * channels, channels, 3, 3)
    return problems(op("aten.convolution.default", made, input=image, weight=weight, groups=groups))[0]


@pytest.mark.parametrize(
    ("groups", "channels", "last", "kind"),
    [
        (1, 64, False, "convolution"),
        (1, 64, True, "convolution"),
        (64, 1, True, "depthwise"),
        (32, 8, False, "grouped_direct"),
        (64, 4, True, "grouped_direct"),
        (32, 64, False, "grouped"),
        (16, 8, False, "grouped"),
        (4, 48, True, "grouped_channels_last"),
    ],
)
def test_which_kernels_a_convolution_has(groups: int, channels: int, last: bool, kind: str) -> None:
    found = in_groups(groups, channels, last)
    assert found[:5] == (kind, groups, 4 * 8 * 8, channels, 9 * channels)
    assert found.is_convolution and not Problem("matrix", 1, 8, 8, 8, 2).is_convolution


def test_kernels_of_groups_cut_their_images_otherwise() -> None:
    known = constants()
    for channels, last, kind in ((8, False, "grouped_direct"), (48, True, "grouped_channels_last")):
        assert share(in_groups(32, channels, last)) == pytest.approx(0.8 * known[f"product_share.{kind}"])


def test_convolutions_leave_fast_tensor_cores_hungry_and_plain_products_do_not() -> None:
    layer = Problem("convolution", 1, 1 << 16, 256, 2304, 2)
    fed = share_of_peak(layer, "tensor", 0.8, 108, 200.0, constants())
    hungry = share_of_peak(layer, "tensor", 0.8, 108, 200.0, constants(), True)
    assert hungry == pytest.approx(fed * constants()["product_share.fast_convolution"])
    product = layer._replace(kind="matrix")
    assert share_of_peak(product, "tensor", 0.8, 108, 200.0, constants(), True) == share(product)


def test_attention_is_a_product_a_head() -> None:
    query = dense(2, 12, 100, 64)
    one = op("aten._scaled_dot_product_flash_attention.default", query, query=query, key=query, value=query)
    assert problems(one) == (Problem("attention", 24, 100, 100, 64, 2),)
    blocks, waves = 24, ceil(24 / 108)
    expected = 0.8 * constants()["product_share.attention_forward"] * blocks / (waves * 108) * 100 / 128 * 100 / 228
    assert share(problems(one)[0]) == pytest.approx(expected)


def test_what_lacks_its_operands_has_no_sizes() -> None:
    assert problems(op("aten.mm.default", dense(2, 2), self=dense(2, 2))) == ()
    assert problems(op("aten.add.Tensor", dense(2, 2), self=dense(2, 2))) == ()
