"""Turns reductions, scans and sorts into work: FLOPs for each element that goes in.

A *reduction* makes few elements of many: sums, means, norms, extrema. A scan keeps one result per element. A sort
of n elements takes ceil(log2 n) comparisons per element.
"""

from __future__ import annotations

from ..graph import Op, Tensor
from ..graph.op import tensors
from .normalization import size_along
from .rules import aten, rule
from .work import Work, argument, consumed, integer, moves, produced


@rule(*aten("sum nansum prod cumsum cumprod sum_to_size trace"))
def sums(op: Op) -> Work:
    """One add (or multiply) for each element."""
    return moves(op, vector_flops=consumed(op))


@rule(*aten("amax amin argmax argmin any all cummax cummin _cummax_helper _cummin_helper count_nonzero _foreach_max"))
def extremes(op: Op) -> Work:
    """One comparison for each element."""
    return moves(op, vector_flops=consumed(op))


@rule(*aten("max min"))
def extreme(op: Op) -> Work:
    """One comparison for each element, or for each pair where there are two operands."""
    return moves(op, vector_flops=produced(op) if "other" in op.args else consumed(op))


@rule(*aten("aminmax _aminmax equal"))
def two_extremes(op: Op) -> Work:
    """Two comparisons for each element; `equal` compares once, and joins the answers."""
    return moves(op, vector_flops=2 * consumed(op))


@rule(*aten("mean nanmean"))
def mean(op: Op) -> Work:
    """One add for each element and one division for each mean."""
    return moves(op, vector_flops=consumed(op) + produced(op))


@rule(*aten("var std var_mean std_mean"))
def variance(op: Op) -> Work:
    """Per element: add to the mean, subtract it, square, add up. Per result a division, and a root for `std`."""
    made = op.outputs[0].numel
    return moves(op, vector_flops=4 * consumed(op) + (3 if "std" in op.packet else 2) * made)


def norm_flops(order: object) -> tuple[int, int]:
    """FLOPs per element and per result of a vector norm.

    Order 2: square, add; a root at the end. Order 1 and infinity: absolute, add or compare. Order 0: compare, add.
    Any other: absolute, power, add; a power at the end.
    """
    if order in (0, 1, float("inf"), float("-inf")):
        return 2, 0
    return (2, 1) if order in (None, 2) else (3, 1)


@rule(*aten("linalg_vector_norm norm _foreach_norm native_norm"))
def norm(op: Op) -> Work:
    """A vector norm, of one tensor or of each of a list."""
    per_element, per_result = norm_flops(op.get("ord", op.get("p", 2)))
    return moves(op, vector_flops=per_element * consumed(op) + per_result * produced(op))


@rule(*aten("linalg__powsum _foreach_powsum"))
def power_sum(op: Op) -> Work:
    """A vector norm without the root at its end."""
    return moves(op, vector_flops=norm_flops(op.get("ord", 2))[0] * consumed(op))


@rule("aten.dist")
def distance(op: Op) -> Work:
    """A subtraction for each element, then a norm."""
    per_element, per_result = norm_flops(op.get("p", 2))
    return moves(op, vector_flops=(1 + per_element) * consumed(op) + per_result)


@rule(*aten("logsumexp logcumsumexp _logcumsumexp"))
def log_sum_exp(op: Op) -> Work:
    """Per element: compare with the maximum, subtract it, exp, add. Per result: log, add the maximum."""
    return moves(op, vector_flops=4 * consumed(op) + 2 * produced(op))


@rule(*aten("cumprod_backward"))
def cumulative_product_backward(op: Op) -> Work:
    """Multiply by the output, sum backwards, divide by the input: three per element."""
    return moves(op, vector_flops=3 * op.tensor("grad").numel)


def comparisons(count: int) -> int:
    """ceil(log2 count): comparisons that place one element among `count`.

    >>> [comparisons(n) for n in (0, 1, 2, 3, 1024)]
    [0, 0, 1, 2, 10]
    """
    return max(count - 1, 0).bit_length()


@rule(
    *aten("sort argsort msort unique_dim unique_consecutive _unique _unique2 median nanmedian mode kthvalue randperm")
)
def sorting(op: Op) -> Work:
    """Every element is placed among the others of its row; a random permutation sorts random keys."""
    source = next((t for t in tensors(op.get("self", op.get("input")))), None)
    if source is None:
        return moves(op, vector_flops=comparisons(produced(op)) * produced(op))
    rowed = op.packet in aten("sort argsort mode kthvalue median nanmedian")
    size = size_along(source, op.get("dim", -1)) if rowed and not is_whole(op) else source.numel
    return moves(op, vector_flops=comparisons(size) * source.numel)


def is_whole(op: Op) -> bool:
    """True for a median of all elements rather than along a dimension."""
    return "median" in op.packet and "dim" not in op.args


@rule("aten.topk")
def top(op: Op) -> Work:
    """Each element is compared with the least of the k kept, and at most placed among them."""
    return moves(op, vector_flops=(1 + comparisons(integer(op, "k", 1))) * consumed(op))


@rule(*aten("searchsorted bucketize"))
def searching(op: Op) -> Work:
    """A binary search of the sorted values for each result."""
    values = argument(op, "sorted_sequence", "boundaries")
    return moves(op, vector_flops=comparisons(size_along(values, -1)) * produced(op))


@rule("aten.isin")
def membership(op: Op) -> Work:
    """A binary search of the sorted test elements for each result; one comparison with a single number."""
    values = op.get("test_elements")
    count = values.numel if isinstance(values, Tensor) else 1
    return moves(op, vector_flops=max(comparisons(count), 1) * produced(op))


@rule(*aten("bincount histc"))
def counting(op: Op) -> Work:
    """One add for each element, into the bin it belongs to."""
    return moves(op, vector_flops=consumed(op))


@rule("aten.segment_reduce")
def segments(op: Op) -> Work:
    """One add or comparison for each element."""
    return moves(op, vector_flops=op.tensor("data").numel)


@rule("aten._segment_reduce_backward")
def segments_backward(op: Op) -> Work:
    """A comparison or a division, and a multiply, for each element."""
    return moves(op, vector_flops=2 * op.tensor("data").numel)


@rule("aten.allclose")
def closeness(op: Op) -> Work:
    """For each element a difference, its size, a scaled bound (2), a comparison, and a logical and."""
    return moves(op, vector_flops=6 * op.tensor("self").numel)
