"""The estimate of cuDNN's workspaces: its arithmetic, and how far it is from what cuDNN 9.24 answered."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from statistics import median

import pytest
from cudnn_workspaces import DATA, MARKERS, PASSES, SETTINGS, Setting, cases, column, estimated, tables
from hypothesis import given, settings
from hypothesis import strategies as st
from opbuilder import call, new

from foretrace.graph import Op, Tensor
from foretrace.hardware import convolutions
from foretrace.hardware.convolutions import CUDNN, Convolution, convolution_of, is_channels_last, suggests_channels_last
from foretrace.hardware.gpu import gpu_of
from foretrace.hardware.profile import load
from foretrace.hardware.script import Return, Scratch
from foretrace.hardware.workspaces import extras

A100, H100, T4 = load("a100-sxm4-80gb"), load("h100-sxm5-80gb"), load("t4")


def images(*shape: int, dtype: str = "float32", last: bool = False) -> Tensor:
    """Row-major, or with the channels beside each other."""
    _, c, h, w = shape
    return new(*shape, dtype=dtype)._replace(strides=(c * h * w, 1, w * c, c) if last else (c * h * w, h * w, w, 1))


def forward(dtype: str = "float32", *, last: bool = False, channels: int = 64, window: int = 3, **args: object) -> Op:
    size = 56 + 1 - window + 2 * (window // 2)
    value, weight = (
        images(8, channels, 56, 56, dtype=dtype, last=last),
        images(64, channels, window, window, dtype=dtype, last=last),
    )
    return call(
        "aten.convolution.default",
        images(8, 64, size, size, dtype=dtype, last=last),
        input=value,
        weight=weight,
        **args,
    )


def backward(op: Op, *mask: bool) -> Op:
    """Its backward with the gradients of input, weight and bias that are wanted."""
    given = {"grad_output": op.outputs[0], "input": op.tensor("input"), "weight": op.tensor("weight")}
    named = {name: value for name, value in op.args.items() if name not in given}
    results = tuple(t for t, wanted in zip((given["input"], given["weight"]), mask, strict=False) if wanted)
    return call("aten.convolution_backward.default", results, **given, **named, output_mask=mask)


def asked(op: Op, profile: object = A100) -> list[object]:
    return list(extras(profile)(op))  # type: ignore[arg-type]


IMAGES = 8 * 64 * 56 * 56
WEIGHT = 64 * 64 * 3 * 3


def test_ampere_rounds_float32_in_copies_of_both_operands() -> None:
    assert asked(forward()) == [Scratch(4 * (IMAGES + WEIGHT), CUDNN)]
    assert asked(forward(last=True)) == [Scratch(4 * (IMAGES + WEIGHT), CUDNN)]


def test_a_backward_asks_for_one_gradient_after_the_other() -> None:
    # 64 x 64 x 3 x 3 in float32: 8 of them are less than 16 KiB for each of 108 multiprocessors.
    parts = 8 * 4 * WEIGHT
    assert parts < 16 * 1024 * 108
    gradient = Scratch(4 * (2 * IMAGES + WEIGHT), CUDNN)
    of_weight = Scratch(4 * (2 * IMAGES + WEIGHT) + parts, CUDNN)
    assert asked(backward(forward(), True, True, False)) == [gradient, Return(CUDNN), of_weight]
    assert asked(backward(forward(), False, True, True)) == [of_weight]
    assert asked(backward(forward(last=True), True, False, False)) == [
        Scratch(4 * (IMAGES + WEIGHT), CUDNN),
        Return(CUDNN),
    ]


def test_half_precision_is_brought_into_channels_last_order_and_back() -> None:
    assert asked(forward("bfloat16")) == [Scratch(2 * (2 * IMAGES + WEIGHT), CUDNN)]
    assert asked(forward("bfloat16", window=1)) == [Scratch(2 * 2 * IMAGES, CUDNN)]
    assert asked(forward("bfloat16", last=True)) == [Scratch(0, CUDNN)]


def test_channels_are_filled_up_to_vectors_of_sixteen_bytes() -> None:
    # 3 channels become 8 of two bytes.
    filled = 8 * 8 * 56 * 56 + 64 * 8 * 3 * 3
    assert asked(forward("float16", channels=3, last=True)) == [Scratch(2 * filled, CUDNN)]


def grouped(width: int, groups: int, *, last: bool = True) -> Op:
    value = images(8, width * groups, 56, 56, dtype="bfloat16", last=last)
    weight = images(width * groups, width, 3, 3, dtype="bfloat16", last=last)
    return call("aten.convolution.default", value, input=value, weight=weight, groups=groups)


def test_groups_of_a_width_without_a_kernel_are_gathered() -> None:
    """In lanes of 32 channels: 128 are four of them, 24 are filled up, and so is their weight."""
    plane = 8 * 56 * 56
    assert asked(grouped(32, 4)) == [Scratch(0, CUDNN)]
    assert asked(grouped(128, 2)) == [Scratch(2 * 2 * plane * 256, CUDNN)]
    assert asked(grouped(24, 2)) == [Scratch(2 * (2 * plane * 64 + 48 * 32 * 3 * 3), CUDNN)]
    # Row-major, a weight is reordered besides.
    assert asked(grouped(128, 2, last=False)) == [Scratch(2 * (2 * plane * 256 + 256 * 128 * 3 * 3), CUDNN)]


def test_partial_sums_of_half_precision_are_more() -> None:
    # 32 KiB for each of 108 multiprocessors is what 24 gradients of 64 x 64 x 3 x 3 in float32 are, to the byte.
    assert 24 * 4 * WEIGHT == 32 * 1024 * 108
    half = [forward("bfloat16", last=True, channels=channels) for channels in (32, 64, 128)]
    found = [asked(backward(op, False, True, False)) for op in half]
    assert found == [[Scratch(size, CUDNN)] for size in (12 * 4 * WEIGHT, 24 * 4 * WEIGHT, 24 * 4 * WEIGHT)]


def test_hopper_multiplies_float32_as_it_is() -> None:
    assert asked(forward(), H100) == [Scratch(4 * (2 * IMAGES + WEIGHT), CUDNN)]
    assert asked(forward(last=True), H100) == [Scratch(0, CUDNN)]


def one(value: Tensor, weight: Tensor, **args: object) -> list[object]:
    """What a forward takes of which the estimate is left out."""
    made = new(value.shape[0], weight.shape[0], *value.shape[2:], dtype=value.dtype)
    op = call("aten.convolution.default", made, input=value, weight=weight, **args)
    return [extra for extra in asked(op, T4) if extra.name != CUDNN]  # type: ignore[attr-defined]


def test_operands_in_another_order_are_copied() -> None:
    plain, last = (images(8, 64, 56, 56, last=order) for order in (False, True))
    weight, turned = (images(64, 64, 3, 3, last=order) for order in (False, True))
    assert one(plain, weight) == one(last, turned) == []
    assert one(last, weight) == [Scratch(4 * WEIGHT, "weight in order", True)]
    assert one(plain, turned) == [Scratch(4 * IMAGES, "input in order", True)]
    assert one(last, images(64, 64, 1, 1)) == []
    wide = [tensor._replace(dtype="float64") for tensor in (last, weight)]
    assert one(*wide) == [Scratch(8 * IMAGES, "input in order", True)]


def test_a_sequence_whose_channels_lie_beside_each_other_is_copied_into_rows() -> None:
    turned, weight = Tensor(0, "float32", (8, 64, 100), (6400, 1, 64)), new(32, 64, 3)
    assert one(turned, weight) == [Scratch(4 * 8 * 64 * 100, "input in order", True)]
    op = call("aten.convolution.default", new(8, 32, 100), input=turned, weight=weight)
    found = convolution_of(op)
    assert found is not None and not found.is_channels_last


def test_a_backward_copies_what_it_reads() -> None:
    spread = Tensor(0, "float32", (8, 64, 56, 56), (0, 0, 0, 0))
    tensors = {"grad_output": spread, "input": images(8, 64, 56, 56, last=True), "weight": images(64, 64, 3, 3)}
    op = call("aten.convolution_backward.default", new(1), **tensors, output_mask=(True, False, False))
    found = [extra for extra in asked(op, T4) if extra.name != CUDNN]  # type: ignore[attr-defined]
    assert found == [
        Scratch(4 * IMAGES, "grad_output in order", True),
        Scratch(4 * WEIGHT, "weight in order"),
        Return("weight in order"),
    ]


@settings(deadline=None)
@given(st.permutations(range(4)), st.lists(st.sampled_from((1, 2, 5)), min_size=4, max_size=4))
def test_the_order_that_is_suggested_is_pytorchs(order: list[int], shape: list[int]) -> None:
    torch = pytest.importorskip("torch")
    strides, step = [0] * 4, 1
    for place in order:
        strides[place], step = step, step * shape[place]
    theirs = torch.empty_strided(shape, strides, device="meta")
    kept = torch._prims_common.suggest_memory_format(theirs) is torch.channels_last
    assert suggests_channels_last(Tensor(0, "float32", tuple(shape), tuple(strides))) is kept


def test_without_tensor_cores_next_to_nothing_is_asked() -> None:
    found = convolution_of(forward())
    assert found is not None
    assert asked(forward(), T4) == asked(forward("float64")) == [Scratch(0, CUDNN)]
    assert convolutions.forward_bytes(found, gpu_of(A100), tf32=False) == 0


def test_depthwise_convolutions_have_kernels_of_pytorchs() -> None:
    value, weight = images(8, 64, 56, 56), images(64, 1, 3, 3)
    op = call("aten.convolution.default", value, input=value, weight=weight, groups=64)
    assert asked(op) == [Scratch(0, CUDNN)]


def test_a_transposed_convolution_is_the_gradient_of_a_plain_one() -> None:
    small, large, weight = images(8, 64, 28, 28), images(8, 32, 56, 56), images(64, 32, 2, 2)
    plain = Convolution(
        sizes=convolutions.Sizes(large.bytes, weight.bytes, small.bytes),
        dtype="float32",
        is_channels_last=False,
        has_whole_vectors=True,
        is_pointwise=False,
        is_depthwise=False,
        is_gathered=False,
        weight_elements=64 * 32 * 2 * 2,
    )
    up = call("aten.convolution.default", large, input=small, weight=weight, transposed=True)
    gpu = gpu_of(A100)
    assert convolution_of(up) == plain
    assert asked(up) == [Scratch(convolutions.input_gradient_bytes(plain, gpu), CUDNN)]
    gradients = asked(backward(up, True, True, False))
    assert gradients[0] == Scratch(convolutions.forward_bytes(plain, gpu), CUDNN)
    assert gradients[2] == Scratch(convolutions.weight_gradient_bytes(plain, gpu), CUDNN)


def test_nothing_is_asked_for_nothing() -> None:
    empty = images(0, 64, 56, 56)
    assert asked(call("aten.convolution.default", empty, input=empty, weight=images(64, 64, 1, 1))) == []


def test_one_channel_is_in_any_order() -> None:
    assert not is_channels_last(images(2, 1, 4, 4))
    assert is_channels_last(images(2, 8, 4, 4, last=True))


# -- against cuDNN --------------------------------------------------------------------------------


def answers() -> list[dict[str, str]]:
    with open(DATA, newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize(
    ("setting", "most"), [(SETTINGS[0], 0.05), (SETTINGS[1], 0.05), (SETTINGS[2], 0.10), (SETTINGS[5], 0.05)], ids=str
)
def test_the_largest_workspace_of_models_held_out_is_near_cudnns(setting: Setting, most: float) -> None:
    gpu = gpu_of(load(setting.gpu))
    asked, said = Counter[str](), Counter[str]()
    held_out = [row for row in answers() if row["part"] == "held out"]
    for row, case in zip(held_out, cases(held_out), strict=True):
        for name in PASSES:
            asked[case.model] = max(asked[case.model], int(row[column(setting, name)]))
            said[case.model] = max(said[case.model], estimated(case, setting, name, gpu))
    assert len(asked) == 9
    assert median(abs(said[model] / asked[model] - 1) for model in asked) < most


def test_the_page_has_the_tables_of_these_answers() -> None:
    page = (Path(__file__).parents[2] / "docs" / "accuracy_memory.md").read_text()
    begin, end = MARKERS
    assert page.split(begin)[1].split(end)[0].strip() == "\n".join(tables(answers())).strip()
