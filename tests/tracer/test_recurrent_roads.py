"""Recurrent layers on CUDA: cuDNN's op with what it returns, and cells one after another where it may not be used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from foretrace.graph import Op, StepGraph
from foretrace.tracer import trace
from foretrace.tracer.recurrent import Call, State, Weights, _by_cells, _simple

KINDS = (nn.LSTM, nn.GRU, nn.RNN)
LENGTHS = (5, 3, 3, 1)
ROWS = sum(LENGTHS)


def ops(graph: StepGraph, packet: str) -> list[Op]:
    return [op for op in graph.ops if op.packet == f"aten.{packet}"]


def summed(output: Any) -> torch.Tensor:
    return output[0].sum()


class Packed(nn.Module):
    """A recurrent layer over sequences of four lengths."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        packed = pack_padded_sequence(x, torch.tensor(LENGTHS), batch_first=True)
        padded, _ = pad_packed_sequence(self.layer(packed)[0], batch_first=True)
        return padded.sum()


def packed(kind: type[nn.RNNBase] = nn.LSTM, dtype: torch.dtype = torch.float32, **how: Any) -> StepGraph:
    module = Packed(kind(16, 32, **{"num_layers": 2, "bidirectional": True, **how})).to(dtype)
    return trace(module, (torch.randn(4, 5, 16, dtype=dtype),), device="cuda")


@pytest.mark.parametrize(("kind", "mode"), [(nn.LSTM, 2), (nn.GRU, 3), (nn.RNN, 1)])
def test_packed_sequences_are_one_call_of_cudnn(kind: type[nn.RNNBase], mode: int) -> None:
    graph = packed(kind)
    (forward,), (backward,) = ops(graph, "_cudnn_rnn"), ops(graph, "_cudnn_rnn_backward")
    assert (forward.get("mode"), forward.get("batch_sizes")) == (mode, (4, 3, 3, 1, 1))
    assert [t.shape for t in forward.outputs[:2]] == [(ROWS, 64), (4, 4, 32)]
    gates, states = {2: (4, 5), 3: (3, 4), 1: (1, 1)}[mode]
    reserve = 4 * (ROWS * 2 * 2 * states * 32 + ROWS * 64)
    assert forward.outputs[3].shape == (reserve,)
    assert backward.outputs[0].shape == (ROWS, 16)
    assert graph.storages[backward.outputs[-1].storage].bytes == 4 * 2 * gates * 32 * (16 + 64 + 2 * (32 + 1 + 1))


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_dtypes_that_cudnn_takes(name: str) -> None:
    assert len(ops(packed(dtype=getattr(torch, name)), "_cudnn_rnn")) == 1


def test_an_older_gpu_has_no_bfloat16_in_cudnn() -> None:
    graph = trace(
        Packed(nn.GRU(16, 32)).bfloat16(), (torch.randn(4, 5, 16).bfloat16(),), device="cuda", capability="7.0"
    )
    assert ops(graph, "_cudnn_rnn") == []
    assert len(ops(graph, "_thnn_fused_gru_cell")) == max(LENGTHS)


@pytest.mark.parametrize(("kind", "cell"), [(nn.LSTM, "_thnn_fused_lstm_cell"), (nn.GRU, "_thnn_fused_gru_cell")])
def test_with_cudnn_off_cells_follow_one_another(
    kind: type[nn.RNNBase], cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = kind(16, 32, num_layers=2, bidirectional=True, batch_first=True)
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)
    graph = trace(layer, (torch.randn(4, 5, 16),), loss=summed, device="cuda")
    of_packed = packed(kind)
    for step in (graph, of_packed):
        assert ops(step, "_cudnn_rnn") == ops(step, "mkldnn_rnn_layer") == []
        assert len(ops(step, cell)) == 2 * 2 * 5


# -- what cuDNN's ops return ----------------------------------------------------------------------


def test_time_is_outermost_in_memory() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.layer, self.last = nn.Linear(16, 16), nn.LSTM(16, 32, batch_first=True), nn.Linear(32, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.layer(self.first(x))[0]).sum()

    graph = trace(Tagger(), (torch.randn(4, 5, 16),), device="cuda")
    (forward,), (backward,) = ops(graph, "_cudnn_rnn"), ops(graph, "_cudnn_rnn_backward")
    assert (forward.outputs[0].shape, forward.outputs[0].strides) == ((4, 5, 32), (32, 4 * 32, 1))
    assert (backward.outputs[0].shape, backward.outputs[0].strides) == ((4, 5, 16), (16, 4 * 16, 1))
    copied = ops(graph, "clone")[0]
    assert copied.inputs[0].storage == forward.outputs[0].storage


def test_gradients_of_weights_are_pieces_of_one_buffer() -> None:
    graph = trace(nn.LSTM(16, 32), (torch.randn(5, 4, 16),), loss=summed, device="cuda")
    (backward,) = ops(graph, "_cudnn_rnn_backward")
    _, dhx, dcx, *gradients = backward.outputs
    assert [t.shape for t in gradients] == [(128, 16), (128, 32), (128,), (128,)]
    assert len({t.storage for t in gradients}) == 1
    offsets = [t.offset for t in gradients]
    assert offsets == [0, 128 * 16, 128 * 48, 128 * 49]
    assert graph.storages[gradients[0].storage].bytes == 4 * 128 * 50
    assert dhx.shape == dcx.shape == (1, 4, 32)


def test_without_biases_they_are_copied_out_of_it() -> None:
    graph = trace(nn.LSTM(16, 32, bias=False), (torch.randn(5, 4, 16),), loss=summed, device="cuda")
    (backward,) = ops(graph, "_cudnn_rnn_backward")
    assert len({t.storage for t in backward.outputs}) == 3 + 2


def test_frozen_weights_have_no_buffer_of_gradients() -> None:
    layer = nn.GRU(16, 32).requires_grad_(False)
    module = nn.Sequential(nn.Linear(16, 16), layer)
    graph = trace(module, (torch.randn(5, 4, 16),), loss=summed, device="cuda")
    (backward,) = ops(graph, "_cudnn_rnn_backward")
    assert [t.shape for t in backward.outputs] == [(5, 4, 16), (1, 4, 32)]


@pytest.mark.parametrize(("normed", "elements"), [(False, 0), (True, 128 * 16 + 128 * 32 + 2 * 128)])
def test_computed_weights_are_put_into_one_piece_that_backward_needs(normed: bool, elements: int) -> None:
    layer: nn.Module = nn.LSTM(16, 32)
    layer = nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0") if normed else layer
    graph = trace(layer, (torch.randn(5, 4, 16),), loss=summed, device="cuda")
    (forward,), (backward,) = ops(graph, "_cudnn_rnn"), ops(graph, "_cudnn_rnn_backward")
    assert forward.outputs[4].shape == (elements,)
    assert backward.tensor("weight_buf").storage == forward.outputs[4].storage


def test_a_model_that_flattens_its_parameters_in_forward_makes_the_buffer_anew() -> None:
    class Flattens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.GRU(16, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.layer.flatten_parameters()
            return self.layer(x)[0].sum()

    (flatten,) = ops(trace(Flattens(), (torch.randn(5, 4, 16),), device="cuda"), "_cudnn_rnn_flatten_weight")
    assert flatten.outputs[0].shape == (96 * 16 + 96 * 32 + 2 * 96,)
    assert ops(trace(Flattens(), (torch.randn(5, 4, 16),), device="cpu"), "_cudnn_rnn_flatten_weight") == []


@pytest.mark.parametrize("training", [True, False])
def test_what_cudnn_keeps_for_dropout_is_named(training: bool) -> None:
    layer = nn.LSTM(16, 32, num_layers=2, dropout=0.1).train(training)
    graph = trace(layer, (torch.randn(5, 4, 16),), loss=summed, device="cuda", step="inference")
    assert any("drop out" in note for note in graph.facts.notes) is training


# -- cells one after another, against PyTorch's own -----------------------------------------------


def torchs_lstm(input: torch.Tensor, state: State, weights: Weights) -> State:
    """An LSTM's cell of plain ops, since the fused one has no kernel for the CPU."""
    gates = nn.functional.linear(input, weights.w_ih, weights.b_ih)
    gates = gates + nn.functional.linear(state[0], weights.w_hh, weights.b_hh)
    enter, forget, new, leave = gates.chunk(4, 1)
    c = forget.sigmoid() * state[1] + enter.sigmoid() * new.tanh()
    h = leave.sigmoid() * c.tanh()
    return (h if weights.w_hr is None else h @ weights.w_hr.t()), c


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("how", [{"mode": "RNN_TANH"}, {"mode": "LSTM"}, {"mode": "LSTM", "proj_size": 8}])
@pytest.mark.parametrize("shape", ["time", "batch", "packed"])
def test_layers_of_cells_give_what_pytorch_gives(how: dict[str, Any], both: bool, bias: bool, shape: str) -> None:
    torch.manual_seed(0)
    mode, projection = how["mode"], how.get("proj_size", 0)
    first = {"bidirectional": both, "bias": bias, "num_layers": 2, "batch_first": shape == "batch"}
    layer = (nn.LSTM(16, 32, proj_size=projection, **first) if mode == "LSTM" else nn.RNN(16, 32, **first)).double()
    x = torch.randn(4, 5, 16, dtype=torch.float64)
    sizes = (4, 4, 4, 2, 1)
    ends = [torch.randn(2 * (1 + both), 4, 32 if part else projection or 32, dtype=torch.float64) for part in (0, 1)]
    state = tuple(ends) if mode == "LSTM" else (ends[0],)
    if shape == "packed":
        given: Any = pack_padded_sequence(x, torch.tensor([5, 4, 3, 3]), batch_first=True)
        sizes, data = tuple(given.batch_sizes.tolist()), given.data
    else:
        given = data = x if shape == "batch" else x.transpose(0, 1).contiguous()
        sizes = ()
    wanted, final = layer(given, state if mode == "LSTM" else state[0])
    call = Call(data, state, layer._flat_weights, bias, 2, 0.0, True, both, shape == "batch", sizes)
    output, *found = _by_cells(torchs_lstm if mode == "LSTM" else _simple(torch.tanh), call)
    torch.testing.assert_close(output, wanted.data if shape == "packed" else wanted)
    torch.testing.assert_close(tuple(found), final if mode == "LSTM" else (final,))
