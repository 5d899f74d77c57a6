"""Composite ops that take another road on CUDA than on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foretrace.graph import ForetraceError, Op, StepGraph
from foretrace.tracer import trace


class Calls(nn.Module):
    """A linear layer, or a convolution, and then one function of its output."""

    def __init__(self, function: Any, first: nn.Module) -> None:
        super().__init__()
        self.function, self.first = function, first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.first(x)).float().sum()


def traced(
    function: Any, *, device: str = "cuda", x: Any = None, first: nn.Module | None = None, **how: Any
) -> StepGraph:
    x = torch.randn(64, 128) if x is None else x
    return trace(Calls(function, first or nn.Linear(128, 256)), (x,), device=device, **how)


def ops(graph: StepGraph, packet: str) -> list[Op]:
    return [op for op in graph.ops if op.packet == packet]


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_float16_is_widened_inside_the_softmax(name: str) -> None:
    graph = traced(lambda y: getattr(F, name)(y, -1), autocast="float16")
    (forward,) = ops(graph, f"aten._{name}")
    assert (forward.inputs[0].dtype, forward.outputs[0].dtype) == ("float16", "float32")
    (backward,) = ops(graph, f"aten._{name}_backward_data")
    assert backward.outputs[0].dtype == "float16"


@pytest.mark.parametrize(("autocast", "device"), [("bfloat16", "cuda"), (None, "cuda")])
def test_others_are_cast_first(autocast: str | None, device: str) -> None:
    graph = traced(lambda y: F.softmax(y, -1, dtype=torch.float32), autocast=autocast, device=device)
    (forward,) = ops(graph, "aten._softmax")
    assert forward.inputs[0].dtype == forward.outputs[0].dtype == "float32"
    assert forward.get("half_to_float") is False


def test_float16_on_the_cpu_is_cast() -> None:
    graph = traced(lambda y: F.softmax(y.half(), -1, dtype=torch.float32), device="cpu")
    assert ops(graph, "aten._softmax")[0].inputs[0].dtype == "float32"


def channels_last(device: str) -> StepGraph:
    first = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    return traced(lambda y: F.group_norm(y, 2), first=first, x=x, device=device)


def test_group_norm_copies_channels_last_on_cuda_alone() -> None:
    """Up to 2.13 before the kernel, which then saves the copy; from 2.14 on inside of it."""
    (on_cuda,), (on_cpu,) = (ops(channels_last(device), "aten.native_group_norm") for device in ("cuda", "cpu"))
    dense, interleaved = (8 * 62 * 62, 62 * 62, 62, 1), (8 * 62 * 62, 1, 62 * 8, 8)
    before = torch.__version__ < "2.14"
    assert (on_cuda.inputs[0].strides, on_cuda.outputs[0].strides) == (dense if before else interleaved, dense)
    assert (on_cpu.inputs[0].strides, on_cpu.outputs[0].strides) == (interleaved, interleaved)
    saved = [ops(channels_last(device), "aten.native_group_norm_backward")[0] for device in ("cuda", "cpu")]
    assert [op.outputs[0].strides for op in saved] == [dense, interleaved]
    assert len(ops(channels_last("cuda"), "aten.clone")) == (2 if before else 0)


class Cell(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(16, 32, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, c = self.cell(x)
        return (h * c).sum()


def test_an_lstm_cell_is_one_kernel_that_keeps_its_gates() -> None:
    graph = trace(Cell(bias=True), (torch.randn(4, 16),), device="cuda")
    (cell,) = ops(graph, "aten._thnn_fused_lstm_cell")
    assert [t.shape for t in cell.outputs] == [(4, 32), (4, 32), (4, 128)]
    assert len(ops(graph, "aten._thnn_fused_lstm_cell_backward_impl")) == 1
    assert ops(graph, "aten.sigmoid") == []


def test_an_lstm_cell_on_the_cpu_is_composed() -> None:
    assert ops(trace(Cell(bias=True), (torch.randn(4, 16),), device="cpu"), "aten._thnn_fused_lstm_cell") == []


def test_an_lstm_cell_needs_no_biases() -> None:
    graph = trace(Cell(bias=False), (torch.randn(4, 16),), device="cuda")
    (backward,) = ops(graph, "aten._thnn_fused_lstm_cell_backward_impl")
    assert [t.shape for t in backward.outputs] == [(4, 128), (4, 32)]


def normalized(batch: int, training: bool) -> list[str]:
    norm = nn.BatchNorm1d(2).train(training)
    graph = traced(lambda y: y, first=norm, x=torch.empty(batch, 2, 1, device="meta"))
    return [op.packet for op in graph.ops if op.packet.endswith("batch_norm")]


@pytest.mark.parametrize(
    ("batch", "training", "kernel"),
    [
        (880_801, True, "aten.cudnn_batch_norm"),
        (880_802, True, "aten.native_batch_norm"),
        (65_535, False, "aten.cudnn_batch_norm"),
        (65_536, False, "aten.native_batch_norm"),
    ],
)
def test_cudnns_batch_norm_has_a_largest_batch(batch: int, training: bool, kernel: str) -> None:
    assert normalized(batch, training) == [kernel]


def test_an_rms_norm_keeps_its_input_as_it_came() -> None:
    """The copy in row-major order is the kernel's own, and the reciprocals have no gradient."""
    graph = traced(lambda y: F.rms_norm(y.t(), (64,)))
    (forward,), (backward,) = ops(graph, "aten._fused_rms_norm"), ops(graph, "aten._fused_rms_norm_backward")
    assert (forward.inputs[0].shape, forward.inputs[0].strides) == ((256, 64), (1, 256))
    assert backward.tensor("input").storage == forward.inputs[0].storage
    assert [t.strides for t in (*forward.outputs, *backward.outputs)] == [(64, 1), (1, 1), (64, 1)]
    assert ops(graph, "aten.zeros") == ops(graph, "aten.clone") == []


# -- pooling, one-hot vectors, and what a kernel keeps --------------------------------------------


@pytest.mark.parametrize(("device", "places"), [("cuda", 1), ("cpu", 0)])
def test_maxima_come_with_their_places_on_cuda_also_in_inference(device: str, places: int) -> None:
    x, first = torch.randn(16, 8, 512), nn.Conv1d(8, 8, 1)
    graph = traced(lambda y: F.max_pool1d(y, 2), x=x, first=first, step="inference", device=device)
    found = ops(graph, "aten.max_pool2d_with_indices")
    assert [[t.shape for t in op.outputs] for op in found] == [[(16, 8, 1, 256)] * 2] * places


def test_one_hot_vectors_are_made_without_a_look_at_the_classes() -> None:
    class Labels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return (self.linear(x) * F.one_hot(labels, 10)).sum()

    inputs = {"x": torch.randn(2048, 64), "labels": torch.empty(2048, dtype=torch.int64, device="meta")}
    on_cuda, on_cpu = (trace(Labels(), inputs, device=device) for device in ("cuda", "cpu"))
    looks = ("aten.aminmax", "aten.min", "aten.max", "aten._local_scalar_dense")
    forward = [op.packet for op in on_cuda.ops if op.phase == "forward"]
    assert set(looks).isdisjoint(forward)
    assert not set(looks).isdisjoint(op.packet for op in on_cpu.ops)
    (made,) = ops(on_cuda, "aten.scatter_")
    assert made.inputs[0].shape == (2048, 10)
    assert on_cuda.facts.assumptions == ()


@pytest.mark.parametrize(("device", "kept"), [("cuda", (0,)), ("cpu", (64, 256))])
def test_a_log_sigmoid_keeps_nothing_beside_its_input_on_cuda(device: str, kept: tuple[int, ...]) -> None:
    (forward,) = ops(traced(F.logsigmoid, device=device), "aten.log_sigmoid_forward")
    assert [t.shape for t in forward.outputs] == [(64, 256), kept]


# -- what cuDNN takes -----------------------------------------------------------------------------


def ctc(targets: torch.Tensor, lengths: Any, *, steps: int = 50, dtype: Any = torch.int32, **how: Any) -> StepGraph:
    """Of four sequences of 50 scores of 8 classes, which are given as 50 steps long."""

    def function(y: torch.Tensor) -> torch.Tensor:
        given = (steps,) * 4 if isinstance(lengths, tuple) else torch.tensor([steps] * 4, dtype=dtype)
        return F.ctc_loss(y.log_softmax(-1), targets, given, lengths, **how)

    return traced(function, x=torch.randn(50, 4, 64), first=nn.Linear(64, 8))


THREE = torch.tensor([3, 3, 3, 3], dtype=torch.int32)
CLASSES = torch.ones(12, dtype=torch.int32)


@pytest.mark.parametrize("lengths", [THREE, (3, 3, 3, 3)], ids=["tensors", "lists"])
def test_a_ctc_loss_of_short_numbers_is_cudnns(lengths: Any) -> None:
    graph = ctc(CLASSES, lengths)
    (forward,) = ops(graph, "aten._cudnn_ctc_loss")
    assert [t.shape for t in forward.outputs] == [(4,), (50, 4, 8)]
    assert ops(graph, "aten._ctc_loss") == ops(graph, "aten._ctc_loss_backward") == []


@pytest.mark.parametrize(
    ("targets", "lengths", "how"),
    [
        (CLASSES.long(), THREE, {}),
        (CLASSES.view(4, 3), THREE, {}),
        (CLASSES, THREE.long(), {}),
        (CLASSES, THREE, {"blank": 7}),
        (CLASSES, THREE, {"steps": 2}),
        (CLASSES, (3, 3, 3, 3), {"steps": 49}),
    ],
    ids=["long targets", "rows", "long lengths", "blank", "too short", "not full"],
)
def test_other_ctc_losses_are_pytorchs(targets: torch.Tensor, lengths: Any, how: dict[str, Any]) -> None:
    assert len(ops(ctc(targets, lengths, **how), "aten._ctc_loss")) == 1


def test_without_cudnn_ctc_losses_and_grids_are_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)
    assert len(ops(ctc(CLASSES, THREE), "aten._ctc_loss")) == 1
    assert sampled()[0] == "aten.grid_sampler_2d"


def sampled(align_corners: bool = True, dtype: torch.dtype = torch.float32, **how: Any) -> list[str]:
    def function(y: torch.Tensor) -> torch.Tensor:
        grid = torch.rand(4, 40, 40, 2, device=y.device, dtype=dtype)
        return F.grid_sample(y, grid, align_corners=align_corners, **how)

    first = nn.Conv2d(3, 8, 1, dtype=dtype)
    graph = traced(function, x=torch.randn(4, 3, 32, 32, dtype=dtype), first=first)
    return [op.packet for op in graph.ops if "grid_sampler" in op.name]


def test_a_grid_with_aligned_corners_is_cudnns() -> None:
    assert sampled() == ["aten.cudnn_grid_sampler", "aten.cudnn_grid_sampler_backward"]
    own = ["aten.grid_sampler_2d", "aten.grid_sampler_2d_backward"]
    assert sampled(align_corners=False) == sampled(mode="nearest") == sampled(padding_mode="border") == own
    assert sampled(dtype=torch.bfloat16) == own


def test_an_optimizer_that_counts_its_steps_on_the_gpu() -> None:
    def capturable(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, capturable=True)

    graph = traced(lambda y: y, optimizer=capturable)
    powers = ops(graph, "aten._foreach_pow")
    assert [[t.shape for t in op.outputs] for op in powers] == [[(), ()]] * 2
    assert all(graph.storages[t.storage].device == "cuda:0" for op in powers for t in op.outputs)


# -- recurrent layers -----------------------------------------------------------------------------


class Gru(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.cell = nn.GRUCell(16, 32, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cell(x).sum()


@pytest.mark.parametrize("bias", [True, False])
def test_a_gru_cell_is_one_kernel_that_keeps_five_arrays(bias: bool) -> None:
    graph = trace(Gru(bias), (torch.randn(4, 16),), device="cuda")
    (cell,), (backward,) = (ops(graph, f"aten._thnn_fused_gru_cell{name}") for name in ("", "_backward"))
    assert [t.shape for t in cell.outputs] == [(4, 32), (4, 5 * 32)]
    of_biases = [(96,), (96,)] if bias else []
    assert [t.shape for t in backward.outputs] == [(4, 96), (4, 96), (4, 32), *of_biases]


@pytest.mark.parametrize(
    ("layer", "elements"),
    [
        # 10 steps of 4 samples, two layers, both directions; the first layer's output of 2 x 32.
        (nn.LSTM(64, 32, num_layers=2, bidirectional=True), 40 * 2 * 2 * (4 + 1) * 32 + 40 * 2 * 32),
        (nn.GRU(64, 32), 40 * (3 + 1) * 32),
        (nn.RNN(64, 32), 40 * 32),
        (nn.LSTM(64, 32, num_layers=3, proj_size=8), 40 * 3 * 5 * 32 + 40 * 2 * 8),
    ],
    ids=["lstm", "gru", "rnn", "projected"],
)
def test_the_reserve_of_a_recurrent_layer_holds_what_backward_reads(layer: nn.RNNBase, elements: int) -> None:
    def last(output: Any) -> torch.Tensor:
        return output[0].sum()

    for training in (True, False):
        graph = trace(layer.train(training), (torch.randn(10, 4, 64),), loss=last, device="cuda")
        (forward,) = ops(graph, "aten._cudnn_rnn")
        assert forward.outputs[3].shape == (4 * elements if training else 0,)


# -- an encoder layer in evaluation ---------------------------------------------------------------


def encoded(*, mask: bool = False, device: str = "cuda", **how: Any) -> list[str]:
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, **how).eval()

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            unwanted = torch.zeros(2, 16, dtype=torch.bool, device=x.device) if mask else None
            return self.layer(x, src_key_padding_mask=unwanted)

    graph = trace(Masked().eval(), (torch.randn(2, 16, 64),), step="inference", device=device)
    views = ("view", "t", "transpose", "split", "permute", "_unsafe_view", "zeros", "zeros_like", "masked_fill_")
    return [name for op in graph.ops if (name := op.packet.removeprefix("aten.")) not in views]


def test_a_whole_encoder_layer_is_the_kernels_inside_of_it() -> None:
    attention = ["addmm", "_scaled_dot_product_efficient_attention", "addmm", "add_"]
    products = ["_addmm_activation", "addmm", "add_"]
    norm = ["native_layer_norm"]
    assert encoded() == [*attention, *norm, *products, *norm]
    assert encoded(norm_first=True, activation="gelu") == [*norm, *attention, *norm, *products]
    assert encoded(device="cpu") == ["_transformer_encoder_layer_fwd"]


def test_with_a_mask_attention_is_composed_over_one_buffer() -> None:
    composed = ["mm", "_transform_bias_rescale_qkv", "bmm", "_masked_softmax", "bmm", "clone", "addmm", "add_"]
    assert encoded(mask=True)[: len(composed)] == composed


class Ragged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nested = torch.nested.nested_tensor([x[0, :3], x[1, :5]], layout=torch.jagged)
        return self.linear(nested).to_padded_tensor(0.0).sum()


def test_a_tensor_that_wraps_others_is_refused_before_it_ends_the_process() -> None:
    with pytest.raises(ForetraceError, match="a NestedTensor wraps other tensors") as raised:
        trace(Ragged(), (torch.randn(2, 8, 16),), device="cuda")
    assert 'device="cpu"' in raised.value.mend


def test_an_encoder_that_makes_nested_tensors_is_told_how_not_to() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            unwanted = torch.zeros(2, 16, dtype=torch.bool, device=x.device)
            return self.encoder(x, src_key_padding_mask=unwanted)

    with pytest.raises(ForetraceError, match="nested tensors") as raised:
        trace(Padded().eval(), (torch.randn(2, 16, 64),), step="inference", device="cuda")
    assert "enable_nested_tensor=False" in raised.value.mend


@pytest.mark.parametrize(("share", "training"), [(0.0, True), (0.5, False)])
@pytest.mark.parametrize("inference", [False, True])
def test_a_dropout_that_drops_nothing_hands_its_input_on(share: float, training: bool, inference: bool) -> None:
    def dropped(y: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(inference):
            return F.dropout(y.tanh(), share, training)

    with_it, without = (traced(f, step="inference") for f in (dropped, lambda y: y.tanh()))
    assert [op.name for op in with_it.ops] == [op.name for op in without.ops]


def test_inference_mode_takes_the_roads_of_no_grad() -> None:
    """No autograd kernel runs there, and it is those that take CUDA's road otherwise."""

    def roads(mode: Any) -> list[str]:
        def function(y: torch.Tensor) -> torch.Tensor:
            with mode():
                heads = y.view(8, 8, 4, 64).half()
                heads = F.dropout(F.scaled_dot_product_attention(heads, heads, heads), 0.1, True)
                return F.group_norm(F.softmax(heads, -1, dtype=torch.float32), 2)

        return [op.name for op in traced(function, step="inference").ops]

    found = roads(torch.inference_mode)
    assert found == roads(torch.no_grad)
    assert {"aten._scaled_dot_product_flash_attention.default", "aten.native_dropout.default"} <= set(found)
