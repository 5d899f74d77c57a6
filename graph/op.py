"""An *op* is one ATen operator call as PyTorch dispatched it, in execution order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from math import prod
from typing import NamedTuple

from .bulk import of_columns
from .dtype import itemsize
from .phase import Phase

Value = object
"""What an argument may be: a Tensor, a Const, None, a bool, int, float, complex, str, or a tuple of these."""


class Tensor(NamedTuple):
    """A strided view of a storage. ``strides`` and ``offset`` count elements, not bytes."""

    storage: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def numel(self) -> int:
        """Number of elements, repeats of an expanded dimension included."""
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return itemsize(self.dtype)

    @property
    def bytes(self) -> int:
        """Bytes of all elements, as if each had its own place."""
        return byte_count(self.dtype, self.shape)

    @property
    def touched_bytes(self) -> int:
        """Bytes of the places a kernel has to touch: a dimension of stride 0 counts once."""
        return touched_byte_count(self.dtype, self.shape, self.strides)


@lru_cache(maxsize=4096)
def byte_count(dtype: str, shape: tuple[int, ...]) -> int:
    """What `Tensor.bytes` is of a tensor of that type and shape."""
    return itemsize(dtype) * prod(shape)


@lru_cache(maxsize=4096)
def touched_byte_count(dtype: str, shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """What `Tensor.touched_bytes` is of a tensor of that form."""
    return itemsize(dtype) * prod(size if stride else min(size, 1) for size, stride in zip(shape, strides, strict=True))


class Const(NamedTuple):
    """A torch constant by kind and name: ``Const("dtype", "float32")``, ``Const("device", "cuda:0")``."""

    kind: str
    name: str


class NotATensor(TypeError):
    """An argument is asked for as a tensor, and is none: it was left out, or is sparse and so several tensors."""


class Source(NamedTuple):
    """A line of the user's code."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def tensors(value: Value) -> Iterator[Tensor]:
    """All tensors inside an argument or a result, in order."""
    return iter(_tensors((value,)))


def _collect(values: Iterable[Value], found: list[Tensor]) -> None:
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, tuple) and not isinstance(value, Const):
            _collect(value, found)


def _tensors(values: Iterable[Value]) -> tuple[Tensor, ...]:
    """The tensors inside all of these values."""
    found: list[Tensor] = []
    _collect(values, found)
    return tuple(found)


@cache
def _packet(name: str) -> str:
    return name.rsplit(".", 1)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One operator call.

    ``name`` is the overload's full name (``"aten.addmm.default"``), ``args`` every argument by its
    schema name with defaults filled in only where the caller gave them, ``result`` what it returned
    (a Tensor, None, or a tuple of these). ``mutates`` names the arguments it wrote to.
    ``forward`` is the id of the forward op whose derivative this op computes.
    """

    id: int
    name: str
    phase: Phase
    args: Mapping[str, Value]
    result: Value
    mutates: tuple[str, ...] = ()
    module: str = ""
    source: Source | None = None
    sequence: int | None = None
    """The autograd sequence number, which a forward op shares with the node that differentiates it."""
    forward: int | None = None
    inputs: tuple[Tensor, ...] = field(init=False)
    outputs: tuple[Tensor, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", _tensors(self.args.values()))
        object.__setattr__(self, "outputs", _tensors((self.result,)))

    @property
    def packet(self) -> str:
        """The name without its overload: ``"aten.addmm"``."""
        return _packet(self.name)

    def tensor(self, name: str) -> Tensor:
        """The argument `name`, which must be a tensor. Raises `NotATensor`, a ``TypeError``, if it is not."""
        value = self.args.get(name)
        if not isinstance(value, Tensor):
            raise NotATensor(f"{self.name}: argument {name!r} is {value!r}, not a tensor")
        return value

    def get(self, name: str, default: Value = None) -> Value:
        """The argument `name`, or `default` where the caller left it out."""
        return self.args.get(name, default)

    @property
    def written(self) -> tuple[Tensor, ...]:
        """The tensors among the arguments that it writes to."""
        return _tensors([self.args[name] for name in self.mutates]) if self.mutates else ()

    @property
    def is_view(self) -> bool:
        """True when it only makes new strides over storages that it was given."""
        if self.mutates or not self.outputs:
            return False
        given = {t.storage for t in self.inputs}
        return all(t.storage in given for t in self.outputs)


Given = Sequence[tuple[Tensor, ...] | None]


def ops_of(
    *,
    args: Sequence[Mapping[str, Value]],
    result: Sequence[Value],
    inputs: Given = (),
    outputs: Given = (),
    **columns: Sequence[object],
) -> tuple[Op, ...]:
    """Ops from a column of values for each field, all at once; their ids are their places.

    Where `inputs` and `outputs` are None, or left out, they are looked for. Raises ``ValueError`` for columns of
    unequal length.
    """
    inputs, outputs = inputs or [None] * len(args), outputs or [None] * len(result)
    columns["inputs"] = [
        _tensors(values.values()) if known is None else known for known, values in zip(inputs, args, strict=True)
    ]
    columns["outputs"] = [
        _tensors((made,)) if known is None else known for known, made in zip(outputs, result, strict=True)
    ]
    return tuple(of_columns(Op, len(args), id=range(len(args)), args=args, result=result, **columns))
