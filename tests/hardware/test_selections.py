"""What ops that pick, count or draw take inside their kernels, with the arithmetic spelled out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from opbuilder import call, new

from foretrace.graph import Op, Tensor
from foretrace.hardware.gpu import gpu_of
from foretrace.hardware.profile import load
from foretrace.hardware.script import Extra, Return, Scratch
from foretrace.hardware.sorts import radix_sort_bytes, reduce_bytes, scan_bytes
from foretrace.hardware.workspaces import extras, unknown

A100 = load("a100-sxm4-80gb")
GPU = gpu_of(A100)


def taken(op: Op) -> list[Extra]:
    return list(extras(A100)(op))


def named(found: Iterable[Extra]) -> dict[str, int]:
    """Bytes by name; of a name that comes twice, the last."""
    return {extra.name: extra.bytes for extra in found if not isinstance(extra, Return)}


def most(found: Iterable[Extra]) -> int:
    """The largest sum of what is held at once."""
    held: list[Scratch] = []
    highest = 0
    for extra in found:
        if isinstance(extra, Return):
            del held[next(i for i in reversed(range(len(held))) if held[i].name == extra.name)]
        elif isinstance(extra, Scratch):
            held.append(extra)
        highest = max(highest, sum(one.bytes for one in held))
    return highest


def aten(name: str, result: object, /, **args: Any) -> Op:
    return call(f"aten.{name}", result, **args)


def picked(rows: int, row: int, k: int, dtype: str = "float32", **args: Any) -> Op:
    results = (new(rows, k, dtype=dtype), new(rows, k, dtype="int64"))
    return aten("topk.default", results, self=new(rows, row, dtype=dtype), k=k, **args)


# -- largest elements -----------------------------------------------------------------------------


def test_the_largest_of_short_rows_need_nothing() -> None:
    assert taken(picked(8, 19_999, 5)) == taken(picked(4000, 799, 8)) == []


def test_the_largest_of_long_rows_are_counted_by_several_blocks() -> None:
    # 8 x 50,000 over 108 x 6 blocks of 256 threads: 3 elements for each thread, 4 at the least; 49 blocks for a row.
    found = named(taken(picked(8, 50_000, 50)))
    blocks = 8 * 49
    assert found == {
        "k-th values": 8 * 4,
        "ranks to find": 2 * 8 * 4,
        "digits found": 2 * 8 * 4,
        "digit counts": blocks * 256 * 2,
        "digit sums": 8 * 256 * 4,
        "counts within": blocks * 4,
        "counts of the k-th": blocks * 4,
        "scan storage": scan_bytes(blocks, 8),
    }


@pytest.mark.parametrize(
    ("rows", "row", "several"),
    [
        (20, 20_000, True),
        (21, 10_000, True),
        (199, 5_000, True),
        (200, 3_000, True),
        (800, 799, False),
        (4_001, 400, True),
    ],
)
def test_how_long_a_row_is_shared_depends_on_how_many_there_are(rows: int, row: int, several: bool) -> None:
    assert bool(taken(picked(rows, row, 2))) is several


def test_more_than_4096_of_a_row_are_sorted_in_copies() -> None:
    found = named(taken(picked(1, 10_000, 5_000)))
    assert found["sorted values"] == 4 * 5_000
    assert found["sorted places"] == found["gathered indices"] == found["range"] == 8 * 5_000
    assert found["sort storage"] == radix_sort_bytes(GPU, 5_000, 4, 8, 32)
    assert named(taken(picked(1, 10_000, 5_000, sorted=False))) == {}


def test_the_median_of_all_sorts_a_copy() -> None:
    found = named(taken(aten("median.default", new(), self=new(100, 100))))
    assert (found["sorted values"], found["sorted places"]) == (40_000, 80_000)
    along = aten("median.dim", (new(100), new(100, dtype="int64")), self=new(100, 100), dim=1)
    assert taken(along) == []


# -- places ---------------------------------------------------------------------------------------


def test_what_is_not_zero_is_counted_and_then_selected() -> None:
    # More than 256 x 16 elements: a partial sum of 4 bytes for each of 108 x 8 blocks, five times over.
    op = aten("nonzero.default", new(77, 2, dtype="int64"), self=new(100, 100, dtype="bool"))
    partial = (108 * 8 * 5 * 4 + 255) // 256 * 256 + 255
    assert reduce_bytes(GPU, 10_000, 4) == partial
    select = Scratch(scan_bytes(10_000, 4), "select storage")
    counting = [
        Scratch(4, "number found", True),
        Scratch(partial, "count storage", True),
        Return("count storage", True),
    ]
    assert taken(op) == [*counting, select, Return("select storage")]


def test_a_mask_becomes_indices_in_each_of_its_dimensions() -> None:
    mask = new(64, 32, dtype="bool")
    op = aten("index.Tensor", new(500, 16), self=new(64, 32, 16), indices=(mask,))
    assert named(taken(op))["indices of mask 0"] == 500 * 2 * 8
    chosen = aten("masked_select.default", new(500), self=new(64, 32), mask=mask)
    assert named(taken(chosen))["indices of mask 0"] == 500 * 2 * 8


def test_other_indices_need_nothing() -> None:
    op = aten("index.Tensor", new(500, 16), self=new(64, 16), indices=(new(500, dtype="int64"),))
    assert taken(op) == []


def test_a_scattered_mean_counts() -> None:
    args = {"self": new(10, 4), "dim": 0, "index": new(100, 4, dtype="int64"), "src": new(100, 4)}
    assert named(taken(aten("scatter_reduce.two", new(10, 4), reduce="mean", **args))) == {
        "ones": 100 * 4 * 4,
        "counts": 10 * 4 * 4,
        "where nothing came": 10 * 4,
    }
    assert taken(aten("scatter_reduce.two", new(10, 4), reduce="sum", **args)) == []


# -- distinct values and counts -------------------------------------------------------------------


def distinct(dtype: str = "int64", **args: Any) -> Op:
    results = (new(10, dtype=dtype), new(0, dtype="int64"), new(0, dtype="int64"))
    return aten("_unique2.default", results, self=new(50_000, dtype=dtype), **args)


def test_distinct_values_are_sorted_in_a_copy() -> None:
    sort, select = radix_sort_bytes(GPU, 50_000, 8, 0, 64), scan_bytes(50_000, 8)
    found = taken(distinct())
    assert named(found) == {
        "sorted values": 400_000,
        "sort storage": sort,
        "number of values": 8,
        "select storage": select,
    }
    assert most(found) == 400_000 + sort


def test_the_inverse_takes_the_places_along() -> None:
    found = taken(distinct(return_inverse=True))
    assert named(found)["sort storage"] == radix_sort_bytes(GPU, 50_000, 8, 8, 64)
    assert most(found) == 3 * 400_000 + named(found)["sort storage"]


def test_booleans_are_counted() -> None:
    assert named(taken(distinct("bool"))) == {
        "number of true values": 4,
        "count storage": reduce_bytes(GPU, 50_000, 4),
    }


def test_counts_ask_for_the_extremes_first() -> None:
    value = new(1000, dtype="int64")
    assert taken(aten("bincount.default", new(9, dtype="int64"), self=value)) == [
        Scratch(8, "smallest", True),
        Scratch(8, "largest", True),
    ]
    assert taken(aten("histc.default", new(9), self=new(1000), bins=9, min=0, max=1)) == []


# -- draws ----------------------------------------------------------------------------------------


def test_draws_without_replacement_divide_by_noise() -> None:
    probabilities = new(4, 50_257)
    one = aten("multinomial.default", new(4, 1, dtype="int64"), self=probabilities, num_samples=1)
    assert named(taken(one)) == {"probabilities over noise": 4 * 4 * 50_257}
    several = aten("multinomial.default", new(4, 5, dtype="int64"), self=probabilities, num_samples=5)
    found = named(taken(several))
    assert (found["values of the draws"], found["digit sums"]) == (4 * 5 * 4, 4 * 256 * 4)


def test_draws_with_replacement_need_the_running_sum() -> None:
    args = {"self": new(4, 1000), "num_samples": 5, "replacement": True}
    found = named(taken(aten("multinomial.default", new(4, 5, dtype="int64"), **args)))
    assert found == {"normalized probabilities": 16_000, "their running sum": 16_000}


def test_a_permutation_sorts_a_range_by_random_keys() -> None:
    # ceil(log2(10,000 + (6 x 10^8 + 1) / (12 x 0.10536))) = 29 bits: keys of four bytes.
    op = aten("randperm.default", new(10_000, dtype="int64"), n=10_000)
    assert named(taken(op)) == {
        "range": 80_000,
        "random keys": 40_000,
        "sorted keys": 40_000,
        "sort storage": radix_sort_bytes(GPU, 10_000, 4, 8, 29),
    }


def test_a_long_permutation_has_keys_of_eight_bytes() -> None:
    op = aten("randperm.default", new(1_000_000, dtype="int64"), n=1_000_000)
    assert named(taken(op))["random keys"] == 8_000_000


# -- the rest -------------------------------------------------------------------------------------


def test_the_gradient_of_a_bag_sorts_however_few() -> None:
    args = {"grad": new(8, 64), "indices": new(100, dtype="int64"), "num_weights": 1000, "scale_grad_by_freq": False}
    backward = "_embedding_bag_dense_backward.default"
    found = named(taken(aten(backward, new(1000, 64), mode=0, **args)))
    assert (found["sorted indices"], found["sort storage"]) == (800, radix_sort_bytes(GPU, 100, 8, 8, 10))
    assert found["gradient of each part"] == (100 // 10 + 100) * 64 * 4
    assert taken(aten(backward, new(1000, 64), mode=2, **args)) == []
    assert named(taken(aten("_embedding_bag_backward.default", new(1000, 64), mode=0, sparse=False, **args))) == found
    assert taken(aten("_embedding_bag_backward.default", new(1000, 64), mode=0, sparse=True, **args)) == []


def test_the_backward_of_ctc_has_a_table_like_the_forwards() -> None:
    table = new(8, 100, 41)
    op = aten("_ctc_loss_backward.default", new(100, 8, 30), log_alpha=table)
    assert taken(op) == [Scratch(8 * 100 * 41 * 4, "backward probabilities")]


def test_cudnn_samples_images_and_grids_in_one_piece() -> None:
    image, grid, expanded = new(2, 3, 8, 8), new(2, 4, 4, 2), Tensor(0, "float32", (2, 3, 4, 4), (0, 0, 0, 0))
    turned = Tensor(0, "float32", (2, 4, 4, 2), (32, 2, 8, 1))
    name, results = "cudnn_grid_sampler_backward.default", (image, grid)
    assert taken(aten(name, results, self=image, grid=grid, grad_output=new(2, 3, 4, 4))) == []
    assert named(taken(aten(name, results, self=image, grid=turned, grad_output=expanded))) == {
        "grid in one piece": 2 * 4 * 4 * 2 * 4,
        "grad_output in one piece": 2 * 3 * 4 * 4 * 4,
    }


def test_empty_tensors_need_nothing() -> None:
    empty, none = new(0), new(0, dtype="int64")
    assert taken(aten("randperm.default", none, n=0)) == []
    assert taken(aten("nonzero.default", none, self=empty)) == []
    assert taken(aten("_unique2.default", (empty, none, none), self=empty)) == []


def test_ops_without_a_rule_are_named() -> None:
    known = [aten("topk.default", new(1), self=new(1), k=1), aten("nonzero.default", new(1), self=new(1))]
    nameless = [aten("_fft_r2c.default", new(1), self=new(1)), aten("_linalg_svd.default", new(1), A=new(1))]
    assert unknown([*known, *nameless]) == ("aten._fft_r2c", "aten._linalg_svd")


def test_products_of_sparse_matrices_are_not_cublas_and_are_named() -> None:
    op = aten("mm.default", new(4, 5), self=(new(2, 3, dtype="int64"), new(3)), mat2=new(6, 5))
    assert taken(op) == []
    assert unknown([op, aten("mm.default", new(4, 5), self=new(4, 6), mat2=new(6, 5))]) == (
        "aten.mm of a sparse matrix",
    )


def strided(*shape: int) -> Tensor:
    """The transpose of a dense tensor."""
    return new(*shape)._replace(strides=(1, shape[0]))


def test_what_does_not_lie_in_rows_is_copied() -> None:
    value = strided(100, 200)
    assert named(taken(aten("kthvalue.default", (new(100), new(100, dtype="int64")), self=value, k=3))) == {
        "contiguous copy": 80_000
    }
