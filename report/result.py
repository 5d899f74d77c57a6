"""StepGraph + hardware profile -> `Report`: every number that a view may show, counted once.

A *taker* is to time what a holder is to memory: the ops of one kind in one kind of module, repeated modules rolled up.
A step *fits* when its peak, and the workspace that cuBLAS takes through PyTorch's allocator, are no more than what the
device has for tensors after the CUDA context. What an allocator holds beyond the live bytes is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path

from ..costmodels import Assumed, Holder, Kind, Priced, Timeline, Totals, Work, price_ops, roll, timeline, totals
from ..costmodels import holders as peak_holders
from ..graph import Op, Phase, Source, StepGraph
from ..hardware import Profile, StepTime, estimate, host_storages
from ..hardware import load as load_profile
from ..hardware.fit import largest
from .json import to_json
from .table import to_table

NOT_MODELLED = (
    "what the caching allocator reserves beyond the live bytes (rounding, fragmentation)",
    "workspaces of cuDNN",
    "the host's time between kernels, and copies between host and device",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """FLOPs of the step. ``causal`` leaves out the attention products that a causal mask throws away."""

    forward: int
    backward: int
    optimizer: int
    zero_grad: int
    causal_forward: int
    causal_backward: int

    @property
    def total(self) -> int:
        """All phases, attention in full."""
        return self.forward + self.backward + self.optimizer + self.zero_grad

    @property
    def causal_total(self) -> int:
        """All phases, without what a causal mask throws away."""
        return self.causal_forward + self.causal_backward + self.optimizer + self.zero_grad


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """How many numbers the model has, how many of them are trained, and their bytes."""

    total: int
    trainable: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How far the report can be trusted: ops by how they were priced, what was assumed, what is left out."""

    ops: int
    kinds: Mapping[Kind, int]
    assumed: tuple[Assumed, ...]
    assumed_seconds: float
    assumptions: tuple[Mapping[str, object], ...]
    notes: tuple[str, ...]
    not_modelled: tuple[str, ...] = NOT_MODELLED


@dataclass(frozen=True, slots=True, kw_only=True)
class Taker:
    """The ops of one packet in one kind of module. ``source`` is the line of the one that takes longest."""

    module: str
    packet: str
    count: int
    seconds: float
    flops: int
    source: Source | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a step costs on one device. ``report.trace`` is the graph that it was counted on."""

    trace: StepGraph = field(repr=False)
    profile: Profile = field(repr=False)
    priced: tuple[Priced, ...] = field(repr=False)
    work: Totals = field(repr=False)
    memory: Timeline
    time: StepTime = field(repr=False)
    flops: Flops
    parameters: Parameters
    coverage: Coverage = field(repr=False)
    reserved_peak_bytes: int | None = None
    """What the caching allocator holds at its peak; None while that is not modelled."""

    @property
    def available_bytes(self) -> int:
        """What the device has for tensors."""
        return self.profile.memory_total_bytes - self.profile.cuda_context_bytes

    @property
    def needed_bytes(self) -> int:
        """What the step takes of that."""
        return self.memory.peak_bytes + self.profile.cublas_workspace_bytes

    @property
    def fits(self) -> bool | None:
        """True when the step fits; None for a step that was not traced for the device."""
        return self.needed_bytes <= self.available_bytes if self.device == "cuda" else None

    def max_batch(self, trace_at: Callable[[int], StepGraph]) -> int:
        """The largest batch whose step fits on this device; 0 where not even one does.

        A trace is of one batch size, so `trace_at` gives the step at another, as in
        ``lambda batch: foretrace.trace_target("train.py:make_step", {"batch": batch})``. Each size that is
        tried is traced and priced; the last one that fits has been traced itself, not extrapolated.
        """
        return largest(lambda batch: price(trace_at(batch), self.profile).fits is True)

    @property
    def device(self) -> str:
        """The kind of device that was traced: cuda or cpu."""
        return self.trace.facts.device.partition(":")[0]

    @property
    def peak_op(self) -> Op | None:
        """The op during which the peak is reached; None where it is the start of the step."""
        return self.trace.ops[self.memory.peak_op] if self.memory.peak_op >= 0 else None

    @cached_property
    def holders(self) -> tuple[Holder, ...]:
        """Who holds the peak, largest first; their bytes add up to it."""
        return peak_holders(self.trace, self.memory)

    @cached_property
    def takers(self) -> tuple[Taker, ...]:
        """Who takes the time, longest first; their seconds add up to the step's."""
        groups: dict[tuple[str, str], list[int]] = {}
        for place, op in enumerate(self.trace.ops):
            if self.time.ops[place].seconds:
                groups.setdefault((roll(op.module), op.packet), []).append(place)
        made = [self._taker(module, packet, places) for (module, packet), places in groups.items()]
        return tuple(sorted(made, key=lambda taker: (-taker.seconds, taker.module, taker.packet)))

    def _taker(self, module: str, packet: str, places: list[int]) -> Taker:
        longest = max(places, key=lambda place: self.time.ops[place].seconds)
        return Taker(
            module=module,
            packet=packet,
            count=len(places),
            seconds=sum(self.time.ops[place].seconds for place in places),
            flops=sum(self.priced[place].work.flops for place in places),
            source=self.trace.ops[longest].source,
        )

    def rows(self) -> list[dict[str, object]]:
        """One flat dict for each op, in order, ready for a data frame."""
        born: dict[int, int] = {}
        for storage in self.trace.storages:
            if storage.born is not None:
                born[storage.born] = born.get(storage.born, 0) + storage.bytes
        return [self._row(place, born.get(place, 0)) for place in range(len(self.trace.ops))]

    def _row(self, place: int, allocated_bytes: int) -> dict[str, object]:
        op, priced, time = self.trace.ops[place], self.priced[place], self.time.ops[place]
        return {
            "id": op.id,
            "name": op.name,
            "phase": str(op.phase),
            "module": op.module,
            "file": op.source.file if op.source else "",
            "line": op.source.line if op.source else None,
            "forward": op.forward,
            "inputs": " ".join(f"{t.dtype}{list(t.shape)}" for t in op.inputs),
            "outputs": " ".join(f"{t.dtype}{list(t.shape)}" for t in op.outputs),
            "tensor_flops": priced.work.tensor_flops,
            "vector_flops": priced.work.vector_flops,
            "skippable_flops": priced.work.skippable_flops,
            "read_bytes": priced.work.read_bytes,
            "written_bytes": priced.work.written_bytes,
            "allocated_bytes": allocated_bytes,
            "seconds": time.seconds,
            "low_seconds": time.low_seconds,
            "high_seconds": time.high_seconds,
            "bound": time.bound,
            "priced": str(priced.kind),
            "by": priced.by,
        }

    def to_json(self) -> str:
        """The report as the JSON that ``report.schema.json`` describes."""
        return to_json(self)

    def __str__(self) -> str:
        return to_table(self)


def price(trace: StepGraph, on: str | Path | Profile) -> Report:
    """Say what the recorded step costs on a device: a profile, its name, or the path of its TOML file."""
    profile = on if isinstance(on, Profile) else load_profile(on)
    priced = price_ops(trace)
    work = totals(priced)
    time = estimate(priced, profile, host_storages=host_storages(trace))
    return Report(
        trace=trace,
        profile=profile,
        priced=priced,
        work=work,
        memory=timeline(trace),
        time=time,
        flops=_flops(work),
        parameters=_parameters(trace),
        coverage=_coverage(trace, profile, priced, work, time),
    )


def _flops(work: Totals) -> Flops:
    by: Mapping[Phase, Work] = {phase: work.phase(phase) for phase in Phase}
    return Flops(
        forward=by[Phase.FORWARD].flops,
        backward=by[Phase.BACKWARD].flops,
        optimizer=by[Phase.OPTIMIZER].flops,
        zero_grad=by[Phase.ZERO_GRAD].flops,
        causal_forward=by[Phase.FORWARD].causal_flops,
        causal_backward=by[Phase.BACKWARD].causal_flops,
    )


def _parameters(trace: StepGraph) -> Parameters:
    named = trace.facts.parameters
    return Parameters(
        total=sum(prod(item.shape) for item in named),
        trainable=sum(prod(item.shape) for item in named if item.trainable),
        bytes=sum(trace.storages[storage].bytes for storage in {item.storage for item in named}),
    )


def not_modelled(trace: StepGraph, profile: Profile) -> tuple[str, ...]:
    """What no figure holds: `NOT_MODELLED`, and kernels where the device would choose others than were traced."""
    traced_for = trace.facts.capability or "8.0"
    if not trace.facts.device.startswith("cuda") or profile.capability == traced_for:
        return NOT_MODELLED
    of = f"compute capability {profile.capability}" if profile.capability is not None else f"{profile.vendor}'s GPUs"
    return (*NOT_MODELLED, f"kernel choices of {of}: the step was traced for compute capability {traced_for}")


def _coverage(trace: StepGraph, profile: Profile, priced: Iterable[Priced], work: Totals, time: StepTime) -> Coverage:
    assumed = (t.seconds for p, t in zip(priced, time.ops, strict=True) if p.kind is Kind.ASSUMED)
    return Coverage(
        ops=len(trace.ops),
        kinds=work.kinds,
        assumed=work.assumed,
        assumed_seconds=sum(assumed, 0.0),
        assumptions=trace.facts.assumptions,
        notes=trace.facts.notes,
        not_modelled=not_modelled(trace, profile),
    )
