"""A step's time and FLOPs + how many steps of what batch -> days, GPU-hours, FLOPs and money of a training run.

A *step* of the run is as many *micro-batches* as make up the global batch, forward and backward each, and one update of
the optimizer. GPUs share the micro-batches (data parallelism); the exchange of gradients is not modelled: it is taken
to hide behind the backward pass. Evaluation, checkpoints to disk and restarts are not in it either.

Three figures stand side by side: *modelled* is the predicted step time; *assumed* is the traced matrix FLOPs at an
assumed MFU; *textbook* is 6 FLOPs for each parameter and token at that MFU (https://arxiv.org/abs/2001.08361,
section 2.1), which leaves out attention's products and counts the embedding's table as if it were multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..costmodels.work import Work
from ..graph.errors import ForetraceError
from ..graph.step_graph import StepGraph
from .estimate import StepTime

SECONDS_A_DAY = 86_400
TEXTBOOK_FLOPS = 6
"""Per parameter and token: 2 forward, 4 backward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is asked for: so many steps of so many samples on so many GPUs, in micro-batches of one traced step."""

    steps: int
    global_batch: int
    micro_batch: int
    gpus: int = 1

    @property
    def accumulated(self) -> int:
        """Micro-batches of one step on one GPU."""
        return self.global_batch // (self.micro_batch * self.gpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to say how long the run takes."""

    name: str
    """modelled, assumed or textbook."""
    flops: float
    """Of the whole run, on all GPUs."""
    mfu: float
    seconds: float
    gpus: int
    low_seconds: float | None = None
    high_seconds: float | None = None

    @property
    def days(self) -> float:
        """Wall-clock days."""
        return self.seconds / SECONDS_A_DAY

    @property
    def gpu_hours(self) -> float:
        """Hours times GPUs: what is paid for."""
        return self.seconds / 3600 * self.gpus

    def cost(self, price_per_hour: float) -> float:
        """At that price for one GPU and hour, in whatever money."""
        return self.gpu_hours * price_per_hour


def run_of(*, steps: int, global_batch: int, micro_batch: int, gpus: int) -> Run:
    """A checked `Run`. Raises `ForetraceError` where a step is no whole number of micro-batches on every GPU."""
    for name, value in (("--steps", steps), ("--global-batch", global_batch), ("--gpus", gpus)):
        if value < 1:
            raise ForetraceError(f"{name} is {value}", "Give a whole number of at least 1")
    if global_batch % (micro_batch * gpus):
        each = micro_batch * gpus
        near = max(each, round(global_batch / each) * each)
        raise ForetraceError(
            f"a global batch of {global_batch:,} is no whole number of micro-batches of {micro_batch:,} on {gpus:,} "
            f"GPU{'s' if gpus > 1 else ''}",
            f"Say --global-batch {near}, or trace another micro-batch (such as -p batch=...)",
        )
    return Run(steps=steps, global_batch=global_batch, micro_batch=micro_batch, gpus=gpus)


def batch_of(graph: StepGraph) -> int | None:
    """The batch of a trace: the first size that all its inputs share; None where they do not."""
    firsts = {item.shape[0] for item in graph.facts.inputs if item.shape}
    return firsts.pop() if len(firsts) == 1 else None


def tokens_of(graph: StepGraph) -> int | None:
    """Tokens of a traced step: the elements of its first input, if that is a matrix of whole numbers."""
    first = next(iter(graph.facts.inputs), None)
    if first is None or len(first.shape) != 2 or not first.dtype.startswith("int"):
        return None
    return first.shape[0] * first.shape[1]


def modelled(run: Run, time: StepTime, work: Work) -> Way:
    """The predicted step: forward and backward for each micro-batch, one optimizer update. `work` is of one batch."""
    seconds, low, high = (_step_seconds(run, time, name) for name in ("seconds", "low_seconds", "high_seconds"))
    flops = _flops(run, work)
    possible = seconds * run.gpus * time.peak_flops_per_second
    mfu = flops / run.steps / possible if possible else 0.0
    times = (value * run.steps for value in (seconds, low, high))
    total, fast, slow = times
    return Way(name="modelled", flops=flops, mfu=mfu, seconds=total, low_seconds=fast, high_seconds=slow, gpus=run.gpus)


def _step_seconds(run: Run, time: StepTime, which: str) -> float:
    once = ("optimizer", "zero_grad")
    spans = {str(phase): float(getattr(span, which)) for phase, span in time.phases.items()}
    repeated = sum(seconds for phase, seconds in spans.items() if phase not in once)
    return run.accumulated * repeated + sum(spans[phase] for phase in once)


def assumed(run: Run, work: Work, peak_flops_per_second: float, mfu: float) -> Way:
    """The traced matrix FLOPs at an assumed share of the peak."""
    return _at(run, "assumed", _flops(run, work), peak_flops_per_second, mfu)


def textbook(run: Run, parameters: int, tokens_per_sample: int, peak_flops_per_second: float, mfu: float) -> Way:
    """Six FLOPs for each parameter and token, at an assumed share of the peak."""
    flops = TEXTBOOK_FLOPS * parameters * tokens_per_sample * run.global_batch * run.steps
    return _at(run, "textbook", flops, peak_flops_per_second, mfu)


def _at(run: Run, name: str, flops: float, peak_flops_per_second: float, mfu: float) -> Way:
    if not 0 < mfu <= 1:
        raise ForetraceError(f"--mfu is {mfu:g}", "Give a share of the peak between 0 and 1, such as 0.5")
    seconds = flops / (mfu * peak_flops_per_second * run.gpus) if peak_flops_per_second else 0.0
    return Way(name=name, flops=flops, mfu=mfu, seconds=seconds, gpus=run.gpus)


def _flops(run: Run, work: Work) -> float:
    """Matrix FLOPs of the whole run; the optimizer has none."""
    return float(work.tensor_flops) * run.steps * (run.global_batch // run.micro_batch)
