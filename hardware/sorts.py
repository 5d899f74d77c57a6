"""A radix sort, a scan or a sum of so many elements -> the temporary storage that CUB asks for.

CUB, the library whose sorts and scans PyTorch calls, says before a call how many bytes it needs, and PyTorch takes
them from its caching allocator for the length of that call
(https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/cuda/cub.cuh, ``CUB_WRAPPER``). The layouts are those of
CCCL 3.0 (CUDA 13.0, read in the package nvidia-cuda-cccl 13.0.85):
https://github.com/NVIDIA/cccl/blob/v3.0.0/cub/cub/device/dispatch/dispatch_radix_sort.cuh and
``tuning/tuning_radix_sort.cuh`` beside it.

Not covered: tiles of keys of one and two bytes on compute capability 9.0 and later, which are tuned one by one; they
are taken to be those of 8.0, which moves the result by some KiB.
"""

from __future__ import annotations

from .gpu import Gpu

ALIGNMENT = 256
DIGITS = 256
"""Counters of a pass over eight bits."""
OFFSET_BYTES = 8
"""PyTorch counts elements in 64 bits."""
SINGLE_TILE = (256, 19)
"""Threads, and elements of four bytes for each of them, that one block sorts by itself."""
PORTION = (1 << 28) - 1
STATE_PADDING = 32
SCAN_TILE = (128, 15)
"""Threads and elements of four bytes of a scan (``tuning_scan.cuh``, its default of compute capability 6.0)."""


def bits_of(most: int) -> int:
    """How many bits keys up to `most` have (``get_num_bits``); one at least.

    >>> bits_of(9_999)
    14
    """
    return max(most.bit_length(), 1)


def radix_sort_bytes(gpu: Gpu, count: int, key_bytes: int, value_bytes: int, bits: int) -> int:
    """Of a sort of `count` keys with their values (0 bytes: keys alone) by that many bits.

    What one block can sort needs nothing, for which CUB asks one byte; more takes one counter per digit for each
    pass and each tile, and a second copy of keys and values from the second pass on.
    """
    threads, nominal = SINGLE_TILE
    if count <= threads * _scaled(nominal, max(key_bytes, value_bytes)):
        return 1
    tile = _tile(gpu, key_bytes, value_bytes)
    portion = PORTION // tile * tile
    passes, portions = -(-bits // 8), -(-count // portion)
    copies = 0 if passes <= 1 else count
    return _together(
        portions * passes * DIGITS * OFFSET_BYTES,
        -(-min(count, portion) // tile) * DIGITS * 4,
        copies * key_bytes,
        copies * value_bytes,
        portions * passes * 4,
    )


def segmented_sort_bytes(count: int, key_bytes: int, value_bytes: int) -> int:
    """Of a sort within segments: a second copy of keys and values."""
    return max(_together(count * key_bytes, count * value_bytes), 1)


def scan_bytes(count: int, item_bytes: int) -> int:
    """Of a running sum: the state of each tile, a value and whether it is there (``ScanTileState``)."""
    threads, nominal = SCAN_TILE
    tiles = -(-count // (threads * _scaled(nominal, item_bytes)))
    return _together((tiles + STATE_PADDING) * 2 * max(item_bytes, 4))


REDUCE_TILE = (256, 16)
"""Threads, and elements of four bytes for each, that one block of a reduction takes (``tuning_reduce.cuh``, 6.0)."""
BLOCKS_OVERSUBSCRIBED = 5
"""``subscription_factor``."""


def reduce_bytes(gpu: Gpu, count: int, item_bytes: int) -> int:
    """Of a sum: one partial result for each block that the GPU holds, five times over; one byte where a block suffices.

    The blocks that a multiprocessor holds are taken to be limited by their threads alone.
    https://github.com/NVIDIA/cccl/blob/v3.0.0/cub/cub/device/dispatch/dispatch_reduce.cuh, InvokePasses.
    """
    threads, nominal = REDUCE_TILE
    if count <= threads * _scaled(nominal, item_bytes):
        return 1
    return _together(gpu.sm_count * (gpu.threads_per_sm // threads) * BLOCKS_OVERSUBSCRIBED * item_bytes)


def _tile(gpu: Gpu, key_bytes: int, value_bytes: int) -> int:
    """Elements that a block of the sort's main kernel takes (``OnesweepPolicy``)."""
    widest = max(key_bytes, value_bytes)
    if gpu.capability < (8, 0):
        return 256 * _scaled(46 if key_bytes == value_bytes == 4 else 23, widest)
    if gpu.capability < (9, 0) or key_bytes < 4:
        return 384 * _scaled(17 if key_bytes == 4 and value_bytes else 21, widest)
    if key_bytes == 4:
        nominal = 19 if not value_bytes else 17 if value_bytes < 8 else 29
    else:
        nominal = 30 if value_bytes < 8 else 24
    return 384 * _scaled(nominal, widest)


def _scaled(nominal: int, item_bytes: int) -> int:
    """Elements of a thread, where `nominal` counts elements of four bytes (``RegBoundScaling``)."""
    return max(1, nominal * 4 // max(4, item_bytes))


def _together(*sizes: int) -> int:
    """One buffer that holds all, each aligned (``AliasTemporaries``)."""
    return sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes) + ALIGNMENT - 1
