"""Tensors whose memory is never touched, with a call when a storage is freed.

PyTorch's C++ takes other roads for tensors that are not what they seem: for `meta` tensors, for
tensor subclasses, and for every tensor while a dispatch mode is on (``isTensorSubclassLike``). So the
tensors of a trace are plain CPU tensors. Their addresses lie in one reserved region of which the
operating system never commits a page, because no kernel ever runs on them; each storage is owned by a
NumPy view, whose death is the storage's death, to the event. (A weak reference to the Python
``UntypedStorage`` would tell as much, but such a wrapper is one more reference to the storage, and
autograd works in place only on storages to which it holds the last one.)

Storages small enough to carry values have real, zeroed memory instead.
"""

from __future__ import annotations

import mmap
import sys
import weakref
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch

from ..graph import Tensor

SPACING_BYTES = 64
"""Distance of the addresses of neighbouring storages. They overlap, which nobody can see: no kernel reads them."""

REGION_BYTES = 1 << 42
"""Reserved addresses: enough for the largest tensor anybody would ask about (4 TiB)."""

_NUMPY = {
    torch.bool: np.bool_,
    torch.uint8: np.uint8,
    torch.int8: np.int8,
    torch.int16: np.int16,
    torch.int32: np.int32,
    torch.int64: np.int64,
    torch.float16: np.float16,
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.complex64: np.complex64,
    torch.complex128: np.complex128,
}
_BY_SIZE = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}

SMALL_FLOAT_BYTES = 16 << 10
SMALL_INTEGER_BYTES = 16 << 20


class Owner(weakref.ref):  # type: ignore[type-arg]
    """What the recorder knows of one live storage; also the finalizer that reports its death."""

    __slots__ = ("assumed", "base", "bytes", "device", "drawn", "id", "known", "noun", "small")

    assumed: tuple[str, str, str] | None
    """The assumption from which its values derive, if any; said when a size or a branch comes to depend on them."""
    drawn: bool
    """Whether its values were drawn for a spec that tells only shapes, or derive from such."""
    id: int
    base: int
    bytes: int
    device: str
    known: bool
    """Whether its memory holds the values of a real run."""
    noun: Tensor | None
    """The tensor over it that was written down last."""
    small: bool
    """Whether it has memory of its own, so that it can hold values."""


@lru_cache(maxsize=4096)
def storage_bytes(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> int:
    """Bytes from the first to the last element of a tensor with non-negative strides."""
    last = 0
    for size, stride in zip(shape, strides, strict=True):
        if size == 0:
            return 0
        last += (size - 1) * stride
    return (last + 1) * itemsize


def base_of(tensor: torch.Tensor) -> int:
    """The address at which the tensor's storage begins."""
    return tensor.data_ptr() - int(tensor.storage_offset()) * tensor.itemsize


def holds_values(nbytes: int, dtype: torch.dtype) -> bool:
    """Whether a storage of this size is worth real memory and real values."""
    return nbytes <= (SMALL_FLOAT_BYTES if dtype.is_floating_point or dtype.is_complex else SMALL_INTEGER_BYTES)


class Arena:
    """Hands out storages and reports their deaths to ``on_death(owner)``, in order and at once."""

    def __init__(self, on_death: Callable[[Owner], None]) -> None:
        self._on_death = on_death
        self._region = _region()

    def new(
        self, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype, nbytes: int, small: bool
    ) -> tuple[torch.Tensor, Owner]:
        """A tensor over a new storage of `nbytes`, and its owner. Call it with autograd out of the way.

        Raises ``MemoryError`` when one tensor is larger than the whole region.
        """
        itemsize = dtype.itemsize
        kind: Any = _NUMPY.get(dtype) or _BY_SIZE[itemsize]
        steps = [stride * itemsize for stride in strides]
        if small:
            array = np.ndarray(shape, kind, np.zeros(nbytes, np.uint8), 0, steps)
        else:
            array = np.ndarray(shape, kind, self._region, self._take(nbytes), steps)
        tensor = torch.from_numpy(array)
        if dtype not in _NUMPY:
            tensor = tensor.view(dtype)
        owner = Owner(array, self._on_death)
        owner.base = tensor.data_ptr()
        owner.small = small
        return tensor, owner

    def _take(self, nbytes: int) -> int:
        if nbytes > self._region.nbytes:
            raise MemoryError(f"a tensor of {nbytes:,} bytes is larger than the addresses that this system reserves")
        start = _next[0]
        if start + nbytes > self._region.nbytes:
            start = 0
        _next[0] = start + SPACING_BYTES
        return start


_next = [0]
"""Where the next storage begins. It goes on from trace to trace, so that tensors of two traces have two addresses."""


@cache
def _region() -> Any:
    """The addresses that all traces of this process share; a process can reserve so many a few dozen times only."""
    return np.frombuffer(_reserve(), dtype=np.uint8)


def _reserve() -> mmap.mmap:
    """The largest region, up to `REGION_BYTES`, of addresses without memory behind them."""
    # Linux: MAP_NORESERVE (0x4000 in asm-generic/mman-common.h) asks for no swap; Python 3.11 lacks the name.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (0x4000 if sys.platform == "linux" else 0)
    size = REGION_BYTES
    while True:
        try:
            return mmap.mmap(-1, size, flags=flags)
        except OSError:
            size //= 2
            if size < mmap.PAGESIZE:
                raise
