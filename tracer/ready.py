"""A step as the user gave it -> one that runs: the module inside its wrappers, with arguments for inputs.

A *wrapper* is a module that changes how another one runs, not what it computes: that of ``torch.compile`` or of data
parallelism. It is traced through, and a note says what is thereby left out.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree

from ..graph import ForetraceError
from .inputs import Given, Sizes, as_call, drawn
from .propose import propose
from .step import Step

_COMPILED = "torch.compile was left out: the step is traced as it runs without it"
_PARALLEL = {
    wrapper: f"{wrapper.__name__} was left out: the step is traced as the module inside runs on one device"
    for wrapper in (nn.parallel.DistributedDataParallel, nn.DataParallel)
}


def ready(step: Step, sizes: Sizes | None = None) -> Step:
    """The step with the module inside its wrappers, and with inputs: those given, or those proposed.

    Raises `ForetraceError` for a scripted module, one of fake tensors, a loss or a step that cannot be called, specs
    that cannot be read, and inputs that are missing or that the module does not take.
    """
    sizes = sizes or Sizes(step.sizes)
    _refuse_what_cannot_be_called(step)
    model, notes = unwrapped(step.model)
    _refuse_scripted(model)
    _refuse_fake(model)
    step = replace(step, model=model, notes=(*step.notes, *notes))
    if step.inputs is not None or callable(step.step):
        given = Given(*as_call(step.inputs, sizes))
        if not callable(step.step):
            _refuse_other_inputs(model, given)
        return replace(step, inputs=given)
    return _with_proposal(step, sizes)


def _with_proposal(step: Step, sizes: Sizes) -> Step:
    proposal = propose(step.model, sizes, training=step.step != "inference")
    if proposal is None:
        _refuse_without_inputs(step.model)
        return replace(step, inputs=Given((), {}))
    for value in _pytree.tree_leaves(proposal.given):
        if isinstance(value, torch.Tensor):
            drawn(value)
    loss = step.loss or proposal.loss
    notes = [f"inputs proposed: {proposal.inputs_text()}"]
    if loss is not None and loss is proposal.loss:
        notes.append(f"loss proposed: {proposal.loss_text}")
    return replace(step, inputs=proposal.given, loss=loss, notes=(*step.notes, *notes))


def _refuse_without_inputs(model: nn.Module) -> None:
    signature = inspect.signature(model.forward)
    named = [p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if any(p.default is p.empty for p in named):
        raise ForetraceError(
            f"{type(model).__name__} was given no inputs, and takes {signature}",
            f'Give inputs: tensors, or a spec such as --input "{named[0].name}: float32[batch, 1024]" -p batch=8.',
        )


def _refuse_other_inputs(model: nn.Module, given: Given) -> None:
    """Hooks and decorators may change what is passed: only the function itself is asked, not what is behind them."""
    if model._forward_pre_hooks:
        return
    try:
        signature = inspect.signature(model.forward, follow_wrapped=False)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*given.args, **given.kwargs)
    except TypeError as error:
        raise ForetraceError(
            f"{type(model).__name__} cannot be called with these inputs: {error}", f"It takes {signature}."
        ) from None


def _refuse_what_cannot_be_called(step: Step) -> None:
    if step.loss is not None and not callable(step.loss):
        raise ForetraceError(
            f"the loss is of type {type(step.loss).__name__}, which cannot be called",
            "Give a callable that makes a scalar of the module's output, such as lambda output: output.mean().",
        )
    if step.step not in (None, "inference") and not callable(step.step):
        raise ForetraceError(
            f"there is no step {step.step!r}", 'Give a function step(model, optimizer, inputs), or "inference".'
        )


def _refuse_fake(model: nn.Module) -> None:
    """A fake tensor belongs to the mode that made it; known by its name, because importing its class takes long."""
    if any(base.__name__ == "FakeTensor" for t in (*model.parameters(), *model.buffers()) for base in type(t).__mro__):
        raise ForetraceError(
            "the module was built of fake tensors",
            'Build it in a callable that is given to trace, or on the meta device: with torch.device("meta").',
        )


def _refuse_scripted(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ForetraceError(
                f"{f'the module {name!r}' if name else 'the model'} is scripted (torch.jit), which cannot be traced",
                "Give the module that it was scripted from.",
            )


# -- wrappers -------------------------------------------------------------------------------------


def unwrapped(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The module inside its wrappers, and a note for each kind of wrapper."""
    notes: dict[str, None] = {}
    while (inside := _inside(model)) is not None:
        model, note = inside
        notes[note] = None
    if any(_is_compiled(module) for module in model.modules()):
        notes[_COMPILED] = None
    return model, tuple(notes)


def _inside(model: nn.Module) -> tuple[nn.Module, str] | None:
    if _is_wrapped(model):
        return model.get_submodule("_orig_mod"), _COMPILED
    notes = [note for wrapper, note in _PARALLEL.items() if isinstance(model, wrapper)]
    return (model.get_submodule("module"), notes[0]) if notes else None


def _is_wrapped(module: nn.Module) -> bool:
    """Known by its name, because importing its class takes seconds."""
    return type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules


def _is_compiled(module: nn.Module) -> bool:
    return _is_wrapped(module) or getattr(module, "_compiled_call_impl", None) is not None


@contextmanager
def uncompiled() -> Iterator[None]:
    """Every compiled module and function runs as it was written; what is compiled for the first time stays as it is.

    The compiler cannot be told so before it is loaded, which takes longer than most traces.
    """
    if "torch._dynamo" in sys.modules:
        with torch.compiler.set_stance("force_eager"):
            yield
        return
    stock = torch.compile
    torch.compile = _as_written
    try:
        yield
    finally:
        torch.compile = stock


def _as_written(model: Any = None, **options: Any) -> Any:
    return _as_written if model is None else model


def answer_as_wrapped(step: Step) -> None:
    """Give the module what a step function asks of its wrapper, until `modules.stand_ins` takes it away again."""
    if callable(step.step) and any(note in step.notes for note in _PARALLEL.values()):
        for name, value in {"module": step.model, "no_sync": nullcontext}.items():
            if not hasattr(step.model, name):
                step.model.__dict__[name] = value
