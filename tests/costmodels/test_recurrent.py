"""Recurrent layers: the products against a loop over cells."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from opbuilder import new, work
from oprecorder import record
from torch.utils.flop_counter import FlopCounterMode

from foretrace.costmodels import Kind, Work, price_op

TIME, BATCH, INPUT, HIDDEN = 5, 3, 4, 6


def weights(layers: int, directions: int, gates: int) -> tuple:
    tensors = []
    for layer in range(layers):
        inside = INPUT if layer == 0 else HIDDEN * directions
        for _ in range(directions):
            rows = gates * HIDDEN
            tensors += [new(rows, inside), new(rows, HIDDEN), new(rows), new(rows)]
    return tuple(tensors)


def cudnn(name: str, layers=1, bidirectional=False, mode=2, gates=4, **more) -> Work:
    return work(
        name,
        new(TIME, BATCH, HIDDEN * (1 + bidirectional)),
        input=new(TIME, BATCH, INPUT),
        weight=weights(layers, 1 + bidirectional, gates),
        weight_stride0=4,
        hx=new(layers * (1 + bidirectional), BATCH, HIDDEN),
        mode=mode,
        hidden_size=HIDDEN,
        num_layers=layers,
        bidirectional=bidirectional,
        **more,
    )


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("kind", "mode", "gates"), [("LSTM", 2, 4), ("GRU", 3, 3), ("RNN", 1, 1)])
def test_products_are_those_of_a_loop_over_cells(kind, mode, gates, layers, bidirectional):
    """oneDNN off, torch runs RNNs cell by cell in plain matmuls, which its own counter knows."""
    module = getattr(torch.nn, kind)(INPUT, HIDDEN, layers, bidirectional=bidirectional)
    source = torch.randn(TIME, BATCH, INPUT, requires_grad=True)
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as forward:
        made, _ = module(source)
    with FlopCounterMode(display=False) as backward:
        made.sum().backward()
    given = {"layers": layers, "bidirectional": bidirectional, "mode": mode, "gates": gates}
    assert cudnn("aten._cudnn_rnn.default", **given).tensor_flops == forward.get_total_flops()
    counted = cudnn("aten._cudnn_rnn_backward.default", **given, output_mask=(True, True, True, True)).tensor_flops
    # The loop does not propagate into the state before the first step, which needs no gradient.
    state = 2 * BATCH * HIDDEN * gates * HIDDEN * layers * (1 + bidirectional)
    assert counted - state == backward.get_total_flops()


def test_the_gates_of_an_lstm():
    counted = cudnn("aten._cudnn_rnn.default")
    units = TIME * BATCH * HIDDEN
    # three sigmoids, two tanh, the new state 3, the output 1; per gate the join of two products and two biases
    assert counted.vector_flops == units * (12 + 2 + 3 + 1 + 4 * 3)


def test_frozen_weights_halve_the_backward_products():
    full = cudnn("aten._cudnn_rnn_backward.default", output_mask=(True, True, True, True))
    frozen = cudnn("aten._cudnn_rnn_backward.default", output_mask=(True, True, True, False))
    assert full.tensor_flops == 2 * frozen.tensor_flops


def test_packed_sequences_have_as_many_steps_as_rows():
    rows = 11
    counted = work(
        "aten._cudnn_rnn.default", new(rows, HIDDEN), input=new(rows, INPUT), weight=weights(1, 1, 4),
        mode=2, hidden_size=HIDDEN, num_layers=1, batch_sizes=(3, 3, 3, 2),
    )  # fmt: skip
    assert counted.tensor_flops == 2 * rows * 4 * HIDDEN * (INPUT + HIDDEN)


def test_onednn_runs_one_layer_and_direction_an_op():
    module = torch.nn.LSTM(INPUT, HIDDEN, 2, bidirectional=True)
    source = torch.randn(TIME, BATCH, INPUT, requires_grad=True)
    ops = [op for op in record(lambda: module(source)[0].sum().backward()) if "mkldnn_rnn" in op.name]
    if not ops:
        pytest.skip("this torch was built without oneDNN")
    priced = [price_op(op) for op in ops]
    assert {p.kind for p in priced} == {Kind.RULE}
    forward = sum(p.work.tensor_flops for p in priced if "backward" not in p.op.name)
    backward = sum(p.work.tensor_flops for p in priced if "backward" in p.op.name)
    assert forward == cudnn("aten._cudnn_rnn.default", layers=2, bidirectional=True).tensor_flops
    assert backward == 2 * forward
    assert sum(p.work.vector_flops for p in priced if "backward" not in p.op.name) == (
        cudnn("aten._cudnn_rnn.default", layers=2, bidirectional=True).vector_flops
    )


@given(st.integers(1, 20), st.integers(1, 20))
def test_fused_cells_count_their_units(batch: int, hidden: int):
    gates, state = new(batch, 4 * hidden), new(batch, hidden)
    bare = work("aten._thnn_fused_lstm_cell.default", state, input_gates=gates, hidden_gates=gates, cx=state)
    biased = work(
        "aten._thnn_fused_lstm_cell.default", state, input_gates=gates, hidden_gates=gates, cx=state,
        input_bias=new(4 * hidden), hidden_bias=new(4 * hidden),
    )  # fmt: skip
    assert bare.vector_flops == (18 + 4) * batch * hidden
    assert biased.vector_flops - bare.vector_flops == 8 * batch * hidden


def test_the_gates_backward_and_the_gradients_of_biases():
    units = TIME * BATCH * HIDDEN
    for mode, gates, per_unit in ((2, 4, 23), (3, 3, 16), (1, 1, 3)):
        given = {"mode": mode, "gates": gates}
        full = cudnn("aten._cudnn_rnn_backward.default", **given, output_mask=(True, True, True, True))
        frozen = cudnn("aten._cudnn_rnn_backward.default", **given, output_mask=(True, True, True, False))
        assert (full.vector_flops, frozen.vector_flops) == ((per_unit + 2 * gates) * units, per_unit * units)
