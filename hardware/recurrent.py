"""Recurrent layers by cuDNN -> the copies that PyTorch makes for it, which no op returns.

cuDNN wants time steps outermost, so what comes with the batch first is copied. What cuDNN takes itself is not known
(`workspaces.UNKNOWN`).

https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cudnn/RNN.cpp, _cudnn_rnn, _cudnn_rnn_backward.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..graph import Op, Tensor
from ..graph.op import tensors
from .extra_rules import Setting, rule
from .operands import is_contiguous
from .script import Extra, Return, Scratch


@rule("_cudnn_rnn")
def layers(op: Op, setting: Setting) -> Iterator[Extra]:
    """The input in order of time."""
    yield from _in_time(op, "input")


@rule("_cudnn_rnn_backward")
def layers_backward(op: Op, setting: Setting) -> Iterator[Extra]:
    """The gradients that nobody gave, as zeros; input and gradient in order of time.

    The gradient's copy is given back before the weights' gradients are made; where these are smaller it counts to the
    end. Weights without biases are copied out of a buffer as large.
    """
    for name, like in (("grad_output", "output"), ("grad_hy", "hx"), ("grad_cy", "cx")):
        value = op.get(like)
        if op.get(name) is None and isinstance(value, Tensor):
            yield Scratch(value.bytes, name, True)
    weight_bytes = sum(weight.bytes for weight in tensors(op.args["weight"]))
    yield from _in_time(op, "input")
    for copy in _in_time(op, "grad_output"):
        yield copy
        if copy.bytes < weight_bytes:
            yield Return(copy.name, True)
    if op.get("weight_stride0", 4) in (2, 3):
        yield Scratch(weight_bytes, "gradients of the weights")


@rule("_pack_padded_sequence")
def pack(op: Op, setting: Setting) -> Iterator[Extra]:
    """A copy of each run of steps that the same sequences reach, before they are joined.

    A run that lies in one piece is not copied: of all sequences, where time is outermost; that is known here only if
    all are of full length.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/PackedSequence.cpp, _pack_padded_sequence.
    """
    value, packed = op.tensor("input"), op.outputs[0]
    if packed.numel < value.numel or not _is_in_time(op, value):
        yield Scratch(packed.bytes, "runs of steps", True)


def _in_time(op: Op, name: str) -> Iterator[Scratch]:
    value = op.get(name)
    if isinstance(value, Tensor) and not _is_in_time(op, value):
        yield Scratch(value.numel * value.itemsize, f"{name} in order of time", True)


def _is_in_time(op: Op, value: Tensor) -> bool:
    """Whether its time steps lie outermost in memory, one after another."""
    if len(value.shape) < 3 or not op.get("batch_first", False):
        return is_contiguous(value)
    return is_contiguous(Tensor(value.storage, value.dtype, _swapped(value.shape), _swapped(value.strides)))


def _swapped(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return (sizes[1], sizes[0], *sizes[2:])
