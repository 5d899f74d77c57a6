"""A hardware profile -> what CUDA kernels take beside their outputs, op by op, in the order in which they ask for it.

PyTorch's kernels ask the caching allocator for buffers that no op returns: to sort indices, to let thread blocks meet,
to accumulate a gradient in float32. Each rule here says for one family of ops which, how large and when; its docstring
names the function in PyTorch that it follows. The links are to 2.13.0; what was read of the files is the newest text
that was at hand, of headers the one that is installed with 2.14.1. A rule for one more op is one function with the
decorator `rule`.

The rules of ops that select, sort or draw are in `selections`, those of losses and other ops that run several kernels
in `composites`; cuDNN's convolutions are estimated in `convolutions`; the copies around its recurrent layers are in
`recurrent`.
Not covered, and so taken to be nothing: what cuDNN itself takes for recurrent layers, batch norm and its attention; the
workspaces of cuSOLVER, cuSPARSE and cuFFT, which say what they would take only where there is a GPU
(``cufftEstimateMany`` and ``cusolverDnCreate`` of CUDA 13 fail without one); ROCm. Reports name such ops (`unknown`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import ceil, prod
from typing import NamedTuple

from ..graph import ForetraceError, Op, Phase, StepGraph, Tensor
from . import composites as composites
from . import convolutions as convolutions
from . import recurrent as recurrent
from . import selections as selections
from .extra_rules import RULES, WIDE, LtWorkspace, Setting, rule
from .gpu import Gpu, gpu_of
from .operands import has_sparse_operand, is_contiguous, operand_copies
from .profile import Profile
from .reductions import Kernel, reduction
from .script import Extra, Extras, Lasting, Return, Scratch
from .sorts import bits_of, radix_sort_bytes, scan_bytes

CUBLAS = "cuBLAS workspace"
CUBLASLT = "cuBLASLt workspace"
CUBLASLT_BYTES = 1 << 20
"""``CUBLASLT_WORKSPACE_SIZE``, 1024 KiB where it is not set (CublasHandlePool.cpp, parseCUDABlasLtWorkspaceSize)."""


UNKNOWN = frozenset(
    f"aten.{name}"
    for name in (
        *(
            "mode",
            "unique_dim",
            "soft_margin_loss",
            "_trilinear",
            "linalg_pinv",
            "linalg_matrix_exp",
            "renorm",
            "_cudnn_rnn",
            "_cudnn_rnn_backward",
            "_cudnn_ctc_loss",
        ),
        *("_scaled_dot_product_cudnn_attention", "_scaled_dot_product_cudnn_attention_backward"),
        *("_fft_r2c", "_fft_c2r", "_fft_c2c", "_sparse_mm", "_sparse_addmm", "_cslt_sparse_mm"),
        *("_linalg_svd", "_linalg_eigh", "_linalg_eigvals", "linalg_eig", "linalg_qr", "geqrf", "ormqr", "_linalg_det"),
        *("_linalg_slogdet", "_linalg_solve_ex", "linalg_cholesky_ex", "linalg_inv_ex", "linalg_lu_factor_ex"),
        *("linalg_lu", "linalg_lu_solve", "linalg_ldl_factor_ex", "linalg_lstsq", "linalg_householder_product"),
        *("cholesky_inverse", "cholesky_solve", "linalg_solve_triangular", "triangular_solve"),
    )
)
"""Ops whose kernels take memory on the device for which there is no rule."""


def extras_of(graph: StepGraph, profile: Profile) -> Extras:
    """Those of a step, by the settings that it was traced with."""
    return extras(profile, cudnn_tf32=graph.facts.backends.get("cudnn_tf32", True))


def unknown(ops: Iterable[Op]) -> tuple[str, ...]:
    """Which of the ops' packets take memory that nobody here knows, in the order of the alphabet."""
    packets, sparse = set[str](), set[str]()
    for op in ops:
        packets.add(op.packet)
        if has_sparse_operand(op):
            sparse.add(f"{op.packet} of a sparse matrix")
    return tuple(sorted(packets & UNKNOWN | sparse))


def extras(profile: Profile, *, cublaslt: LtWorkspace | str = LtWorkspace.SHARED, cudnn_tf32: bool = True) -> Extras:
    """What ops take beside their outputs on the device of a profile, for `replay.replay_steps`.

    For GPUs of other makers than NVIDIA it is nothing. Raises `ForetraceError` for an unknown `cublaslt`.
    """
    gpu = gpu_of(profile)
    if cublaslt not in tuple(LtWorkspace):
        raise ForetraceError(f"{cublaslt!r} is no place for cuBLASLt", f"Say one of {', '.join(LtWorkspace)}")
    setting = Setting(gpu, LtWorkspace(cublaslt), cudnn_tf32)

    def of(op: Op) -> Iterable[Extra]:
        found = RULES.get(op.packet) if gpu.is_nvidia and not has_sparse_operand(op) else None
        return found(op, setting) if found is not None else ()

    return of


# -- matrix products ------------------------------------------------------------------------------


@rule("mm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot")
def cublas(op: Op, setting: Setting) -> Iterator[Extra]:
    """Copies of operands that it cannot take as they lie, and a workspace for each thread and stream, which is kept.

    Backward runs in a thread of autograd's, so it has a workspace of its own.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/cuda/CublasHandlePool.cpp, getCurrentCUDABlasHandle
    and setWorkspaceForHandle; the size is parseChosenWorkspaceSize, in the profile.
    """
    if any(t.numel == 0 for t in op.inputs):
        return
    yield from operand_copies(op)
    yield Lasting(setting.gpu.cublas_workspace_bytes, CUBLAS + _thread(op))


@rule("addmm", "_addmm_activation")
def addmm(op: Op, setting: Setting) -> Iterator[Extra]:
    """By cuBLASLt where the bias is one row, which it adds itself; by cuBLAS otherwise.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/Blas.cpp, isInputCompliesAddmmCudaLt;
    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/cuda/CUDABlas.cpp, gemm_and_bias.
    """
    if _fuses_bias(op):
        yield from _lt(op, setting)
    yield from cublas(op, setting)


@rule("_scaled_mm", "_int_mm")
def lt_only(op: Op, setting: Setting) -> Iterator[Extra]:
    """By cuBLASLt always (Blas.cpp, _scaled_mm_out_cuda; CUDABlas.cpp, int8_gemm)."""
    yield from _lt(op, setting)
    yield from cublas(op, setting)


def _lt(op: Op, setting: Setting) -> Iterator[Extra]:
    if setting.lt is LtWorkspace.PASSING:
        yield Scratch(CUBLASLT_BYTES, CUBLASLT)
    elif setting.lt is LtWorkspace.KEPT:
        yield Lasting(CUBLASLT_BYTES, CUBLASLT + _thread(op))


def _thread(op: Op) -> str:
    return ", backward" if op.phase is Phase.BACKWARD else ""


def _fuses_bias(op: Op) -> bool:
    bias, left, right = op.tensor("self"), op.tensor("mat1"), op.tensor("mat2")
    row = [size for size in bias.shape if size != 1]
    return (
        op.get("beta", 1) == 1
        and is_contiguous(bias)
        and (len(bias.shape) == 1 or len(row) == 1)
        and bias.shape[-1] == right.shape[1]
        and left.dtype in ("float64", "float32", "float16", "bfloat16")
        and min(*left.shape, *right.shape) > 1
    )


# -- reductions -----------------------------------------------------------------------------------


@rule("sum", "nansum", "prod", "mean")
def added_up(op: Op, setting: Setting) -> Iterator[Extra]:
    """Sums, products and means; whole numbers are copied to int64 first.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/ReduceSumProdKernel.cu and
    ReduceMomentKernel.cu, through ReduceOps.cpp (``make_reduction``).
    """
    value, result = op.tensor("self"), op.outputs[0]
    kept = value.dtype == result.dtype or (value.dtype in WIDE and result.dtype == "float32")
    if not kept:
        yield Scratch(value.numel * result.itemsize, "copy of another dtype")
        value = value._replace(dtype=result.dtype, strides=_dense(value.shape), offset=0)
    halves = value.itemsize == 2
    kernel = Kernel(
        value_bytes=value.itemsize,
        partial_bytes=WIDE.get(value.dtype, value.itemsize),
        result_bytes=result.itemsize,
        vector=8 if halves and op.packet in ("aten.sum", "aten.mean") else 4,
        accumulates_in_result=not halves or result.itemsize != 2,
    )
    yield from _reduced(op, value, kernel, setting)


@rule("amax", "amin", "max", "min", "argmax", "argmin", "all", "any")
def compared(op: Op, setting: Setting) -> Iterator[Extra]:
    """Largest and smallest values (those that come with their place in pairs of sixteen bytes), and logic.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/ReduceMaxValuesKernel.cu and beside it
    ReduceMinValuesKernel.cu, ReduceArgMaxKernel.cu, ReduceArgMinKernel.cu, ReduceLogicKernel.cu.
    """
    if "other" in op.args:
        return
    value = op.tensor("self")
    placed = op.packet in ("aten.argmax", "aten.argmin") or len(op.outputs) == 2
    partial = 16 if placed else 1 if op.packet in ("aten.all", "aten.any") else value.itemsize
    kernel = Kernel(value_bytes=value.itemsize, partial_bytes=partial, result_bytes=op.outputs[0].itemsize)
    yield from _reduced(op, value, kernel, setting)


@rule("std", "var", "std_mean", "var_mean")
def moments(op: Op, setting: Setting) -> Iterator[Extra]:
    """Mean, second moment and two counts for each part (``WelfordData``: 16 bytes, 32 in double precision).

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/ReduceMomentKernel.cu
    """
    value = op.tensor("self")
    partial = 32 if value.dtype == "float64" else 16
    size = op.outputs[0].itemsize
    kernel = Kernel(value_bytes=value.itemsize, partial_bytes=partial, result_bytes=size, vector=2)
    yield from _reduced(op, value, kernel, setting)


@rule("linalg_vector_norm", "norm")
def norm(op: Op, setting: Setting) -> Iterator[Extra]:
    """Partial results, as of a sum, with powers and a root.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/ReduceNormKernel.cu
    """
    value = op.tensor("self")
    kernel = Kernel(
        value_bytes=value.itemsize,
        partial_bytes=WIDE.get(value.dtype, value.itemsize),
        result_bytes=op.outputs[0].itemsize,
        accumulates_in_result=value.itemsize != 2 or op.outputs[0].itemsize != 2,
    )
    yield from _reduced(op, value, kernel, setting)


def _reduced(op: Op, value: Tensor, kernel: Kernel, setting: Setting) -> Iterator[Extra]:
    if value.numel > 1:
        yield from reduction(value, _dims(op, value), kernel, setting)


def _dims(op: Op, value: Tensor) -> frozenset[int]:
    """The reduced dimensions; none named are all."""
    given = op.get("dim")
    named = given if isinstance(given, tuple) else () if given is None else (given,)
    count = len(value.shape)
    return frozenset(d % count for d in named if isinstance(d, int) and count) or frozenset(range(count))


# -- indices --------------------------------------------------------------------------------------


@rule("index_put", "index_put_", "_index_put_impl_")
def index_put(op: Op, setting: Setting) -> Iterator[Extra]:
    """To accumulate at indices they are made linear and sorted; without accumulation nothing is taken.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/Indexing.cu, index_put_with_sort_kernel,
    computeLinearIndex, wrapIndexOnce. Not for masks as indices, whose count depends on their values.
    """
    given = op.args["indices"]
    indices = [t for t in given if isinstance(t, Tensor)] if isinstance(given, tuple) else []
    if not op.get("accumulate", False) or any(t.dtype in ("bool", "uint8") for t in indices) or not indices:
        return
    target, values = op.tensor("self"), op.tensor("values")
    count = prod(_broadcast([t.shape for t in indices]))
    places = [i for i, t in enumerate(given) if isinstance(t, Tensor)] if isinstance(given, tuple) else []
    slice_size = prod(target.shape[places[-1] + 1 :]) if _adjacent(places) else _unindexed(target, places)
    if not count or not slice_size:
        return
    if op.packet == "aten.index_put" or not is_contiguous(target):
        # The functional op works on its result, which it has copied already.
        target = target._replace(strides=_dense(target.shape), offset=0)
    if op.packet != "aten.index_put" and not is_contiguous(op.tensor("self")):
        yield Scratch(target.bytes, "contiguous copy")
    for number in range(len(indices)):
        yield from _linear_index(count, number, checked=not op.get("unsafe", False))
    wanted = prod(target.shape) // max(prod(target.shape[i] for i in places), 1) * count
    if values.numel < wanted or not is_contiguous(values):
        yield Scratch(wanted * values.itemsize, "expanded values")
    if not _adjacent(places):
        yield Scratch(target.bytes, "permuted copy")
    largest = sum((size - 1) * stride for size, stride in zip(target.shape, target.strides, strict=True))
    yield from _sorted_pairs(setting.gpu, count, 8, bits_of(largest // slice_size))
    yield Return("linear index 0")


def _linear_index(count: int, number: int, *, checked: bool) -> Iterator[Extra]:
    """One index wrapped to its dimension, times its stride; the first is kept and the others are added to it."""
    for _ in range(2 if checked else 0):
        yield Scratch(8, "extreme index")
        yield Scratch(1, "its check")
        yield Return("its check")
        yield Return("extreme index")
    yield Scratch(8 * count, "wrapped index")
    yield Scratch(8 * count, f"linear index {number}")
    yield Return("wrapped index")
    if number:
        yield Return(f"linear index {number}")


def _sorted_pairs(gpu: Gpu, count: int, key_bytes: int, bits: int, *, before: bool = False) -> Iterator[Extra]:
    """Indices sorted together with their places: both results, the places before, and CUB's storage."""
    yield Scratch(key_bytes * count, "sorted indices", before)
    yield Scratch(key_bytes * count, "original places", before)
    yield Scratch(key_bytes * count, "range", before)
    yield Scratch(radix_sort_bytes(gpu, count, key_bytes, key_bytes, bits), "sort storage", before)
    yield Return("sort storage", before)
    yield Return("range", before)
    if not before:
        yield Return("original places")
        yield Return("sorted indices")


def _adjacent(places: list[int]) -> bool:
    return not places or places[-1] - places[0] == len(places) - 1


def _unindexed(target: Tensor, places: list[int]) -> int:
    """Elements of a slice where the indexed dimensions are brought to the front."""
    return prod(size for i, size in enumerate(target.shape) if i not in places)


SMALL_EMBEDDING = 3072
"""Indices up to which the gradient of an embedding is made without sorting them."""
ROWS_PER_THREAD = 10
MAX_OF_BAG = 2
"""``EmbeddingBagMode::MAX``."""


@rule("embedding_dense_backward")
def embedding(op: Op, setting: Setting) -> Iterator[Extra]:
    """Few indices need nothing; more are sorted before the gradient is allocated, and summed in segments.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/Embedding.cu (its function
    embedding_dense_backward_cuda); EmbeddingBackwardKernel.cu, embedding_backward_cuda_kernel. The newest text has a
    fused kernel for few distinct rows, which is not covered: the rule is that of two passes.
    """
    grad, indices = op.tensor("grad_output"), op.tensor("indices")
    count, size = indices.numel, indices.itemsize
    by_frequency = bool(op.get("scale_grad_by_freq", False))
    if not count or (count <= SMALL_EMBEDDING and not by_frequency):
        return
    if not is_contiguous(indices):
        yield Scratch(indices.bytes, "contiguous indices", True)
    if not is_contiguous(grad):
        yield Scratch(grad.bytes, "contiguous gradient", True)
    yield from _sorted_pairs(setting.gpu, count, size, 8 * size, before=True)
    if by_frequency:
        yield Scratch(indices.bytes, "counts", True)
        for _ in range(2):
            yield Scratch(scan_bytes(count, size), "scan storage", True)
            yield Return("scan storage", True)
    yield from _segments(op.outputs[0], count, size)


@rule("_embedding_bag_backward", "_embedding_bag_dense_backward")
def embedding_bag(op: Op, setting: Setting) -> Iterator[Extra]:
    """Sums and means: the indices are sorted, however few, and the gradient is summed in segments.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/EmbeddingBag.cu, its function
    embedding_bag_backward_cuda_sum_avg. The gradient of a maximum needs nothing.
    """
    grad, indices, weights = op.tensor("grad"), op.tensor("indices"), op.args["num_weights"]
    assert isinstance(weights, int)
    if op.get("sparse", False):
        return
    if not is_contiguous(grad):
        yield Scratch(grad.bytes, "contiguous gradient", True)
    if op.args["mode"] == MAX_OF_BAG or not indices.numel:
        return
    count, size = indices.numel, indices.itemsize
    yield from _sorted_pairs(setting.gpu, count, size, bits_of(weights), before=True)
    if op.get("scale_grad_by_freq", False):
        yield Scratch(indices.bytes, "counts", True)
        for _ in range(2):
            yield Scratch(scan_bytes(count, size), "scan storage", True)
            yield Return("scan storage", True)
    yield from _segments(op.outputs[0], count, size)


def _segments(weight: Tensor, count: int, size: int) -> Iterator[Extra]:
    """Where each run of equal indices begins, its parts, and a row in float32 for each part."""
    segments = min(count, weight.shape[0])
    yield Scratch(count * size, "segment offsets")
    yield Scratch(8, "number of segments")
    yield Scratch(count * size, "unique keys")
    yield Scratch(scan_bytes(count, 8), "select storage")
    yield Return("select storage")
    yield Return("unique keys")
    yield Scratch(segments * size, "parts of each segment")
    yield Scratch(segments * size, "offsets of the parts")
    yield Scratch(scan_bytes(segments, size), "scan storage")
    yield Return("scan storage")
    yield Scratch(8, "number of parts")
    parts = count // ROWS_PER_THREAD + segments
    yield Scratch(parts * size, "part offsets")
    yield Scratch(parts * weight.shape[1] * WIDE.get(weight.dtype, weight.itemsize), "gradient of each part")


# -- normalization --------------------------------------------------------------------------------


@rule("native_layer_norm", "_fused_rms_norm")
def layer_norm(op: Op, setting: Setting) -> Iterator[Extra]:
    """A copy of an input whose elements do not lie in row-major order (layer_norm_kernel.cu, layer_norm_cuda)."""
    value = op.tensor("input")
    if not is_contiguous(value):
        yield Scratch(value.bytes, "contiguous input", True)


@rule("native_layer_norm_backward", "_fused_rms_norm_backward")
def layer_norm_backward(op: Op, setting: Setting) -> Iterator[Extra]:
    """Copies as in the forward. Very many short rows: partial gradients of weight and bias for 32 rows each, then sums.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/layer_norm_kernel.cu,
    LaunchGammaBetaBackwardCUDAKernel. The sums are new tensors, which take the place of the gradients.
    """
    value, shape, mask = op.tensor("input"), op.args["normalized_shape"], op.args["output_mask"]
    assert isinstance(shape, tuple) and isinstance(mask, tuple)
    columns = prod(size for size in shape if isinstance(size, int))
    rows = value.numel // max(columns, 1)
    grad = op.tensor("grad_out")
    yield from layer_norm(op, setting)
    if not is_contiguous(grad):
        yield Scratch(grad.bytes, "contiguous gradient")
    if not any(mask[1:]) or rows <= 64 * 1024 or columns // 32 >= setting.gpu.sm_count // 2:
        return
    blocks = min(32 * 1024 // -(-columns // 32), -(-rows // 32))
    wanted = [wants for wants in mask[1:] if wants]
    for number in range(len(wanted)):
        yield Scratch(blocks * columns * value.itemsize, f"partial gradient {number}")
    partial = Tensor(0, value.dtype, (blocks, columns), (columns, 1))
    kernel = Kernel(
        value_bytes=value.itemsize,
        partial_bytes=WIDE.get(value.dtype, value.itemsize),
        result_bytes=value.itemsize,
        accumulates_in_result=value.itemsize != 2,
    )
    for number in range(len(wanted)):
        yield Scratch(columns * value.itemsize, f"gradient {number}")
        yield from reduction(partial, frozenset({0}), kernel, setting)


@rule("native_group_norm")
def group_norm(op: Op, setting: Setting) -> Iterator[Extra]:
    """A copy in row-major order, if need be; scale and shift of each channel of each sample, in float32.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/group_norm_kernel.cu,
    GroupNormKernelImplInternal. Images of one pixel, and norms without weight and bias, need nothing.
    """
    if not is_contiguous(op.tensor("input")):
        yield Scratch(op.tensor("input").bytes, "contiguous input")
    affine = isinstance(op.get("weight"), Tensor) or isinstance(op.get("bias"), Tensor)
    if affine and op.args["HxW"] != 1:
        yield Scratch(_channels(op) * _wide(op.tensor("input")), "scale")
        yield Scratch(_channels(op) * _wide(op.tensor("input")), "shift")


@rule("native_group_norm_backward")
def group_norm_backward(op: Op, setting: Setting) -> Iterator[Extra]:
    """Copies as in the forward; sums of each channel of each sample, and coefficients of each group.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/group_norm_kernel.cu,
    GroupNormBackwardKernelImplInternal and GroupNorm1dBackward.
    """
    samples, groups, mask = op.args["N"], op.args["group"], op.args["output_mask"]
    assert isinstance(samples, int) and isinstance(groups, int) and isinstance(mask, tuple)
    for name in ("grad_out", "input"):
        value = op.get(name)
        if isinstance(value, Tensor) and not is_contiguous(value):
            yield Scratch(value.bytes, f"contiguous {name}", True)
    size = _wide(op.tensor("input"))
    if op.args["HxW"] != 1:
        yield Scratch(_channels(op) * size, "sums of gradient times input")
        yield Scratch(_channels(op) * size, "sums of the gradient")
    if mask[0]:
        yield Scratch(samples * groups * size, "group coefficients")
        yield Scratch(samples * groups * size, "group offsets")
        if isinstance(op.get("weight"), Tensor) and op.args["HxW"] != 1:
            yield Scratch(_channels(op) * size, "channel coefficients")


def _channels(op: Op) -> int:
    samples, channels = op.args["N"], op.args["C"]
    assert isinstance(samples, int) and isinstance(channels, int)
    return samples * channels


def _wide(tensor: Tensor) -> int:
    return WIDE.get(tensor.dtype, tensor.itemsize)


# -- attention ------------------------------------------------------------------------------------


class Heads(NamedTuple):
    """The sizes of an attention: query, key and value are ``[batch, heads, length, width]``."""

    batch: int
    heads: int
    key_heads: int
    queries: int
    keys: int
    width: int
    value_width: int


def _heads(op: Op) -> Heads:
    query, key, value = (op.tensor(name).shape for name in ("query", "key", "value"))
    return Heads(query[0], query[1], key[1], query[2], key[2], query[3], value[3])


@rule("_scaled_dot_product_flash_attention")
def flash(op: Op, setting: Setting) -> Iterator[Extra]:
    """Few queries against long keys: the keys are split among blocks, each with an output in float32.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp,
    set_params_splitkv and num_splits_heuristic. Not with dropout.
    """
    if op.get("dropout_p", 0.0):
        return
    s = _heads(op)
    swaps = s.queries == 1 and s.heads > s.key_heads and not op.get("is_causal", False) and s.width % 8 == 0
    if swaps:
        # Queries of the heads that share a key are taken for several queries of one head (seqlenq_ngroups_swapped).
        s = s._replace(queries=s.heads // s.key_heads, heads=s.key_heads)
    block = 256 if s.width <= 64 else 128 if s.width <= 128 else 64
    jobs = s.batch * s.heads * -(-s.queries // 64)
    splits = flash_splits(jobs, 2 * setting.gpu.sm_count, -(-s.keys // block))
    if splits > 1:
        rows = splits * s.batch * s.heads * s.queries
        yield Scratch(rows * 4, "log-sum-exp of each split")
        yield Scratch(rows * _rounded_width(s.width) * 4, "output of each split")


def flash_splits(jobs: int, processors: int, blocks: int) -> int:
    """Into how many the keys are split: the fewest that keep 85 % of the best share of busy multiprocessors."""
    if jobs >= 0.8 * processors:
        return 1
    eligible = [
        n for n in range(1, min(128, processors, blocks) + 1) if n == 1 or -(-blocks // n) != -(-blocks // (n - 1))
    ]
    busy = {n: (jobs * n / processors) / ceil(jobs * n / processors) for n in eligible}
    return next((n for n in eligible if busy[n] >= 0.85 * max(busy.values())), 1)


@rule("_scaled_dot_product_flash_attention_backward")
def flash_backward(op: Op, setting: Setting) -> Iterator[Extra]:
    """A sum for each query, the query's gradient in float32, and gradients of key and value for each head of the query.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp,
    mha_bwd. Lengths are rounded up to 128 and widths to 32 (256 above 192).
    """
    s = _heads(op)
    rows = s.batch * s.heads * -(-s.queries // 128) * 128
    yield Scratch(rows * 4, "softmax_d")
    yield Scratch(rows * _rounded_width(s.width) * 4, "dq_accum")
    if s.key_heads != s.heads:
        size = s.batch * s.keys * s.heads * s.width * op.tensor("query").itemsize
        yield Scratch(size, "dk_expanded")
        yield Scratch(size, "dv_expanded")


def _rounded_width(width: int) -> int:
    return -(-width // 32) * 32 if width <= 192 else 256


@rule("_scaled_dot_product_efficient_attention_backward")
def efficient_backward(op: Op, setting: Setting) -> Iterator[Extra]:
    """A sum for each query, and the query's gradient in float32 tile by tile (with the others' for wide heads).

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/transformers/cuda/attention_backward.cu,
    _efficient_attention_backward; mem_eff_attention/kernel_backward.h (``workspace_size``) and kernels/cutlassB.h
    beside it. The kernel is taken that is listed first for the head's width; a GPU with little shared memory may take a
    later one, with other tiles.
    """
    s, query = _heads(op), op.tensor("query")
    rows = s.batch * s.heads * s.queries
    half = query.itemsize == 2
    tile = _tile(setting.gpu, max(s.width, s.value_width), half)
    if half and (tile.in_registers or setting.gpu.capability[0] != 7):
        yield Scratch(rows * 4, "delta")
    else:
        yield Scratch(rows * s.value_width * 4, "gradient times output")
        yield Scratch(rows * 4, "sum over the head")
        if s.heads > 1 and s.queries > 1:
            yield Scratch(rows * 4, "delta")
            yield Return("sum over the head")
        yield Return("gradient times output")
    yield Scratch(efficient_workspace_bytes(s, tile, half), "gradients in float32")


class Tile(NamedTuple):
    """Queries and keys that a block of the memory-efficient kernel takes, and the widest head it is made for."""

    queries: int
    keys: int
    widest: int

    @property
    def in_registers(self) -> bool:
        """Whether gradients of key and value stay in registers (of half-precision kernels)."""
        return self.widest <= self.queries


ANY_WIDTH = 65536


def _tile(gpu: Gpu, width: int, half: bool) -> Tile:
    if width <= 64:
        return Tile(64, 64, 32 if width <= 32 else 64)
    if gpu.capability < (8, 0):
        rows = 128 if half and gpu.capability >= (7, 0) else 64
        return Tile(rows, 64, 128 if width <= 128 else ANY_WIDTH)
    if half and width <= 96:
        return Tile(128, 64, 96)
    if half and width <= 128:
        # 128 x 128 needs more shared memory than GPUs other than those of data centres have.
        return Tile(128, 128, 128) if gpu.capability[1] == 0 and gpu.capability[0] < 12 else Tile(64, 64, 128)
    return Tile(128, 64, 128 if width <= 128 else ANY_WIDTH)


def efficient_workspace_bytes(s: Heads, tile: Tile, half: bool) -> int:
    """``workspace_size``: for each head a tile of float32 and a lock per block of the query's gradient, and more."""
    blocks = -(-s.queries // tile.queries) * -(-s.width // tile.keys)
    elements = blocks * (tile.queries * tile.keys + 4)
    if half and not tile.in_registers:
        splits = -(-s.keys // tile.keys)
        if -(-s.keys // tile.keys) * s.batch * s.heads >= 256 and s.keys <= 2 * tile.keys:
            splits = 1
        splits = max(min(splits, 200 // (s.batch * s.heads)), 1)
        widths = sum(-(-width // tile.queries) * tile.queries for width in (s.width, s.value_width))
        elements += splits * tile.keys * widths
    return s.batch * s.heads * -(-elements // 4) * 4 * 4


# -- shapes ---------------------------------------------------------------------------------------


def _dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


def _broadcast(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    count = max(map(len, shapes))
    padded = [(1,) * (count - len(shape)) + shape for shape in shapes]
    return tuple(0 if 0 in sizes else max(sizes) for sizes in zip(*padded, strict=True))
