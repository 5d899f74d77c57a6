"""The ops of a step + their kernel times -> when the device finishes, if eager PyTorch issues them one by one.

*Dispatch* is what the host does for an op before its kernel is in the queue: Python, the dispatcher, autograd, the
allocator, the launch. The host runs ahead of the device and the queue holds what it has issued; where kernels are
shorter than dispatch, the queue runs dry and the device *waits*. A step that waits is *launch-bound*: a faster GPU
does not make it shorter, fewer and larger ops (or a CUDA graph, or a compiler) do.

The seconds of dispatch are a typical server's (``host_seconds`` in ``kernels.toml``); hosts differ by a factor of two
either way, and so do models in how much Python stands between their ops. An op that hands a number back to Python
empties the queue first.

Not covered: data loading, several streams, a limit to the queue's length, garbage collection.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from ..graph.op import Op, Tensor
from ..graph.phase import Phase
from .constants import Constants
from .traffic import launches

FASTEST, SLOWEST = 0.6, 1.7
"""How much faster or slower than the typical one a host may be, for the interval.

The same forward of 12 layers takes 9 to 36 ms on the hosts of ``benchmarks/data/step_times.csv``.
"""

WAITING = frozenset({"aten._local_scalar_dense", "aten.item", "aten.nonzero", "aten.is_nonzero", "aten.equal"})
"""Ops whose result Python has to have before it goes on."""


class Issued(NamedTuple):
    """One op as the queue sees it: what the host spends on it, and what the device does."""

    phase: Phase
    host_seconds: float
    kernel_seconds: float
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """How a step runs. The phases' seconds add up to the step's; a phase ends when the device ends it."""

    phases: dict[Phase, float]
    kernel_seconds: float
    host_seconds: float
    waiting_seconds: float
    """How long the device stands still because the host has nothing ready."""

    @property
    def seconds(self) -> float:
        """From the first op's dispatch to the end of the last kernel."""
        return sum(self.phases.values())


def run(issued: Iterable[Issued | tuple[Phase, float, float, bool]]) -> Run:
    """Let one host feed one device."""
    host = device = kernels = dispatch = waiting = before = 0.0
    phases = dict.fromkeys(Phase, 0.0)
    for phase, host_seconds, kernel_seconds, waits in issued:
        host += host_seconds
        dispatch += host_seconds
        if kernel_seconds:
            if host > device:
                waiting += host - device
                device = host
            device += kernel_seconds
            kernels += kernel_seconds
        if waits and device > host:
            host = device
        now = device if device > host else host
        phases[phase] += now - before
        before = now
    return Run(phases, kernels, dispatch, waiting + max(0.0, host - device))


def dispatches(
    ops: Sequence[Op], free: Iterable[bool], constants: Constants, kinds: Sequence[int] | None = None
) -> list[float]:
    """What the host spends on each op, the calls of the modules that it stands in included. Free ops make no kernel.

    Of ops alike, by `kinds`, one is looked at.
    """
    before: str | None = None
    found = []
    known: dict[tuple[int, bool], float] = {}
    for op, is_free, kind in zip(ops, free, range(len(ops)) if kinds is None else kinds, strict=True):
        seconds = known.get((kind, is_free))
        if seconds is None:
            seconds = known[kind, is_free] = _op_seconds(op, is_free, constants)
        if op.phase is Phase.FORWARD:
            if op.module != before:
                seconds += constants["host_seconds.module"] * _entered(before, op.module)
                before = op.module
            seconds *= 1.0 if op.sequence is not None else constants["host_share_without_autograd"]
        found.append(seconds)
    return found


def _entered(before: str | None, module: str) -> int:
    """How many modules are called on the way from one path to the next; the first comes from nowhere."""
    path = module.split(".")
    common = 0
    for one, other in zip(before.split(".") if before is not None else (), path, strict=False):
        if one != other:
            break
        common += 1
    return len(path) - common


def _op_seconds(op: Op, is_free: bool, constants: Constants) -> float:
    backward = op.phase is Phase.BACKWARD
    if is_free:
        return constants["host_seconds.backward_view" if backward else "host_seconds.view"]
    if _is_heavy(op.packet):
        both = 2 if "convolution_backward" in op.packet else 1
        return both * constants["host_seconds.backward_heavy_kernel" if backward else "host_seconds.heavy_kernel"]
    if backward:
        return constants["host_seconds.backward_kernel"]
    if op.phase in (Phase.OPTIMIZER, Phase.ZERO_GRAD):
        tensors = len(op.inputs) * constants["host_seconds.list_tensor"] if _is_multi_tensor(op) else 0.0
        return constants["host_seconds.optimizer_kernel"] * launches(op) + tensors
    return constants["host_seconds.kernel"]


@lru_cache(maxsize=4096)
def _is_heavy(packet: str) -> bool:
    """Ops that set up a call of cuDNN, or choose among its kernels."""
    return any(word in packet for word in ("convolution", "batch_norm", "cudnn", "_rnn", "miopen"))


def _is_multi_tensor(op: Op) -> bool:
    return any(type(value) is tuple and value and isinstance(value[0], Tensor) for value in op.args.values())
