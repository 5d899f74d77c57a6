"""An op -> the function that tells what its CUDA kernels take beside their outputs: the table that rules enter.

A *rule* yields `Scratch`, `Lasting` and `Return` in the order in which the kernels ask the caching allocator. Rules
stand in `workspaces`, `selections` and `convolutions`, one function per family of ops with the decorator `rule`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import NamedTuple

from ..graph import Op
from .gpu import Gpu
from .script import Extra

WIDE = {"float16": 4, "bfloat16": 4, "complex32": 8}
"""Bytes of what half-precision numbers are added up in (``at::opmath_type``)."""


class LtWorkspace(StrEnum):
    """Where cuBLASLt works."""

    SHARED = "shared"
    """In cuBLAS's workspace: ``TORCH_CUBLASLT_UNIFIED_WORKSPACE``, on where it is not set, as in PyTorch 2.13."""
    KEPT = "kept"
    """In one of its own for each thread, taken once: that variable set to 0."""
    PASSING = "passing"
    """In one of its own for each call: earlier versions of PyTorch."""


class Setting(NamedTuple):
    """What rules ask about."""

    gpu: Gpu
    lt: LtWorkspace
    cudnn_tf32: bool = True
    """Whether cuDNN may compute float32 in TF32."""


Rule = Callable[[Op, Setting], Iterator[Extra]]
RULES: dict[str, Rule] = {}


def rule(*packets: str) -> Callable[[Rule], Rule]:
    """Make a function the rule of these ops, named without overload. A second rule for an op is a ``ValueError``."""

    def register(function: Rule) -> Rule:
        for packet in packets:
            name = f"aten.{packet}"
            if name in RULES:
                raise ValueError(f"{name} has a rule already: {RULES[name].__name__}")
            RULES[name] = function
        return function

    return register


def ruled() -> tuple[str, ...]:
    """The ops that have a rule."""
    return tuple(sorted(RULES))
