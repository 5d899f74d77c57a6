"""The estimate of cuDNN's workspaces: its arithmetic, and how far it is from what cuDNN 9.24 answered."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from opbuilder import call, new

from foretrace.graph import Op, Tensor
from foretrace.hardware import convolutions
from foretrace.hardware.convolutions import CUDNN, Convolution, convolution_of, is_channels_last
from foretrace.hardware.gpu import gpu_of
from foretrace.hardware.profile import load
from foretrace.hardware.script import Return, Scratch
from foretrace.hardware.workspaces import extras

A100, H100, T4 = load("a100-sxm4-80gb"), load("h100-sxm5-80gb"), load("t4")
ANSWERS = Path(__file__).parents[2] / "benchmarks" / "data" / "cudnn_workspaces.csv"


def images(*shape: int, dtype: str = "float32", last: bool = False) -> Tensor:
    """Row-major, or with the channels beside each other."""
    _, c, h, w = shape
    return new(*shape, dtype=dtype)._replace(strides=(c * h * w, 1, w * c, c) if last else (c * h * w, h * w, w, 1))


def forward(dtype: str = "float32", *, last: bool = False, channels: int = 64, window: int = 3, **args: object) -> Op:
    size = 56 + 1 - window + 2 * (window // 2)
    value, weight = (
        images(8, channels, 56, 56, dtype=dtype, last=last),
        images(64, channels, window, window, dtype=dtype),
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


def test_hopper_multiplies_float32_as_it_is() -> None:
    assert asked(forward(), H100) == [Scratch(4 * (2 * IMAGES + WEIGHT), CUDNN)]
    assert asked(forward(last=True), H100) == [Scratch(0, CUDNN)]


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


@pytest.mark.parametrize(
    ("setting", "dtype", "last", "most"),
    [
        ("a100-sxm4-40gb float32 (TF32) NCHW", "float32", False, 0.05),
        ("a100-sxm4-40gb float32 (TF32) NHWC", "float32", True, 0.05),
        ("a100-sxm4-40gb bfloat16 NCHW", "bfloat16", False, 0.10),
    ],
)
def test_the_largest_workspace_of_models_held_out_is_near_cudnns(
    setting: str, dtype: str, last: bool, most: float
) -> None:
    gpu = replace(gpu_of(load("a100-sxm4-40gb")))
    said: dict[str, int] = {}
    answered: dict[str, int] = {}
    for row in csv.DictReader(ANSWERS.read_text().splitlines()):
        if row["part"] != "held out":
            continue
        value, weight = (tuple(map(int, row[name].split("x"))) for name in ("input", "weight"))
        steps, pads, apart = (tuple(map(int, row[name].split("x"))) for name in ("stride", "padding", "dilation"))
        result = (
            value[0],
            weight[0],
            *(
                (n + 2 * p - d * (k - 1) - 1) // s + 1
                for n, k, s, p, d in zip(value[2:], weight[2:], steps, pads, apart, strict=True)
            ),
        )
        tensors = [
            Tensor(0, dtype, shape, (0, 1 if last else 2, *(3 for _ in shape[2:]))) for shape in (value, weight, result)
        ]
        found = convolutions.convolution(*tensors, groups=int(row["groups"]))
        for name, ask in (
            ("forward", convolutions.forward_bytes),
            ("input gradient", convolutions.input_gradient_bytes),
            ("weight gradient", convolutions.weight_gradient_bytes),
        ):
            said[row["model"]] = max(said.get(row["model"], 0), ask(found, gpu))
            answered[row["model"]] = max(answered.get(row["model"], 0), int(row[f"{setting}, {name}"] or 0))
    assert len(said) == 9
    assert median(abs(said[model] / answered[model] - 1) for model in said) < most
