"""Turns gathers and scatters into work: only the rows that an index picks are moved.

To *gather* is to read places that an index names, to *scatter* is to write them. Which places, and how often one is
named twice, is in the index's data; so what is read of a table is priced as the smaller of the whole table and one
place for each element picked. The index itself is read once.
"""

from __future__ import annotations

from math import prod

from ..graph import Op, Tensor
from ..graph.op import tensors
from .rules import aten, rule
from .work import Work, argument, integer, moves, reads, touched


@rule(*aten("gather index_select index _unsafe_index take take_along_dim embedding masked_select _unsafe_masked_index"))
def gathering(op: Op) -> Work:
    """Each result element is read from the table, and the index from its own tensor."""
    table = argument(op, "weight", "self")
    picked = min(table.touched_bytes, sum(t.bytes for t in op.outputs))
    indices = [t for t in reads(op) if t is not table]
    return moves(op, read=indices) + Work(read_bytes=picked)


@rule("aten.embedding_dense_backward")
def embedding_backward(op: Op) -> Work:
    """Fill the table's gradient with zeros, then add each row of the gradient to the row its index names."""
    gradient = op.tensor("grad_output")
    changed = min(touched(op.outputs), gradient.numel * gradient.itemsize)
    work = moves(op, vector_flops=gradient.numel)
    return work + Work(read_bytes=changed, written_bytes=changed)


@rule(*aten("_embedding_bag _embedding_bag_forward_only"))
def embedding_bag(op: Op) -> Work:
    """Each row that is named is read and added to its bag; a mean divides, a weight multiplies."""
    table, indices = op.tensor("weight"), op.tensor("indices")
    elements = indices.numel * table.shape[-1]
    weighted = isinstance(op.get("per_sample_weights"), Tensor)
    # mode 1 is the mean: torch.nn.functional.embedding_bag
    flops = elements * (1 + weighted) + (op.outputs[0].numel if op.get("mode", 0) == 1 else 0)
    work = moves(op, vector_flops=flops, read=[t for t in reads(op) if t is not table])
    return work + Work(read_bytes=min(table.touched_bytes, elements * table.itemsize))


@rule(*aten("_embedding_bag_dense_backward _embedding_bag_backward"))
def embedding_bag_backward(op: Op) -> Work:
    """Fill with zeros, then add the bag's gradient to each row that the bag named."""
    gradient, indices = op.tensor("grad"), op.tensor("indices")
    elements = indices.numel * gradient.shape[-1]
    changed = min(touched(op.outputs), elements * gradient.itemsize)
    return moves(op, vector_flops=elements) + Work(read_bytes=changed, written_bytes=changed)


def index_count(op: Op, table: Tensor) -> int:
    """Elements of `table` that a tuple of index tensors names: one tensor or None for each leading dimension.

    Integer tensors broadcast together. A boolean mask names at most its own number of places, or exactly as many as
    there are values.
    """
    given = op.get("indices", ())
    slots = given if isinstance(given, tuple) else (given,)
    if any(t.dtype in ("bool", "uint8") for t in tensors(slots)):
        values = op.get("values")
        masked: int = prod(t.numel for t in tensors(slots))
        return values.numel if isinstance(values, Tensor) and values.numel > 1 else min(masked, table.numel)
    rank = max((len(t.shape) for t in tensors(slots)), default=0)
    padded = [(1,) * (rank - len(t.shape)) + t.shape for t in tensors(slots)]
    named: int = prod(0 if 0 in sizes else max(sizes) for sizes in zip(*padded, strict=True))
    free_dimensions = [
        size
        for dimension, size in enumerate(table.shape)
        if dimension >= len(slots) or not isinstance(slots[dimension], Tensor)
    ]
    return named * prod(free_dimensions)


def scatter_count(op: Op, table: Tensor) -> int:
    """How many elements of `table` a scatter writes."""
    if "indices" in op.args:
        return index_count(op, table)
    if isinstance(mask := op.get("mask"), Tensor):
        return min(mask.numel, table.numel)
    index = op.tensor("index")
    if "scatter" in op.packet or op.packet.startswith("aten.put"):
        return index.numel
    dimension = integer(op, "dim", 0)
    return index.numel * (table.numel // max(table.shape[dimension], 1)) if table.shape else 1


ACCUMULATING = aten("scatter_add scatter_reduce index_add index_reduce _unsafe_masked_index_put_accumulate")


def accumulates(op: Op) -> bool:
    """True when what is written is added to, or compared with, what was there."""
    return (
        op.packet.removesuffix("_") in ACCUMULATING
        or bool(op.get("accumulate", False))
        or ("scatter" in op.packet and op.get("reduce") is not None)
    )


@rule(
    *ACCUMULATING,
    *aten("scatter index_copy index_fill index_put _unsafe_index_put _index_put_impl_ masked_scatter put"),
)
def scattering(op: Op) -> Work:
    """Write the named elements; out of place, after a copy of the whole table.

    Accumulating reads each element before it is written and adds (and multiplies by ``alpha``, unless that is 1).
    """
    table = op.tensor("self")
    count = scatter_count(op, table)
    adding = accumulates(op)
    flops = count * (1 + (op.get("alpha", 1) != 1)) if adding else 0
    changed = count * table.itemsize
    sources = [t for t in reads(op) if t is not table]
    copied = 0 if "self" in op.mutates else table.touched_bytes
    return Work(
        vector_flops=flops,
        read_bytes=touched(sources) + copied + (changed if adding else 0),
        written_bytes=(table.bytes if copied else 0) + changed,
    )


@rule(*aten("nonzero argwhere nonzero_static"))
def finding(op: Op) -> Work:
    """A comparison for each element. The tensor is read twice: once to count, once to write the places."""
    source = op.tensor("self")
    return moves(op, vector_flops=source.numel) + Work(read_bytes=source.touched_bytes)


@rule("aten.one_hot")
def one_hot(op: Op) -> Work:
    """Fill with zeros, then write a one for each index."""
    indices, made = op.tensor("self"), op.outputs[0]
    return moves(op) + Work(written_bytes=indices.numel * made.itemsize)


@rule(*aten("max_unpool2d max_unpool3d"))
def unpooling(op: Op) -> Work:
    """Fill with zeros, then write each element to the place that its index names."""
    source = op.tensor("self")
    return moves(op) + Work(written_bytes=source.bytes)


@rule("aten.masked_scatter_backward")
def masked_scatter_backward(op: Op) -> Work:
    """What the mask picks of the gradient, and zeros for what it did not need; at most all of the gradient."""
    return moves(op)


@rule("aten._embedding_bag_per_sample_weights_backward")
def per_sample_weights_backward(op: Op) -> Work:
    """For each index the product of its row and its bag's gradient."""
    table, indices = op.tensor("weight"), op.tensor("indices")
    elements = indices.numel * table.shape[-1]
    work = moves(op, vector_flops=2 * elements, read=[t for t in reads(op) if t is not table])
    return work + Work(read_bytes=min(table.touched_bytes, elements * table.itemsize))
