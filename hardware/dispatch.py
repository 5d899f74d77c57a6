"""The ops of a step + their kernel times -> when the device finishes, if eager PyTorch issues them one by one.

*Dispatch* is what the host does for an op before its kernel is in the queue: Python, the dispatcher, autograd, the
allocator, the launch. The host runs ahead of the device and the queue holds what it has issued; where kernels are
shorter than dispatch, the queue runs dry and the device *waits*. A step that waits is *launch-bound*: a faster GPU
does not make it shorter, fewer and larger ops (or a CUDA graph, or a compiler) do.

The seconds of dispatch are those of an A100's usual host (``host_seconds`` in ``kernels.toml``), and a profile says how
much faster or slower its own are. Hosts of one GPU still differ by a factor of two, and so do models in how much Python
stands between their ops. An op that hands a number back to Python
empties the queue first.

Not covered: data loading, several streams, a limit to the queue's length, garbage collection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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

KINDS = (
    "module", "view", "kernel", "heavy_kernel", "backward_node", "backward_view", "backward_kernel",
    "backward_heavy_kernel", "optimizer_kernel", "list_tensor",
)  # fmt: skip
"""What the host spends time on: a module's call, an op without a kernel, with one, with one that has to be set up; in
the backward pass also a node of the graph, which may be several ops; in the update a tensor of a list."""

WAITING = frozenset(
    f"aten.{name}"
    for name in ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "allclose", "_linalg_check_errors")
)
"""Ops whose result the host has to have before it goes on."""


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
    present, spent = Phase.FORWARD, 0.0
    for phase, host_seconds, kernel_seconds, waits in issued:
        if phase is not present:
            phases[present] = spent
            present, spent = phase, phases[phase]
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
        spent += now - before
        before = now
    phases[present] = spent
    return Run(phases, kernels, dispatch, waiting + max(0.0, host - device))


Charge = tuple[str, float]
"""A constant of ``host_seconds`` and how many times it is spent."""

Spent = tuple[tuple[Charge, ...], bool]
"""What an op costs the host, and whether autograd records it."""

NODE: Charge = ("backward_node", 1)


def dispatches(
    ops: Sequence[Op],
    free: Iterable[bool],
    constants: Constants,
    speed: float = 1.0,
    kinds: Sequence[int] | None = None,
) -> list[float]:
    """What a host of that speed spends on each op, the calls of the modules that it stands in included."""
    seconds = {name: constants[f"host_seconds.{name}"] / speed for name in KINDS}
    alone = constants["host_share_without_autograd"]
    distinct, places = _charged(ops, free, kinds)
    spent = [
        sum([seconds[name] * times for name, times in charges]) * (1.0 if recorded else alone)
        for charges, recorded in distinct
    ]
    return [spent[place] for place in places]


def charges(ops: Sequence[Op], free: Iterable[bool], kinds: Sequence[int] | None = None) -> Iterator[Spent]:
    """What each op costs the host, and whether autograd records it. Free ops make no kernel.

    Of ops alike, by `kinds`, one is looked at.
    """
    distinct, places = _charged(ops, free, kinds)
    return map(distinct.__getitem__, places)


def _charged(ops: Sequence[Op], free: Iterable[bool], kinds: Sequence[int] | None) -> tuple[list[Spent], list[int]]:
    """What there is to spend, each once, and for each op the place of its own among that."""
    module, node = "", None
    path: list[str] = []
    distinct: list[Spent] = []
    places: list[int] = []
    known: dict[tuple[int, bool, Charge | None, bool], int] = {}
    forward, backward = Phase.FORWARD, Phase.BACKWARD
    for op, is_free, kind in zip(ops, free, range(len(ops)) if kinds is None else kinds, strict=True):
        around: Charge | None = None
        recorded = True
        phase = op.phase
        if phase is forward:
            if op.module != module or not path:
                entered = op.module.split(".")
                around = "module", _calls(path, entered)
                module, path = op.module, entered
            recorded = op.sequence is not None
        elif phase is backward:
            if op.forward is None or op.forward != node:
                around = NODE
            node = op.forward
        key = kind, is_free, around, recorded
        place = known.get(key)
        if place is None:
            place = known[key] = len(distinct)
            own = _own(op, is_free)
            distinct.append(((*own, around) if around else tuple(own), recorded))
        places.append(place)
    return distinct, places


def _own(op: Op, is_free: bool) -> list[Charge]:
    if op.phase is Phase.FORWARD:
        return [_forward(op, is_free)]
    return [_backward(op, is_free)] if op.phase is Phase.BACKWARD else _update(op, is_free)


def _calls(before: list[str], path: list[str]) -> int:
    """How many modules are called on the way from one path to the next."""
    common = 0
    for one, other in zip(before, path, strict=False):
        if one != other:
            break
        common += 1
    return len(path) - common


def _forward(op: Op, is_free: bool) -> Charge:
    return "view" if is_free else "heavy_kernel" if _is_set_up(op) else "kernel", 1


def _backward(op: Op, is_free: bool) -> Charge:
    if is_free:
        return "backward_view", 1
    both = 2 if "convolution_backward" in op.packet else 1
    return "backward_heavy_kernel" if _is_set_up(op) else "backward_kernel", both


def _update(op: Op, is_free: bool) -> list[Charge]:
    if is_free:
        return [("view", 1)]
    tensors = len(op.inputs) if _is_multi_tensor(op) else 0
    return [("optimizer_kernel", launches(op)), ("list_tensor", tensors)]


def _is_set_up(op: Op) -> bool:
    """A convolution of one channel a group has kernels of PyTorch's own, unless it is in channels last."""
    if not _is_heavy(op.packet):
        return False
    weight, source = op.args.get("weight"), op.args.get("input", op.args.get("self"))
    if "convolution" not in op.packet or not isinstance(weight, Tensor) or not isinstance(source, Tensor):
        return True
    return op.get("groups", 1) == 1 or weight.shape[1] > 1 or source.strides[1] == 1


@lru_cache(maxsize=4096)
def _is_heavy(packet: str) -> bool:
    """Ops that set up a call of cuDNN, or choose among its kernels."""
    return any(word in packet for word in ("convolution", "batch_norm", "cudnn", "_rnn", "miopen"))


def _is_multi_tensor(op: Op) -> bool:
    return any(type(value) is tuple and value and isinstance(value[0], Tensor) for value in op.args.values())
