"""A step graph as a ``torch.fx.Graph`` of ATen ops, which runs again on real tensors.

Values are told apart by the storage they view and how (dtype, shape, strides, offset), not by Python
object: what autograd unpacks, detaches or re-views is the same memory, and so the same value here.
Where a view of a known storage appears that no op returned, an ``as_strided`` is put in its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from ..graph import Const, ForetraceError, Op, StepGraph, Tensor


def to_fx(step: StepGraph) -> fx.Graph:
    """The recorded step as an fx graph.

    Its placeholders are the storages that are live at the start and used by the step, in order of id, each a
    one-dimensional tensor of the dtype in which the step first sees it, named ``storage_<id>``. In-place ops
    work in place on them, so after a run of the graph they hold the step's result. The output is a dict from
    op id to the values it returned, for the ops whose results nothing else holds on to: here, all of them.
    """
    return _Writer(step).write()


class _Writer:
    def __init__(self, step: StepGraph) -> None:
        self.step = step
        self.graph = fx.Graph()
        self.values: dict[Tensor, fx.Node] = {}
        self.bases: dict[int, tuple[Tensor, fx.Node]] = {}

    def write(self) -> fx.Graph:
        for tensor in self._first_uses():
            node = self.graph.placeholder(f"storage_{tensor.storage}")
            node.meta["tensor"] = tensor
            self._define(tensor, node)
        for op in self.step.ops:
            self._op(op)
        self.graph.output(None)
        self.graph.lint()
        return self.graph

    def _first_uses(self) -> list[Tensor]:
        """For each storage from before the step: all of it, as one dimension of the dtype of its first use."""
        found: dict[int, Tensor] = {}
        for op in self.step.ops:
            for tensor in op.inputs:
                storage = self.step.storages[tensor.storage]
                if storage.born is None and storage.bytes and storage.id not in found:
                    count = storage.bytes // tensor.itemsize
                    found[storage.id] = Tensor(storage.id, tensor.dtype, (count,), (1,), 0)
        return [found[number] for number in sorted(found)]

    def _define(self, tensor: Tensor, node: fx.Node) -> None:
        self.values[tensor] = node
        if self.step.storages[tensor.storage].bytes:
            self.bases.setdefault(tensor.storage, (tensor, node))

    def _op(self, op: Op) -> None:
        if op.name == "foretrace.constant.default":
            return self._constant(op)
        function = function_of(op.name)
        args = {name: self._value(value) for name, value in op.args.items()}
        node = self.graph.call_function(function, *as_called(function, args))
        node.meta.update(op=op, seq_nr=op.sequence, stack_trace=str(op.source or ""), nn_module_stack=op.module)
        self._results(op.result, node)

    def _constant(self, op: Op) -> None:
        values, dtype = op.args["values"], op.args["dtype"]
        if values is None or not isinstance(dtype, Const):
            raise ForetraceError(
                f"a constant of {op.outputs[0].numel:,} elements at {op.source} is not in the trace",
                "Make it a buffer of the module, so that it is an input of the step.",
            )
        node = self.graph.call_function(torch.tensor, (list(values),), {"dtype": getattr(torch, dtype.name)})  # type: ignore[call-overload]
        node.meta["op"] = op
        self._results(op.result, node)

    def _results(self, result: Any, node: fx.Node) -> None:
        if isinstance(result, Tensor):
            self._define(result, node)
        elif isinstance(result, tuple):
            for i, item in enumerate(result):
                if isinstance(item, (Tensor, tuple)) and item:
                    self._results(item, self.graph.call_function(_getitem, (node, i)))

    def _value(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._read(value)
        if isinstance(value, Const):
            return constant(value)
        if isinstance(value, tuple):
            return [self._value(v) for v in value]
        return value

    def _read(self, tensor: Tensor) -> fx.Node:
        node = self.values.get(tensor)
        if node is not None:
            return node
        if not self.step.storages[tensor.storage].bytes:
            function: Callable[..., Any] = zeros_strided
            node = self.graph.call_function(
                function, (tensor.shape, tensor.strides), {"dtype": getattr(torch, tensor.dtype)}
            )
        else:
            base, root = self.bases[tensor.storage]
            if base.dtype != tensor.dtype:
                root = self.graph.call_function(view_as_dtype, (root, getattr(torch, tensor.dtype)))
            args = (root, tensor.shape, tensor.strides, tensor.offset)
            node = self.graph.call_function(torch.ops.aten.as_strided.default, args)
        self.values[tensor] = node
        return node


def _getitem(values: Any, index: int) -> Any:
    return values[index]


def zeros_strided(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """What a tensor without memory stands for."""
    return torch.empty_strided(shape, strides, dtype=dtype).zero_()


def view_as_dtype(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The whole storage of `tensor` as one dimension of another dtype."""
    return torch.empty(0, dtype=dtype).set_(tensor.untyped_storage())


def function_of(name: str) -> Any:
    """The overload that an op's name stands for. Raises `ForetraceError` where this torch does not have it."""
    namespace, packet, overload = name.split(".")
    try:
        return getattr(getattr(getattr(torch.ops, namespace), packet), overload)
    except AttributeError as error:
        raise ForetraceError(
            f"this torch ({torch.__version__}) has no operator {name}", "Trace again with the torch that is installed."
        ) from error


def as_called(function: Any, args: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments by their schema names as a call of the operator takes them: by position, and by keyword."""
    given = [argument for argument in function._schema.arguments if argument.name in args]
    positional = tuple(args[argument.name] for argument in given if not argument.kwarg_only)
    return positional, {argument.name: args[argument.name] for argument in given if argument.kwarg_only}


def constant(value: Const) -> Any:
    """The torch object for a constant; every device is the CPU when the graph runs again."""
    if value.kind == "device":
        return torch.device("cpu")
    if value.kind in ("dtype", "layout", "memory_format"):
        return getattr(torch, value.name)
    if value.kind == "generator":
        return None
    raise ForetraceError(f"a constant of kind {value.kind} cannot be made again", "Report this with the model.")


def run(graph: fx.Graph, storages: dict[int, torch.Tensor]) -> dict[int, Any]:
    """Run a graph from `to_fx`; `storages` are real one-dimensional tensors by storage id, changed in place.

    Returns what each op returned, by op id.
    """
    results: dict[int, Any] = {}

    class _Interpreter(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if "op" in n.meta:
                results[n.meta["op"].id] = result
            return result

    module = fx.GraphModule(torch.nn.Module(), graph)
    wanted = [node.meta["tensor"] for node in graph.find_nodes(op="placeholder")]
    inputs = [_fitted(storages[tensor.storage], tensor) for tensor in wanted]
    # Nothing requires a gradient, so nothing is differentiated; but oneDNN's LSTM asks whether gradients are on.
    with torch.enable_grad():
        _Interpreter(module, garbage_collect_values=False).run(*inputs)
    return results


def _fitted(tensor: torch.Tensor, wanted: Tensor) -> torch.Tensor:
    found = view_as_dtype(tensor, getattr(torch, wanted.dtype))
    if found.numel() < math.prod(wanted.shape):
        raise ValueError(f"storage {wanted.storage} has {found.numel()} elements, not {math.prod(wanted.shape)}")
    return found
