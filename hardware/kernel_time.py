"""Work of one op + a hardware profile -> the seconds its kernels take on the device, with an interval and a tier.

*Kernel time* is from the start of an op's first kernel to the start of the next op's, with the launch queue full.
The *tier* is what the time rests on, the surest first:

- *measured*: this op was timed with these sizes and types on this device (`measured.py`);
- *tiles*: a matrix product, convolution or fused attention, from tiles and waves (`tiles.py`);
- *rate*: matrix arithmetic of unknown sizes, at the usual share of the peak;
- *bandwidth*: memory traffic at the bandwidth that its kind reaches (`traffic.py`), or other arithmetic;
- *floor*: too small for any of these to matter: the cost of a kernel.

Each is a floor per kernel, and on top of it the slowest of matrix arithmetic, other arithmetic and memory traffic. No
rate passes its peak. The interval comes from the low and high efficiencies of the profile, between which about
eight kernels in ten lie.

What is still in L2 from the op before (`cache.py`) is read at its bandwidth.

Not covered: copies between host and device. The host's own time is in `dispatch.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from ..costmodels.work import Work
from ..graph.dtype import is_floating
from ..graph.op import Op, Tensor
from .constants import constants
from .measured import Measurement, key_of
from .problems import Problem, problems
from .profile import Profile
from .tiles import share_of_peak
from .traffic import Traffic, launches, traffic

BOUNDS = ("tensor", "vector", "memory", "floor", "host", "free")
"""What an op's time is spent on: matrix arithmetic (on whichever cores), other arithmetic, memory traffic,
launching, waiting for the host, or nothing."""

TIERS = ("measured", "tiles", "rate", "bandwidth", "floor", "free")
"""What an op's time rests on."""

LOW, TYPICAL, HIGH = range(3)
"""Places in a `Range`."""

# cuDNN computes float32 convolutions and RNNs in TF32 unless torch.backends.cudnn.allow_tf32 is turned off, while
# torch.backends.cuda.matmul.allow_tf32 is off unless turned on:
# https://docs.pytorch.org/docs/stable/notes/cuda.html, "TensorFloat-32 (TF32) on Ampere (and later) devices"
CUDNN_WORDS = ("convolution", "conv_", "cudnn_rnn")


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
    tier: str = "floor"
    """One of `TIERS`."""


FREE = OpTime(0.0, 0.0, 0.0, "free", tier="free")


STREAM = Traffic("stream")

FAST_FLOPS_PER_CLOCK = 1200
"""Of one multiprocessor. Faster tensor cores, such as an A100's in half precision, are: 2,048."""


class Job(NamedTuple):
    """All that a kernel time depends on beside the device: two ops with equal jobs take equally long."""

    work: Work
    unit: Unit | None
    vector: str
    launches: int
    traffic: Traffic
    problems: tuple[Problem, ...]
    around_bytes: int = 0
    """What is read and written around a convolution's products: images turned, and the bias."""
    measured: Measurement | None = None
    """The measured time of this op, where the profile has one."""
    cached_bytes: int = 0
    """What it reads from L2."""


def kernel_time(work: Work, op: Op, profile: Profile, *, tf32: bool = False, cudnn_tf32: bool = True) -> OpTime:
    """Time of `op` on that device, alone. `tf32` and `cudnn_tf32` are PyTorch's two ``allow_tf32`` settings."""
    if not (work.flops or work.bytes):
        return FREE
    return time_of(job(work, op, profile, tf32=tf32, cudnn_tf32=cudnn_tf32), profile)


def job(work: Work, op: Op, profile: Profile, *, tf32: bool = False, cudnn_tf32: bool = True) -> Job:
    """What `op` asks of a device."""
    measured = _measured(op, profile)
    if not work.tensor_flops:
        return Job(work, None, vector_dtype(op), launches(op), traffic(op), (), measured=measured)
    unit = matmul_unit(op, profile, tf32=tf32, cudnn_tf32=cudnn_tf32)
    found = problems(op)
    around = _bias_bytes(op, found) + (_turned_bytes(op, found) if unit.cores == "tensor" else 0)
    return Job(work, unit, vector_dtype(op), launches(op), _product_traffic(found), found, around, measured)


def _product_traffic(found: tuple[Problem, ...]) -> Traffic:
    """Products stream their operands; a depthwise convolution is bound by how it does not."""
    if not found or found[0].kind != "depthwise":
        return STREAM
    return Traffic("depthwise_backward" if found[0].backward else "depthwise")


def _measured(op: Op, profile: Profile) -> Measurement | None:
    if not profile.measured:
        return None
    key = key_of(op)
    return profile.measured.get(key) if key else None


def _turned_bytes(op: Op, found: tuple[Problem, ...]) -> int:
    """cuDNN's kernels for tensor cores want channels last; images in another order are turned on the way in and out.

    Forward that is the input and the output, backward the input, the gradient and the input's gradient; for some shapes
    a kernel that takes them as they lie is faster.
    https://docs.nvidia.com/deeplearning/performance/dl-performance-convolutional/index.html#tensor-layout
    """
    if not found or found[0].kind not in ("convolution", "grouped", "grouped_direct"):
        return 0
    images = [t for t in (*op.inputs, *op.outputs) if len(t.shape) >= 4 and t is not op.args.get("weight")]
    turned = sorted((t.bytes for t in images if t.strides[1] != 1 and t.shape[1] > 1), reverse=True)
    most = 1 + len(found)
    return int(2 * sum(turned[:most]) * constants()["turned_share"])


def _bias_bytes(op: Op, found: tuple[Problem, ...]) -> int:
    """A bias is added to the whole output by a kernel of its own, and its gradient is a sum over the whole gradient.

    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cudnn/ConvShared.cpp, cudnn_convolution;
    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/Convolution.cpp, convolution_backward
    """
    if not found or not found[0].is_convolution:
        return 0
    if "backward" not in op.packet:
        return 2 * op.outputs[0].bytes if isinstance(op.args.get("bias"), Tensor) else 0
    wanted, gradient = op.get("output_mask", ()), op.args.get("grad_output")
    asked = isinstance(wanted, tuple) and len(wanted) == 3 and wanted[2]
    return gradient.bytes if asked and isinstance(gradient, Tensor) else 0


def time_of(job: Job, profile: Profile) -> OpTime:
    """Time of that job on that device."""
    low, typical, high = (_parts(job, profile, at) for at in (HIGH, TYPICAL, LOW))
    bound = max(typical, key=typical.__getitem__)
    if job.measured:
        return _as_measured(job.measured, bound, job.unit)
    seconds = _seconds(typical, job.unit)
    return OpTime(seconds, _seconds(low, job.unit), _seconds(high, job.unit), bound, job.unit, _tier(job, bound))


def _as_measured(one: Measurement, bound: str, unit: Unit | None) -> OpTime:
    """The measured time; what it is spent on is still the model's word."""
    low, middle, high = one.low * 1e-6, one.microseconds * 1e-6, one.high * 1e-6
    return OpTime(middle, low, high, bound, unit, "measured")


def _tier(job: Job, bound: str) -> str:
    if bound == "floor":
        return "floor"
    if bound == "tensor":
        return "tiles" if job.problems else "rate"
    return "bandwidth"


def _parts(job: Job, profile: Profile, at: int) -> dict[str, float]:
    """Seconds by bound with every efficiency at its low, typical or high value, and the floor the other way round."""
    vector_rate = profile.vector_flops_per_second[job.vector] * profile.vector_efficiency[at]
    bandwidth = profile.memory_bandwidth_bytes_per_second * profile.memory_bandwidth_efficiency[at]
    moved = _moved_bytes(job, profile, bandwidth)
    return {
        "tensor": _matmul_seconds(job, profile, at) + job.around_bytes / bandwidth,
        "vector": job.work.vector_flops / vector_rate,
        "memory": moved / bandwidth if at == HIGH else _memory_seconds(job, profile, bandwidth, moved),
        "floor": job.launches * profile.kernel_floor_seconds[HIGH - at],
    }


def _moved_bytes(job: Job, profile: Profile, bandwidth: float) -> float:
    """The bytes of `job`, those from L2 counted for as much less as they are faster."""
    if not job.cached_bytes or profile.l2_bandwidth_bytes_per_second <= bandwidth:
        return job.work.bytes
    return job.work.bytes - job.cached_bytes * (1 - bandwidth / profile.l2_bandwidth_bytes_per_second)


def _memory_seconds(job: Job, profile: Profile, bandwidth: float, moved: float) -> float:
    """Moving the bytes as its kind of traffic does, or stepping through the elements, and what each row costs."""
    known, (kind, elements, rows, blocks) = constants(), job.traffic
    busy = min(profile.sm_count, blocks) if blocks else profile.sm_count
    clocks = busy * profile.clock_hertz
    moving = moved / (bandwidth * known[f"traffic_share.{kind}"] * busy / profile.sm_count)
    stepping = elements / (clocks * known[f"elements_per_clock.{kind}"])
    return max(moving, stepping) + rows * known[f"row_clocks.{kind}"] / clocks


def _seconds(parts: dict[str, float], unit: Unit | None) -> float:
    """The floor, and on top of it the slowest of the rest; both kinds of arithmetic queue up for the same cores."""
    shared = unit is not None and unit.cores == "vector"
    arithmetic = parts["tensor"] + parts["vector"] if shared else max(parts["tensor"], parts["vector"])
    return parts["floor"] + max(arithmetic, parts["memory"])


def _matmul_seconds(job: Job, profile: Profile, at: int) -> float:
    """Time of the multiply-adds that run, at the share of the peak that their sizes allow.

    At its fastest it is also faster than the model of tiles tends to be off.
    """
    if job.unit is None:
        return 0.0
    at_peak = (job.work.tensor_flops - job.work.skippable_flops) / job.unit.peak(profile)
    seconds = at_peak / _share(job, job.unit, profile, at)
    if at != HIGH:
        return seconds
    often = at_peak / _share(job, job.unit, profile, TYPICAL) * constants()["product_interval.low"]
    return max(at_peak, min(seconds, often))


def _share(job: Job, unit: Unit, profile: Profile, at: int) -> float:
    """The share of the peak of all problems together: their FLOPs over the FLOPs that their time would allow."""
    best = profile.matmul_efficiency[unit.dtype][at]
    bandwidth = profile.memory_bandwidth_bytes_per_second * profile.memory_bandwidth_efficiency[TYPICAL]
    per_byte = unit.peak(profile) / bandwidth
    fast = unit.peak(profile) > FAST_FLOPS_PER_CLOCK * profile.sm_count * profile.clock_hertz
    done = spent = 0.0
    for problem in job.problems:
        if problem.flops:
            share = share_of_peak(problem, unit.cores, best, profile.sm_count, per_byte, constants(), fast)
            done += problem.flops
            spent += problem.flops / share
    return done / spent if spent else best


def matmul_unit(op: Op, profile: Profile, *, tf32: bool = False, cudnn_tf32: bool = True) -> Unit:
    """The cores that run `op`'s matrix arithmetic: what its first floating-point input allows on that device."""
    dtype = operand_dtype(op)
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
    wide = {"float64", "complex128"}
    return "float32" if wide.isdisjoint({t.dtype for t in op.inputs + op.outputs if t.shape}) else "float64"


def operand_dtype(op: Op) -> str:
    """The type of `op`'s first floating-point or complex tensor; of its first tensor where there is none."""
    given = (*op.inputs, *op.outputs)
    floating = next((t.dtype for t in given if is_floating(t.dtype) or t.dtype.startswith("complex")), None)
    return floating or next((t.dtype for t in given), "float32")


@lru_cache(maxsize=4096)
def _is_cudnn(name: str) -> bool:
    return any(word in name for word in CUDNN_WORDS)
