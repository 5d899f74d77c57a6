"""Op that stands for several -> its work: what its parts compute, and the bytes that pass in and out of it.

No trace holds one; `rewrite` makes them, and writes down what their parts compute.
"""

from __future__ import annotations

from ..graph import Op
from .rules import rule
from .work import Work, integer, moves

FUSED = "foretrace.fused"
"""The name of an op that stands for several."""


@rule(FUSED)
def _fused(op: Op) -> Work:
    """The FLOPs of its parts, and the bytes of what it reads from outside and of what outlives it."""
    return moves(
        op,
        tensor_flops=integer(op, "tensor_flops", 0),
        vector_flops=integer(op, "vector_flops", 0),
        skippable_flops=integer(op, "skippable_flops", 0),
    )
