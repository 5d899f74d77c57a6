"""The copies that PyTorch makes for cuDNN's recurrent layers, with the arithmetic spelled out."""

from __future__ import annotations

from typing import Any

from opbuilder import call, new

from foretrace.graph import Op
from foretrace.hardware.profile import load
from foretrace.hardware.script import Extra, Return, Scratch
from foretrace.hardware.workspaces import extras, unknown

A100 = load("a100-sxm4-80gb")
BATCH, TIME, WIDTH, HIDDEN = 4, 5, 16, 32
WEIGHTS = (new(96, WIDTH), new(96, HIDDEN), new(96), new(96))
INPUT_BYTES, OUTPUT_BYTES = 4 * BATCH * TIME * WIDTH, 4 * BATCH * TIME * HIDDEN


def taken(op: Op) -> list[Extra]:
    return list(extras(A100)(op))


def forward(*shape: int, **args: Any) -> list[Extra]:
    return taken(call("aten._cudnn_rnn.default", new(5, 4, HIDDEN), input=new(*shape), mode=3, **args))


def backward(weight: tuple[Any, ...] = WEIGHTS, **args: Any) -> list[Extra]:
    given = {"input": new(BATCH, TIME, WIDTH), "output": new(BATCH, TIME, HIDDEN), "hx": new(1, BATCH, HIDDEN)}
    return taken(call("aten._cudnn_rnn_backward.default", new(BATCH, TIME, WIDTH), weight=weight, **(given | args)))


def test_what_comes_with_the_batch_first_is_copied() -> None:
    assert forward(BATCH, TIME, WIDTH, batch_first=True) == [Scratch(INPUT_BYTES, "input in order of time", True)]
    assert forward(TIME, BATCH, WIDTH, batch_first=False) == []
    assert forward(1, TIME, WIDTH, batch_first=True) == []
    assert forward(TIME * BATCH, WIDTH, batch_first=True, batch_sizes=(4,) * 5) == []


def test_backward_copies_gradients_too_and_fills_those_that_nobody_gave() -> None:
    weights = 4 * 96 * (WIDTH + HIDDEN + 2)
    given = {"batch_first": True, "grad_output": new(BATCH, TIME, HIDDEN), "grad_hy": None}
    assert backward(weight_stride0=4, **given) == [
        Scratch(4 * BATCH * HIDDEN, "grad_hy", True),
        Scratch(INPUT_BYTES, "input in order of time", True),
        Scratch(OUTPUT_BYTES, "grad_output in order of time", True),
        Return("grad_output in order of time", True),
    ]
    assert weights > OUTPUT_BYTES
    given["batch_first"] = False
    assert backward(weight_stride0=4, **given) == [
        Scratch(4 * BATCH * HIDDEN, "grad_hy", True),
    ]


def test_gradients_of_weights_without_biases_come_out_of_a_buffer() -> None:
    found = backward(WEIGHTS[:2], weight_stride0=2, grad_output=new(BATCH, TIME, HIDDEN), grad_hy=new(1, 4, HIDDEN))
    assert found[-1] == Scratch(4 * 96 * (WIDTH + HIDDEN), "gradients of the weights")


def test_what_cudnn_itself_takes_stays_named() -> None:
    op = call("aten._cudnn_rnn.default", new(5, 4, HIDDEN), input=new(5, 4, WIDTH))
    assert unknown([op]) == ("aten._cudnn_rnn",)


def test_packing_copies_runs_of_steps() -> None:
    def packed(rows: int, *shape: int, batch_first: bool) -> list[Extra]:
        results = new(rows, WIDTH), new(5, dtype="int64")
        given = {"input": new(*shape, WIDTH), "lengths": new(4, dtype="int64"), "batch_first": batch_first}
        return taken(call("aten._pack_padded_sequence.default", results, **given))

    assert packed(12, BATCH, TIME, batch_first=True) == [Scratch(4 * 12 * WIDTH, "runs of steps", True)]
    assert packed(20, BATCH, TIME, batch_first=True) == [Scratch(4 * 20 * WIDTH, "runs of steps", True)]
    assert packed(12, TIME, BATCH, batch_first=False) == [Scratch(4 * 12 * WIDTH, "runs of steps", True)]
    assert packed(20, TIME, BATCH, batch_first=False) == []
