"""A module -> its runs of *blocks* that are alike: siblings that one trace can stand for.

Two blocks are *alike* where nothing tells one from the other but the values of their own tensors: the same classes in
the same places, equal attributes, parameters and buffers of equal shape, dtype, strides and trainability that nobody
else holds, and no hooks. A whole-number attribute may differ (``layer_idx``), if it is not read while a block runs;
`Run.numbers` names these. Whatever is of a kind that is not known here makes two blocks unlike.
"""

from __future__ import annotations

import functools
import sys
import types
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from operator import is_
from typing import Any

import torch
from torch import nn

LONGEST_PERIOD = 8
FEWEST_UNITS = 6
"""Four units of a run are run in any case: fewer than this and there is little to gain."""

_HOOKS = tuple(
    name for name in vars(nn.Module()) if name.endswith("_hooks") and "state_dict" not in name and "load" not in name
)
_PLAIN = (bool, float, str, bytes, complex, type(None), torch.dtype, torch.device, torch.Size, torch.memory_format)
_SIMPLE = frozenset((bool, int, float, str, type(None)))
_TABLES = frozenset((dict, OrderedDict))
_CODE = (types.FunctionType, types.BuiltinFunctionType, type, types.ModuleType, torch._ops.OpOverloadPacket)

NumberOf = tuple[type[nn.Module], str]


@dataclass(slots=True)
class Run:
    """Blocks one after the other, alike at distances of `period`: `units` times the same few blocks."""

    blocks: list[tuple[str, nn.Module]]
    period: int
    numbers: frozenset[NumberOf]
    """The whole-number attributes by which its blocks differ, with the class that has them."""
    lead: int = 2
    """How many units are run at the beginning; the last of them is the template."""

    @property
    def units(self) -> int:
        """How often the few blocks repeat."""
        return len(self.blocks) // self.period

    def template(self, place: int) -> int:
        """The block that stands for the one at `place`; not of the first unit, since that has another neighbour."""
        return (self.lead - 1) * self.period + place % self.period

    def is_run(self, place: int) -> bool:
        """Whether the block is run in any case: the leading units and the last two are."""
        return not self.lead <= place // self.period < self.units - 2


def runs(model: nn.Module) -> list[Run]:
    """The outermost runs of `model`, in order."""
    tensors = (t for m in model.modules() for t in (*m._parameters.values(), *m._buffers.values()))
    holders = Counter(_address(t) for t in tensors if t is not None)
    found: list[Run] = []
    waiting: list[tuple[str, nn.Module]] = [("", model)]
    seen: set[int] = set()
    while waiting:
        name, module = waiting.pop(0)
        if id(module) in seen:
            continue
        seen.add(id(module))
        prefix = f"{name}." if name else ""
        children = [(prefix + key, child) for key, child in module._modules.items() if child is not None]
        here = _in_row(children, holders)
        found += here
        inside = {id(block) for run in here for _, block in run.blocks}
        waiting += [child for child in children if id(child[1]) not in inside]
    return found


def _address(tensor: torch.Tensor) -> int:
    lazy = isinstance(tensor, nn.parameter.UninitializedTensorMixin)  # type: ignore[attr-defined]
    return 0 if lazy or tensor.layout is not torch.strided else tensor.data_ptr()


def _in_row(children: list[tuple[str, nn.Module]], holders: Counter[int]) -> list[Run]:
    """The runs among siblings: the one that saves most, and those to its left and right."""
    if len(children) < FEWEST_UNITS:
        return []
    kinds, numbers = _kinds([child for _, child in children], holders)
    found: list[Run] = []
    spans = [(0, len(children))]
    while spans:
        start, end = spans.pop()
        best = max(
            ((saved, -period, first) for period in range(1, LONGEST_PERIOD + 1)
             for saved, first in _periodic(kinds[start:end], period)),
            default=None,
        )  # fmt: skip
        if best is None:
            continue
        saved, period, first = best[0], -best[1], start + best[2]
        count = saved + 4 * period
        blocks = children[first : first + count]
        found.append(Run(blocks, period, frozenset().union(*(numbers[k] for k in set(kinds[first : first + count])))))
        spans += [(start, first), (first + count, end)]
    return found


def _periodic(kinds: list[int], period: int) -> Iterable[tuple[int, int]]:
    """How many blocks a run of this period would save, and where it begins, for each one that there is."""
    first = 0
    while first < len(kinds):
        end = first
        while end + period < len(kinds) and kinds[end] == kinds[end + period] and kinds[end] >= 0:
            end += 1
        units = (end - first) // period + 1
        if units >= FEWEST_UNITS and min(kinds[first : first + period]) >= 0:
            yield (units - 4) * period, first
        first = end + 1


def _kinds(blocks: list[nn.Module], holders: Counter[int]) -> tuple[list[int], dict[int, set[NumberOf]]]:
    """A number for each block, equal for those alike and -1 for those of no use; and the attributes that differ."""
    firsts: list[nn.Module] = []
    forms: dict[int, tuple[Any, ...]] = {}
    kinds: list[int] = []
    numbers: dict[int, set[NumberOf]] = {}
    for block in blocks:
        kind = -1
        if any(True for _ in block.parameters()):
            for place, first in enumerate(firsts):
                differing: set[NumberOf] = set()
                if _Likeness(holders, differing, forms).modules(first, block):
                    kind = place
                    numbers[place] |= differing
                    break
            else:
                kind = len(firsts)
                firsts.append(block)
                numbers[kind] = set()
        kinds.append(kind)
    return kinds, numbers


_NO_FORM: tuple[Any, ...] = ()


class _Likeness:
    """Compares two blocks; `differing` takes up the attributes by which they may differ."""

    def __init__(self, holders: Counter[int], differing: set[NumberOf], forms: dict[int, tuple[Any, ...]]) -> None:
        self.holders, self.differing, self.forms = holders, differing, forms
        """Of the tensors of blocks that others are compared with, by identity."""
        self.pairs: dict[int, Any] = {}

    def modules(self, a: nn.Module, b: nn.Module) -> bool:
        """Whether two modules are alike, with all that is inside."""
        if id(a) in self.pairs:
            return self.pairs[id(a)] is b
        self.pairs[id(a)] = b
        if a is b:
            return not any(True for _ in a.parameters()) and not any(True for _ in a.buffers())
        if type(a) is not type(b) or isinstance(a, torch.jit.ScriptModule):
            return False
        mine, others = a.__dict__, b.__dict__
        if mine.keys() != others.keys() or "forward" in mine or "__call__" in mine:
            return False
        for name, value in mine.items():
            other = others[name]
            same = value is other and type(value) in _SIMPLE
            empty = type(value) in _TABLES and type(other) is type(value) and not value and not other
            if not (same or empty or self._attribute(a, name, value, other)):
                return False
        return True

    def _attribute(self, module: nn.Module, name: str, a: Any, b: Any) -> bool:
        if name in _HOOKS:
            return not a and not b
        if name == "_modules":
            return list(a) == list(b) and all(
                x is y is None or (x is not None and y is not None and self.modules(x, y))
                for x, y in zip(a.values(), b.values(), strict=True)
            )
        if name in ("_parameters", "_buffers"):
            return list(a) == list(b) and all(self._tensors(x, y) for x, y in zip(a.values(), b.values(), strict=True))
        if type(a) is int and type(b) is int:
            if a != b:
                self.differing.add((type(module), name))
            return True
        return self._values(a, b)

    def _tensors(self, a: Any, b: Any) -> bool:
        """Whether two parameters or buffers are alike, and each the only one on its storage."""
        if a is None or b is None:
            return a is b
        if a is b or type(a) not in (nn.Parameter, torch.Tensor, nn.Buffer):
            return False
        form = self.forms.get(id(a))
        if form is None:
            form = self.forms[id(a)] = self._form(a)
        return form is not _NO_FORM and form == self._form(b) and self._values(vars(a), vars(b))

    def _form(self, tensor: torch.Tensor) -> tuple[Any, ...]:
        """What is the same of tensors alike; that of a tensor which is not for a fold is like no other's."""
        alone = _address(tensor) != 0 and self.holders[_address(tensor)] == 1 and tensor.layout is torch.strided
        if not (alone and tensor.is_leaf and not tensor._is_view() and _whole(tensor)):
            return _NO_FORM
        if _hooked(tensor) or tensor.grad is not None:
            return _NO_FORM
        return type(tensor), tensor.shape, tensor.dtype, tensor.stride(), tensor.device, tensor.requires_grad

    def _values(self, a: Any, b: Any) -> bool:
        kind = type(a)
        if kind is not type(b):
            return False
        if kind in _PLAIN or kind is int:
            return bool(a == b)
        if isinstance(a, Enum):
            return a is b
        if isinstance(a, torch.Tensor):
            return False
        if isinstance(a, nn.Module):
            return self.pairs.get(id(a)) is b or a is b
        if isinstance(a, _CODE):
            return a is b and not _remembers(a)
        if kind is types.MethodType:
            return a.__func__ is b.__func__ and self._values(a.__self__, b.__self__)
        if kind is functools.partial:
            return self._values((a.func, a.args, a.keywords), (b.func, b.args, b.keywords))
        if kind in (list, tuple):
            return len(a) == len(b) and all(map(self._values, a, b))
        if isinstance(a, dict):
            return list(a) == list(b) and all(self._values(a[key], b[key]) for key in a)
        if kind in (set, frozenset):
            return bool(a == b) and all(type(item) in (*_PLAIN, int) for item in a)
        return a is b and hasattr(a, "__dict__") and not hasattr(kind, "__next__")


def _remembers(code: Any) -> bool:
    """Whether a function has a place for what it saw last time."""
    return bool(getattr(code, "__closure__", None)) and not (getattr(code, "__module__", "") or "").startswith("torch")


def _hooked(tensor: torch.Tensor) -> bool:
    return bool(tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None))


def _whole(tensor: torch.Tensor) -> bool:
    """Whether the tensor is all that is on its storage."""
    return not tensor.storage_offset() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.itemsize


State = list[list[Any]]


def state(block: nn.Module) -> State:
    """What the attributes of a block are, and what its own containers hold, by identity."""
    seen: State = []
    for module in inside(block):
        attributes = module.__dict__
        seen.append([*attributes, *attributes.values()])
        for value in attributes.values():
            kind = type(value)
            if kind in _TABLES:
                if value:
                    seen.append(_seen(value))
            elif kind not in _SIMPLE and isinstance(value, (dict, list, set)):
                seen.append(_seen(value))
    return seen


def inside(block: nn.Module) -> list[nn.Module]:
    """The block and all modules in it; what is there twice is given twice."""
    found = [block]
    for module in found:
        found += [child for child in module._modules.values() if child is not None]
    return found


def shared(block: nn.Module) -> list[dict[str, Any]]:
    """The attributes of the objects that a block has in common with those alike."""
    values = {id(value): value for module in inside(block) for value in module.__dict__.values()}
    return [
        value.__dict__
        for value in values.values()
        if type(value) not in _PLAIN and not isinstance(value, (int, *_CODE, nn.Module)) and hasattr(value, "__dict__")
    ]


def shared_state(shared: list[dict[str, Any]]) -> State:
    """What these attributes are, by identity."""
    return [_seen(attributes) for attributes in shared]


def surroundings(block: nn.Module) -> State:
    """What the classes of a block hold, and the files that they are written in."""
    kinds = {kind for module in block.modules() for kind in type(module).__mro__ if kind.__module__[:6] != "torch."}
    rooms = {name: vars(sys.modules[name]) for name in {kind.__module__ for kind in kinds} if name in sys.modules}
    seen = [_seen(dict(vars(kind))) for kind in kinds]
    for room in rooms.values():
        seen += [_seen(room), *(_seen(value) for value in room.values() if isinstance(value, (dict, list, set)))]
    return seen


def unchanged(before: State, now: State) -> bool:
    """Whether two looks at a block saw the very same objects."""
    return len(before) == len(now) and all(
        len(a) == len(b) and all(map(is_, a, b)) for a, b in zip(before, now, strict=True)
    )


def _seen(holder: Any) -> list[Any]:
    return [*holder.keys(), *holder.values()] if isinstance(holder, dict) else list(holder)
