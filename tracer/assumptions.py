"""What a trace takes for granted where a real run would look at the data.

An *assumption* stands for values that a trace does not have: the size of ``nonzero``, a loss read with
``.item()``. Each has a default that can be explained, and every use is listed with its place.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch

from ..graph import ForetraceError, Outcome, Outcomes
from .replay import AS_RUN, Replay, shapes_of

Shape = tuple[int, ...]
Number = bool | int | float
Setting = Number | Sequence[Number]

KINDS = {
    "item": "what an unknown scalar is, when it is read",
    "nonzero": "how many of the elements are not zero",
    "masked_select": "how many of the elements the mask keeps",
    "index": "how many of the rows a boolean index keeps",
    "unique": "how many of the values differ",
    "bincount": "how many bins there are",
    "repeat_interleave": "how many rows the repeats make",
    "nms": "how many boxes are kept",
    "unknown": "what an op without a meta kernel returns: true stands for results like its first input",
}
"""What can be set, and what a setting means. A number below 1 is a fraction, a whole number is a count.

Several numbers are taken one after the other, from the first again in every step.
"""


IN_PROPORTION = "as large a part as in the real run"
"""What is assumed where an outcome is of other sizes."""


class Assumptions:
    """Answers for data-dependent ops, and the list of those that were needed.

    `settings` are by kind (a key of `KINDS`) or by place (``"model.py:71"``), the place first. With `strict`
    an assumption that no setting covers is an error. `outcomes` of a real run stand for what no setting covers.
    """

    def __init__(
        self,
        settings: Mapping[str, Setting] | None = None,
        strict: bool = False,
        outcomes: Outcomes | None = None,
    ) -> None:
        self.replay = Replay(outcomes) if outcomes is not None else None
        self._settings = dict(settings or {})
        self._strict = strict
        self._used: dict[tuple[str, str, str], list[int]] = {}
        self._taken: Counter[str] = Counter()
        self._masks = 0
        for key in self._settings:
            if key not in KINDS and ":" not in key:
                near = difflib.get_close_matches(key, KINDS, 1)
                hint = f"Did you mean {near[0]!r}? " if near else ""
                raise ForetraceError(
                    f"nothing is assumed of {key!r}",
                    f"{hint}Name a line, as model.py:71, or one of {', '.join(KINDS)}.",
                )

    def used(self) -> list[dict[str, object]]:
        """Each assumption that was made: ``op``, ``assumed``, ``at``, how often, and the bytes of what it sized."""
        return [
            {"op": op, "assumed": what, "at": at, "count": count, "bytes": nbytes}
            for (op, what, at), (count, nbytes) in sorted(self._used.items())
        ]

    def begin(self) -> None:
        """A step begins: forget what was needed so far."""
        self._used.clear()
        self._taken.clear()
        self._masks = 0
        if self.replay is not None:
            self.replay.begin()

    def setting(self, kind: str, where: str) -> Number | None:
        """What the user said of this place, or else of this kind."""
        key = self._key(kind, where)
        value = self._settings.get(key)
        if not isinstance(value, Sequence):
            return value
        self._taken[key] += 1
        return value[(self._taken[key] - 1) % len(value)]

    def scalar(self, dtype: torch.dtype, where: str, outcome: Outcome | None = None) -> Any:
        """The value of an unknown scalar: False, 0 or 0.0 (a test for NaN or overflow then says no)."""
        told = self.setting("item", where)
        if told is None and outcome is not None and outcome.results[0].values:
            self.say("aten._local_scalar_dense.default", AS_RUN, where)
            return outcome.results[0].values[0]
        default: Any = False if dtype is torch.bool else 0.0 if dtype.is_floating_point else 0
        value = default if told is None else type(default)(told)
        self.say("aten._local_scalar_dense.default", f"the value is {value}", where, told=told is not None)
        return value

    def next_mask(self) -> int:
        """The number in this step of a mask that comes to be assumed."""
        self._masks += 1
        return self._masks - 1

    def _key(self, kind: str, where: str) -> str:
        """The setting that counts: that of the place, or else that of the kind."""
        places = (key for key in self._settings if ":" in key)
        here = (key for key in places if where == key or where.endswith((f"({key})", f"/{key})", f"/{key}")))
        return next(here, kind)

    def is_set(self, name: str, where: str) -> bool:
        """Whether the user said how large the result of this op is here."""
        rule = _RULES.get(name.rsplit(".", 1)[0])
        return rule is not None and bool(self._settings) and self._key(rule[0], where) in self._settings

    def is_read(self, where: str) -> bool:
        """Whether the user said what is read by ``.item()`` here."""
        return bool(self._settings) and self._key("item", where) in self._settings

    def say(self, op: str, what: str, where: str, nbytes: int = 0, told: bool = False) -> None:
        """Note the use of an assumption; an error in strict mode where the user has not `told` what holds."""
        if self._strict and not told and what not in (AS_RUN, IN_PROPORTION):
            raise ForetraceError(
                f"{op} needs an assumption at {where}: {what}",
                "Set it with --assume LINE=VALUE (in Python assume={...}), or trace without --strict.",
            )
        entry = self._used.setdefault((op, what, where), [0, 0])
        entry[0] += 1
        entry[1] += nbytes

    def shapes(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        where: str,
        outcome: Outcome | None = None,
    ) -> list[tuple[Shape, torch.dtype]] | None:
        """Shapes and dtypes of the results of a data-dependent op; None where nothing can be assumed."""
        rule = _RULES.get(name.rsplit(".", 1)[0])
        if rule is None:
            return None
        kind, function = rule
        told = self.setting(kind, where)
        if told is None and outcome is not None and outcome.given == shapes_of((*args, *kwargs.values())):
            what, shapes = AS_RUN, [(result.shape, getattr(torch, result.dtype)) for result in outcome.results]
        elif told is None and outcome is not None and outcome.share is not None:
            share = outcome.share
            what, shapes = IN_PROPORTION, function(args, kwargs, lambda most: round(most * share))[1]
        else:
            what, shapes = function(args, kwargs, lambda most: _count(most, told))
            what = what if told is None else f"{KINDS[kind]}: as set"
        nbytes = sum(prod(shape) * dtype.itemsize for shape, dtype in shapes)
        self.say(name, what, where, nbytes, told is not None)
        return shapes


def most_of(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """How large the first result would be if everything counted; 0 for an op with no such size."""
    rule = _RULES.get(name.rsplit(".", 1)[0])
    return prod(rule[1](args, kwargs, lambda most: most)[1][0][0]) if rule is not None else 0


def _count(most: int, told: Number | None) -> int:
    """How many of `most`: all, a fraction, or a number."""
    if told is None:
        return most
    if isinstance(told, bool) or told < 0:
        raise ForetraceError(f"an assumption of {told} is no count and no fraction", "Give 0.25, or 100.")
    return round(most * told) if isinstance(told, float) and told <= 1 else min(int(told), most)


def _nonzero(args: Any, kwargs: Any, count: Any) -> Any:
    mask = args[0]
    return "every element counts", [((count(mask.numel()), mask.dim()), torch.int64)]


def _masked_select(args: Any, kwargs: Any, count: Any) -> Any:
    values, mask = args[:2]
    most = prod(torch.broadcast_shapes(values.shape, mask.shape))
    return "every element is kept", [((count(most),), values.dtype)]


def _index(args: Any, kwargs: Any, count: Any) -> Any:
    values, indices = args[:2]
    front: list[int] = []
    counts: list[Shape] = []
    dim = 0
    for index in indices:
        if index is None:
            front.append(values.shape[dim])
            dim += 1
        elif index.dtype in (torch.bool, torch.uint8):
            counts.append((count(prod(index.shape)),))
            dim += index.dim()
        else:
            counts.append(tuple(index.shape))
            dim += 1
    picked = tuple(torch.broadcast_shapes(*counts)) if counts else ()
    # With one run of indices the picked dimensions take its place; a mask in front is by far the most common.
    lead = next((i for i, index in enumerate(indices) if index is not None), 0)
    shape = (*front[:lead], *picked, *front[lead:], *values.shape[dim:])
    return "the mask keeps every row", [(shape, values.dtype)]


def _unique(args: Any, kwargs: Any, count: Any) -> Any:
    values = args[0]
    different = count(values.numel())
    shapes = [((different,), values.dtype), (tuple(values.shape), torch.int64), ((different,), torch.int64)]
    return "all values differ", shapes


def _bincount(args: Any, kwargs: Any, count: Any) -> Any:
    values = args[0]
    weights = args[1] if len(args) > 1 else kwargs.get("weights")
    least = args[2] if len(args) > 2 else kwargs.get("minlength", 0)
    dtype = torch.int64 if weights is None else torch.float64
    bins = max(least, count(least or values.numel()))
    return f"values are below {bins}", [((bins,), dtype)]


def _nms(args: Any, kwargs: Any, count: Any) -> Any:
    return "every box is kept", [((count(args[0].shape[0]),), torch.int64)]


def _repeats(args: Any, kwargs: Any, count: Any) -> Any:
    size = kwargs.get("output_size") or count(args[0].numel())
    return "each row is repeated once", [((size,), torch.int64)]


def _unique_rows(args: Any, kwargs: Any, count: Any) -> Any:
    values = args[0]
    dim = next((a for a in args[1:2] if type(a) is int), None)
    different = count(values.numel() if dim is None else values.shape[dim])
    shape = (different,) if dim is None else (*values.shape[:dim], different, *values.shape[dim + 1 :])
    return "all values differ", [(shape, values.dtype), ((different,), torch.int64), ((different,), torch.int64)]


_RULES = {
    "aten.repeat_interleave": ("repeat_interleave", _repeats),
    "aten.unique_consecutive": ("unique", _unique_rows),
    "aten.unique_dim": ("unique", _unique_rows),
    "torchvision.nms": ("nms", _nms),
    "aten.nonzero": ("nonzero", _nonzero),
    "aten.masked_select": ("masked_select", _masked_select),
    "aten.index": ("index", _index),
    "aten._unique2": ("unique", _unique),
    "aten.bincount": ("bincount", _bincount),
}
