"""An operator's schema, read once: what it writes to, what its results share, and what kind of op it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .bounds import takes_indices
from .foreach import ELEMENTWISE

SHARES_SILENTLY = frozenset(
    {
        "aten._unsafe_view.default",
        "aten.lift.default",
        "aten.unsafe_split.Tensor",
        "aten.unsafe_split_with_sizes.default",
        "aten.unsafe_chunk.default",
        "aten._sparse_coo_tensor_with_dims_and_tensors.default",
    }
)
"""Ops whose result is a view although their schema does not say so (ATen/native/TensorShape.cpp)."""

DYNAMIC_SILENTLY = frozenset({"torchvision.nms.default"})
"""Ops whose result's size depends on values although they have no tag that says so."""

_DYNAMIC = frozenset({torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output})

KEEPS_NUMBER = frozenset({"aten.mul.Tensor", "aten.mul_.Tensor", "aten.div.Tensor", "aten.div_.Tensor"})
"""Ops whose derivative saves the second factor, also where it is a number (tools/autograd/derivatives.yaml)."""

OVERWRITES = frozenset({"aten.fill_", "aten.zero_", "aten.copy_", "aten.normal_", "aten.uniform_", "aten.random_"})
"""In-place ops after which the old values no longer matter."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What the recorder must know of an overload before it runs it."""

    func: Any
    """The overload itself; None for what is not an op of torch."""
    name: str
    names: tuple[str, ...]
    """Argument names in schema order; the first `positional` may be given by position."""
    mutates: tuple[str, ...]
    aliases: tuple[int | None, ...]
    """For each result, the position of the argument that it is, or None for a new tensor."""
    view: bool
    restrides: bool
    """Changes the strides or the storage of the tensor it is given (``squeeze_``, ``set_``)."""
    random: bool
    dynamic: bool
    """The shape of its result depends on values."""
    composite: bool
    """Made of other ops only, so that it must not be recorded itself."""
    overwrites: bool
    keeps_number: bool = False
    """Its derivative saves the second argument, also where that is a number."""
    of_profiler: bool = False
    """Not part of the step."""
    told_from_lists: bool = False
    """Gives each tensor of its first list back, changed (`foreach`); a key of its call would cost more than asking."""
    takes_indices: bool = False
    """Has indices that may lie outside of what they point into (`bounds`)."""
    needs_no_key: bool = False
    """Nothing is remembered of its calls: it is really run on the tensors, or told from them."""


def read(func: torch._ops.OpOverload) -> Signature:
    """The signature of an overload."""
    schema = func._schema
    name = str(func)
    sets = [frozenset(a.alias_info.before_set) if a.alias_info else frozenset() for a in schema.arguments]
    writes = [bool(a.alias_info and a.alias_info.is_write) for a in schema.arguments]
    shared = [r for r in schema.returns if r.alias_info is not None]
    view = name in SHARES_SILENTLY or bool(shared and not any(r.alias_info and r.alias_info.is_write for r in shared))
    restrides = torch.Tag.inplace_view in func.tags or name.startswith(("aten.set_", "aten.resize_"))
    from_lists = name.rsplit(".", 1)[0].rstrip("_") in ELEMENTWISE
    return Signature(
        func=func,
        name=name,
        names=tuple(a.name for a in schema.arguments),
        mutates=tuple(a.name for a, write in zip(schema.arguments, writes, strict=True) if write),
        aliases=tuple(_argument_of(r, sets) for r in schema.returns),
        view=view,
        restrides=restrides,
        random=torch.Tag.nondeterministic_seeded in func.tags,
        dynamic=name in DYNAMIC_SILENTLY or bool(_DYNAMIC.intersection(func.tags)),
        composite=_is_composite(func),
        overwrites=name.rsplit(".", 1)[0] in OVERWRITES,
        keeps_number=name in KEEPS_NUMBER,
        of_profiler=name.startswith("profiler."),
        told_from_lists=from_lists,
        takes_indices=takes_indices(name),
        needs_no_key=view or restrides or from_lists,
    )


def decompose(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a composite op by its kernel in C++, as a real run does.

    ``func.decompose`` prefers a decomposition in Python where there is one. Those are made for compilers, and some do
    otherwise: that of a dropout which drops nothing copies (torch/_decomp/decompositions.py of 2.13), while the kernel
    hands its input on (ATen/native/Dropout.cpp).
    """
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key):
        return func._op_dk(key, *args, **kwargs)
    return func.decompose(*args, **kwargs)


def in_order(sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments by their positions in the schema, where a result is one that is given by name (``out=``)."""
    if all(alias is None or alias < len(args) for alias in sig.aliases):
        return args
    return (*args, *(kwargs.get(name) for name in sig.names[len(args) :]))


def _argument_of(result: torch._C.Argument, sets: list[frozenset[str]]) -> int | None:
    info = result.alias_info
    if info is None or not info.is_write or not info.before_set:
        return None
    wanted = frozenset(info.before_set)
    return next((i for i, names in enumerate(sets) if names == wanted), None)


def _is_composite(func: torch._ops.OpOverload) -> bool:
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    name = func.name()
    return (
        has(name, "CompositeImplicitAutograd") and not has(name, "CPU") and not has(name, "CompositeExplicitAutograd")
    )
