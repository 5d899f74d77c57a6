"""The step function: the loop body that people write, and where its phases begin and end."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import optimizer as torch_optimizer

from ..graph import ForetraceError, Phase
from .record import Recorder


@dataclass(slots=True)
class Step:
    """What to trace: a module, its inputs, and how a step is made of them.

    ``inputs``: a tuple of positional arguments, a dict of keyword arguments, one tensor, or a text such as
    ``"input_ids: int64[8, seq]"``, with the sizes that it names in ``sizes``; without any, inputs are proposed for a
    module of transformers, timm or torchvision. ``loss``: a callable on the module's output (default:
    ``output.loss``, the output itself where it is a scalar, or the one trained scalar of a tuple); a module with
    parameters of its own is trained with the model. ``optimizer``: a name, a class, a factory
    ``params -> Optimizer``, an optimizer of the module's parameters, which stays as it is, or None. ``step``: a step
    function ``step(model, optimizer, inputs)`` of your own, which gets no proposals, or ``"inference"``. ``notes``:
    what the report shall say of the step.
    """

    model: nn.Module
    inputs: Any = None
    loss: Callable[[Any], torch.Tensor] | None = None
    optimizer: Any = "adamw"
    step: Any = None
    sizes: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


Optimizer = torch.optim.Optimizer


def make_optimizer(choice: Any, model: nn.Module) -> Optimizer | None:
    """The optimizer for the trainable parameters of `model`.

    A name may end in an implementation: ``"adamw:fused"``, ``"adamw:foreach"``, ``"adamw:for-loop"``. An optimizer is
    copied, without its state.
    Raises `ForetraceError` for a name that torch.optim does not have, and for what makes no optimizer of `model`.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if choice is None or not parameters:
        return None
    if isinstance(choice, Optimizer):
        return _afresh(choice, model)
    if not callable(choice) and not isinstance(choice, str):
        raise ForetraceError(
            f"{_kind(choice)} is no optimizer", f"{_MAKERS} Several are made, and run, by a step function of your own."
        )
    made = _by_name(choice)(parameters) if isinstance(choice, str) else choice(parameters)
    if not callable(getattr(made, "step", None)):
        raise ForetraceError(f"the optimizer factory returned {type(made).__name__}", "Return a torch Optimizer.")
    return made


_MAKERS = "Give its class, its name, or a factory such as lambda params: torch.optim.AdamW(params, lr=1e-4)."


def _afresh(optimizer: Optimizer, model: nn.Module) -> Optimizer:
    """A copy that has run no step yet: the same settings of the same parameters, and neither the state nor the counting
    of steps that a scheduler has put in."""
    known = {id(parameter) for parameter in model.parameters()}
    if any(id(parameter) not in known for group in optimizer.param_groups for parameter in group["params"]):
        raise ForetraceError("the optimizer holds parameters that are not those of the module", _MAKERS)
    copied = object.__new__(type(optimizer))
    copied.__dict__.update(optimizer.__dict__)
    copied.__dict__.pop("step", None)
    copied.state = defaultdict(dict)
    copied.param_groups = [{**group, "params": list(group["params"])} for group in optimizer.param_groups]
    return copied


def _by_name(text: str) -> Callable[[list[nn.Parameter]], Optimizer]:
    name, _, implementation = text.partition(":")
    classes = {n.lower(): c for n, c in vars(torch.optim).items() if isinstance(c, type) and issubclass(c, Optimizer)}
    classes.pop("optimizer", None)
    ways = {"": {}, "fused": {"fused": True}, "foreach": {"foreach": True}, "for-loop": {"foreach": False}}
    if name.lower() not in classes:
        near = difflib.get_close_matches(name.lower(), classes, 1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise ForetraceError(
            f"no optimizer is called {name!r}", f"{hint}There are {', '.join(sorted(classes))}; or none."
        )
    if implementation not in ways:
        raise ForetraceError(f"no implementation {implementation!r} of {name}", "Say fused, foreach or for-loop.")
    options: dict[str, Any] = dict(ways[implementation])
    if name.lower() == "sgd":
        options["lr"] = 1e-3
    return lambda parameters: classes[name.lower()](parameters, **options)


def run_step(
    model: nn.Module,
    optimizer: Optimizer | None,
    inputs: tuple[tuple[Any, ...], dict[str, Any]],
    step: Step,
    region: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Generator[None, None, None]:
    """One step a turn, as in a loop: `output` and `loss` live until the next turn rebinds them.

    `region` makes the context of forward and loss (autocast, or nothing).
    """
    args, kwargs = inputs
    if step.step == "inference":
        while True:
            with torch.no_grad(), region():
                output = model(*args, **kwargs)
            yield
    if callable(step.step):
        given = kwargs if kwargs and not args else args[0] if len(args) == 1 and not kwargs else args
        while True:
            output = step.step(model, optimizer, given)
            yield
    while True:
        with region():
            output = model(*args, **kwargs)
            loss = _loss(output, step.loss)
        loss.backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
        else:
            model.zero_grad()
        yield


def _loss(output: Any, function: Callable[[Any], torch.Tensor] | None) -> torch.Tensor:
    loss = _found(output) if function is None else function(output)
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        what = "returned no scalar" if function is not None else "is not to be found in the module's output"
        raise ForetraceError(
            f"the loss {what} (got {_kind(loss if function is not None else output)})",
            "Let the target return (model, inputs, loss), in Python give loss=: a callable that makes a scalar of the "
            "output; or give inputs with labels.",
        )
    if not loss.requires_grad:
        raise ForetraceError(
            "nothing that is trained leads to the loss",
            "Look for detach(), argmax() or no_grad() on the way, and for parameters that are all frozen; "
            'step="inference" traces forward alone.',
        )
    return loss


def _found(output: Any) -> Any:
    """The loss in what a module has returned; None where there is none."""
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, dict) or hasattr(output, "loss"):
        return output.get("loss") if isinstance(output, dict) else output.loss
    items = output if isinstance(output, (tuple, list)) else ()
    scalars = [item for item in items if isinstance(item, torch.Tensor) and item.numel() == 1 and item.requires_grad]
    return scalars[0] if len(scalars) == 1 else None


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return type(value).__name__


@contextmanager
def phases(recorder: Recorder, optimizers: list[Optimizer]) -> Iterator[None]:
    """Tell the recorder when the autograd engine, an optimizer's step or ``zero_grad`` runs.

    Every optimizer that steps is added to `optimizers`.
    """
    with ExitStack() as undo:
        # backward() and grad() make the first gradient before they call the engine; who has bound them
        # by name before the trace is caught at the engine.
        for name in ("backward", "grad", "_engine_run_backward"):
            function = getattr(torch.autograd, name)
            setattr(torch.autograd, name, _during(recorder, Phase.BACKWARD, function))
            undo.callback(setattr, torch.autograd, name, function)
        for owner in (Optimizer, nn.Module):
            zero_grad = owner.zero_grad
            owner.zero_grad = _during(recorder, Phase.ZERO_GRAD, zero_grad)  # type: ignore[method-assign]
            undo.callback(setattr, owner, "zero_grad", zero_grad)
        before: list[Phase] = []

        def enter(optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
            if optimizer not in optimizers:
                optimizers.append(optimizer)
            recorder.left(recorder.phase)
            before.append(recorder.enter(Phase.OPTIMIZER))
            return _with_closure(recorder, args, kwargs)

        def leave(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            recorder.left(Phase.OPTIMIZER)
            recorder.enter(before.pop() if before else Phase.FORWARD)

        undo.callback(torch_optimizer.register_optimizer_step_pre_hook(enter).remove)
        undo.callback(torch_optimizer.register_optimizer_step_post_hook(leave).remove)
        yield


def _with_closure(recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The arguments of an optimizer's ``step``, in which a closure runs what is no part of the optimizer's."""
    itself, *given = args
    if "closure" in kwargs and callable(kwargs["closure"]):
        return args, {**kwargs, "closure": _during(recorder, Phase.FORWARD, kwargs["closure"])}
    if given and callable(given[0]):
        return (itself, _during(recorder, Phase.FORWARD, given[0]), *given[1:]), kwargs
    return None


def _during(recorder: Recorder, phase: Phase, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        before = recorder.enter(phase)
        try:
            return function(*args, **kwargs)
        except Exception as error:
            recorder.failed_in.setdefault(id(error), recorder.phase)
            raise
        finally:
            recorder.left(phase)
            recorder.enter(before)

    return call
