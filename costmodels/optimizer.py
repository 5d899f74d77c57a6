"""Turns optimizer steps into work, and AdamW into a closed form: named terms that add up to its FLOPs per parameter.

A *parameter* here is one number that is trained; a *parameter tensor* is a tensor of them. *State* is what the
optimizer keeps between steps.

Three implementations of one update differ in what they move, and a little in what they compute: *for-loop* runs one
kernel per term and tensor; *foreach* one per term over all tensors, with temporaries as large as the parameters;
*fused* one kernel for everything, which reads and writes each array once. For-loop and foreach steps are made of
ops priced elsewhere (``addcdiv``, ``lerp``, ...; a ``_foreach_`` op has the rule of its single op); here are the fused
kernels and what mixed precision and clipping add.

Not covered by the closed form: ``capturable``, ``differentiable``, complex parameters, and a learning rate or beta
that is a tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ..graph import Op, Phase, StepGraph, Tensor, itemsize
from ..graph.op import tensors
from .price import Priced
from .rules import aten, rule
from .work import Work, moves, reads, total, writes

STEP_BYTES = 4
"""The ``step`` counter of each parameter tensor is one float32 (``torch.optim.optimizer._get_scalar_dtype``; float64
if that is the default dtype). It lives on the host, unless the optimizer is fused or capturable."""

IMPLEMENTATIONS = ("for-loop", "foreach", "fused")


class Term(NamedTuple):
    """One term of an update, and how many FLOPs it takes for each parameter."""

    name: str
    flops: int


def decay_terms(weight_decay: bool, decoupled: bool, fused: bool) -> list[Term]:
    """What weight decay adds."""
    if not weight_decay:
        return []
    if not decoupled:
        return [Term("weight decay in the gradient: g += wd * p", 2)]
    if fused:
        return [Term("decoupled weight decay: p -= (lr * wd) * p", 2)]
    return [Term("decoupled weight decay: p *= 1 - lr * wd", 1)]


def moment_terms(fused: bool) -> list[Term]:
    """The two running averages; the fused kernel writes them as two fused multiply-adds each."""
    if fused:
        return [
            Term("first moment: m = beta1 * m + (g - beta1 * g), two multiply-adds", 4),
            Term("second moment: v = beta2 * v + (g * g - beta2 * g * g), a square and two multiply-adds", 5),
        ]
    return [
        Term("first moment: m += (1 - beta1) * (g - m)", 3),
        Term("second moment, decay: v *= beta2", 1),
        Term("second moment, gradient: v += (1 - beta2) * g * g", 3),
    ]


def adamw_flops_per_parameter(
    *,
    weight_decay: bool = True,
    decoupled: bool = True,
    amsgrad: bool = False,
    maximize: bool = False,
    grad_scale: bool = False,
    implementation: str = "foreach",
) -> tuple[Term, ...]:
    """The terms of one AdamW update per parameter; ``decoupled=False`` is Adam.

    Facts from ``torch.optim.adam`` (for-loop and foreach take the same terms) and
    ``ATen/native/cuda/fused_adam_utils.cuh``. What is computed once per tensor, such as the bias corrections,
    is left out. ``grad_scale`` is what a gradient scaler hands to the fused kernel.

    >>> sum(term.flops for term in adamw_flops_per_parameter())
    14
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation {implementation!r} is none of {', '.join(IMPLEMENTATIONS)}")
    fused = implementation == "fused"
    return (
        *([Term("unscale the gradient: g /= scale", 1)] if grad_scale and fused else []),
        *([Term("maximize: g = -g", 1)] if maximize else []),
        *decay_terms(weight_decay, decoupled, fused),
        *moment_terms(fused),
        *([Term("amsgrad: largest second moment so far", 1)] if amsgrad else []),
        Term("denominator: square root of the second moment", 1),
        Term("denominator: divide by the root of its bias correction", 1),
        Term("denominator: add epsilon", 1),
        Term("update: p -= step size * m / denominator", 3),
    )


def sgd_flops_per_parameter(
    *, weight_decay: bool = False, momentum: bool = False, nesterov: bool = False, maximize: bool = False
) -> tuple[Term, ...]:
    """The terms of one SGD update per parameter, from the second step on (the first only copies the gradient).

    A dampening of 0, the default, leaves the gradient unscaled in the for-loop and foreach forms.
    """
    return (
        *([Term("maximize: g = -g", 1)] if maximize else []),
        *([Term("weight decay in the gradient: g += wd * p", 2)] if weight_decay else []),
        *([Term("momentum: b = momentum * b + g", 2)] if momentum else []),
        *([Term("nesterov: g += momentum * b", 2)] if momentum and nesterov else []),
        Term("update: p -= lr * g", 2),
    )


def adamw_state_bytes_per_parameter(dtype: str = "float32", *, amsgrad: bool = False) -> int:
    """Bytes of state for each parameter: two moments in the parameter's dtype, three with amsgrad.

    Each parameter tensor has a ``step`` of `STEP_BYTES` besides.
    """
    return (3 if amsgrad else 2) * itemsize(dtype)


def adamw_state_bytes(parameters: Iterable[tuple[int, str]], *, amsgrad: bool = False) -> int:
    """Bytes of state for parameter tensors given as (number of elements, dtype), the ``step`` of each included."""
    return sum(
        count * adamw_state_bytes_per_parameter(dtype, amsgrad=amsgrad) + STEP_BYTES for count, dtype in parameters
    )


@dataclass(frozen=True, slots=True)
class OptimizerWork:
    """What the recorded optimizer step does, and for how many parameters."""

    work: Work
    parameters: int

    @property
    def flops_per_parameter(self) -> float:
        """FLOPs for each parameter; a little more than the closed form's, by what is done once per tensor."""
        return self.work.flops / self.parameters if self.parameters else 0.0

    @property
    def bytes_per_parameter(self) -> float:
        """Bytes read and written for each parameter."""
        return self.work.bytes / self.parameters if self.parameters else 0.0


def trained_parameters(graph: StepGraph) -> int:
    """How many numbers the step trains; a storage that several names share counts once."""
    sizes = {named.storage: named for named in graph.facts.parameters if named.trainable}
    count = 0
    for named in sizes.values():
        elements = 1
        for size in named.shape:
            elements *= size
        count += elements
    return count


def optimizer_work(priced: Iterable[Priced], parameters: int) -> OptimizerWork:
    """The total of the ops that ran inside ``Optimizer.step``, for `parameters` numbers trained."""
    return OptimizerWork(total(p.work for p in priced if p.op.phase is Phase.OPTIMIZER), parameters)


def updated(op: Op) -> int:
    """How many parameters a fused kernel updates."""
    return sum(t.numel for t in tensors(op.get("self")))


def fused_bytes(op: Op, per_parameter: int) -> Work:
    """Each array read and written once. Gradients are written, unscaled, only for a gradient scaler."""
    changed: list[Tensor] = list(writes(op))
    if not isinstance(op.get("grad_scale"), Tensor):
        gradients = set(tensors(op.get("grads")))
        changed = [t for t in changed if t not in gradients]
    return moves(op, vector_flops=per_parameter * updated(op), read=reads(op), written=changed)


@rule(*aten("_fused_adamw_ _fused_adam_"))
def fused_adam(op: Op) -> Work:
    """The closed form, with the options that the op was given."""
    terms = adamw_flops_per_parameter(
        weight_decay=op.get("weight_decay", 0) != 0,
        decoupled=op.packet == "aten._fused_adamw_",
        amsgrad=bool(op.get("amsgrad", False)),
        maximize=bool(op.get("maximize", False)),
        grad_scale=isinstance(op.get("grad_scale"), Tensor),
        implementation="fused",
    )
    return fused_bytes(op, sum(term.flops for term in terms))


@rule("aten._fused_sgd_")
def fused_sgd(op: Op) -> Work:
    """The closed form; the kernel always scales the gradient by 1 - dampening, but on the first step copies it."""
    momentum, first = op.get("momentum", 0) != 0, bool(op.get("is_first_step", False))
    terms = sgd_flops_per_parameter(
        weight_decay=op.get("weight_decay", 0) != 0,
        momentum=momentum,
        nesterov=bool(op.get("nesterov", False)),
        maximize=bool(op.get("maximize", False)),
    )
    buffer = (-2 if first else 1) if momentum else 0
    scale = isinstance(op.get("grad_scale"), Tensor)
    return fused_bytes(op, sum(term.flops for term in terms) + buffer + scale)


@rule("aten._fused_adagrad_")
def fused_adagrad(op: Op) -> Work:
    """Square and add to the sum (2), root, add epsilon, scale and divide (2), subtract; weight decay two more."""
    decay = 2 if op.get("weight_decay", 0) != 0 else 0
    return fused_bytes(op, 7 + decay + bool(op.get("maximize", False)))


@rule("aten._amp_foreach_non_finite_check_and_unscale_")
def unscale(op: Op) -> Work:
    """Each gradient is checked for infinity and NaN and multiplied by the inverse scale."""
    return moves(op, vector_flops=2 * updated(op))


@rule("aten._amp_update_scale_")
def update_scale(op: Op) -> Work:
    """One number: compare, multiply, count, compare."""
    return moves(op, vector_flops=4)
