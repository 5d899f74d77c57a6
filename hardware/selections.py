"""Ops that pick, count or draw elements -> what their CUDA kernels take beside their outputs.

``sort``, ``topk``, ``median``, ``nonzero``, ``unique``, ``multinomial``, ``randperm`` and their like sort copies, count
hits or add up in buffers that no op returns. Each rule names the function of PyTorch that it follows; of the files the
newest text at hand was read. Storage that CUB asks for is that of `sorts`: for its selections and its scans by key,
which are tuned type by type, that of a plain scan stands in, which is off by some KiB.

Not covered: a few scalars inside of ``multinomial`` and ``median``; the results of ``unique``, which keep the size that
they had before they were cut; ``mode``, which sorts row by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, log, log2, prod

from ..graph import Op, Tensor
from .extra_rules import Setting, rule
from .gpu import Gpu
from .operands import is_contiguous
from .script import Extra, Return, Scratch
from .sorts import radix_sort_bytes, reduce_bytes, scan_bytes, segmented_sort_bytes

# -- sorting --------------------------------------------------------------------------------------

SMALL_SORT = 4096
"""Elements of a row up to which it is sorted in place, in the output (Sort.cpp, should_use_small_sort)."""
LARGE_ROW, FEW_ROWS = 1_000_000, 128


@rule("sort", "argsort")
def sort(op: Op, setting: Setting) -> Iterator[Extra]:
    """Rows of up to 4,096 are sorted where they are; longer ones by CUB.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/Sort.cpp, sort_cuda_kernel.
    """
    value, dim = op.tensor("self"), op.get("dim", -1)
    if not value.shape or not isinstance(dim, int) or value.shape[dim] <= SMALL_SORT:
        return
    if value.strides[dim] != 1:
        yield Scratch(value.bytes, "rows in order")
        yield Scratch(value.bytes, "their values")
        yield Scratch(8 * value.numel, "their indices")
    yield from _long_sort(setting.gpu, value, value.shape[dim])


def _long_sort(gpu: Gpu, value: Tensor, row: int) -> Iterator[Extra]:
    """Rows one by one, all together, or in segments (SortStable.cu, launch_stable_sort_kernel)."""
    count, size = value.numel, value.itemsize
    rows = count // row
    if rows == 1 or row >= LARGE_ROW:
        yield Scratch(8 * row, "range")
        for _ in range(rows):
            yield Scratch(radix_sort_bytes(gpu, row, size, 8, 8 * size), "sort storage")
            yield Return("sort storage")
    elif rows < FEW_ROWS:
        yield Scratch(8 * count, "places and rows")
        yield Scratch(8 * count, "sorted places and rows")
        yield Scratch(size * count, "sorted keys")
        yield Scratch(radix_sort_bytes(gpu, count, size, 8, 8 * size), "sort storage")
        yield Return("sort storage")
        yield Return("sorted keys")
        yield Scratch(radix_sort_bytes(gpu, count, 8, 0, max((rows - 1).bit_length(), 1)), "sort storage")
    else:
        yield Scratch(8 * count, "places in rows")
        yield Scratch(segmented_sort_bytes(count, size, 8), "sort storage")


@rule("cumsum", "cumprod")
def scan(op: Op, setting: Setting) -> Iterator[Extra]:
    """A running sum of one row is CUB's; over a dimension of several rows the kernel needs nothing.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/ScanUtils.cuh, scan_dim.
    """
    value, result = op.tensor("self"), op.outputs[0]
    if value.dtype != result.dtype:
        yield Scratch(value.numel * result.itemsize, "copy of another dtype")
    dim = op.get("dim")
    if value.shape and isinstance(dim, int) and value.numel > 1 and value.numel == value.shape[dim]:
        yield Scratch(scan_bytes(value.numel, result.itemsize), "scan storage")


# -- largest elements -----------------------------------------------------------------------------

BLOCK_THREADS, DIGITS = 256, 256
LEAST_ITEMS, MOST_ITEMS = 4, 64
"""Elements that a thread of ``mbtopk`` takes."""
BLOCKS_PER_MULTIPROCESSOR = 65_536 // (40 * BLOCK_THREADS)
"""By registers: 65,536 of a multiprocessor, 40 for each thread."""
SEVERAL_BLOCKS = ((20, 20_000), (40, 10_000), (80, 8_000), (199, 5_000), (799, 3_000), (4_000, 800))
"""Up to so many rows, those from which length on are shared by several blocks; of more rows from 400 on."""


@rule("topk")
def topk(op: Op, setting: Setting) -> Iterator[Extra]:
    """Long rows are counted digit by digit by several blocks; more than 4,096 results of a row are sorted in copies.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/TensorTopK.cpp, topk_out_cuda;
    TensorTopK.cu, should_use_multiblock and mbtopk::launch.
    """
    value, values = op.tensor("self"), op.outputs[0]
    if not value.numel or not values.numel:
        return
    row = _length(value, op.get("dim", -1))
    rows = value.numel // row
    if not is_contiguous(value):
        yield Scratch(value.bytes, "contiguous copy")
    if _takes_several_blocks(rows, row):
        yield from _counted_digits(setting.gpu, rows, row, value.itemsize)
    if not is_contiguous(value):
        yield Return("contiguous copy")
    kept = _length(values, op.get("dim", -1))
    if op.get("sorted", True) and kept > SMALL_SORT:
        yield Scratch(8 * values.numel, "sorted places")
        yield Scratch(values.bytes, "sorted values")
        yield from _long_sort(setting.gpu, values, kept)
        yield Scratch(8 * values.numel, "gathered indices")


def _takes_several_blocks(rows: int, row: int) -> bool:
    return row >= next((length for most, length in SEVERAL_BLOCKS if rows <= most), 400)


def _counted_digits(gpu: Gpu, rows: int, row: int, size: int) -> Iterator[Extra]:
    """The buffers of ``mbtopk::launch``, all given back at its end."""
    items = -(-row * rows // (gpu.sm_count * BLOCKS_PER_MULTIPROCESSOR * BLOCK_THREADS))
    items = max(LEAST_ITEMS, min(items, MOST_ITEMS))
    blocks = rows * -(-row // (items * BLOCK_THREADS))
    buffers = {
        "k-th values": rows * size,
        "ranks to find": 2 * rows * 4,
        "digits found": 2 * rows * (8 if size == 8 else 4),
        "digit counts": blocks * DIGITS * 2,
        "digit sums": rows * DIGITS * 4,
        "counts within": blocks * 4,
        "counts of the k-th": blocks * 4,
    }
    for name, taken in buffers.items():
        yield Scratch(taken, name)
    for _ in range(2):
        yield Scratch(scan_bytes(blocks, 8), "scan storage")
        yield Return("scan storage")
    for name in reversed(buffers):
        yield Return(name)


@rule("kthvalue", "median", "nanmedian")
def kth_value(op: Op, setting: Setting) -> Iterator[Extra]:
    """Along a dimension the kernel needs the values in one piece; the median of all is found by sorting a copy.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/Sorting.cpp, kthvalue_out_cuda,
    median_with_indices_impl and median_impl.
    """
    value = op.tensor("self")
    if not value.numel:
        return
    if not is_contiguous(value):
        yield Scratch(value.bytes, "contiguous copy")
    if len(op.outputs) == 2:
        return
    yield Scratch(value.bytes, "sorted values")
    yield Scratch(8 * value.numel, "sorted places")
    if value.numel > SMALL_SORT:
        yield from _long_sort(setting.gpu, value._replace(shape=(value.numel,), strides=(1,)), value.numel)


# -- places ---------------------------------------------------------------------------------------


@rule("nonzero")
def nonzero(op: Op, setting: Setting) -> Iterator[Extra]:
    """How many there are is counted before the result can be allocated; then they are selected.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/Nonzero.cu, nonzero_cuda_out_impl.
    """
    yield from _found(op.tensor("self"), setting.gpu)


@rule("masked_select", "index")
def masked(op: Op, setting: Setting) -> Iterator[Extra]:
    """A mask becomes the indices of its true elements, one number for each of its dimensions.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/IndexingUtils.h, expandTensors;
    cuda/IndexKernel.cpp, masked_select_out_cuda_impl. Other indices need nothing.
    """
    given = op.args["mask"] if "mask" in op.args else op.args["indices"]
    indices = given if isinstance(given, tuple) and not isinstance(given, Tensor) else (given,)
    masks = [t for t in indices if isinstance(t, Tensor) and t.dtype in ("bool", "uint8")]
    unmasked = op.tensor("self").shape[sum(len(mask.shape) for mask in masks) :]
    for number, mask in enumerate(masks):
        count = op.outputs[0].numel // max(prod(unmasked), 1) if len(indices) == 1 else _result_rows(op)
        yield from _found(mask, setting.gpu, count * len(mask.shape) * 8, f"indices of mask {number}")


def _result_rows(op: Op) -> int:
    return op.outputs[0].shape[0] if op.outputs[0].shape else 1


def _found(value: Tensor, gpu: Gpu, result_bytes: int = 0, name: str = "") -> Iterator[Extra]:
    """The buffers of a ``nonzero``; its own result too where no op returns it."""
    if not value.numel:
        return
    if not is_contiguous(value):
        yield Scratch(value.bytes, "contiguous copy", True)
    yield Scratch(4, "number found", True)
    yield Scratch(reduce_bytes(gpu, value.numel, 4), "count storage", True)
    yield Return("count storage", True)
    if result_bytes:
        yield Scratch(result_bytes, name, True)
    if value.shape:
        yield Scratch(scan_bytes(value.numel, 4), "select storage", bool(result_bytes))
        yield Return("select storage", bool(result_bytes))


@rule("masked_scatter", "masked_scatter_")
def masked_scatter(op: Op, setting: Setting) -> Iterator[Extra]:
    """A running count of the mask.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/IndexKernel.cpp, masked_scatter__cuda.
    """
    target = op.tensor("self")
    if target.numel:
        yield Scratch(8 * target.numel, "running count of the mask")
        yield Scratch(scan_bytes(target.numel, 8), "scan storage")


@rule("scatter_reduce", "scatter_reduce_")
def scatter_reduce(op: Op, setting: Setting) -> Iterator[Extra]:
    """A mean counts what it adds up: ones for the source, a count for each result, and where that is 0.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/TensorAdvancedIndexing.cpp, scatter_reduce_two.
    """
    if op.get("reduce") != "mean":
        return
    source, result = op.tensor("src"), op.tensor("self")
    yield Scratch(source.bytes, "ones")
    yield Scratch(result.bytes, "counts")
    yield Scratch(result.numel, "where nothing came")


# -- distinct values and counts -------------------------------------------------------------------


@rule("_unique2")
def unique(op: Op, setting: Setting) -> Iterator[Extra]:
    """A sorted copy, with the places of its values where the inverse is asked for. Booleans are only counted.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/UniqueCub.cu, UniqueCub, compute_unique.
    """
    value = op.tensor("self")
    count, size = value.numel, value.itemsize
    if not count:
        return
    if not is_contiguous(value):
        yield Scratch(value.bytes, "contiguous copy")
    if value.dtype == "bool":
        yield Scratch(4, "number of true values")
        yield Scratch(reduce_bytes(setting.gpu, count, 4), "count storage")
        return
    yield Scratch(count * size, "sorted values")
    inverse = bool(op.get("return_inverse", False))
    if inverse:
        yield Scratch(8 * count, "range")
        yield Scratch(8 * count, "sorted places")
    yield Scratch(radix_sort_bytes(setting.gpu, count, size, 8 if inverse else 0, 8 * size), "sort storage")
    yield Return("sort storage")
    if inverse:
        yield Return("range")
        yield Scratch(8 * count, "numbers of the values")
        yield Scratch(scan_bytes(count, 8), "scan storage")
        yield Return("scan storage")
        yield Return("numbers of the values")
    yield from _runs(count)


@rule("unique_consecutive")
def unique_consecutive(op: Op, setting: Setting) -> Iterator[Extra]:
    """Of all values the same without the sort; the inverse is counted in int32 (UniqueCub.cu, compute_unique)."""
    value = op.tensor("self")
    if not value.numel or op.get("dim") is not None:
        return
    if op.get("return_inverse", False):
        yield Scratch(4 * value.numel, "where a value begins")
        yield Scratch(scan_bytes(value.numel, 8), "scan storage")
        yield Return("scan storage")
        yield Return("where a value begins")
    yield from _runs(value.numel)


def _runs(count: int) -> Iterator[Extra]:
    yield Scratch(8, "number of values")
    yield Scratch(scan_bytes(count, 8), "select storage")


@rule("bincount", "histc")
def counted(op: Op, setting: Setting) -> Iterator[Extra]:
    """The smallest and the largest value; the counts themselves are made in shared memory or in the result.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/SummaryOps.cu, _bincount_cuda_template and
    _histc_cuda_template. Weights other than float32 are copied to float64.
    """
    value = op.tensor("self")
    if not value.numel or (op.packet == "aten.histc" and op.get("min", 0) != op.get("max", 0)):
        return
    weights = op.get("weights")
    if isinstance(weights, Tensor) and weights.dtype not in ("float32", "float64"):
        yield Scratch(8 * weights.numel, "weights in float64", True)
    yield Scratch(value.itemsize, "smallest", True)
    yield Scratch(value.itemsize, "largest", True)


# -- draws ----------------------------------------------------------------------------------------


@rule("multinomial")
def multinomial(op: Op, setting: Setting) -> Iterator[Extra]:
    """Without replacement, or for one draw, the largest of the probabilities over exponential noise.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/Distributions.cpp, multinomial_out;
    cuda/MultinomialKernel.cu, multinomial_with_replacement_kernel_impl.
    """
    value, draws = op.tensor("self"), op.args["num_samples"]
    assert isinstance(draws, int)
    if not value.numel:
        return
    if op.get("replacement", False) and draws > 1:
        yield Scratch(value.bytes, "normalized probabilities")
        yield Scratch(value.bytes, "their running sum")
        return
    yield Scratch(value.bytes, "probabilities over noise")
    if draws > 1:
        rows, row = value.numel // value.shape[-1], value.shape[-1]
        yield Scratch(rows * draws * value.itemsize, "values of the draws")
        if _takes_several_blocks(rows, row):
            yield from _counted_digits(setting.gpu, rows, row, value.itemsize)


@rule("randperm")
def randperm(op: Op, setting: Setting) -> Iterator[Extra]:
    """A range sorted by random keys, with as many bits as make two alike unlikely.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/Randperm.cu, randperm_out_cuda.
    """
    result = op.outputs[0]
    count = result.numel
    if not count:
        return
    bits = min(64, ceil(log2(count - (6 * count * count + 1) / (12 * log(0.9)))))
    size = 4 if bits <= 32 else 8
    yield Scratch(result.bytes, "range")
    yield Scratch(count * size, "random keys")
    yield Scratch(count * size, "sorted keys")
    yield Scratch(radix_sort_bytes(setting.gpu, count, size, result.itemsize, bits), "sort storage")


# -- losses ---------------------------------------------------------------------------------------


@rule("_ctc_loss_backward")
def ctc_backward(op: Op, setting: Setting) -> Iterator[Extra]:
    """The backward probabilities of every state, as large as the forward ones that were kept.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/LossCTC.cu, its function
    ctc_loss_backward_gpu_template.
    """
    yield Scratch(op.tensor("log_alpha").bytes, "backward probabilities")


def _length(value: Tensor, dim: object) -> int:
    return value.shape[dim] if value.shape and isinstance(dim, int) else 1
