"""A reduction over a strided tensor -> the memory in which the blocks of PyTorch's CUDA kernel meet.

A *reduction* is a sum, a mean, a maximum over some dimensions. Where one thread would have too many values to go
through and the results are few, several thread blocks share a result; they leave their parts in a buffer of global
memory and count themselves in *semaphores*. How many do is decided from shape, strides and GPU, as modelled here:
https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/Reduce.cuh (``setReduceConfig``,
``gpu_reduce_kernel``, ``AccumulationBuffer``; read in the headers of 2.14.1) over what
https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/TensorIterator.cpp makes of the dimensions
(``reorder_dimensions``, ``coalesce_dimensions``, ``with_32bit_indexing``).

Not covered: pointers that are less aligned than their offset in the storage says, and ROCm's thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

from ..graph import Tensor
from .extra_rules import Setting
from .gpu import Gpu
from .script import Extra, Return, Scratch

WARP = 32
MOST_THREADS = 512
LEAST_VALUES, MOST_VALUES = 16, 256
"""Values that a thread should have at least, and those from which on blocks share a result."""
INDEX_LIMIT = 2**31 - 1
"""The last offset in bytes that a kernel with 32-bit indices reaches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """What a reduction's kernel is compiled for."""

    value_bytes: int
    """Of one element that it reads."""
    partial_bytes: int
    """Of what it accumulates in: four for a float32 sum, sixteen for a maximum with its place."""
    result_bytes: int
    vector: int = 4
    """How many elements a thread loads at once along a contiguous reduced dimension."""
    accumulates_in_result: bool = True
    """False where the result's type is too narrow to add up in."""


class Dimension(NamedTuple):
    """One dimension of the iteration, strides in bytes; a stride of 0 in the result means that it is reduced."""

    size: int
    result: int
    value: int


class Buffers(NamedTuple):
    """What one launch takes of global memory, in this order; zeros where no blocks share a result."""

    partials_bytes: int
    semaphores_bytes: int


def accumulation_bytes(kernel: Kernel, dims: list[Dimension]) -> int:
    """The buffer that launches over parts of a large tensor add up in, where their result's type is too narrow."""
    if kernel.accumulates_in_result or _fits(dims) or kernel.result_bytes >= kernel.partial_bytes:
        return 0
    extent = max((d.size * d.result for d in dims), default=0)
    return max(extent, kernel.result_bytes) // kernel.result_bytes * kernel.partial_bytes


def reduction(value: Tensor, reduced: frozenset[int], kernel: Kernel, setting: Setting) -> Iterator[Extra]:
    """The buffers of one reduction over the dimensions `reduced`; those of a launch are gone when it is made."""
    dims = iteration(value, reduced, kernel)
    if accumulation_bytes(kernel, dims):
        yield Scratch(accumulation_bytes(kernel, dims), "accumulation buffer")
    for buffers in launches(setting.gpu, kernel, dims, value.offset):
        if buffers.partials_bytes:
            yield Scratch(buffers.partials_bytes, "partial results")
            yield Scratch(buffers.semaphores_bytes, "semaphores")
            yield Return("semaphores")
            yield Return("partial results")


def launches(gpu: Gpu, kernel: Kernel, dims: list[Dimension], offset: int = 0) -> Iterator[Buffers]:
    """The buffers of each launch: a tensor beyond 32-bit indices is halved until its parts are within.

    `offset` is where the values begin in their storage, in elements.
    """
    if _fits(dims):
        yield _Config.of(gpu, kernel, dims, offset).buffers()
        return
    place = max(range(len(dims)), key=lambda i: max((dims[i].size - 1) * max(dims[i].result, dims[i].value), 0))
    size = dims[place].size
    for part in (size // 2, size - size // 2):
        yield from launches(gpu, kernel, [*dims[:place], dims[place]._replace(size=part), *dims[place + 1 :]], offset)


def iteration(value: Tensor, reduced: frozenset[int], kernel: Kernel) -> list[Dimension]:
    """The dimensions over which the kernel goes, the fastest and the reduced ones first, as few as can be.

    The result is taken to be dense in row-major order.
    """
    strides, step = [0] * len(value.shape), kernel.result_bytes
    for i in reversed(range(len(value.shape))):
        if i not in reduced:
            strides[i], step = step, step * value.shape[i]
    sizes = zip(value.shape, strides, value.strides, strict=True)
    return _coalesced(_ordered([Dimension(n, result, s * kernel.value_bytes) for n, result, s in reversed([*sizes])]))


def _ordered(dims: list[Dimension]) -> list[Dimension]:
    """Insertion sort as PyTorch's, which tolerates dimensions that cannot be compared."""
    dims = list(dims)
    for i in range(1, len(dims)):
        at = i
        for before in range(i - 1, -1, -1):
            order = _compared(dims[before], dims[at])
            if order > 0:
                dims[before], dims[at] = dims[at], dims[before]
                at = before
            elif order < 0:
                break
    return dims


def _compared(left: Dimension, right: Dimension) -> int:
    """Above 0 where `left` should come after `right`."""
    if (left.result == 0) != (right.result == 0):
        return 1 if right.result == 0 else -1
    for a, b in ((left.result, right.result), (left.value, right.value)):
        if a == 0 or b == 0:
            continue
        if a != b:
            return 1 if a > b else -1
        if left.size > right.size:
            return 1
    return 0


def _coalesced(dims: list[Dimension]) -> list[Dimension]:
    """Neighbours that are one dimension in memory become one."""
    if len(dims) <= 1:
        return dims
    merged = [dims[0]]
    for dim in dims[1:]:
        last = merged[-1]
        whole = (last.size * last.result, last.size * last.value) == (dim.result, dim.value)
        if last.size == 1:
            merged[-1] = dim
        elif dim.size == 1 or whole:
            merged[-1] = last._replace(size=last.size * dim.size)
        else:
            merged.append(dim)
    return merged


def _fits(dims: list[Dimension]) -> bool:
    """Whether 32-bit indices reach everything."""
    values = sum((d.size - 1) * d.value for d in dims)
    results = sum((d.size - 1) * d.result for d in dims)
    return prod(d.size for d in dims) <= INDEX_LIMIT and max(values, results) + 1 <= INDEX_LIMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class _Config:
    """How threads and blocks are laid over a reduction (``ReduceConfig``)."""

    kernel: Kernel
    results: int
    values: int
    """Of one result."""
    width: int
    height: int
    vector: int
    """Results that a thread makes at once."""
    along: bool
    """True where the threads of a row share a result."""
    step_result: int
    blocks: int = 1
    """Those that share a result."""

    @classmethod
    def of(cls, gpu: Gpu, kernel: Kernel, dims: list[Dimension], offset: int) -> _Config:
        reduced = sum(d.result == 0 for d in dims)
        results = prod(d.size for d in dims if d.result or not d.size)
        values = prod(d.size for d in dims) // max(results, 1)
        along = reduced == len(dims) or dims[0].value < dims[reduced].value
        fastest = (dims[0].value if along else dims[reduced].value) if dims else kernel.value_bytes
        across, down = ((values, results) if along else (results, values)) if dims else (1, 1)
        vector = 1
        if fastest == kernel.value_bytes:
            if along and across >= 128 and reduced == 1:
                across //= kernel.vector
            elif not along:
                vector = _vector(kernel, dims, reduced, offset)
                across //= vector
        width, height = _block(across, down, MOST_THREADS // vector)
        config = cls(
            kernel=kernel,
            results=results,
            values=values,
            width=width,
            height=height,
            vector=vector,
            along=along,
            step_result=1 if along else width,
        )
        return config._shared(gpu)

    def _shared(self, gpu: Gpu) -> _Config:
        """The same with the values divided among warps, and then among blocks, where there are enough of them."""
        step = self.width if self.along else 1
        if -(-self.values // step) < min(self.height * LEAST_VALUES, MOST_VALUES):
            return replace(self, step_result=self.step_result * self.height)
        per_thread = -(-self.values // (step * self.height))
        target = gpu.sm_count * (gpu.threads_per_sm // (self.width * self.height))
        if per_thread < MOST_VALUES or self.grid > target:
            return self
        wanted, most, least = -(-target // self.grid), -(-per_thread // LEAST_VALUES), -(-per_thread // MOST_VALUES)
        return replace(self, blocks=min(max(wanted, least), most))

    @property
    def grid(self) -> int:
        return -(-(self.results // self.vector) // self.step_result)

    def buffers(self) -> Buffers:
        if self.blocks == 1:
            return Buffers(0, 0)
        size = self.kernel.partial_bytes * self.results * self.blocks
        return Buffers(size if self.along else size * self.width * self.vector, 4 * self.grid)


def _vector(kernel: Kernel, dims: list[Dimension], reduced: int, offset: int) -> int:
    """Results that a thread makes at once: as many as all strides allow (``get_output_vec_size``)."""
    steps = [d.value // kernel.value_bytes for i, d in enumerate(dims) if i != reduced]
    return next(n for n in (4, 2, 1) if all(step % n == 0 for step in (offset, dims[reduced].size, *steps)))


def _block(across: int, down: int, most: int) -> tuple[int, int]:
    """Width and height of a thread block (``set_block_dimension``)."""
    wide, high = _power_of_two(across, most), _power_of_two(down, most)
    width = min(wide, WARP)
    height = min(high, most // width)
    return min(wide, most // height), height


def _power_of_two(count: int, most: int) -> int:
    return 1 << (max(count, 1).bit_length() - 1) if count < most else most
