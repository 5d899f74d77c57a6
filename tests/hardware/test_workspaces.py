"""What kernels take beside their outputs, rule by rule, with the arithmetic spelled out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opbuilder import call, new

from foretrace.graph import ForetraceError, Op, Phase, Tensor
from foretrace.hardware.extra_rules import LtWorkspace, rule, ruled
from foretrace.hardware.profile import load
from foretrace.hardware.script import Extra, Lasting, Return, Scratch
from foretrace.hardware.workspaces import (
    Heads,
    Tile,
    efficient_workspace_bytes,
    extras,
    flash_splits,
)

A100 = load("a100-sxm4-80gb")
H100 = load("h100-sxm5-80gb")
MIB = 1 << 20


def taken(op: Op, profile: Any = A100, **how: Any) -> list[Extra]:
    return list(extras(profile, **how)(op))


def sizes(found: Iterable[Extra]) -> list[int]:
    """Bytes asked for, in order."""
    return [extra.bytes for extra in found if not isinstance(extra, Return)]


def aten(name: str, result: object, /, **args: Any) -> Op:
    return call(f"aten.{name}", result, **args)


# -- matrix products ------------------------------------------------------------------------------

FORWARD, BACKWARD = Lasting(8_519_680, "cuBLAS workspace"), Lasting(8_519_680, "cuBLAS workspace, backward")
OF_H100 = Lasting(32 * MIB, "cuBLAS workspace")
PASSING = Scratch(MIB, "cuBLASLt workspace")


def linear(*bias: int, batch: int = 64, width_out: int = 512, phase: Phase = Phase.FORWARD, **args: Any) -> Op:
    operands = {"self": new(*bias), "mat1": new(batch, 256), "mat2": new(256, width_out)}
    return call("aten.addmm.default", new(batch, width_out), phase=phase, **operands, **args)


def test_cublas_has_a_workspace_for_each_thread_and_architecture() -> None:
    product = {"self": new(8, 4), "mat2": new(4, 8)}
    assert taken(aten("mm.default", new(8, 8), **product)) == [FORWARD]
    assert taken(call("aten.mm.default", new(8, 8), phase=Phase.BACKWARD, **product)) == [BACKWARD]
    assert taken(call("aten.mm.default", new(8, 8), phase=Phase.OPTIMIZER, **product)) == [FORWARD]
    assert taken(aten("mm.default", new(8, 8), **product), H100) == [OF_H100]


def test_nothing_is_multiplied_with_nothing() -> None:
    assert taken(aten("mm.default", new(0, 8), self=new(0, 4), mat2=new(4, 8))) == []


def test_cublaslt_works_where_it_is_told() -> None:
    assert taken(linear(512), H100) == [OF_H100]
    assert taken(linear(512), H100, cublaslt="passing") == [PASSING, OF_H100]
    kept = taken(linear(512, phase=Phase.BACKWARD), cublaslt=LtWorkspace.KEPT)
    assert kept == [Lasting(MIB, "cuBLASLt workspace, backward"), BACKWARD]


@pytest.mark.parametrize(
    "op",
    [
        linear(64, 512),
        linear(512, beta=0.5),
        linear(1),
        linear(512, batch=1),
        linear(1, width_out=1),
    ],
    ids=["bias of two dimensions", "scaled bias", "bias of one number", "one row", "one column"],
)
def test_biases_that_cublaslt_does_not_add(op: Op) -> None:
    assert taken(op, cublaslt="passing") == [FORWARD]


def test_a_bias_with_leading_ones_is_a_row() -> None:
    assert taken(linear(1, 512), cublaslt="passing") == [PASSING, FORWARD]


def test_an_unknown_place_is_refused() -> None:
    with pytest.raises(ForetraceError, match=r"'somewhere' is no place for cuBLASLt.*shared, kept, passing"):
        extras(A100, cublaslt="somewhere")


def test_other_makers_have_no_rules() -> None:
    assert taken(linear(512), replace(A100, vendor="AMD", compute_capability="gfx942")) == []


def test_an_op_has_one_rule() -> None:
    assert "aten.addmm" in ruled()
    with pytest.raises(ValueError, match=r"aten\.mm has a rule already: cublas"):
        rule("mm")(lambda op, setting: iter(()))


# -- reductions -----------------------------------------------------------------------------------


def test_a_gradient_summed_over_rows() -> None:
    # 32768 rows of 1024: 256 groups of 4 channels, blocks of 32 x 4: 8 blocks. A thread has 32768 / 4 = 8192 values;
    # wanted 108 * (2048 / 128) / 8 = 216 parts, at least 8192 / 256 = 32, at most 8192 / 16 = 512.
    op = aten("sum.dim_IntList", new(1, 1024), self=new(32768, 1024), dim=(0,), keepdim=True)
    parts, counters = Scratch(4 * 1024 * 216 * 32 * 4, "partial results"), Scratch(4 * 8, "semaphores")
    assert taken(op) == [parts, counters, Return("semaphores"), Return("partial results")]


def test_whole_numbers_are_copied_to_int64() -> None:
    op = aten("sum.default", new(dtype="int64"), self=new(100, dtype="bool"))
    assert taken(op) == [Scratch(800, "copy of another dtype")]


def test_half_precision_is_read_as_it_is() -> None:
    op = aten("sum.dim_IntList", new(4, 1), self=new(4, 8, dtype="bfloat16"), dim=(1,), keepdim=True)
    assert taken(op) == []


@pytest.mark.parametrize(
    ("name", "results", "part_bytes"),
    [
        ("mean.default", new(), 4),
        ("amax.default", new(), 4),
        ("argmax.default", new(dtype="int64"), 16),
        ("any.default", new(dtype="bool"), 1),
        ("var.correction", new(), 16),
        ("linalg_vector_norm.default", new(), 4),
    ],
)
def test_parts_are_as_large_as_what_is_accumulated(name: str, results: Tensor, part_bytes: int) -> None:
    # 2**24 values: 432 blocks share the result on 108 multiprocessors of four blocks of 512 threads.
    found = sizes(taken(aten(name, results, self=new(4096, 4096))))
    assert found == [432 * part_bytes, 4]


def test_a_maximum_of_two_tensors_is_no_reduction() -> None:
    assert taken(aten("max.other", new(8), self=new(8), other=new(8))) == []


# -- indices --------------------------------------------------------------------------------------


def index_put(target: Tensor, indices: tuple[Tensor | None, ...], values: Tensor, **args: Any) -> list[Extra]:
    op = aten("_index_put_impl_.default", target, self=target, indices=indices, values=values, **args)
    return taken(op)


def test_a_gradient_scattered_by_index() -> None:
    ids = new(4, 128, dtype="int64")
    found = index_put(new(10_000, 2560), (ids,), new(4, 128, 2560), accumulate=True, unsafe=True)
    assert found == [
        Scratch(4096, "wrapped index"),
        Scratch(4096, "linear index 0"),
        Return("wrapped index"),
        Scratch(4096, "sorted indices"),
        Scratch(4096, "original places"),
        Scratch(4096, "range"),
        Scratch(1, "sort storage"),
        Return("sort storage"),
        Return("range"),
        Return("original places"),
        Return("sorted indices"),
        Return("linear index 0"),
    ]


def test_many_indices_take_a_real_sort() -> None:
    ids = new(8, 1024, dtype="int64")
    found = index_put(new(50_257, 768), (ids,), new(8, 1024, 768), accumulate=True, unsafe=True)
    # Rows up to 50,256 are 16 bits, two passes: counters 2 * 256 * 8, three tiles of 3840, two copies, tickets.
    storage = 4096 + 3 * 1024 + 2 * 65_536 + 256 + 255
    assert sizes(found) == [65_536] * 5 + [storage]


def test_without_accumulation_or_with_masks_nothing_is_taken() -> None:
    ids = new(16, dtype="int64")
    assert index_put(new(10, 8), (ids,), new(16, 8)) == []
    assert index_put(new(10, 8), (new(10, dtype="bool"),), new(5, 8), accumulate=True) == []


def test_indices_of_two_dimensions_are_added_and_a_number_is_spread() -> None:
    ids = new(16, dtype="int64")
    found = index_put(new(10, 8, 4), (ids, ids), new(1), accumulate=True, unsafe=True)
    assert sizes(found) == [128, 128, 128, 128, 16 * 4 * 4, 128, 128, 128, 1]
    assert found.count(Return("linear index 1")) == 1


def test_a_users_own_index_is_checked_first() -> None:
    op = aten("index_put_.default", (target := new(10, 8)), self=target, indices=(new(16, dtype="int64"),))
    found = taken(replace(op, args={**op.args, "values": new(16, 8), "accumulate": True}))
    assert sizes(found)[:4] == [8, 1, 8, 1]


def test_separated_indices_bring_their_dimensions_to_the_front() -> None:
    ids = new(16, dtype="int64")
    found = index_put(new(10, 8, 4), (ids, None, ids), new(16, 8), accumulate=True, unsafe=True)
    assert Scratch(10 * 8 * 4 * 4, "permuted copy") in found


def embedding_gradient(rows: int, count: int, **args: Any) -> list[Extra]:
    ids, grad = new(count, dtype="int64"), new(count, 64, dtype="bfloat16")
    result = new(rows, 64, dtype="bfloat16")
    given = {"grad_output": grad, "indices": ids, "num_weights": rows, "padding_idx": -1, "scale_grad_by_freq": False}
    return taken(aten("embedding_dense_backward.default", result, **{**given, **args}))


def test_the_gradient_of_an_embedding_of_few_indices() -> None:
    assert embedding_gradient(1000, 3072) == []


def test_the_gradient_of_an_embedding_of_many_indices() -> None:
    found = embedding_gradient(1000, 8192)
    before = [extra for extra in found if getattr(extra, "before_outputs", False)]
    # Keys are sorted by all 64 bits, in 8 passes.
    storage = 8 * 2048 + 3 * 1024 + 2 * 65_536 + 256 + 255
    assert sizes(before) == [65_536, 65_536, 65_536, storage]
    after = sizes(extra for extra in found if extra not in before)
    # 1000 rows at most are met, so there are 8192 / 10 + 1000 parts, each a row in float32.
    assert after[-2:] == [1819 * 8, 1819 * 64 * 4]


# -- sorting --------------------------------------------------------------------------------------


def test_rows_that_fit_a_block_are_sorted_in_place() -> None:
    pair = (new(8, 4096), new(8, 4096, dtype="int64"))
    assert taken(aten("sort.default", pair, self=new(8, 4096))) == []


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        # 32-bit keys with 8-byte places, 4 passes, 384 x 17 * 4 / 8 = 8 elements a tile: 3072.
        ((10_000,), [80_000, 4 * 2048 + 4 * 1024 + 40_192 + 80_128 + 256 + 255]),
        # Few rows: places and rows of 8 bytes twice, keys, and then the rows themselves, which are 1 bit.
        (
            (2, 10_000),
            [160_000, 160_000, 80_000, 4 * 2048 + 7 * 1024 + 80_128 + 160_000 + 256 + 255, 2048 + 6 * 1024 + 256 + 255],
        ),
        # Many rows: places, and copies of keys and values.
        ((200, 5000), [8_000_000, 4_000_000 + 8_000_000 + 255]),
    ],
)
def test_longer_rows(shape: tuple[int, ...], expected: list[int]) -> None:
    pair = (new(*shape), new(*shape, dtype="int64"))
    assert sizes(taken(aten("sort.stable", pair, self=new(*shape), stable=True))) == expected


def test_a_running_sum_of_one_row() -> None:
    row = aten("cumsum.default", new(10_000, dtype="int64"), self=new(10_000, dtype="int64"), dim=0)
    assert sizes(taken(row)) == [768 + 255]
    rows = aten("cumsum.default", new(10, 1000), self=new(10, 1000), dim=1)
    assert taken(rows) == []


# -- normalization --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "ord", "expected"),
    [
        # 200,000 elements are four chunks of 65,536; three tensors have room for as many each, in float32.
        ("float32", 2, [3 * 4 * 4]),
        ("bfloat16", 2, [3 * 4 * 4]),
        ("float32", float("inf"), [3 * 4 * 4]),
        ("float32", 3, []),
    ],
)
def test_norms_of_a_list_have_a_number_for_each_chunk(dtype: str, ord: float, expected: list[int]) -> None:
    given = tuple(new(size, dtype=dtype) for size in (200_000, 10, 65_536))
    results = tuple(new(dtype=dtype) for _ in given)
    assert sizes(taken(aten("_foreach_norm.Scalar", results, self=given, ord=ord))) == expected
    mixed = (*given, new(10, dtype="float64"))
    assert taken(aten("_foreach_norm.Scalar", results, self=mixed, ord=ord)) == []


def layer_norm_gradient(rows: int, columns: int, mask: tuple[bool, ...] = (True, True, True)) -> list[Extra]:
    x = new(rows, columns)
    given = {"grad_out": x, "input": x, "normalized_shape": (columns,), "output_mask": mask}
    return taken(aten("native_layer_norm_backward.default", (x, new(columns), new(columns)), **given))


def test_layer_norms_of_usual_shape_need_nothing() -> None:
    assert layer_norm_gradient(65_536, 128) == []
    assert layer_norm_gradient(100_000, 4096) == []


@pytest.mark.parametrize("name", ["native_layer_norm", "_fused_rms_norm"])
def test_layer_norms_copy_what_does_not_lie_in_rows(name: str) -> None:
    turned = Tensor(0, "float32", (64, 128), (1, 64))
    (found,) = taken(aten(f"{name}.default", new(64, 128), input=turned, normalized_shape=(128,)))
    assert found == Scratch(64 * 128 * 4, "contiguous input", True)
    given = {"grad_out": turned, "input": turned, "normalized_shape": (128,), "output_mask": (True, True)}
    assert sizes(taken(aten(f"{name}_backward.default", new(64, 128), **given))) == [64 * 128 * 4] * 2


def test_layer_norms_of_very_many_short_rows() -> None:
    # 100,000 rows in groups of 32 are 3125 parts of 128 columns; both sums make a new gradient. A sum over 3125 rows:
    # 32 groups of 4, one block of 32 x 4; 3125 / 4 -> 782 values, at most 782 / 16 -> 49 parts: 4 * 128 * 49 * 128.
    sums = [512, 4 * 128 * 49 * 128, 4]
    assert sizes(layer_norm_gradient(100_000, 128)) == [3125 * 128 * 4] * 2 + sums * 2
    assert sizes(layer_norm_gradient(100_000, 128, (True, True, False))) == [3125 * 128 * 4, *sums]
    assert layer_norm_gradient(100_000, 128, (True, False, False)) == []


def group_norm(name: str, pixels: int, **args: Any) -> list[int]:
    x = new(4, 64, pixels, dtype="bfloat16")
    given = {"input": x, "weight": new(64), "N": 4, "C": 64, "HxW": pixels, "group": 8, **args}
    return sizes(taken(aten(name, (x, new(4, 8), new(4, 8)), **given)))


def test_the_gradient_of_a_softmax_takes_a_product_as_large_as_the_scores() -> None:
    rows, columns = new(2, 3, 8, 8), Tensor(0, "float32", (2, 3, 8, 8), (192, 64, 1, 8))
    repeated = Tensor(0, "float32", (2, 3, 8, 8), (0, 0, 0, 0))
    half = Tensor(0, "float16", (2, 3, 8, 8), (192, 64, 8, 1))
    size = 2 * 3 * 8 * 8 * 4

    def backward(grad: Tensor, output: Tensor) -> list[int]:
        return sizes(taken(aten("_softmax_backward_data.default", rows, grad_output=grad, output=output, dim=-1)))

    assert backward(rows, rows) == backward(repeated, rows) == [size]
    assert backward(half, half) == [size // 2]
    assert backward(columns, rows) == [size, size]
    assert backward(columns, columns) == [size, size, size]


def test_a_safe_softmax_looks_where_rows_are_masked() -> None:
    rows, columns = new(8, 4), Tensor(0, "float32", (8, 4), (1, 8))
    masks = [Scratch(32, "whether they are infinite"), Scratch(8, "rows of nothing else")]
    copy = [Scratch(128, "input in one piece"), Return("input in one piece")]
    assert taken(aten("_safe_softmax.default", rows, self=rows, dim=-1)) == masks
    assert taken(aten("_safe_softmax.default", rows, self=columns, dim=-1)) == copy + masks


def test_gradients_of_distances_hold_one_of_each_pair() -> None:
    left, right, grad = new(2, 5, 3), new(2, 7, 3), new(2, 5, 7)
    given = {"grad": grad, "x1": left, "x2": right, "cdist": grad}
    assert sizes(taken(aten("_cdist_backward.default", left, **given, p=1.0))) == [2 * 7 * 5 * 3 * 4]
    assert taken(aten("_cdist_backward.default", left, **given, p=0.0)) == []
    pairs = {"grad": new(10), "self": new(5, 3), "pdist": new(10), "p": 2.0}
    assert sizes(taken(aten("_pdist_backward.default", new(5, 3), **pairs))) == [4 * 5 * 3 * 4]


def test_what_does_not_lie_in_rows_is_rolled_in_one_piece() -> None:
    columns = Tensor(0, "float32", (8, 8), (1, 8))
    one = aten("roll.default", new(8, 8), self=columns, shifts=(1,), dims=(0,))
    assert taken(one) == [Scratch(256, "input in one piece", True)]
    two = aten("roll.default", new(8, 8), self=columns, shifts=(1, 1), dims=(0, 1))
    piece = Scratch(256, "input in one piece", True)
    assert taken(two) == [piece, Scratch(256, "rolled along 1", True), Return("input in one piece", True)]


@pytest.mark.parametrize("name", ["_softmax", "_log_softmax"])
def test_a_softmax_copies_what_does_not_lie_in_rows(name: str) -> None:
    rows, columns = new(8, 8), Tensor(0, "float32", (8, 8), (1, 8))
    assert taken(aten(f"{name}.default", rows, self=rows, dim=0)) == []
    assert taken(aten(f"{name}.default", rows, self=columns, dim=0)) == [Scratch(256, "input in one piece")]
    log = "_log_softmax_backward_data.default"
    assert taken(aten(log, rows, grad_output=rows, output=rows, dim=0)) == []
    assert sizes(taken(aten(log, rows, grad_output=columns, output=columns, dim=0))) == [256, 256]


def test_group_norms_copy_what_does_not_lie_in_rows() -> None:
    last = Tensor(0, "bfloat16", (4, 64, 100), (6400, 1, 64))
    mask = {"output_mask": (True, False, False)}
    copied = 2 * 4 * 64 * 100
    assert group_norm("native_group_norm.default", 100, input=last)[0] == copied
    backward = group_norm("native_group_norm_backward.default", 100, input=last, grad_out=last, **mask)
    assert backward[:2] == [copied, copied]


def test_group_norms() -> None:
    channels, groups = 4 * 64 * 4, 4 * 8 * 4
    assert group_norm("native_group_norm.default", 100) == [channels, channels]
    assert group_norm("native_group_norm.default", 1) == []
    mask = {"output_mask": (True, True, True)}
    backward = [channels, channels, groups, groups, channels]
    assert group_norm("native_group_norm_backward.default", 100, **mask) == backward
    assert group_norm("native_group_norm_backward.default", 1, **mask) == [groups, groups]


# -- attention ------------------------------------------------------------------------------------


def attention(name: str, q: tuple[int, ...], k: tuple[int, ...], dtype: str = "bfloat16", **args: Any) -> Op:
    query, key, value = new(*q, dtype=dtype), new(*k, dtype=dtype), new(*k, dtype=dtype)
    return aten(f"_scaled_dot_product_{name}.default", (query, key, value), query=query, key=key, value=value, **args)


def test_the_gradient_of_flash_attention() -> None:
    op = attention("flash_attention_backward", (8, 25, 1000, 64), (8, 25, 1000, 64))
    rows = 8 * 25 * 1024
    assert taken(op) == [Scratch(rows * 4, "softmax_d"), Scratch(rows * 64 * 4, "dq_accum")]


def test_flash_attention_pads_widths_and_repeats_keys_of_groups() -> None:
    op = attention("flash_attention_backward", (2, 32, 256, 80), (2, 8, 256, 80))
    repeated = 2 * 256 * 32 * 80 * 2
    assert sizes(taken(op)) == [2 * 32 * 256 * 4, 2 * 32 * 256 * 96 * 4, repeated, repeated]
    wide = attention("flash_attention_backward", (1, 1, 128, 200), (1, 1, 128, 200))
    assert sizes(taken(wide))[1] == 128 * 256 * 4


def test_flash_attention_splits_long_keys_of_few_queries() -> None:
    # One row of 32 heads against 8192 keys in blocks of 128: 32 jobs on 2 * 108 processors, 64 blocks. With 6 splits
    # 192 of 216 processors are busy (0.89), with 13 there are 416 of 432, which is the most; 0.85 of it is reached
    # first with 6.
    op = attention("flash_attention", (1, 32, 1, 128), (1, 32, 8192, 128))
    assert flash_splits(32, 216, 64) == 6
    assert sizes(taken(op)) == [6 * 32 * 4, 6 * 32 * 128 * 4]
    assert taken(attention("flash_attention", (8, 32, 1024, 128), (8, 32, 1024, 128))) == []
    dropped = attention("flash_attention", (1, 32, 1, 128), (1, 32, 8192, 128), dropout_p=0.1)
    assert taken(dropped) == []


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300))
def test_splits_are_within_what_there_is(jobs: int, processors: int, blocks: int) -> None:
    assert 1 <= flash_splits(jobs, processors, blocks) <= max(min(blocks, processors, 128), 1)


def test_the_gradient_of_memory_efficient_attention() -> None:
    op = attention("efficient_attention_backward", (8, 12, 1024, 64), (8, 12, 1024, 64))
    # 16 blocks of 64 x 64 floats with a lock of 4 words for each of 96 heads.
    assert sizes(taken(op)) == [8 * 12 * 1024 * 4, 96 * 16 * (4096 + 4) * 4]


def test_memory_efficient_attention_in_float32_multiplies_first() -> None:
    op = attention("efficient_attention_backward", (2, 4, 100, 32), (2, 4, 100, 32), "float32")
    rows = 2 * 4 * 100
    # 100 queries are two blocks of 64; the 32 columns are one of 64.
    expected = [rows * 32 * 4, rows * 4, rows * 4, 8 * 2 * (4096 + 4) * 4]
    assert sizes(taken(op)) == expected


def test_wide_heads_keep_the_gradients_of_key_and_value_in_memory_too() -> None:
    heads = Heads(1, 2, 2, 512, 512, 256, 256)
    # 4 blocks of 128 queries by 4 of 64 columns; 512 / 64 = 8 splits of 64 keys by 2 * 256 columns.
    elements = 4 * 4 * (128 * 64 + 4) + 8 * 64 * 512
    assert efficient_workspace_bytes(heads, Tile(128, 64, 65536), half=True) == 2 * elements * 4
