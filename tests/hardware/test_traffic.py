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


def test_a_constant_can_be_changed_for_a_while_and_an_unknown_one_cannot() -> None:
    assert constants().having(unaligned_share=0.25)["unaligned_share"] == 0.25
    assert constants()["unaligned_share"] != 0.25
    with pytest.raises(KeyError):
        constants().having(unalined_share=0.25)
