"""Step graphs written by hand, op by op, for tests that need no torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from foretrace.graph import Category, Const, Event, Facts, Named, Op, Phase, Source, Span, StepGraph, Storage, Tensor


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


class Script:
    """Writes down a step: allocate, call, free; phases make the spans."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.storages: list[Storage] = []
        self.events: list[Event] = []
        self.starts: list[tuple[Phase, int, int]] = []

    def begin(self, phase: Phase) -> None:
        self.starts.append((phase, len(self.ops), len(self.events)))

    def held(self, name: str, shape: tuple[int, ...], category: Category, dtype: str = "float32") -> Tensor:
        """A tensor that is live when the step begins."""
        tensor = Tensor(len(self.storages), dtype, shape, contiguous(shape))
        self.storages.append(Storage(tensor.storage, tensor.bytes, "cuda:0", category, name=name))
        return tensor

    def new(self, shape: tuple[int, ...], category: Category = Category.TEMPORARY, dtype: str = "float32") -> Tensor:
        """A tensor that the next op allocates."""
        tensor = Tensor(len(self.storages), dtype, shape, contiguous(shape))
        self.storages.append(Storage(tensor.storage, tensor.bytes, "cuda:0", category, born=len(self.ops)))
        self.events.append(Event(len(self.ops), tensor.storage, tensor.bytes))
        return tensor

    def call(self, name: str, result: object, /, **given: Any) -> Any:
        about = ("mutates", "module", "source", "sequence", "forward")
        options = {key: given.pop(key) for key in about if key in given}
        phase = self.starts[-1][0]
        self.ops.append(Op(id=len(self.ops), name=name, phase=phase, args=given, result=result, **options))
        return result

    def free(self, *dead: Tensor) -> None:
        for tensor in dead:
            storage = self.storages[tensor.storage]
            self.storages[tensor.storage] = replace(storage, died=len(self.ops) - 1)
            self.events.append(Event(len(self.ops) - 1, storage.id, -storage.bytes))

    def end(self, facts: Facts) -> StepGraph:
        ends = [*self.starts[1:], (None, len(self.ops), len(self.events))]
        spans = [
            Span(phase, first_op, end_op, first_event, end_event)
            for (phase, first_op, first_event), (_, end_op, end_event) in zip(self.starts, ends, strict=True)
        ]
        return StepGraph(tuple(self.ops), tuple(self.storages), tuple(self.events), tuple(spans), facts)


def transposed(t: Tensor) -> Tensor:
    return t._replace(shape=t.shape[::-1], strides=t.strides[::-1])


def perceptron(layers: int = 3, batch: int = 4, width: int = 1024) -> StepGraph:
    """A step of `layers` square linear layers with ReLU between, on the sum of the outputs, with foreach AdamW."""
    s = Script()
    weights = [s.held(f"h.{i}.weight", (width, width), Category.PARAMETER) for i in range(layers)]
    averages = [s.held(f"h.{i}.weight/exp_avg", (width, width), Category.OPTIMIZER_STATE) for i in range(layers)]
    squares = [s.held(f"h.{i}.weight/exp_avg_sq", (width, width), Category.OPTIMIZER_STATE) for i in range(layers)]
    x = s.held("x", (batch, width), Category.INPUT)

    s.begin(Phase.FORWARD)
    saved, forward_of = [x], {}
    for i, weight in enumerate(weights):
        where = {"module": f"h.{i}", "source": Source("model.py", 11, "forward"), "sequence": 2 * i}
        turned = s.call("aten.t.default", transposed(weight), self=weight, **where)
        product = s.new((batch, width))
        forward_of["mm", i] = len(s.ops)
        s.call("aten.mm.default", product, self=saved[-1], mat2=turned, **where)
        where |= {"source": Source("model.py", 12, "forward"), "sequence": 2 * i + 1}
        active = s.new((batch, width), Category.SAVED)
        forward_of["relu", i] = len(s.ops)
        s.call("aten.relu.default", active, self=product, **where)
        s.free(product)
        saved.append(active)
    loss = s.new(())
    source = Source("train.py", 20, "step")
    forward_of["sum", 0] = len(s.ops)
    s.call("aten.sum.default", loss, self=saved[-1], source=source, sequence=2 * layers)

    s.begin(Phase.BACKWARD)
    one = s.new((), Category.GRADIENT)
    s.call("aten.ones_like.default", one, self=loss, dtype=Const("dtype", "float32"), source=source)
    gradient = one._replace(shape=(batch, width), strides=(0, 0))
    s.call("aten.expand.default", gradient, self=one, size=(batch, width), forward=forward_of["sum", 0], source=source)
    gradients: list[Tensor] = []
    for i in reversed(range(layers)):
        where = {"module": f"h.{i}", "source": Source("model.py", 12, "forward"), "forward": forward_of["relu", i]}
        masked = s.new((batch, width))
        s.call("aten.threshold_backward.default", masked, grad_output=gradient, self=saved[i + 1], threshold=0, **where)
        s.free(gradient, saved.pop())
        where |= {"source": Source("model.py", 11, "forward"), "forward": forward_of["mm", i]}
        turned = s.call("aten.t.default", transposed(masked), self=masked, **where)
        gradients.insert(0, s.new((width, width), Category.GRADIENT))
        s.call("aten.mm.default", gradients[0], self=turned, mat2=saved[i], **where)
        if i:
            gradient = s.new((batch, width))
            s.call("aten.mm.default", gradient, self=masked, mat2=weights[i], **where)
        s.free(masked)

    s.begin(Phase.OPTIMIZER)
    source = Source("train.py", 22, "step")
    lists = {"self": tuple(averages), "mutates": ("self",), "source": source}
    s.call("aten._foreach_lerp_.Scalar", None, tensors1=tuple(gradients), weight=0.1, **lists)
    lists["self"] = tuple(squares)
    s.call(
        "aten._foreach_addcmul_.Scalar", None, tensor1=tuple(gradients), tensor2=tuple(gradients), value=0.001, **lists
    )
    roots = [s.new((width, width)) for _ in squares]
    s.call("aten._foreach_sqrt.default", tuple(roots), self=tuple(squares), source=source)
    lists["self"] = tuple(weights)
    s.call("aten._foreach_addcdiv_.Scalar", None, tensor1=tuple(averages), tensor2=tuple(roots), value=-1e-3, **lists)
    s.free(*roots)

    s.begin(Phase.ZERO_GRAD)
    s.free(*gradients, loss)
    return s.end(
        Facts(
            target="model.py:make",
            device="cuda",
            optimizer={"class": "AdamW", "implementation": "foreach", "lr": 1e-3, "betas": (0.9, 0.999)},
            parameters=tuple(Named(f"h.{i}.weight", w.storage, w.shape, w.dtype, True) for i, w in enumerate(weights)),
            inputs=(Named("x", x.storage, x.shape, x.dtype),),
            state=tuple(
                Named(f"h.{i}.weight/{key}", t.storage, t.shape, t.dtype)
                for key, tensors in (("exp_avg", averages), ("exp_avg_sq", squares))
                for i, t in enumerate(tensors)
            ),
            modules={"": "Perceptron", **{f"h.{i}": "Linear" for i in range(layers)}},
            versions={"torch": "2.13.0"},
        )
    )
