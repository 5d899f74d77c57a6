"""Turns an op's tensors into its *work*: FLOPs by unit, bytes read, bytes written.

What counts as a FLOP, everywhere in this folder:

- one add or one multiply is one FLOP, a fused multiply-add is two;
- one evaluation of an elementary function (exp, log, tanh, erf, sqrt, a division, ...) is one FLOP, whatever
  it costs a particular processor;
- one comparison, minimum, maximum or selection is one FLOP, in integers as in floating point;
- copying, converting a dtype, and the integer arithmetic of a random number generator are none.

Work that is done once per row or per channel is counted. Work that is done once per kernel (an index, a
scalar known on the host) is not.

Bytes are those a kernel has to move to and from device memory when everything that it reuses stays on the
chip: each place that is read counts once, and so does each place that is written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from ..graph import Op, Tensor
from ..graph.op import NotATensor, tensors, touched_byte_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one op, or a group of ops, asks of a device. ``Work + Work`` adds up."""

    tensor_flops: int = 0
    """FLOPs that a matrix unit can do: the products of matmul, convolution and attention."""
    vector_flops: int = 0
    """All other FLOPs."""
    read_bytes: int = 0
    written_bytes: int = 0
    skippable_flops: int = 0
    """The part of ``tensor_flops`` that a causal mask makes unnecessary, counted score by score."""

    def __add__(self, other: Work) -> Work:
        return Work(
            tensor_flops=self.tensor_flops + other.tensor_flops,
            vector_flops=self.vector_flops + other.vector_flops,
            read_bytes=self.read_bytes + other.read_bytes,
            written_bytes=self.written_bytes + other.written_bytes,
            skippable_flops=self.skippable_flops + other.skippable_flops,
        )

    @property
    def flops(self) -> int:
        """All FLOPs, attention in full."""
        return self.tensor_flops + self.vector_flops

    @property
    def causal_flops(self) -> int:
        """All FLOPs, without the attention products that a causal mask throws away."""
        return self.flops - self.skippable_flops

    @property
    def bytes(self) -> int:
        """Bytes read and bytes written."""
        return self.read_bytes + self.written_bytes


NOTHING = Work()


def total(works: Iterable[Work]) -> Work:
    """The sum of `works`, in one pass."""
    tensor = vector = read = written = skippable = 0
    for work in works:
        if work is NOTHING:
            continue
        tensor += work.tensor_flops
        vector += work.vector_flops
        read += work.read_bytes
        written += work.written_bytes
        skippable += work.skippable_flops
    return Work(
        tensor_flops=tensor,
        vector_flops=vector,
        read_bytes=read,
        written_bytes=written,
        skippable_flops=skippable,
    )


def write_only(op: Op) -> frozenset[str]:
    """The arguments that `op` fills without reading them: ``out=`` and its likes.

    An op in place (``add_``) reads what it changes; a functional op that returns an argument which it wrote
    was given a place for its result.
    """
    if not op.mutates or op.packet.endswith("_"):
        return frozenset()
    returned = {t.storage for t in op.outputs}
    return frozenset(
        name
        for name in op.mutates
        if name.startswith("out") or any(t.storage in returned for t in tensors(op.args.get(name)))
    )


def reads(op: Op) -> list[Tensor]:
    """The tensors that `op` reads, if it reads all that it is given."""
    skipped = write_only(op)
    if not skipped:
        return list(op.inputs)
    return list(tensors(tuple([value for name, value in op.args.items() if name not in skipped])))


def unchanged(op: Op) -> list[Tensor]:
    """The tensors among the arguments that `op` does not write to."""
    return list(tensors(tuple([value for name, value in op.args.items() if name not in op.mutates])))


def writes(op: Op) -> list[Tensor]:
    """The tensors that `op` writes: those it made and those it changed."""
    if not op.outputs:
        return list(op.written)
    given = {t.storage for t in op.inputs}
    return [t for t in op.outputs if t.storage not in given] + list(op.written)


def place(tensor: Tensor) -> object:
    """Equal for two tensors over the same bytes, whatever the order of their dimensions."""
    if len(tensor.shape) < 2:
        return tensor
    return tensor.storage, tensor.offset, tensor.dtype, _dimensions(tensor.shape, tensor.strides)


@lru_cache(maxsize=4096)
def _dimensions(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(sorted((stride, size) for size, stride in zip(shape, strides, strict=True) if stride))


def touched(several: Iterable[Tensor]) -> int:
    """Bytes of the places that `several` tensors cover; one that is there twice counts once."""
    found = list(several)
    if len({t.storage for t in found}) < len(found):
        found = list({place(t): t for t in found}.values())
    return sum([touched_byte_count(dtype, shape, strides) for _, dtype, shape, strides, _ in found])


def produced(op: Op) -> int:
    """Number of elements that `op` makes or changes, all its results together."""
    return sum([prod(t.shape) for t in writes(op)])


def consumed(op: Op) -> int:
    """Number of elements of `op`'s first argument, which is a tensor or a list of them."""
    return sum(t.numel for t in tensors(next(iter(op.args.values()), None)))


def argument(op: Op, *names: str) -> Tensor:
    """The first of the arguments `names` that is a tensor: schemas differ in what they call it."""
    for name in names:
        value = op.args.get(name)
        if isinstance(value, Tensor):
            return value
    raise NotATensor(f"{op.name}: none of the arguments {names} is a tensor")


def integer(op: Op, name: str, default: int) -> int:
    """The argument `name` as an int, or `default` where the caller left it out."""
    value = op.args.get(name)
    return int(value) if isinstance(value, int) else default


def flags(op: Op, name: str, count: int) -> tuple[bool, ...]:
    """A mask argument such as ``output_mask``; all true where the caller left it out."""
    value = op.args.get(name)
    return tuple(map(bool, value)) if isinstance(value, tuple) else (True,) * count


def moves(
    op: Op,
    *,
    tensor_flops: int = 0,
    vector_flops: int = 0,
    skippable_flops: int = 0,
    read: Iterable[Tensor] | None = None,
    written: Iterable[Tensor] | None = None,
) -> Work:
    """Work with its bytes filled in from the tensors, so that a rule says only what differs.

    ``read`` and ``written`` replace what `reads` and `writes` find.
    """
    return Work(
        tensor_flops=tensor_flops,
        vector_flops=vector_flops,
        skippable_flops=skippable_flops,
        read_bytes=touched(reads(op) if read is None else read),
        written_bytes=touched(writes(op) if written is None else written),
    )
