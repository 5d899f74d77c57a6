"""Turns loss functions into work.

A *loss* op compares a prediction with a target element by element and may add the results up. The add of a
reduction is counted with the element. Cross entropy is not here as one op: it reaches the dispatcher as a
log-softmax and a negative log-likelihood, which picks one element of each row.
"""

from __future__ import annotations

from ..graph import Op
from .rules import aten, rule
from .work import Work, argument, moves, touched

NO_REDUCTION = 0
"""``at::Reduction::None``; 1 is the mean, 2 the sum."""

FORWARD = {
    "mse_loss": (2, "subtract, square"),
    "smooth_l1_loss": (6, "subtract, absolute, compare, square, scale, shift"),
    "huber_loss": (6, "subtract, absolute, compare, square, scale, shift"),
    "soft_margin_loss": (4, "multiply, negate, exp, log1p"),
    "binary_cross_entropy": (7, "log, 1 - x, its log, two products with target and 1 - target, add"),
    "binary_cross_entropy_with_logits": (8, "(1 - target) * x (2), log-sigmoid (6), one of its adds is shared"),
    "kl_div": (4, "log, subtract, multiply, compare"),
    "l1_loss": (2, "subtract, absolute"),
}
BACKWARD = {
    "mse_loss_backward": (3, "subtract, times 2 / n, times the gradient"),
    "smooth_l1_loss_backward": (6, "subtract, two comparisons, divide, select, times the gradient"),
    "huber_loss_backward": (6, "subtract, two comparisons, multiply, select, times the gradient"),
    "soft_margin_loss_backward": (6, "multiply, exp, add, divide, multiply, times the gradient"),
    "binary_cross_entropy_backward": (7, "x - target, 1 - x, product, maximum, divide, times the gradient, scale"),
}


def elementwise_loss(op: Op) -> Work:
    """The loss of each element, a product where there is a weight, and an add where they are added up."""
    source = argument(op, "self", "input")
    weighted = any(op.get(name) is not None for name in ("weight", "pos_weight"))
    added = op.get("reduction", 1) != NO_REDUCTION
    per_element = FORWARD[op.packet.removeprefix("aten.")][0] + weighted + added
    return moves(op, vector_flops=per_element * source.numel)


def elementwise_loss_backward(op: Op) -> Work:
    """The loss's derivative at each element, times the gradient."""
    per_element = BACKWARD[op.packet.removeprefix("aten.")][0] + (op.get("weight") is not None)
    return moves(op, vector_flops=per_element * argument(op, "self", "input").numel)


rule(*aten(" ".join(FORWARD)))(elementwise_loss)
rule(*aten(" ".join(BACKWARD)))(elementwise_loss_backward)


@rule(*aten("nll_loss_forward nll_loss2d_forward"))
def negative_log_likelihood(op: Op) -> Work:
    """One element of each row, negated and added up; a class weight is a multiply and an add more.

    Only the picked elements are read.
    """
    scores, target = op.tensor("self"), op.tensor("target")
    per_row = 4 if op.get("weight") is not None else 2
    work = moves(op, vector_flops=per_row * target.numel, read=[t for t in op.inputs if t is not scores])
    return work + Work(read_bytes=target.numel * scores.itemsize)


@rule(*aten("nll_loss_backward nll_loss2d_backward"))
def negative_log_likelihood_backward(op: Op) -> Work:
    """Fill with zeros, then write one element of each row: negate and divide by the total weight.

    The scores are an argument only for their shape.
    """
    scores, target = op.tensor("self"), op.tensor("target")
    per_row = 3 if op.get("weight") is not None else 2
    given = [op.tensor(name) for name in ("grad_output", "target", "total_weight")]
    work = moves(op, vector_flops=per_row * target.numel, read=given)
    return work + Work(written_bytes=target.numel * scores.itemsize)


@rule(
    *aten("multi_margin_loss multi_margin_loss_backward multilabel_margin_loss_forward multilabel_margin_loss_backward")
)
def margin(op: Op) -> Work:
    """Per score: subtract, add the margin, compare with zero, add up."""
    return moves(op, vector_flops=4 * argument(op, "self", "input").numel)


@rule("aten._ctc_loss")
def ctc(op: Op) -> Work:
    """The forward recursion: each state is the log-sum-exp of three, plus a log-probability.

    Two maxima, three differences, three exps, two adds, a log, the maximum again, the log-probability: 13.
    """
    return moves(op, vector_flops=13 * op.outputs[1].numel)


@rule("aten._ctc_loss_backward")
def ctc_backward(op: Op) -> Work:
    """The backward recursion (13 per state), its sum with the forward one (5), three per log-probability.

    The backward recursion's states are a scratch tensor as large as the forward's, written and read once.
    """
    states = op.tensor("log_alpha")
    flops = 18 * states.numel + 3 * op.tensor("log_probs").numel
    scratch = touched([states])
    return moves(op, vector_flops=flops) + Work(read_bytes=scratch, written_bytes=scratch)


@rule("aten._cudnn_ctc_loss")
def ctc_with_gradient(op: Op) -> Work:
    """Both recursions and the gradient at once, counted as for the two ops above; targets are taken to be equally long.

    The states are a scratch tensor of float32, written and read twice.
    """
    scores, targets = op.tensor("log_probs"), op.tensor("targets")
    steps, batch = scores.shape[:2]
    states = steps * (batch + 2 * targets.numel)
    scratch = 2 * states * scores.itemsize
    flops = (13 + 18) * states + 3 * scores.numel
    return moves(op, vector_flops=flops) + Work(read_bytes=scratch, written_bytes=scratch)


@rule("torch_nn._linear_cross_entropy_batch_chunked", "torch_nn._linear_cross_entropy_batch_chunked_no_reduction")
def linear_cross_entropy(op: Op) -> Work:
    """The logits by a matrix product, chunk by chunk; each gradient that is wanted is another product as large.

    Six FLOPs for each logit: maximum, subtract, exp, add, and a multiply and a division for the gradient
    (torch/nn/modules/linear_cross_entropy.py). The logits of a chunk are taken to stay on the chip.
    """
    value, weight = op.tensor("input"), op.tensor("linear_weight")
    classes = weight.shape[0]
    wanted = sum(bool(op.get(name, False)) for name in ("compute_input_grad", "compute_linear_weight_grad"))
    flops = 2 * value.numel * classes
    logits = value.numel // max(weight.shape[-1], 1) * classes
    return moves(op, tensor_flops=(1 + wanted) * flops, vector_flops=(6 if wanted else 4) * logits)
