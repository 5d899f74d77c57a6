"""How an op's bytes move, from how its operands lie."""

from __future__ import annotations

import pytest

from foretrace.graph.op import Op, Tensor
from foretrace.graph.phase import Phase
from foretrace.hardware.constants import constants
from foretrace.hardware.traffic import Traffic, traffic

BIG = 512


def dense(*shape: int, dtype: str = "float32", storage: int = 0) -> Tensor:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return Tensor(storage, dtype, shape, tuple(reversed(strides)))


def turned(tensor: Tensor) -> Tensor:
    return tensor._replace(shape=tensor.shape[::-1], strides=tensor.strides[::-1])


def kind(name: str, result: Tensor, **args: object) -> str:
    return traffic(Op(id=0, name=name, phase=Phase.FORWARD, args=args, result=result)).kind


X = dense(BIG, BIG)


@pytest.mark.parametrize(
    ("expected", "name", "args"),
    [
        ("stream", "aten.add.Tensor", {"self": X, "other": X}),
        ("stream", "aten.add.Tensor", {"self": X, "other": 1.0}),
        ("indexed", "aten.add.Tensor", {"self": X, "other": dense(BIG)}),
        ("indexed", "aten.mul.Tensor", {"self": X, "other": Tensor(1, "float32", (BIG, BIG), (1 * 2 * BIG, 1))}),
        ("turning", "aten.clone.default", {"self": turned(X)}),
        ("converting", "aten._to_copy.default", {"self": dense(BIG, BIG, dtype="bfloat16")}),
        ("stream", "aten.clone.default", {"self": turned(dense(8, 8))}),
        ("indexed", "aten.div.Tensor", {"self": dense(8, BIG, BIG), "other": dense(8, BIG, 1)}),
        ("stream", "aten.maximum.default", {"self": X, "other": X}),
        ("reduction", "aten.max.dim", {"self": X, "dim": -1}),
        ("softmax", "aten._softmax.default", {"self": X, "dim": -1}),
        ("long_softmax", "aten._softmax.default", {"self": dense(64, 2048), "dim": -1}),
        ("unaligned_softmax", "aten._softmax.default", {"self": dense(64, 2049), "dim": -1}),
        ("long_softmax_backward", "aten._softmax_backward_data.default", {"grad_output": dense(64, 2049)}),
        ("normalization", "aten.native_layer_norm.default", {"input": X}),
        ("normalization_backward", "aten.native_layer_norm_backward.default", {"grad_out": X}),
        ("dropout_backward", "aten.native_dropout_backward.default", {"grad_output": X}),
        ("reduction", "aten.sum.dim_IntList", {"self": X, "dim": (1,)}),
        ("column_sum", "aten.sum.dim_IntList", {"self": X, "dim": (0,)}),
        ("batch_norm", "aten.cudnn_batch_norm.default", {"input": dense(4, 64, 32, 32)}),
        ("native_batch_norm", "aten.native_batch_norm.default", {"input": dense(4, 64, 32, 32), "training": True}),
        ("batch_norm", "aten.native_batch_norm.default", {"input": dense(4, 64, 32, 32), "training": False}),
        ("channels_last_norm", "aten.native_batch_norm.default",
         {"input": Tensor(0, "float32", (4, 64, 32, 32), (65536, 1, 2048, 64))}),
        ("multi_tensor", "aten._foreach_add_.List", {"self": (X, X)}),
        ("indexing", "aten.embedding.default", {"weight": X}),
    ],
)  # fmt: skip
def test_kinds(expected: str, name: str, args: dict[str, object]) -> None:
    made = next(value for value in args.values() if isinstance(value, Tensor | tuple))
    result = dense(*made.shape) if isinstance(made, Tensor) else X
    assert kind(name, result, **args) == expected


def test_every_kind_has_its_constants() -> None:
    known = constants()
    kinds = {name.split(".")[1] for name in known if name.startswith("traffic_share.")}
    for table in ("elements_per_clock", "row_clocks"):
        assert {name.split(".")[1] for name in known if name.startswith(f"{table}.")} == kinds
    assert all(len(source) > 10 for source in known.sources.values())


def test_rows_are_counted_where_they_cost() -> None:
    rows = traffic(Op(id=0, name="aten._softmax.default", phase=Phase.FORWARD, args={"self": X}, result=X))
    assert rows == Traffic("softmax", BIG * BIG, BIG)


def test_a_sum_costs_what_it_makes() -> None:
    image, made = dense(4, 64, 16, 16), dense(4, 64)
    op = Op(id=0, name="aten.sum.dim_IntList", phase=Phase.FORWARD, args={"self": image, "dim": (2, 3)}, result=made)
    assert traffic(op) == Traffic("reduction", 4 * 64 * 16 * 16, 4 * 64)


@pytest.mark.parametrize(
    ("name", "args", "mutates", "result", "elements"),
    [
        ("aten.embedding.default", {"weight": X}, (), dense(4, BIG), 4 * BIG),
        ("aten.scatter_.value", {"self": X, "dim": 1, "index": dense(BIG, 1, dtype="int64")}, ("self",), X, BIG),
        ("aten.index_put_.default", {"self": X, "values": dense(3, BIG)}, ("self",), X, 3 * BIG),
        ("aten.embedding_dense_backward.default", {"grad_output": dense(4, BIG)}, (), X, 4 * BIG),
    ],
)  # fmt: skip
def test_what_is_picked_decides(
    name: str, args: dict[str, object], mutates: tuple[str, ...], result: Tensor, elements: int
) -> None:
    op = Op(id=0, name=name, phase=Phase.FORWARD, args=args, result=result, mutates=mutates)
    assert traffic(op) == Traffic("indexing", elements)


def test_batch_norm_has_a_block_for_each_channel_unless_it_is_in_channels_last() -> None:
    image = dense(4, 48, 32, 32)

    def moved(name: str, source: Tensor, **args: object) -> Traffic:
        return traffic(Op(id=0, name=name, phase=Phase.FORWARD, args={"input": source, **args}, result=source))

    assert moved("aten.cudnn_batch_norm.default", image, training=True) == Traffic("batch_norm", image.numel, 0, 48)
    assert moved("aten.native_batch_norm.default", image, training=False) == Traffic("batch_norm", image.numel, 0, 0)
    last = image._replace(strides=(48 * 1024, 1, 48 * 32, 48))
    assert moved("aten.cudnn_batch_norm.default", last, training=True) == Traffic("channels_last_norm", image.numel)


def test_a_constant_can_be_changed_for_a_while_and_an_unknown_one_cannot() -> None:
    assert constants().having(unaligned_share=0.25)["unaligned_share"] == 0.25
    assert constants()["unaligned_share"] != 0.25
    with pytest.raises(KeyError):
        constants().having(unalined_share=0.25)
