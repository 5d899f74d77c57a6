"""Turns recurrent layers into work: the products of every weight matrix at every time step, and the gates.

A *step* is one time step of one sequence in one layer and direction. Each step meets every element of the layer's
weight matrices once. A *unit* is one element of the hidden state; what the gates cost is counted per unit.

Weights count as read once: they stay in cache from one time step to the next, if they fit.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from ..graph import Op, Tensor
from ..graph.op import tensors
from .rules import aten, rule
from .work import Work, flags, integer, moves


class Cell(NamedTuple):
    """Vector FLOPs per unit of one step, forward and backward, and its number of gates."""

    gates: int
    forward: int
    backward: int


PLAIN = Cell(gates=1, forward=1, backward=3)
"""One relu or tanh; backward gradient * (1 - h * h)."""

LSTM = Cell(gates=4, forward=18, backward=23)
"""Forward: three sigmoids (4 each), two tanh, c = f * c + i * g (3), o * tanh(c) (1).
Backward: tanh(c) (1); gradient of c: dh * o * (1 - t * t), added (5); of each of i, f, g, o: three multiplies and a
subtract (16); of the previous c: one multiply."""

GRU = Cell(gates=3, forward=13, backward=16)
"""Forward: two sigmoids (4 each), r * product (1), tanh (1), h = n + z * (h - n) (3).
Backward: of z: dh * (h - n) * z * (1 - z) (5); of n: dh * (1 - z) * (1 - n * n), with 1 - z at hand (4); of r: the
product * dn * r * (1 - r) (4); of the hidden product: r * dn (1); of the previous h: dh * z, added (2)."""

CELLS = (PLAIN, PLAIN, LSTM, GRU)
"""By the ``mode`` argument: relu, tanh, LSTM, GRU (``cudnnRNNMode_t``)."""


def cell(op: Op) -> Cell:
    """The kind of cell that the op's mode says."""
    return CELLS[integer(op, "mode", 2)]


def matrices(op: Op) -> list[Tensor]:
    """The weight matrices among the arguments: two or three for each layer and direction."""
    named = (value for name, value in op.args.items() if name.startswith("weight") and name != "weight_buf")
    return [t for value in named for t in tensors(value) if len(t.shape) == 2]


def biases(op: Op) -> int:
    """How many biases a gate has: cuDNN and its likes carry two."""
    return 2 if any(len(t.shape) == 1 and t.numel > 0 for t in weights(op)) else 0


def weights(op: Op) -> list[Tensor]:
    """All weights among the arguments, biases included."""
    return [t for name, value in op.args.items() if name.startswith("weight") for t in tensors(value)]


def steps(op: Op) -> int:
    """Time steps of all sequences: every row of the input is one."""
    return prod(op.tensor("input").shape[:-1])


def units(op: Op) -> int:
    """Elements of hidden state that the op computes over all steps, layers and directions.

    Each layer and direction has one matrix that the input meets, of as many rows as it has gates and units.
    """
    directions = 2 if op.get("bidirectional", False) and "mkldnn" not in op.packet else 1
    layers = 1 if "mkldnn" in op.packet else integer(op, "num_layers", 1)
    return steps(op) * layers * directions * integer(op, "hidden_size", 0)


@rule(*aten("_cudnn_rnn miopen_rnn mkldnn_rnn_layer"))
def layers(op: Op) -> Work:
    """Every matrix at every step; per unit the gates, the join of the two products, and the biases.

    oneDNN's op is one layer in one direction; cuDNN's is all of them.
    """
    kind = cell(op)
    products = 2 * steps(op) * sum(t.numel for t in matrices(op))
    per_unit = kind.forward + kind.gates * (1 + biases(op))
    return moves(op, tensor_flops=products, vector_flops=per_unit * units(op))


def gradients_of_products(op: Op) -> int:
    """How many products as large as the forward's: for what came in, and for the weights."""
    return 1 + flags(op, "output_mask", 4)[3]


@rule(*aten("_cudnn_rnn_backward miopen_rnn_backward mkldnn_rnn_layer_backward"))
def layers_backward(op: Op) -> Work:
    """The gates' derivatives at every step, and two products for each matrix: towards its input, and its own gradient.

    A bias's gradient is one add per gate, unit and step.
    """
    kind = cell(op)
    times = gradients_of_products(op)
    products = 2 * steps(op) * sum(t.numel for t in matrices(op)) * times
    per_unit = kind.backward + (kind.gates * biases(op) if times == 2 else 0)
    return moves(op, tensor_flops=products, vector_flops=per_unit * units(op))


def cell_biases(op: Op) -> int:
    """The biases that a fused cell adds: none, or both."""
    return sum(isinstance(op.get(name), Tensor) for name in ("input_bias", "hidden_bias"))


@rule("aten._thnn_fused_lstm_cell")
def lstm_cell(op: Op) -> Work:
    """The gates of one LSTM step, whose products came before."""
    per_unit = LSTM.forward + LSTM.gates * (1 + cell_biases(op))
    return moves(op, vector_flops=per_unit * op.tensor("cx").numel)


@rule(*aten("_thnn_fused_lstm_cell_backward_impl _thnn_fused_lstm_cell_backward"))
def lstm_cell_backward(op: Op) -> Work:
    """The gates' derivatives; a bias's gradient sums over the batch, one add per gate and unit."""
    bias = LSTM.gates if op.get("has_bias", False) else 0
    return moves(op, vector_flops=(LSTM.backward + bias) * op.tensor("cx").numel)


@rule("aten._thnn_fused_gru_cell")
def gru_cell(op: Op) -> Work:
    """The gates of one GRU step, whose products came before."""
    per_unit = GRU.forward + GRU.gates * (1 + cell_biases(op))
    return moves(op, vector_flops=per_unit * op.tensor("hx").numel)


@rule("aten._thnn_fused_gru_cell_backward")
def gru_cell_backward(op: Op) -> Work:
    """The gates' derivatives; the gradients of both biases sum over the batch."""
    bias = 2 * GRU.gates if op.get("has_bias", False) else 0
    return moves(op, vector_flops=(GRU.backward + bias) * op.tensor("grad_hy").numel)
