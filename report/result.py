"""StepGraph + hardware profile -> `Report`: every number that a view may show, counted once.

A *taker* is to time what a holder is to memory: the ops of one kind in one kind of module, repeated modules rolled up.
A step *fits* when PyTorch's caching allocator finds memory for every request of it on the device, beside the CUDA
context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import Any

from ..costmodels import Assumed, Holder, Kind, Priced, Timeline, Totals, Work, price_ops, roll, timeline, totals
from ..costmodels import holders as peak_holders
from ..graph import ForetraceError, Op, Phase, Source, StepGraph
from ..graph.bulk import uncollected
from ..hardware import DeviceMemory, Profile, StepTime, device_memory, estimate, host_storages
from ..hardware import load as load_profile
from ..hardware.alloc_conf import AllocConf, parse
from ..hardware.fit import largest
from ..hardware.plan import batch_of, tokens_of
from ..hardware.workspaces import unknown
from .html import to_html
from .json import to_json
from .notebook import plot, report_html, to_pandas
from .parts import Cost, cost, critical_path
from .table import to_table

NOT_MODELLED = (
    "workspaces of cuDNN (of convolutions: an estimate)",
    "copies between host and device, and data loading",
)

TRIES = "what cuDNN takes once to try its plans, gigabytes for some: torch.backends.cudnn.benchmark is on"
CONVOLUTIONS = frozenset(("aten.convolution", "aten.convolution_backward"))


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
    conf: AllocConf | None = None
    """Settings of the caching allocator; None for PyTorch's own."""

    @cached_property
    def device_memory(self) -> DeviceMemory | None:
        """What ``torch.cuda`` would report; None for a step that was not traced for CUDA."""
        if self.device != "cuda":
            return None
        return device_memory(self.trace, self.profile, conf=self.conf)

    @property
    def available_bytes(self) -> int:
        """What the device has for tensors."""
        return self.profile.memory_total_bytes - self.profile.cuda_context_bytes

    @property
    def workspace_bytes(self) -> int | None:
        """What kernels take for themselves adds to the peak so much; None for a step that was not traced for CUDA."""
        found = self.device_memory
        return found.requested_peak_bytes - self.memory.peak_bytes if found else None

    @property
    def reserved_peak_bytes(self) -> int | None:
        """What the caching allocator holds at its peak; None for a step that was not traced for CUDA."""
        return self.device_memory.reserved_peak_bytes if self.device_memory else None

    @property
    def needed_bytes(self) -> int:
        """What the step takes of that; of a step that was not traced for CUDA, its peak."""
        return self.device_memory.reserved_peak_bytes if self.device_memory else self.memory.peak_bytes

    @property
    def fits(self) -> bool | None:
        """True when the step fits; None for a step that was not traced for CUDA."""
        return self.device_memory.fits if self.device_memory else None

    def max_batch(self, trace_at: Callable[[int], StepGraph] | None = None) -> int:
        """The largest batch whose step fits on this device; 0 where not even one does.

        A trace is of one batch size. It remembers how it was made, so that it can be made at another: by the target's
        keyword argument ``batch`` (or ``batch_size``, ``bs``), by a size of that name in the specs, or by the first
        size of the inputs. `trace_at` takes the place of that, as in
        ``lambda batch: foretrace.trace_target("train.py:make_step", {"images": batch})``. Each size that is
        tried is traced and priced; the last one that fits has been traced itself, not extrapolated.

        Raises `ForetraceError` for a step on the CPU, for a trace that was loaded or edited, where `trace_at` is not
        given, and where there is no batch to change.
        """
        if self.device_memory is None:
            raise ForetraceError("what fits is asked of a step for CUDA", "Trace it for cuda; that needs no GPU.")
        at = trace_at or self._traced_at
        again = partial(price, on=self.profile, conf=self.conf)
        return largest(lambda batch: again(at(batch)).fits is True)

    def _traced_at(self, batch: int) -> StepGraph:
        mend = "Give a function of the batch: report.max_batch(lambda batch: foretrace.trace_target(...))."
        if self.trace.again is None:
            raise ForetraceError("this trace was loaded or edited, and cannot be made again at another batch", mend)
        try:
            return self.trace.again(batch=batch)
        except ForetraceError as error:
            raise ForetraceError(f"at batch={batch}: {error.message}", f"{error.mend} {mend}") from error

    @property
    def device(self) -> str:
        """The kind of device that was traced: cuda or cpu."""
        return self.trace.facts.device.partition(":")[0]

    @cached_property
    def batch(self) -> int | None:
        """Samples of the step: the first size that all its inputs share; None where they do not."""
        return batch_of(self.trace)

    @property
    def samples_per_second(self) -> float | None:
        """None where the batch is not known."""
        return self._rate(self.batch)

    @property
    def tokens_per_second(self) -> float | None:
        """For a step whose first input is a matrix of whole numbers; None for others."""
        return self._rate(tokens_of(self.trace))

    def _rate(self, count: int | None) -> float | None:
        return count / self.time.step_seconds if count and self.time.step_seconds else None

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
        """Who takes the device's time, longest first; their seconds add up to that of the step's kernels."""
        groups: dict[tuple[str, str], list[int]] = {}
        for place, (op, time) in enumerate(zip(self.trace.ops, self.time.ops, strict=True)):
            if time.seconds:
                groups.setdefault((roll(op.module), op.packet), []).append(place)
        made = [self._taker(module, packet, places) for (module, packet), places in groups.items()]
        return tuple(sorted(made, key=lambda taker: (-taker.seconds, taker.module, taker.packet)))

    def _taker(self, module: str, packet: str, places: list[int]) -> Taker:
        seconds = [self.time.ops[place].seconds for place in places]
        longest = places[seconds.index(max(seconds))]
        return Taker(
            module=module,
            packet=packet,
            count=len(places),
            seconds=sum(seconds),
            flops=sum([self.priced[place].work.flops for place in places]),
            source=self.trace.ops[longest].source,
        )

    def cost(self, ops: Iterable[Op]) -> Cost:
        """What some ops cost together, as in ``report.cost(report.trace.select("h.*.attn*"))``.

        Raises `ForetraceError` for ops of another trace.
        """
        return cost(self, ops)

    def critical_path(self) -> tuple[Op, ...]:
        """The chain of ops, each reading what the one before wrote, whose kernels take longest one after the other."""
        return critical_path(self)

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
            "tier": time.tier,
            "priced": str(priced.kind),
            "by": priced.by,
        }

    def to_pandas(self) -> Any:
        """`rows` as a ``pandas.DataFrame``, by the op's id. Raises `ForetraceError` where pandas is not installed."""
        return to_pandas(self)

    def plot(self, axes: Any = None) -> Any:
        """Draw the timeline with matplotlib, on `axes` or new ones, and return them.

        Raises `ForetraceError` where matplotlib is not installed.
        """
        return plot(self, axes)

    def to_html(self, before: Report | None = None) -> str:
        """The report as one HTML page that needs nothing else; with `before`, what changed since that report."""
        return to_html(self, before)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return report_html(self)

    def to_json(self) -> str:
        """The report as the JSON that ``report.schema.json`` describes."""
        return to_json(self)

    def __str__(self) -> str:
        return to_table(self)


@uncollected()
def price(
    trace: StepGraph,
    on: str | Path | Profile,
    *,
    conf: str | AllocConf | None = None,
    memory_bytes: int | None = None,
) -> Report:
    """Say what the recorded step costs on a device: a profile, its name, or the path of its TOML file.

    `conf` holds settings of the caching allocator, as in ``PYTORCH_ALLOC_CONF``; `memory_bytes` takes the place of the
    device's memory, the CUDA context included. Raises `ForetraceError` for a profile or a setting that makes no sense.
    """
    profile = on if isinstance(on, Profile) else load_profile(on)
    if conf is not None and not trace.facts.device.startswith("cuda"):
        raise ForetraceError(
            f"the allocator's settings are CUDA's, and this step was traced for the {trace.facts.device}",
            'Leave them out, or trace with device="cuda"; that needs no GPU.',
        )
    if memory_bytes is not None:
        profile = profile.with_memory(memory_bytes)
    priced = price_ops(trace)
    work = totals(priced)
    backends = trace.facts.backends
    time = estimate(
        priced,
        profile,
        tf32=backends.get("matmul_tf32", False),
        cudnn_tf32=backends.get("cudnn_tf32", True),
        host_storages=host_storages(trace),
        kinds=trace.kinds,
    )
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
        conf=parse(conf) if isinstance(conf, str) else conf,
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
    if not trace.facts.device.startswith("cuda"):
        return NOT_MODELLED
    taken = unknown([trace.ops[kind] for kind in sorted(set(trace.kinds))])
    names = ", ".join(packet.removeprefix("aten.") for packet in taken)
    inside: tuple[str, ...] = (f"what kernels take inside of {names}",) if taken else ()
    if trace.facts.backends.get("cudnn_benchmark") and any(op.packet in CONVOLUTIONS for op in trace.ops):
        inside += (TRIES,)
    traced_for = trace.facts.capability or "8.0"
    if profile.capability == traced_for:
        return (*NOT_MODELLED, *inside)
    of = f"compute capability {profile.capability}" if profile.capability is not None else f"{profile.vendor}'s GPUs"
    return (*NOT_MODELLED, *inside, f"kernel choices of {of}: the step was traced for compute capability {traced_for}")


def _coverage(trace: StepGraph, profile: Profile, priced: Iterable[Priced], work: Totals, time: StepTime) -> Coverage:
    assumed = (t.seconds for p, t in zip(priced, time.ops, strict=True) if p.kind is Kind.ASSUMED)
    return Coverage(
        ops=len(trace.ops),
        kinds=work.kinds,
        assumed=work.assumed,
        assumed_seconds=sum(assumed, 0.0),
        assumptions=trace.facts.assumptions,
        notes=(*trace.facts.notes, *_substitutes(time)),
        not_modelled=not_modelled(trace, profile),
    )


def _substitutes(time: StepTime) -> Iterable[str]:
    for dtype, unit in time.substitutes.items():
        yield f"products in {dtype} run on {unit}: this device has no unit for {dtype}"
