"""The door of the tracer: a module, its inputs and a step become a `StepGraph`."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from ..graph import ForetraceError, Outcomes, Phase, StepGraph, capability_of
from .again import remembered
from .assumptions import Assumptions, Setting
from .autocast import autocast_dtype, cuda_autocast, region, regions
from .backends import WORDS, backends
from .bounds import Outside
from .cuda import cuda_kernels
from .disguise import disguise
from .fold import Folding
from .frames import raised_at, shorten
from .imports import forgotten
from .inputs import Sizes, as_call, stand_in
from .lift import lift
from .modules import module_paths, stand_ins, with_loss
from .placement import misplaced
from .randomness import seeded
from .ready import answer_as_wrapped, ready, uncompiled
from .record import Recorder
from .scratch import with_scratch
from .step import Step, make_optimizer, phases, run_step
from .target import as_step, defaults, describe, resolve
from .turn import Unfoldable
from .unfold import unfold
from .variants import variant as named
from .watch import Settings, Watch

Progress = Callable[[str, int], None]
_ONE_AT_A_TIME = threading.RLock()
"""A trace patches names of torch that all threads share, so a second one waits for the first."""

_DEVICES = {"cpu": "cpu", "cuda": "cuda:0", "cuda:0": "cuda:0"}


@remembered
def trace(
    model: Any,
    inputs: Any = None,
    *,
    loss: Callable[[Any], torch.Tensor] | None = None,
    optimizer: Any = "adamw",
    step: Any = None,
    sizes: Mapping[str, int] | None = None,
    device: str = "cuda",
    capability: str = "8.0",
    autocast: Any = None,
    warmup: int = 1,
    assume: Mapping[str, Setting] | None = None,
    strict: bool = False,
    outcomes: Outcomes | None = None,
    target: str = "",
    max_ops: int | None = None,
    variant: str | None = None,
    progress: Progress | None = None,
    fold: bool = True,
) -> StepGraph:
    """Record one training step of `model` without running a kernel or allocating its memory.

    `model` is a module on any device, or a callable that builds one (or ``(model, inputs)``,
    ``(model, inputs, loss)``, a `Step`); a callable is run without memory too. `inputs`, `loss`,
    `optimizer`, `step` and `sizes` are as in `Step`. `device` is where the step shall run, ``"cuda"`` or ``"cpu"``;
    neither needs to be there; `capability` is the compute capability of the GPU whose kernels are chosen, that of an
    A100 if not said. `autocast` is a dtype for ``torch.autocast`` around forward and loss.
    `warmup` steps run before the recorded one: with 1 the optimizer's state exists, with 0 the very first
    step is recorded. `assume` says what holds where the step depends on data: a value by kind or by line,
    such as ``{"nonzero": 0.25, "model.py:71": 100}`` (the kinds are in `assumptions.KINDS`); with `strict` an
    assumption that it does not cover is an error. `outcomes` is what `observe` saw data decide in a real run; it takes
    the place of what no setting covers. A step of more than `max_ops` ops (2,000,000) is taken for one that
    never ends. `variant` names another way to run the same step, one of `variants.VARIANTS`. `progress` is called
    with the phase and the number of ops so far. With `fold`, of blocks that are alike only a few are run, and the
    others' ops are written from these where that can be proved to give the same; the graph is the same without.

    Raises `ForetraceError` for input that cannot be traced. The module is left as it was in any case.
    """
    build = (lambda: as_step(model, "model")) if isinstance(model, nn.Module) else (lambda: _built(model))
    given = {"inputs": inputs, "loss": loss, "step": step}
    given = {name: value for name, value in given.items() if value is not None}
    if optimizer != "adamw" or isinstance(model, nn.Module):
        given["optimizer"] = optimizer

    def make() -> Step:
        made = replace(build(), **given)
        return _with_sizes(made, {**made.sizes, **(sizes or {})}, set(sizes or ()))

    settings = _settings(device, capability, autocast, warmup, target, {}, variant)
    return _trace(make, settings, _Recording(assume, strict, outcomes, max_ops), progress, fold and outcomes is None)


@remembered
def trace_target(
    target: str,
    parameters: dict[str, Any] | None = None,
    *,
    inputs: str | None = None,
    optimizer: Any = None,
    device: str = "cuda",
    capability: str = "8.0",
    autocast: Any = None,
    warmup: int = 1,
    assume: Mapping[str, Setting] | None = None,
    strict: bool = False,
    outcomes: Outcomes | None = None,
    max_ops: int | None = None,
    variant: str | None = None,
    progress: Progress | None = None,
    fold: bool = True,
) -> StepGraph:
    """Like `trace`, for ``path.py:callable`` or ``package.module:callable`` called with `parameters`.

    Those of them that the callable does not take are sizes. `inputs` (a text of specs) and `optimizer`, where given,
    take the place of those that the target chose. `capability` is as for `trace`.
    """

    def make() -> Step:
        made = resolve(target, dict(parameters or {}), inputs)
        if optimizer is not None:
            made.optimizer = None if optimizer == "none" else optimizer
        return made

    settings = _settings(device, capability, autocast, warmup, target, dict(parameters or {}), variant)
    return _trace(make, settings, _Recording(assume, strict, outcomes, max_ops), progress, fold and outcomes is None)


def taken(target: str | Callable[..., Any], device: str | None = None) -> dict[str, Any]:
    """The keyword arguments that a target takes, as `target.defaults` has them, without running a kernel: what is
    imported for it may build a model, and put it on a GPU."""
    recorder = Recorder(_DEVICES.get(str(device), _DEVICES["cuda"]))
    with _ONE_AT_A_TIME, _outside_of_modes(), seeded(), disguise(recorder), recorder, forgotten(recorder):
        found = defaults(target)
    recorder.forget()
    return found


def _with_sizes(step: Step, values: Mapping[str, int], asked: set[str]) -> Step:
    sizes = Sizes(values)
    step = ready(step, sizes)
    if sizes.unused(asked):
        raise ForetraceError(f"nothing uses the size {sizes.unused(asked)!r}", "Leave it out, or use it in a spec.")
    return step


_MODELS = "Give an nn.Module, or a callable that makes one; trace_target takes a text such as train.py:make_step."


def _built(model: Any) -> Step:
    if not callable(model):
        raise ForetraceError(f"{type(model).__name__} is neither a module nor callable", _MODELS)
    try:
        return as_step(model(), "the model callable")
    except ForetraceError:
        raise
    except (Exception, SystemExit) as error:
        raise ForetraceError(f"building the model raised {describe(error)}", "Call it by itself to see why.") from error


def _settings(
    device: str,
    capability: str,
    autocast: Any,
    warmup: int,
    target: str,
    arguments: dict[str, Any],
    variant: str | None,
) -> Settings:
    if str(device) not in _DEVICES:
        raise ForetraceError(f"there is no device {device!r} to trace for", 'Say "cuda" or "cpu".')
    if warmup < 0:
        raise ForetraceError(f"warmup is {warmup}", "Give 0 for the very first step, 1 or more for a later one.")
    return Settings(
        device=_DEVICES[str(device)],
        capability=capability_of(capability),
        autocast=autocast_dtype(autocast),
        warmup=warmup,
        target=target,
        arguments=arguments,
        variant=named(variant),
    )


class _Recording(NamedTuple):
    """What a recorder is told by the caller; each try has a recorder of its own."""

    assume: Mapping[str, Setting] | None
    strict: bool
    outcomes: Outcomes | None
    max_ops: int | None

    def recorder(self, settings: Settings) -> Recorder:
        """A new one."""
        return Recorder(
            settings.device,
            Assumptions(self.assume, self.strict, self.outcomes),
            self.max_ops,
            settings.capability,
        )


def _trace(
    make: Callable[[], Step], settings: Settings, recording: _Recording, progress: Progress | None, fold: bool
) -> StepGraph:
    graph = _folded(make, settings, recording, progress) if fold else None
    return graph or _recorded(make, settings, recording.recorder(settings), progress, _never_folded)


def _folded(
    make: Callable[[], Step], settings: Settings, recording: _Recording, progress: Progress | None
) -> StepGraph | None:
    """The graph of a step with folded blocks; None where folding failed, or may have made the step fail."""
    tried: list[Folding] = []

    def folding(*args: Any) -> Folding:
        tried.append(Folding(*args))
        return tried[0]

    try:
        return _recorded(make, settings, recording.recorder(settings), progress, folding)
    except Unfoldable:
        return None
    except Exception:
        if tried and tried[0].runs:
            return None
        raise


def _never_folded(model: nn.Module, recorder: Recorder, choices: Any) -> Folding:
    return Folding(nn.Module(), recorder, choices)


def _recorded(
    make: Callable[[], Step],
    settings: Settings,
    recorder: Recorder,
    progress: Progress | None,
    folding: Callable[..., Folding],
) -> StepGraph:
    with (
        _ONE_AT_A_TIME,
        _alone(recorder),
        _outside_of_modes(),
        seeded(),
        _without_garbage_collection(),
        disguise(recorder),
        recorder,
        forgotten(recorder),
    ):
        recorder.progress = progress
        step = make()
        recorder.recording_model = True
        graph = _run(step, recorder, settings, folding)
    recorder.forget()
    return with_scratch(graph) if settings.device == "cpu" else graph


def _run(step: Step, recorder: Recorder, settings: Settings, folding: Callable[..., Folding]) -> StepGraph:
    model, trained = step.model, with_loss(step.model, step.loss)
    optimizers: list[torch.optim.Optimizer] = []
    with ExitStack() as stack:
        stack.enter_context(stand_ins(trained, recorder))
        answer_as_wrapped(step)
        stack.enter_context(uncompiled())
        stack.enter_context(module_paths(trained, recorder))
        choices = stack.enter_context(cuda_kernels(recorder))
        stack.enter_context(cuda_autocast(recorder))
        stack.enter_context(regions(recorder))
        stack.enter_context(phases(recorder, optimizers))
        stack.enter_context(settings.variant(model))
        folds = folding(model, recorder, choices)
        stack.enter_context(folds.installed())
        call, named = stand_in(as_call(step.inputs), recorder)
        optimizer = make_optimizer(step.optimizer if step.step != "inference" else None, trained)
        watch = Watch(trained, recorder, optimizers, named)
        recorder.observe = watch.look
        loop = run_step(model, optimizer, call, step, region(recorder.device, settings.autocast))
        for _ in range(settings.warmup):
            _turn(loop, recorder, folds)
        watch.look(Phase.OPTIMIZER)
        gc.collect()
        recorder.start()
        _turn(loop, recorder, folds)
        recorder.stop()
        watch.look(Phase.OPTIMIZER)
        unfold(recorder, folds, watch.roles.gradients)
        notes = tuple(f"{count} times: {choice}" for choice, count in sorted(choices.items()))
        notes += tuple(misplaced(recorder))
        notes += tuple(WORDS[name] for name in backends(recorder.device) if name in WORDS)
        graph = lift(recorder, watch.roles, watch.facts(settings, (*step.notes, *notes)))
        loop.close()
        return graph


def _turn(loop: Iterator[None], recorder: Recorder, folds: Folding) -> None:
    """One step; an exception of the model's becomes one line with the module and line that raised it."""
    folds.begin()
    _one_turn(loop, recorder)
    folds.end()


def _one_turn(loop: Iterator[None], recorder: Recorder) -> None:
    recorder.answered = 0
    recorder.failed_in.clear()
    recorder.assumptions.begin()
    try:
        next(loop)
    except ForetraceError:
        raise
    except (Exception, SystemExit) as error:
        place = recorder.failed_at or _line_of(error)
        phase = recorder.failed_in.get(id(error), recorder.phase)
        raise ForetraceError(
            f"the {phase} raised {describe(error)}" + (f" at {place}" if place else ""),
            error.mend
            if isinstance(error, Outside)
            else "Check the inputs' shapes and dtypes; the step must run in plain PyTorch.",
        ) from error


def _line_of(error: BaseException) -> str:
    """The innermost line of the traceback that is the user's."""
    place = raised_at(error)
    return f"{shorten(place[0])}:{place[1]}" if place else ""


_under_way: list[Recorder] = []


@contextmanager
def _alone(recorder: Recorder) -> Iterator[None]:
    """Refuse a trace in the midst of another's step: its ops would be that step's."""
    if _under_way and _under_way[-1].recording_model:
        raise ForetraceError("a trace was asked for inside of a step that is traced", "Make one after the other.")
    _under_way.append(recorder)
    try:
        yield
    finally:
        _under_way.pop()


@contextmanager
def _outside_of_modes() -> Iterator[None]:
    """What is traced runs as by itself, whatever modes the caller has on: fake tensors, counters of FLOPs, no_grad."""
    with _disable_current_modes(), torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Frees happen when references go, never when a collector happens to run: so traces repeat.

    What was there before is frozen, so that a collection looks at the step's own objects only.
    """
    enabled = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.freeze()  # what the trace has left counts as old: no collection of the young looks at all of it
        gc.unfreeze()
        if enabled:
            gc.enable()
