"""Recurrent layers on CUDA: one call of cuDNN for all layers where it may be used, else cells one after another.

A *cell* is what one layer does in one direction with one time step; its *state* is ``(h,)``, or ``(h, c)`` of an LSTM.
On the CPU oneDNN takes an LSTM, and other cells are composed of small ops. A *packed* sequence holds the rows of all
sequences side by side, with the number of sequences that reach each step.

Sources: ATen/native/RNN.cpp (cells, layers, use_cudnn), ATen/native/cudnn/RNN.cpp (_cudnn_impl). What cuDNN's ops
return is in `cudnn_layers`. Not covered: the state that cuDNN keeps for dropout, of which a note tells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .cudnn_layers import LSTM, MODES
from .signature import decompose

if TYPE_CHECKING:
    from .record import Recorder

aten = torch.ops.aten
Chooser = Callable[..., Any]
State = tuple[torch.Tensor, ...]

RESERVE = "the recurrent layer runs cuDNN; its reserve is taken as what its backward needs at the least"
DROPOUT = "cuDNN's recurrent layers drop out; what they keep for that, some 2 MB once, is not modelled"


class Call(NamedTuple):
    """A call of ``lstm``, ``gru``, ``rnn_tanh`` or ``rnn_relu``, packed or not."""

    input: torch.Tensor
    state: State
    weights: Sequence[torch.Tensor]
    has_biases: bool
    layers: int
    dropout: float
    train: bool
    bidirectional: bool
    batch_first: bool = False
    batch_sizes: tuple[int, ...] = ()
    """Of a packed sequence."""

    @property
    def projection(self) -> int:
        """The width to which an LSTM's output is projected; 0 where it is not."""
        hidden, width = self.state[0].shape[2], self.state[-1].shape[2]
        return hidden if hidden != width else 0

    @property
    def per_layer(self) -> int:
        """How many weights each layer and direction has."""
        return (4 if self.has_biases else 2) + (1 if self.projection else 0)


def recurrent(name: str, packed: bool) -> Callable[[Recorder, Counter[str]], Chooser]:
    """The road of one of the `MODES`: ``NAME.data`` if packed, else ``NAME.input``."""
    mode, op = MODES[name], getattr(getattr(aten, name), "data" if packed else "input")

    def make(recorder: Recorder, choices: Counter[str]) -> Chooser:
        def layer(input: torch.Tensor, *args: Any) -> Any:
            if not recorder.on_gpu(input):
                return decompose(op, input, *args)
            hx, *rest = args[1:] if packed else args
            call = Call(input, tuple(hx) if mode == LSTM else (hx,), *rest)
            if packed:
                call = call._replace(batch_sizes=tuple(args[0].tolist()))
            if not takes_cudnn(recorder, input):
                return _by_cells(_CELLS[name], call)
            choices[RESERVE] += recorder.recording
            if call.dropout and call.train:
                choices[DROPOUT] += recorder.recording
            return _by_cudnn(mode, call)

        return layer

    return make


def takes_cudnn(recorder: Recorder, input: torch.Tensor) -> bool:
    """``use_cudnn``; bfloat16 from compute capability 8.0 on, with cuDNN 9.13 (supportsBFloat16RNNWithCuDNN)."""
    dtypes = (torch.float16, torch.float32, torch.float64)
    wide = input.dtype is torch.bfloat16 and recorder.capability >= (8, 0)
    return torch._C._get_cudnn_enabled() and input.numel() > 0 and (wide or input.dtype in dtypes)


def _by_cudnn(mode: int, call: Call) -> Any:
    """One op for all layers; the state of dropout is left out, since cuDNN alone knows its size."""
    hidden, cell = call.state[0], call.state[1] if mode == LSTM else None
    out = aten._cudnn_rnn.default(
        call.input,
        call.weights,
        call.per_layer,
        None,
        hidden,
        cell,
        mode,
        call.state[-1].shape[2],
        call.projection,
        call.layers,
        call.batch_first,
        call.dropout,
        call.train,
        call.bidirectional,
        list(call.batch_sizes),
        None,
    )
    return tuple(out[: 3 if mode == LSTM else 2])


# -- cells ----------------------------------------------------------------------------------------


class Weights(NamedTuple):
    """Those of one layer and direction (``CellParams``)."""

    w_ih: torch.Tensor
    w_hh: torch.Tensor
    b_ih: torch.Tensor | None = None
    b_hh: torch.Tensor | None = None
    w_hr: torch.Tensor | None = None


Cell = Callable[[torch.Tensor, State, Weights], State]


def _lstm(input: torch.Tensor, state: State, weights: Weights) -> State:
    """One kernel after the two products, which keeps the gates; then the projection (``LSTMCell``)."""
    gates = torch.matmul(input, weights.w_ih.t()), torch.matmul(state[0], weights.w_hh.t())
    h, c = aten._thnn_fused_lstm_cell.default(*gates, state[1], weights.b_ih, weights.b_hh)[:2]
    return (h if weights.w_hr is None else torch.matmul(h, weights.w_hr.t())), c


def _gru(input: torch.Tensor, state: State, weights: Weights) -> State:
    """One kernel after the two products, which keeps five arrays like the state (``GRUCell``)."""
    gates = torch.matmul(input, weights.w_ih.t()), torch.matmul(state[0], weights.w_hh.t())
    return (aten._thnn_fused_gru_cell.default(*gates, state[0], weights.b_ih, weights.b_hh)[0],)


def _simple(function: Callable[[torch.Tensor], torch.Tensor]) -> Cell:
    """Both products, added, and a function of them (``SimpleCell``)."""

    def cell(input: torch.Tensor, state: State, weights: Weights) -> State:
        hidden = torch.nn.functional.linear(state[0], weights.w_hh, weights.b_hh)
        return (function(hidden.add_(torch.nn.functional.linear(input, weights.w_ih, weights.b_ih))),)

    return cell


_CELLS: dict[str, Cell] = {
    "lstm": _lstm,
    "gru": _gru,
    "rnn_tanh": _simple(torch.tanh),
    "rnn_relu": _simple(torch.relu),
}


def lstm_cell(recorder: Recorder, choices: Counter[str]) -> Chooser:
    """The road of ``lstm_cell``."""

    def cell(input: torch.Tensor, hx: Any, *weights: torch.Tensor) -> Any:
        if not recorder.on_gpu(input):
            return decompose(aten.lstm_cell.default, input, hx, *weights)
        return _lstm(input, tuple(hx), Weights(*weights))

    return cell


def gru_cell(recorder: Recorder, choices: Counter[str]) -> Chooser:
    """The road of ``gru_cell``."""

    def cell(input: torch.Tensor, hx: torch.Tensor, *weights: torch.Tensor) -> Any:
        if not recorder.on_gpu(input):
            return decompose(aten.gru_cell.default, input, hx, *weights)
        return _gru(input, (hx,), Weights(*weights))[0]

    return cell


# -- layers of cells ------------------------------------------------------------------------------


def _by_cells(cell: Cell, call: Call) -> Any:
    """Layer after layer (``apply_layer_stack``); the states at the ends are stacked."""
    layer = _packed_layer if call.batch_sizes else _layer
    weights = _gathered(call)
    starts = list(zip(*(part.unbind(0) for part in call.state), strict=True))
    directions = 2 if call.bidirectional else 1
    x, ends = call.input.transpose(0, 1) if call.batch_first else call.input, []
    for first in range(0, len(starts), directions):
        sides = [layer(cell, x, starts[i], weights[i], call, i > first) for i in range(first, first + directions)]
        x = sides[0][0] if directions == 1 else torch.cat([out for out, _ in sides], -1)
        ends += [end for _, end in sides]
        if call.dropout and call.train and first + directions < len(starts):
            x = torch.dropout(x, call.dropout, True)
    final = tuple(torch.stack(parts, 0) for parts in zip(*ends, strict=True))
    return (x.transpose(0, 1) if call.batch_first else x, *final)


def _gathered(call: Call) -> list[Weights]:
    """The weights of each layer and direction (``gather_params``)."""
    groups = [list(call.weights[i : i + call.per_layer]) for i in range(0, len(call.weights), call.per_layer)]
    if call.projection and not call.has_biases:
        return [Weights(w_ih, w_hh, None, None, w_hr) for w_ih, w_hh, w_hr in groups]
    return [Weights(*group) for group in groups]


def _layer(cell: Cell, x: torch.Tensor, state: State, weights: Weights, call: Call, back: bool) -> Any:
    """One layer and direction over steps of all sequences (``FullLayer``)."""
    outputs = []
    for step in reversed(x.unbind(0)) if back else x.unbind(0):
        state = cell(step, state, weights)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if back else outputs, 0), state


def _packed_layer(cell: Cell, x: torch.Tensor, state: State, weights: Weights, call: Call, back: bool) -> Any:
    """One layer and direction over steps that fewer and fewer sequences reach."""
    ends = list(accumulate(call.batch_sizes))
    steps = [x.narrow(0, end - count, count) for end, count in zip(ends, call.batch_sizes, strict=True)]
    return (_packed_back if back else _packed_on)(cell, steps, state, weights)


def _packed_on(cell: Cell, steps: Sequence[torch.Tensor], state: State, weights: Weights) -> Any:
    """States of sequences that have ended are set aside (``PackedLayer``)."""
    outputs, ended = [], []
    for step in steps:
        count = step.shape[0]
        if state[0].shape[0] > count:
            ended.append(tuple(part.narrow(0, count, part.shape[0] - count) for part in state))
            state = tuple(part.narrow(0, 0, count) for part in state)
        state = cell(step, state, weights)
        outputs.append(state[0])
    ended.append(state)
    return torch.cat(outputs, 0), _joined(ended[::-1])


def _packed_back(cell: Cell, steps: Sequence[torch.Tensor], start: State, weights: Weights) -> Any:
    """States of longer sequences come first, the others join where they end (``ReversedPackedLayer``)."""
    outputs, state = [], tuple(part.narrow(0, 0, steps[-1].shape[0]) for part in start)
    for step in reversed(steps):
        there, count = state[0].shape[0], step.shape[0]
        if count > there:
            state = _joined([state, tuple(part.narrow(0, there, count - there) for part in start)])
        state = cell(step, state, weights)
        outputs.append(state[0])
    return torch.cat(outputs[::-1], 0), state


def _joined(states: Sequence[State]) -> State:
    """All sequences of several states (``hidden_concat``)."""
    return tuple(torch.cat(parts, 0) for parts in zip(*states, strict=True))
