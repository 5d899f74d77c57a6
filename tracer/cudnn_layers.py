"""What cuDNN's ops for recurrent layers return, told from their arguments: shapes, layouts, and which share memory.

*Flat* weights lie side by side in one buffer, as ``nn.LSTM`` and its kind put their parameters on the GPU
(``flatten_parameters``); weights that are computed in the step are copied into such a buffer, which backward needs.

Source: ATen/native/cudnn/RNN.cpp. The buffer is taken as large as the weights together: cuDNN alone knows its size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .arena import Owner
from .calls import dense

if TYPE_CHECKING:
    from .record import Recorder
    from .signature import Signature

Owners = list[Owner | None]

LSTM = 2
MODES = {"rnn_relu": 0, "rnn_tanh": 1, "lstm": LSTM, "gru": 3}
"""cudnnRNNMode_t, as ATen/native/cudnn/RNN.cpp counts them."""

KEPT_OF_CELL = (1, 1, 5, 4)
"""Arrays as wide as the state that the backward of one cell reads beside weights, inputs and its layer's output:
what a plain cell made, the four gates and the cell state of an LSTM, the three gates of a GRU and the state's part of
its candidate. By mode, as cuDNN counts them (cudnnRNNMode_t)."""


def reserve_elements(*, mode: int, width: int, projection: int, layers: int, directions: int, rows: int) -> int:
    """At the least what a recurrent layer keeps for backward, for `rows` time steps of all samples together.

    For each layer and direction what its cells keep, and each layer's output but the last one's, which is the caller's.
    """
    cells = rows * layers * directions * KEPT_OF_CELL[mode] * width
    return cells + rows * (layers - 1) * directions * (projection or width)


def layers(recorder: Recorder, sig: Signature, args: Any, kwargs: Any, owners: Owners) -> Any:
    """``_cudnn_rnn``: output, states at the end, the reserve that backward reads, and the weights in one piece."""
    x, weights, _, buffer, _, cx, mode, width, projection, count, batch_first, _, train, both, sizes, _ = args
    make, directions = _maker(recorder, x), 2 if both else 1
    rows, samples = (x.shape[0], sizes[0]) if sizes else (x.shape[0] * x.shape[1], x.shape[0 if batch_first else 1])
    wide = directions * (projection or width)
    output = make((rows, wide)) if sizes else _in_time((*x.shape[:2], wide), batch_first, make)
    hy = make((count * directions, samples, projection or width))
    cy = make((count * directions, samples, width) if cx is not None else (0,))
    kept = reserve_elements(
        mode=mode, width=width, projection=projection, layers=count, directions=directions, rows=rows
    )
    reserve = recorder.new((kept * x.itemsize if train else 0,), (1,), torch.uint8, recorder.claimed(x))
    if buffer is None:
        buffer = make((0 if _are_flat(weights) else _elements(weights),))
    return output, hy, cy, reserve, buffer


def backward(recorder: Recorder, sig: Signature, args: Any, kwargs: Any, owners: Owners) -> Any:
    """``_cudnn_rnn_backward``: of input and states always; of the weights as pieces of one buffer.

    Weights without biases are copied out of the buffer, in which cuDNN puts biases all the same.
    """
    x, weights, per_layer, batch_first, sizes, mask = args[0], args[1], args[2], args[14], args[18], args[21]
    if all(grad is None for grad in args[7:10]):
        return None, None, None, [None for _ in weights]
    make = _maker(recorder, x)
    dx = make(tuple(x.shape)) if sizes else _in_time(tuple(x.shape), batch_first, make)
    states = [None if state is None else make(tuple(state.shape)) for state in args[4:6]]
    if not mask[3]:
        return dx, *states, []
    if per_layer < 4:
        return dx, *states, [make(tuple(weight.shape)) for weight in weights]
    pieces = make((_elements(weights),)).split([weight.numel() for weight in weights])
    return dx, *states, [piece.view(weight.shape) for piece, weight in zip(pieces, weights, strict=True)]


def flatten(recorder: Recorder, sig: Signature, args: Any, kwargs: Any, owners: Owners) -> Any:
    """``_cudnn_rnn_flatten_weight``: a buffer for all weights, which then live there, and their old memory is free.

    Here they stay where they are and it is the new buffer that is free: as many bytes at every moment.
    """
    weights = args[0]
    return _maker(recorder, weights[0])((_elements(weights),))


def _maker(recorder: Recorder, like: torch.Tensor) -> Any:
    """What makes dense tensors with the dtype and place of another."""
    return lambda shape: recorder.new(shape, dense(shape), like.dtype, recorder.claimed(like))


def _in_time(shape: tuple[int, ...], batch_first: bool, make: Any) -> torch.Tensor:
    """Time steps lie outermost in memory, also where the batch is the first dimension."""
    made: torch.Tensor = make((shape[1], shape[0], *shape[2:])).transpose(0, 1) if batch_first else make(shape)
    return made


def _elements(weights: Sequence[torch.Tensor]) -> int:
    return sum(weight.numel() for weight in weights)


def _are_flat(weights: Sequence[torch.Tensor]) -> bool:
    """Whether they are parameters, no two of them the same, or pieces of one storage."""
    parameters = all(isinstance(weight, torch.nn.Parameter) for weight in weights)
    places = {weight.untyped_storage().data_ptr() for weight in weights}
    return len(places) == 1 or (parameters and len({id(weight) for weight in weights}) == len(weights))


# -- what Python is told --------------------------------------------------------------------------


def _is_acceptable(tensor: torch.Tensor) -> bool:
    """Whether cuDNN, if it is on, takes tensors like this one; PyTorch would also look for the library."""
    known = torch.backends.cudnn.CUDNN_TENSOR_DTYPES
    return torch._C._get_cudnn_enabled() and tensor.device.type == "cuda" and tensor.dtype in known


FACE: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
    (torch.backends.cudnn, "is_available", lambda: True),
    (torch.backends.cudnn, "is_acceptable", _is_acceptable),
    (torch.backends.cudnn.rnn, "get_cudnn_mode", lambda name: MODES[name.lower()]),
    (torch, "_use_cudnn_rnn_flatten_weight", lambda: True),
)
"""Module, function of it, and what takes its place: ``flatten_parameters`` asks these, which a CPU build lacks."""


# -- the ops --------------------------------------------------------------------------------------

ANSWERS = {
    "aten._cudnn_rnn.default": layers,
    "aten._cudnn_rnn_backward.default": backward,
    "aten._cudnn_rnn_flatten_weight.default": flatten,
}
"""Op -> its answer, as in `special`."""
