"""Work of one op + a hardware profile -> the seconds its kernels take on the device, with an interval.

*Kernel time* is from the start of an op's first kernel to the start of the next op's, with the launch queue full.
This is a roofline: the floor of each launch, and on top of it the slowest of matrix arithmetic, other arithmetic
and memory traffic, each at the share of its peak that kernels are measured to reach. The interval comes from the
low and high shares, between which about eight kernels in ten lie.

Not covered: shapes, layouts and alignment; data that is still in L2; the host, which in eager mode needs more time
to issue a small op than the device to run it; copies between host and device.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import NamedTuple

from ..costmodels.work import Work
from ..graph.dtype import is_floating
from ..graph.op import Op, Tensor
from .profile import Profile

BOUNDS = ("tensor", "vector", "memory", "floor", "free")
"""What an op's time is spent on: matrix arithmetic (on whichever cores), other arithmetic, memory traffic,
launching, or nothing."""

TIER = "roofline"

LOW, TYPICAL, HIGH = range(3)
"""Places in a `Range`."""

# cuDNN computes float32 convolutions and RNNs in TF32 unless torch.backends.cudnn.allow_tf32 is turned off, while
# torch.backends.cuda.matmul.allow_tf32 is off unless turned on:
# https://docs.pytorch.org/docs/stable/notes/cuda.html, "TensorFloat-32 (TF32) on Ampere (and later) devices"
CUDNN_WORDS = ("convolution", "conv_", "cudnn_rnn")

# A multi-tensor kernel takes at most so many tensors by the number of lists, 2,240 blocks, 65,536 elements a block
# (CUDA 13 and later): https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/MultiTensorApply.cuh
CHUNK_ELEMENTS = 65_536
MOST_BLOCKS = 2_240
MOST_TENSORS = (770, 448, 336, 252, 210)


class Unit(NamedTuple):
    """Which cores do an op's arithmetic, and in which element type."""

    cores: str
    """tensor or vector."""
    dtype: str

    def peak(self, profile: Profile) -> float:
        """FLOP/s that the vendor states."""
        table = profile.tensor_flops_per_second if self.cores == "tensor" else profile.vector_flops_per_second
        return table[self.dtype]

    def __str__(self) -> str:
        return f"{'tensor' if self.cores == 'tensor' else 'CUDA'} cores, {self.dtype}"


@dataclass(frozen=True, slots=True)
class OpTime:
    """Seconds of one op, the interval they lie in, what they are spent on, and the model that said so."""

    seconds: float
    low_seconds: float
    high_seconds: float
    bound: str
    """One of `BOUNDS`."""
    unit: Unit | None = None
    """Which cores run its matrix arithmetic; None where it has none."""
    tier: str = TIER


FREE = OpTime(0.0, 0.0, 0.0, "free")


def kernel_time(work: Work, op: Op, profile: Profile, *, tf32: bool = False, cudnn_tf32: bool = True) -> OpTime:
    """Time of `op` on that device. `tf32` and `cudnn_tf32` are PyTorch's two ``allow_tf32`` settings."""
    if not (work.flops or work.bytes):
        return FREE
    unit = matmul_unit(op, profile, tf32=tf32, cudnn_tf32=cudnn_tf32) if work.tensor_flops else None
    return time_on(profile, work, unit, vector_dtype(op), launches(op))


def time_on(profile: Profile, work: Work, unit: Unit | None, vector: str, launches: int) -> OpTime:
    """Time of work whose cores are known."""
    low, typical, high = (_parts(profile, work, unit, vector, launches, at) for at in (HIGH, TYPICAL, LOW))
    bound = max(typical, key=typical.__getitem__)
    return OpTime(_seconds(typical, unit), _seconds(low, unit), _seconds(high, unit), bound, unit)


def _parts(profile: Profile, work: Work, unit: Unit | None, vector: str, launches: int, at: int) -> dict[str, float]:
    """Seconds by bound with every efficiency at its low, typical or high value, and the floor the other way round."""
    vector_rate = profile.vector_flops_per_second[vector] * profile.vector_efficiency[at]
    bandwidth = profile.memory_bandwidth_bytes_per_second * profile.memory_bandwidth_efficiency[at]
    return {
        "tensor": _matmul_seconds(profile, work, unit, at) if unit else 0.0,
        "vector": work.vector_flops / vector_rate,
        "memory": work.bytes / bandwidth,
        "floor": launches * profile.kernel_floor_seconds[HIGH - at],
    }


def _seconds(parts: dict[str, float], unit: Unit | None) -> float:
    """The floor, and on top of it the slowest of the rest; both kinds of arithmetic queue up for the same cores."""
    shared = unit is not None and unit.cores == "vector"
    arithmetic = parts["tensor"] + parts["vector"] if shared else max(parts["tensor"], parts["vector"])
    return parts["floor"] + max(arithmetic, parts["memory"])


def _matmul_seconds(profile: Profile, work: Work, unit: Unit, at: int) -> float:
    """Time of the multiply-adds that run, and of the last wave of tiles, which is at most one wave more."""
    peak = unit.peak(profile)
    flops = work.tensor_flops - work.skippable_flops
    body = flops / (peak * profile.matmul_efficiency[unit.dtype][at])
    return body + min(profile.tensor_tail_flops / peak, body)


def matmul_unit(op: Op, profile: Profile, *, tf32: bool = False, cudnn_tf32: bool = True) -> Unit:
    """The cores that run `op`'s matrix arithmetic: what its first floating-point input allows on that device."""
    dtype = _operand_dtype(op)
    if dtype == "float32" and (cudnn_tf32 if _is_cudnn(op.name) else tf32):
        dtype = "tfloat32"
    if dtype.startswith("float8") and dtype not in profile.tensor_flops_per_second:
        dtype = "bfloat16"  # no such cores: the operands are converted first
    if dtype in profile.tensor_flops_per_second:
        return Unit("tensor", dtype)
    return Unit("vector", "float64" if dtype in ("float64", "complex128") else "float32")


def vector_dtype(op: Op) -> str:
    """The type that `op` does its other arithmetic in: half precision is computed in float32.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/OpMathType.h
    """
    wide = ("float64", "complex128")
    return "float64" if any(t.dtype in wide and t.shape for t in (*op.inputs, *op.outputs)) else "float32"


def launches(op: Op) -> int:
    """How many kernels `op` is at the least: one, or for a list of tensors as many as their chunks need."""
    if "._foreach_" not in op.name and "._fused_" not in op.name:
        return 1
    lists = [value for value in op.args.values() if isinstance(value, tuple) and value and _all_tensors(value)]
    if not lists:
        return 1
    first = lists[0]
    chunks = sum(ceil(t.numel / CHUNK_ELEMENTS) for t in first if isinstance(t, Tensor))
    most_tensors = MOST_TENSORS[min(len(lists), len(MOST_TENSORS)) - 1]
    return max(1, ceil(len(first) / most_tensors), ceil(chunks / MOST_BLOCKS))


def _all_tensors(value: tuple[object, ...]) -> bool:
    # A Tensor is itself a tuple; only a plain tuple is a list of tensors.
    return type(value) is tuple and all(isinstance(item, Tensor) for item in value)


def _operand_dtype(op: Op) -> str:
    given = (*op.inputs, *op.outputs)
    floating = next((t.dtype for t in given if is_floating(t.dtype) or t.dtype.startswith("complex")), None)
    return floating or next((t.dtype for t in given), "float32")


@lru_cache(maxsize=4096)
def _is_cudnn(name: str) -> bool:
    return any(word in name for word in CUDNN_WORDS)
