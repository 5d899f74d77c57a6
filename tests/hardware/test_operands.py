"""Which operands of matrix products are copied, by strides, and in the step where it matters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foretrace.graph import Op, Phase, Tensor
from foretrace.hardware import device_memory, load
from foretrace.hardware.operands import operand_copies
from foretrace.hardware.script import Scratch
from foretrace.tracer import trace


def product(left: tuple[int, ...], strides: tuple[int, ...], name: str = "aten.mm.default") -> Op:
    """A product whose left operand has these strides; the right one is contiguous."""
    one = Tensor(0, "float16", left, strides)
    right = (*left[:-2], left[-1], 4)
    dense = (left[-1] * 4, 4, 1)[-len(right) :]
    args = {"self": one, "mat2": Tensor(1, "float16", right, dense)}
    return Op(id=0, name=name, phase=Phase.FORWARD, args=args, result=None)


@pytest.mark.parametrize(
    ("shape", "strides", "copied"),
    [
        ((8, 16), (16, 1), 0),
        ((8, 16), (1, 8), 0),
        ((8, 16), (64, 1), 0),
        ((8, 16), (0, 0), 8 * 16 * 2),
        ((8, 16), (0, 1), 8 * 16 * 2),
        ((8, 16), (32, 2), 8 * 16 * 2),
        ((1, 16), (0, 1), 0),
    ],
)
def test_a_matrix_is_copied_unless_it_lies_by_rows_or_by_columns(
    shape: tuple[int, ...], strides: tuple[int, ...], copied: int
) -> None:
    expected = [Scratch(copied, "contiguous copy of self")] if copied else []
    assert list(operand_copies(product(shape, strides))) == expected


def test_a_batch_may_repeat_its_matrix_but_not_a_row() -> None:
    assert list(operand_copies(product((3, 8, 16), (0, 16, 1), "aten.bmm.default"))) == []
    assert list(operand_copies(product((3, 8, 16), (128, 0, 1), "aten.bmm.default"))) == [
        Scratch(3 * 8 * 16 * 2, "contiguous copy of self")
    ]


def test_the_gradient_of_a_sum_is_copied_whole() -> None:
    """It is a number without strides: beside the logits, the copy and the new gradient of the weight are alive."""
    profile = load("a100-sxm4-80gb")
    graph = trace(lambda: (nn.Linear(64, 65536), torch.randn(256, 64), lambda output: output.sum()), optimizer=None)
    logits, weight, inputs = 256 * 65536 * 4, 64 * 65536 * 4, 256 * 64 * 4
    expected = 2 * logits + 2 * weight + 65536 * 4 + inputs + 2 * profile.cublas_workspace_bytes
    assert abs(device_memory(graph, profile).requested_peak_bytes - expected) < 2**16
