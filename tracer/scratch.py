"""A step traced for the CPU -> the same step with the memory that its kernels take inside and give back.

What oneDNN takes for reordered layouts, or a kernel for each of its threads, is written down nowhere, but it is a
matter of shapes alone. So each distinct call of an op in `SCRATCH` is run once on zeros, under the profiler, after the
trace; the most that was live in it beyond its results is the *workspace* of all calls like it. A call above the
limits is not run, and a note says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch._C._profiler import _EventType
from torch.profiler import record_function

from ..graph import Const, Op, StepGraph, Tensor
from ..graph.op import tensors
from ..graph.workspaces import with_workspaces
from .events import profiled
from .program import as_called, constant, function_of

SCRATCH = (
    "aten.convolution",
    "aten.mkldnn_rnn_layer",
    "aten.native_batch_norm",
    "aten.native_layer_norm_backward",
    "aten.native_group_norm_backward",
    "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._fft_",
    "aten.upsample_",
    "aten.embedding_dense_backward",
    "aten._euclidean_dist",
    "aten.dist",
    "aten.mse_loss",
    "aten.smooth_l1_loss",
    "aten.huber_loss",
    "aten.binary_cross_entropy_with_logits",
    "aten.col2im",
    "aten.im2col",
    "aten.logsumexp",
    "aten._safe_softmax",
    "aten._ctc_loss_backward",
    "aten.roll",
    "aten.linalg_",
    "aten._linalg_",
)
"""How the names of ops begin whose CPU kernels take memory of more than a few numbers inside."""

OF_ONES = frozenset({"aten.linalg_matrix_exp"})
"""Ops that are run on ones. The kernel of ``matrix_exp`` chooses a polynomial by the norm of the matrix (``mexp_impl``
in ATen/native/LinearAlgebra.cpp), and takes the most where that is large, as it is of most matrices that are."""

MIXING = frozenset(
    f"aten.{name}{inplace}"
    for name in (
        *("add", "sub", "mul", "div", "pow", "fmod", "remainder", "maximum", "minimum", "where"),
        *("addcmul", "addcdiv", "eq", "ne", "lt", "le", "gt", "ge", "abs", "angle"),
    )
    for inplace in ("", "_")
)
"""Ops that convert what they are given to one dtype first."""
SUMS = frozenset({"aten.sum", "aten.prod", "aten.mean", "aten.cumsum", "aten.cumprod", "aten.nansum"})
"""Ops that convert the whole of what they add up to the dtype of the result, as of a mask that is counted."""
MATMULS = frozenset({"aten.mm", "aten.addmm", "aten.bmm", "aten.baddbmm", "aten.addmv", "aten.mv"})
"""Ops that oneDNN computes in half precision, from layouts of its own."""

MASKED = frozenset({"aten.index", "aten._index_put_impl_", "aten.index_put", "aten.index_put_"})
"""Ops that take masks among their indices."""

MOST_BYTES = 2**30
"""Of the tensors of one call, so that a trace still needs no memory to speak of."""
MOST_WORK = 500_000_000_000
"""FLOPs of all calls that are run, a handful of seconds on two cores."""
_CALL = "foretrace_call_"


def with_scratch(graph: StepGraph) -> StepGraph:
    """`graph`, a step for the CPU, with the workspaces of its kernels."""
    alike: dict[Any, list[Op]] = {}
    for op in graph.ops:
        if op.packet.startswith(SCRATCH) or _converts(op):
            alike.setdefault(_key(op), []).append(op)
    groups = list(alike.values())
    run = _affordable(groups)
    peaks = _peaks([groups[i][0] for i in run])
    found = {op.id: size for i, size in zip(run, peaks, strict=True) for op in groups[i]}
    found.update((op.id, _places_bytes(op)) for op in graph.ops if op.packet in MASKED)
    left = sum(len(group) for i, group in enumerate(groups) if i not in set(run))
    facts = graph.facts
    if left:
        note = f"{left} ops are too large to try here, so the scratch inside their kernels is not known"
        facts = replace(facts, notes=(*facts.notes, note))
    return with_workspaces(replace(graph, facts=facts), found, graph.facts.device)


def _places_bytes(op: Op) -> int:
    """What the list of places takes that a mask is turned into (ATen/native/TensorAdvancedIndexing: expandTensors).

    An int64 for each dimension of the mask and each element that it picks; their number is told by what is picked.
    """
    indices = list(tensors(op.args["indices"]))
    masks = [t for t in indices if t.dtype in ("bool", "uint8")]
    picked = op.outputs[0] if op.packet == "aten.index" else op.tensor("values")
    whole = op.tensor("self").numel
    if len(masks) != 1 or len(indices) > 1 or not picked.shape or not whole:
        return 0
    count, rest = divmod(picked.numel * masks[0].numel, whole)
    return 0 if rest else 8 * len(masks[0].shape) * count


def _key(op: Op) -> Any:
    """Equal for calls of one op that differ in their storages only."""
    return (op.name, *((name, _shape(value)) for name, value in op.args.items()))


def _converts(op: Op) -> bool:
    """Whether an op meets dtypes that make it convert or reorder whole tensors inside."""
    if op.packet in MATMULS:
        return op.inputs[0].dtype in ("bfloat16", "float16")
    if op.packet in SUMS:
        return op.inputs[0].dtype != op.outputs[0].dtype
    return op.packet in MIXING and len({t.dtype for t in (*op.inputs, *op.outputs) if t.shape}) > 1


def _shape(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value._replace(storage=0, offset=0)
    if type(value) is tuple:
        return tuple(_shape(item) for item in value)
    return type(value), value


def _affordable(groups: list[list[Op]]) -> list[int]:
    """The places of the calls that are run: each small enough, and together within `MOST_WORK`, the cheapest first."""
    chosen, spent = [], 0
    for work, place in sorted((_work(group[0]), place) for place, group in enumerate(groups)):
        spent += work
        if spent <= MOST_WORK and _bytes(groups[place][0]) <= MOST_BYTES:
            chosen.append(place)
    return sorted(chosen)


def _bytes(op: Op) -> int:
    return sum(t.bytes for t in (*op.inputs, *op.outputs))


def _work(op: Op) -> int:
    """About how many FLOPs the call takes; for a convolution and an RNN what its weights are multiplied with."""
    backward = 2 if op.packet.endswith("_backward") else 1
    if "convolution" in op.packet:
        weight = op.tensor("weight")
        over = op.tensor("grad_output") if backward == 2 else op.outputs[0]
        if op.get("transposed"):
            over = op.tensor("input")
        return 2 * backward * over.numel * weight.numel // max(weight.shape[0], 1)
    if op.packet in MATMULS:
        left = op.tensor(next(name for name in ("mat1", "batch1", "mat", "self") if name in op.args))
        return 2 * op.outputs[0].numel * left.shape[-1]
    if "rnn" in op.packet:
        rows = prod(op.inputs[0].shape[:-1])
        return 2 * backward * rows * sum(t.numel for t in op.inputs[1:5])
    if "attention" in op.packet:
        query, key = (next(t for n, v in op.args.items() if n == name for t in tensors(v)) for name in ("query", "key"))
        return 4 * backward * query.numel * key.shape[-2]
    if "linalg_" in op.packet:
        return 20 * sum(t.numel * t.shape[-1] for t in op.inputs if t.shape)
    return 10 * sum(t.numel for t in (*op.inputs, *op.outputs))


# -- one call -------------------------------------------------------------------------------------


def _peaks(ops: list[Op]) -> list[int]:
    """For each op the most bytes that were live while it ran, beyond those of its results."""
    if not ops:
        return []
    with profiled() as events, torch.enable_grad():
        for op in ops:
            _call(op)
    return [_peak_beyond_end(allocations) for allocations in _allocations(events)]


def _peak_beyond_end(allocations: list[int]) -> int:
    live = list(accumulate(allocations, initial=0))
    return max(live) - live[-1]


def _call(op: Op) -> None:
    """Run the op on zeros, linear algebra on unit matrices, those `OF_ONES` on ones.

    Its arguments and results are there before the first mark and until after the last.
    """
    function = function_of(op.name)
    ones = op.packet in OF_ONES
    positional, keywords = as_called(function, {name: _real(value, ones) for name, value in op.args.items()})
    if "linalg_" in op.packet and not ones:
        for matrix in positional:
            if isinstance(matrix, torch.Tensor) and matrix.dim() > 1 and matrix.is_floating_point():
                matrix.diagonal(dim1=-2, dim2=-1).fill_(1)
    with record_function(_CALL):
        try:
            result = function(*positional, **keywords)
        except RuntimeError:
            # A kernel that this CPU does not have: the real step would not run here either.
            result = None
    del result


def _real(value: Any, ones: bool = False) -> Any:
    if isinstance(value, Tensor):
        dtype = getattr(torch, value.dtype)
        return torch.empty_strided(value.shape, value.strides, dtype=dtype).fill_(int(ones))
    if isinstance(value, Const):
        return constant(value)
    if type(value) is tuple:
        return [_real(item, ones) for item in value]
    return value


def _allocations(events: list[Any]) -> Iterator[list[int]]:
    """Of each marked call the allocations and frees that happened in it."""
    for event, _ in events:
        if event.name == _CALL:
            yield list(_inside(event))


def _inside(event: Any) -> Iterator[int]:
    found = []
    stack = [event]
    while stack:
        child = stack.pop()
        kind, fields = child.typed
        if kind == _EventType.Allocation:
            found.append((child.start_time_ns, fields.alloc_size))
        stack += child.children
    return (size for _, size in sorted(found, key=lambda item: item[0]))
