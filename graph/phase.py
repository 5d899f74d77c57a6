"""The parts of a training step, in the order of the loop that people write."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """A *phase* is why an op runs.

    *forward*: everything up to the call of the autograd engine, the loss included.
    *backward*: inside the autograd engine (recomputation by checkpointing included).
    *optimizer*: inside ``Optimizer.step``. *zero_grad*: inside ``zero_grad``.
    """

    FORWARD = "forward"
    BACKWARD = "backward"
    OPTIMIZER = "optimizer"
    ZERO_GRAD = "zero_grad"
