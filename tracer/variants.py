"""Another way to run the same step, by name -> a context in which the module and its optimizers run that way.

A *variant* changes how a step runs, not what it computes: it is what a user would try who wants memory back. It is
laid over a module that is being traced, and is gone when the trace ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import optimizer as torch_optimizer
from torch.utils.checkpoint import checkpoint

from ..graph import ForetraceError

Variant = Callable[[nn.Module], AbstractContextManager[None]]


@contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Every block of a repeated kind keeps its input only, and runs again in backward.

    Models of transformers keep no keys and values for generation then, to which a block that runs again would add its
    own once more. They do the same where they checkpoint by themselves (GradientCheckpointingLayer).
    """
    found = blocks(model)
    if not found:
        raise ForetraceError("the module has no repeated blocks to checkpoint", "Checkpoint parts of it by hand.")
    with ExitStack() as undo:
        for block in found:
            undo.callback(setattr if "forward" in block.__dict__ else _unset, block, "forward", block.forward)
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        for config in _caching(model):
            undo.callback(setattr, config, "use_cache", True)
            config.use_cache = False
        yield


def _caching(model: nn.Module) -> list[Any]:
    """The configurations of its modules that say that keys and values are kept."""
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "config", None))}
    return [config for config in configs.values() if getattr(config, "use_cache", None) is True]


def _unset(block: nn.Module, name: str, value: Any) -> None:
    del block.__dict__[name]


def blocks(model: nn.Module) -> list[nn.Module]:
    """The outermost modules that stand in a list beside another of their class, and are made of modules themselves."""
    found: list[nn.Module] = []
    waiting = [model]
    while waiting:
        module = waiting.pop(0)
        children = list(module.children())
        for child in children:
            alike = sum(type(other) is type(child) for other in children)
            in_list = isinstance(module, (nn.ModuleList, nn.ModuleDict, nn.Sequential))
            if in_list and alike > 1 and any(True for _ in child.children()):
                found.append(child)
            else:
                waiting.append(child)
    return found


@contextmanager
def written_out_attention(model: nn.Module) -> Iterator[None]:
    """`scaled_dot_product_attention` computes its scores with matrix products, and keeps them."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def fused_attention(model: nn.Module) -> Iterator[None]:
    """A model of transformers whose attention is written out calls `scaled_dot_product_attention` instead."""
    config = getattr(model, "config", None)
    before = getattr(config, "_attn_implementation", None)
    choose: Any = getattr(model, "set_attn_implementation", None)
    if before != "eager" or choose is None:
        raise ForetraceError("the module has no attention that it can exchange by itself", "Exchange it in the code.")
    try:
        choose("sdpa")
    except (ValueError, ImportError) as error:  # by which transformers says that a model has none
        lines = str(error).splitlines() or [type(error).__name__]
        raise ForetraceError(f"the module refuses fused attention: {lines[0]}", "Exchange it in the code.") from error
    try:
        yield
    finally:
        choose(before)


@contextmanager
def _optimizers(flags: dict[str, bool], model: nn.Module) -> Iterator[None]:
    """Optimizers run as these flags of their groups say."""

    def change(optimizer: Any, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            group.update({name: value for name, value in flags.items() if name in group})

    handle = torch_optimizer.register_optimizer_step_pre_hook(change)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def zeroed_gradients(model: nn.Module) -> Iterator[None]:
    """`zero_grad` fills gradients with zeros and keeps them, as before PyTorch 2.0."""
    with ExitStack() as undo:
        for owner in (torch.optim.Optimizer, nn.Module):
            stock = owner.zero_grad
            undo.callback(setattr, owner, "zero_grad", stock)
            owner.zero_grad = _filling(stock)  # type: ignore[method-assign]
        yield


def _filling(stock: Callable[..., None]) -> Callable[..., None]:
    return lambda self, set_to_none=False: stock(self, set_to_none=False)


VARIANTS: dict[str, Variant] = {
    "checkpointed": checkpointed,
    "written-out-attention": written_out_attention,
    "fused-attention": fused_attention,
    "for-loop-optimizer": partial(_optimizers, {"foreach": False, "fused": False}),
    "foreach-optimizer": partial(_optimizers, {"foreach": True, "fused": False}),
    "fused-optimizer": partial(_optimizers, {"foreach": False, "fused": True}),
    "zeroed-gradients": zeroed_gradients,
}
"""By name, what is laid over the module and its optimizers while the step is traced."""


def variant(name: str | None) -> Variant:
    """The variant of that name; without a name, the step as it is. Raises `ForetraceError` for another name."""
    if name is None:
        return _as_it_is
    if name not in VARIANTS:
        raise ForetraceError(f"there is no variant {name!r}", f"There are {', '.join(VARIANTS)}.")
    return VARIANTS[name]


@contextmanager
def _as_it_is(model: nn.Module) -> Iterator[None]:
    yield
