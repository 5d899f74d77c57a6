"""The priced ops of a step + a hardware profile -> the seconds of the step and of each phase, and its MFU.

*Step time* is how long the step takes in eager mode: the kernels of one stream one after the other, and the waiting
where the host cannot issue them as fast (`dispatch.py`). A phase is over when the device is done with it. The
interval has every kernel, and the host, off the same way: as fast as it may be at the low end, and at the high end a
share of the way (``step_interval.high``) to as slow as it may be. It is meant to hold nine steps in ten.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache

from ..costmodels.price import Priced
from ..costmodels.work import Work
from ..graph.op import Op
from ..graph.phase import Phase
from ..graph.step_graph import StepGraph
from .cache import Cache
from .constants import constants
from .dispatch import FASTEST, SLOWEST, WAITING, dispatches, run
from .kernel_time import BOUNDS, FREE, TIERS, Job, OpTime, Unit, job, operand_dtype, time_of
from .profile import TENSOR_TYPES, Profile

MFU_DEFINITION = (
    "matrix FLOPs of the recorded step (attention in full, recomputation by checkpointing left out) / "
    "(step seconds x peak FLOP/s of the unit that runs most of them)"
)
HFU_DEFINITION = (
    "matrix FLOPs of the recorded step (attention in full, recomputation included) / "
    "(step seconds x peak FLOP/s of the unit that runs most of them)"
)

LAUNCH_BOUND = 0.05
"""A step is called launch-bound where the device waits for the host for more than this share of it."""


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds, and the interval they lie in."""

    seconds: float = 0.0
    low_seconds: float = 0.0
    high_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Time of one step on the profile of that name."""

    profile: str
    step: Span
    phases: Mapping[Phase, Span]
    ops: tuple[OpTime, ...]
    """One for each priced op, in the same order; what runs on the host, or is free, takes 0 s."""
    bound_seconds: Mapping[str, float]
    """The step's seconds by what each op's are spent on; ``host`` is waiting for the host."""
    tier_seconds: Mapping[str, float]
    """The kernels' seconds by what they rest on: `kernel_time.TIERS`."""
    kernel_seconds: float
    """All kernels, one after the other."""
    host_seconds: float
    """What the host spends on issuing them."""
    waiting_seconds: float
    """How long the device waits for the host; 0 where the host keeps ahead."""
    tensor_flops: int
    """Matrix FLOPs, attention in full, recomputation included."""
    recomputed_flops: int
    """The part of them that checkpointing runs a second time: forward ops inside the backward pass."""
    substitutes: Mapping[str, Unit]
    """Element types that the device has no unit for, and what their products run on."""
    peak_unit: Unit | None
    """Which cores run most of them; None where there are none."""
    peak_flops_per_second: float
    """The peak of those cores; 0 where there are none."""

    @property
    def step_seconds(self) -> float:
        """The whole step."""
        return self.step.seconds

    @property
    def low_seconds(self) -> float:
        """The whole step, if every kernel is a fast one."""
        return self.step.low_seconds

    @property
    def high_seconds(self) -> float:
        """The whole step, if many kernels are slow ones; all never are at once."""
        return self.step.high_seconds

    @property
    def forward_seconds(self) -> float:
        """Forward and loss."""
        return self.phases[Phase.FORWARD].seconds

    @property
    def backward_seconds(self) -> float:
        """Backward, recomputation included."""
        return self.phases[Phase.BACKWARD].seconds

    @property
    def optimizer_seconds(self) -> float:
        """The optimizer's update."""
        return self.phases[Phase.OPTIMIZER].seconds

    @property
    def zero_grad_seconds(self) -> float:
        """Clearing the gradients."""
        return self.phases[Phase.ZERO_GRAD].seconds

    @property
    def bound_shares(self) -> dict[str, float]:
        """The share of the step by what it is spent on; they sum to 1 unless the step takes no time."""
        total = self.step.seconds
        return {bound: seconds / total if total else 0.0 for bound, seconds in self.bound_seconds.items()}

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation, as `MFU_DEFINITION` says."""
        return self._utilisation(self.tensor_flops - self.recomputed_flops)

    @property
    def hfu(self) -> float:
        """Hardware FLOPs utilisation, as `HFU_DEFINITION` says."""
        return self._utilisation(self.tensor_flops)

    def _utilisation(self, flops: int) -> float:
        possible = self.step.seconds * self.peak_flops_per_second
        return flops / possible if possible else 0.0

    @property
    def is_launch_bound(self) -> bool:
        """Does the device wait for the host for more than `LAUNCH_BOUND` of the step?"""
        return self.waiting_seconds > LAUNCH_BOUND * self.step.seconds

    @property
    def tier_shares(self) -> dict[str, float]:
        """The share of the kernels' time by what it rests on."""
        total = sum(self.tier_seconds.values())
        return {tier: seconds / total if total else 0.0 for tier, seconds in self.tier_seconds.items()}


def estimate(
    priced: Sequence[Priced],
    profile: Profile,
    *,
    tf32: bool = False,
    cudnn_tf32: bool = True,
    host_storages: AbstractSet[int] = frozenset(),
    kinds: Sequence[int] | None = None,
) -> StepTime:
    """Time of the step that these ops are. An op all of whose tensors are `host_storages` costs the device nothing.

    `kinds` are those of the ops (`StepGraph.kinds`), where they are known: ops that are alike are looked at once.
    """
    kinds = range(len(priced)) if kinds is None else kinds
    timer = _Timer(profile, tf32, cudnn_tf32)
    free = [p.kind == "free" for p in priced]
    times = tuple(
        FREE if is_free or _on_host(p.op, host_storages) else timer(kind, p)
        for p, is_free, kind in zip(priced, free, kinds, strict=True)
    )
    host = dispatches([p.op for p in priced], free, constants(), profile.host_speed, kinds)
    phases, waits = [p.op.phase for p in priced], [_waits(p.op.name) for p in priced]
    usual = run(zip(phases, host, [t.seconds for t in times], waits, strict=True))
    low = run(zip(phases, [FASTEST * s for s in host], [t.low_seconds for t in times], waits, strict=True))
    high = run(zip(phases, [SLOWEST * s for s in host], [t.high_seconds for t in times], waits, strict=True))
    products = [(p.op, p.work.tensor_flops, t.unit) for p, t in zip(priced, times, strict=True) if t.unit]
    by_unit: dict[Unit, int] = defaultdict(int)
    for _, flops, used in products:
        by_unit[used] += flops
    unit = max(by_unit, key=by_unit.__getitem__, default=None)
    return StepTime(
        profile=profile.name,
        step=_span(usual.seconds, low.seconds, high.seconds),
        phases={p: _span(usual.phases[p], low.phases[p], high.phases[p]) for p in Phase},
        ops=times,
        bound_seconds={**_by(times, "bound", BOUNDS[:-2]), "host": usual.waiting_seconds},
        tier_seconds=_by(times, "tier", TIERS[:-1]),
        kernel_seconds=usual.kernel_seconds,
        host_seconds=usual.host_seconds,
        waiting_seconds=usual.waiting_seconds,
        tensor_flops=sum(by_unit.values()),
        recomputed_flops=sum([flops for op, flops, _ in products if _again(op)]),
        substitutes=_substitutes([(op, used) for op, _, used in products]),
        peak_unit=unit,
        peak_flops_per_second=unit.peak(profile) if unit else 0.0,
    )


def _span(usual: float, low: float, high: float) -> Span:
    """Kernels are seldom all slow at once: the interval goes a share of the way to where they would be."""
    return Span(usual, low, usual + constants()["step_interval.high"] * (high - usual))


@lru_cache(maxsize=4096)
def _waits(name: str) -> bool:
    """Does Python wait for the result of an op of that name?"""
    return name.rsplit(".", 1)[0] in WAITING


def _again(op: Op) -> bool:
    """Is it a forward op that the backward pass runs again? Autograd's own ops know their forward op."""
    return op.phase is Phase.BACKWARD and op.forward is None and op.sequence is not None


def _substitutes(products: Iterable[tuple[Op, Unit]]) -> dict[str, Unit]:
    """Where a product's type is not the one that its unit computes in, though the type is one for tensor cores."""
    found: dict[str, Unit] = {}
    for op, unit in products:
        dtype = operand_dtype(op)
        if dtype != unit.dtype and dtype in TENSOR_TYPES:
            found[dtype] = unit
    return found


def _by(times: Sequence[OpTime], name: str, keys: Sequence[str]) -> dict[str, float]:
    """Seconds of the ops that take some, added up by that attribute."""
    sums = dict.fromkeys(keys, 0.0)
    for time in times:
        if time is not FREE:
            sums[getattr(time, name)] += time.seconds
    return sums


def host_storages(graph: StepGraph) -> frozenset[int]:
    """The storages of a CUDA step that are not on the device, such as AdamW's step counters; none for a CPU step."""
    if not graph.facts.device.startswith("cuda"):
        return frozenset()
    return frozenset(s.id for s in graph.storages if not s.device.startswith("cuda"))


def _on_host(op: Op, host: AbstractSet[int]) -> bool:
    if not host:
        return False
    for several in (op.inputs, op.outputs):
        for tensor in several:
            if tensor.storage not in host:
                return False
    return bool(op.inputs or op.outputs)


class _Timer:
    """Kernel times: ops alike with the same work are looked at once, and each distinct job is computed once."""

    def __init__(self, profile: Profile, tf32: bool, cudnn_tf32: bool) -> None:
        self.profile, self.tf32, self.cudnn_tf32 = profile, tf32, cudnn_tf32
        self.cache = Cache(profile) if profile.l2_bandwidth_bytes_per_second else None
        self.alike: dict[int, tuple[Work, Job | None, dict[int, OpTime]]] = {}
        """By kind: the work, what there is to do, and how long that takes by what of it is in the cache."""
        self.known: dict[Job, OpTime] = {}

    def __call__(self, kind: int, priced: Priced) -> OpTime:
        work = priced.work
        known = self.alike.get(kind)
        if known is None or known[0] is not work:
            known = self.alike[kind] = work, self._job(priced.op, work), {}
        _, key, times = known
        if key is None:
            return FREE
        hits = self.cache.hits(priced.op, work) if self.cache is not None else 0
        found = times.get(hits)
        if found is None:
            found = times[hits] = self._timed(key._replace(cached_bytes=hits))
        return found

    def _job(self, op: Op, work: Work) -> Job | None:
        """What there is to do for an op, with nothing of it in the cache; None for no work at all."""
        if not (work.flops or work.bytes):
            return None
        return job(work, op, self.profile, tf32=self.tf32, cudnn_tf32=self.cudnn_tf32)

    def _timed(self, key: Job) -> OpTime:
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = time_of(key, self.profile)
        return found
