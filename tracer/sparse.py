"""Sparse gradients: a sparse tensor is a pair of dense ones, indices and values, and only these have storages.

The pair is really put together and taken apart, which moves no data; what computes on it is answered here, since
there are no meta kernels that tell how many entries come out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ..graph import ForetraceError
from .calls import dense
from .key import quiet
from .signature import Signature

if TYPE_CHECKING:
    from .record import Recorder

ASKS = frozenset({"_nnz", "is_coalesced", "sparse_dim", "dense_dim", "_dimI", "_dimV", "_coalesced_"})
VIEWS = frozenset({"_indices", "_values", "indices", "values", "detach", "alias"})


PRODUCTS = {"_sparse_addmm": 1, "addmm": 1, "_sparse_mm": 0, "mm": 0, "mv": 0}
"""Products of a sparse matrix with a dense one -> the position of the left factor. They are dense."""


def _sparse_bag(grad: torch.Tensor, indices: Any, offsets: Any, offset2bag: Any, *rest: Any, **named: Any) -> Any:
    """The sparse gradient of an embedding bag is made of other ops (EmbeddingBag.cpp: _embedding_bag_backward)."""
    bag_size, _, num_weights, by_frequency, mode, sparse, weights = rest[:7]
    if not sparse:
        return None
    places = offset2bag if offset2bag.numel() else torch.zeros_like(indices)
    padding = rest[7] if len(rest) > 7 else named.get("padding_idx", -1)
    return torch.ops.aten._embedding_bag_sparse_backward.default(
        grad, indices, offsets, places, bag_size, num_weights, by_frequency, mode, weights, padding
    )


def pieces(named: list[tuple[str, torch.Tensor]]) -> list[tuple[str, torch.Tensor]]:
    """The tensors by name, with the two dense ones in place of each that is sparse."""
    if all(tensor.layout is torch.strided for _, tensor in named):
        return named
    found = []
    for name, tensor in named:
        pair = _pair(tensor) if tensor.layout is torch.sparse_coo else None
        found += [(name, tensor)] if pair is None else [(f"{name}.indices", pair[0]), (f"{name}.values", pair[1])]
    return found


def twin(recorder: Recorder, tensor: torch.Tensor) -> torch.Tensor:
    """The same pair in the arena, in place of a sparse tensor that was made before the trace.

    Raises `ForetraceError` for other layouts than that of coordinates.
    """
    if tensor.layout is not torch.sparse_coo:
        layout = str(tensor.layout).removeprefix("torch.")
        raise ForetraceError(
            f"a tensor of shape {tuple(tensor.shape)} has the layout {layout}, which a trace cannot follow",
            "Give it by coordinates (to_sparse_coo()), or dense.",
        )
    indices, values = (recorder.twin(one, recorder.device) for one in _pair(tensor))
    with quiet():
        return _assembled(tensor, indices, values, coalesced=tensor.is_coalesced())


def _pair(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with quiet():
        return tensor._indices(), tensor._values()


INSTEAD: dict[str, Callable[..., Any]] = {"aten._embedding_bag_backward.default": _sparse_bag}
"""Op -> what makes its result of other ops, or None where its own kernel does."""


def answer(recorder: Recorder, sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of an op that is given a sparse tensor."""
    name = sig.name.split(".")[1]
    if name in ASKS or name in VIEWS:
        return sig.func(*args, **kwargs)
    if sig.mutates:
        for owner in recorder.written(sig, args, kwargs):
            owner.known = False
        return args[0]
    if name == "_coalesce":
        return _coalesced(recorder, args[0])
    if name == "sparse_mask":
        return _assembled(args[1], args[1]._indices(), _new_like(recorder, args[1]._values()))
    if name in ("clone", "zeros_like", "mul", "div", "neg", "empty_like"):
        pair = next(a for a in args if isinstance(a, torch.Tensor) and a.layout is torch.sparse_coo)
        indices = _new_like(recorder, pair._indices())
        return _assembled(pair, indices, _new_like(recorder, pair._values()))
    if name in PRODUCTS:
        left, right = args[PRODUCTS[name]], args[PRODUCTS[name] + 1]
        if right.layout is torch.strided:
            return recorder.new(*_dense((*left.shape[:-1], *right.shape[1:])), right.dtype, recorder.claimed(right))
    if name in ("transpose", "t") and args[0].layout is torch.sparse_coo:
        pair = args[0]
        return _assembled(
            pair, _new_like(recorder, pair._indices()), _new_like(recorder, pair._values()), pair.shape[::-1]
        )
    if name in ("to_dense", "_to_dense") and args[0].layout is torch.sparse_coo:
        values = args[0]._values()
        return recorder.new(*_dense(tuple(args[0].shape)), values.dtype, recorder.claimed(values))
    raise recorder.refusal(sig, "it is given a sparse tensor, and what it makes of that is not known")


def _new_like(recorder: Recorder, tensor: torch.Tensor) -> torch.Tensor:
    shape = tuple(tensor.shape)
    return recorder.new(shape, dense(shape), tensor.dtype, recorder.claimed(tensor))


def _coalesced(recorder: Recorder, pair: torch.Tensor) -> torch.Tensor:
    """Equal indices are added up; the storages stay as large as before (SparseTensor.cpp: _coalesce_sparse_cpu)."""
    old = pair._indices()
    indices, values = _new_like(recorder, old), _new_like(recorder, pair._values())
    owner, count = recorder.owner_of(old), old.shape[1]
    if owner is None or owner.known:
        unique = torch.unique(old, dim=1)
        count = unique.shape[1]
        indices[:, :count] = unique
        filled = recorder.owner_of(indices)
        if filled is not None:
            filled.known = True
    else:
        recorder.assumptions.say("aten._coalesce.default", "all indices differ", recorder.where())
    return _assembled(pair, indices[:, :count], values[:count])


def _dense(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return shape, dense(shape)


def _assembled(
    like: torch.Tensor, indices: torch.Tensor, values: torch.Tensor, shape: Any = None, coalesced: bool = True
) -> torch.Tensor:
    made: torch.Tensor = torch.ops.aten._sparse_coo_tensor_with_dims_and_tensors.default(
        like.sparse_dim(), like.dense_dim(), shape or like.shape, indices, values,
        dtype=values.dtype, layout=torch.sparse_coo, device=torch.device("cpu"), is_coalesced=coalesced,
    )  # fmt: skip
    return made
