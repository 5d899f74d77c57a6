"""Ops that need an answer of their own, because C++ reads values or has written them before we are asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from . import cudnn_layers
from .arena import Owner
from .calls import dense
from .replay import AS_RUN, fill, shapes_of
from .signature import Signature

if TYPE_CHECKING:
    from .record import Recorder

Owners = list[Owner | None]


def _scalar(recorder: Recorder, sig: Signature, args: Any, kwargs: Any, owners: Owners) -> Any:
    """``.item()``: the value where it is known, else an assumption."""
    owner = owners[0]
    told = owner is not None and owner.assumed and (recorder.outcome or recorder.assumptions.is_read(recorder.where()))
    if owner is None or (owner.known and not told):
        if owner is not None and owner.assumed:
            recorder.read(owner, args[0].dtype)
        return sig.func(*args, **kwargs)
    return recorder.assumptions.scalar(args[0].dtype, recorder.where(), recorder.outcome)


def _lift(recorder: Recorder, sig: Signature, args: Any, kwargs: Any, owners: Owners) -> Any:
    """``torch.tensor(...)``: C++ has just written the values into memory that it asked us for."""
    if owners[0] is not None and owners[0].small:
        owners[0].known = True
    return sig.func(*args, **kwargs)


def _pack(recorder: Recorder, sig: Signature, args: Any, kwargs: Any, owners: Owners) -> Any:
    """Padded sequences side by side: the lengths are read on the host."""
    x, lengths, batch_first = args
    outcome = recorder.outcome
    if outcome is not None and outcome.given == shapes_of(args) and outcome.results[1].values:
        recorder.assumptions.say(sig.name, AS_RUN, recorder.where())
        sizes = recorder.new(outcome.results[1].shape, (1,), torch.int64, "cpu", known=True)
        fill(sizes, outcome.results[1])
        shape = outcome.results[0].shape
        return recorder.new(shape, dense(shape), x.dtype, recorder.claimed(x)), sizes
    known = owners[1] is None or owners[1].known
    steps, count = (x.shape[1], x.shape[0]) if batch_first else (x.shape[0], x.shape[1])
    if not known:
        recorder.assumptions.say(sig.name, "every sequence has the full length", recorder.where())
    ends = lengths.tolist() if known else [steps] * count
    sizes = recorder.new((max(ends),), (1,), torch.int64, "cpu", known=True)
    sizes.copy_(torch.tensor([sum(end > step for end in ends) for step in range(max(ends))]))
    shape = (sum(ends), *x.shape[2:])
    return recorder.new(shape, dense(shape), x.dtype, recorder.claimed(x)), sizes


def _same(recorder: Recorder, sig: Signature, args: Any, kwargs: Any, owners: Owners) -> Any:
    """``torch.equal`` and ``allclose``: for unknown values, whether both are the same tensor."""
    if all(owner is None or owner.known for owner in owners):
        return sig.func(*args, **kwargs)
    if recorder.outcome is not None and recorder.outcome.results[0].values:
        recorder.assumptions.say(sig.name, AS_RUN, recorder.where())
        return bool(recorder.outcome.results[0].values[0])
    same = owners[0] is owners[1]
    recorder.assumptions.say(sig.name, "the tensors are the same" if same else "the tensors differ", recorder.where())
    return same


def _no_memory(recorder: Recorder, sig: Signature, args: Any, kwargs: Any, owners: Owners) -> Any:
    """A tensor of zeros that forward differentiation never writes down: it has no memory."""
    return sig.func(*args, **{**kwargs, "device": torch.device("cpu")})


ITEM = "aten._local_scalar_dense.default"
"""``.item()``"""

SPECIAL: dict[str, Callable[..., Any]] = {
    "aten._efficientzerotensor.default": _no_memory,
    ITEM: _scalar,
    "aten._pack_padded_sequence.default": _pack,
    "aten.allclose.default": _same,
    "aten.equal.default": _same,
    "aten.lift_fresh.default": _lift,
    **cudnn_layers.ANSWERS,
}
"""Op -> its answer, given the recorder, the signature, the arguments and the owners of the tensors among them."""

READS = frozenset(SPECIAL) - {"aten._efficientzerotensor.default", "aten.lift_fresh.default", *cudnn_layers.ANSWERS}
"""Those that look at values."""
