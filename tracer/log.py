"""What a trace writes down: storages with their births and deaths, ops as rows, and the phases they belong to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from types import CodeType
from typing import Any, NamedTuple

import torch

from ..graph import Const, Phase, Tensor
from .arena import Arena, Owner, base_of, holds_values, storage_bytes
from .callers import Callers
from .calls import dense, inmost
from .frames import Frames, shorten
from .key import quiet
from .signature import Signature

_STRIDED = torch.strided
_shape, _dtype = attrgetter("shape"), attrgetter("dtype")
_DTYPE_NAMES: dict[torch.dtype, str] = {}


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.float32`` as ``"float32"``."""
    name = _DTYPE_NAMES.get(dtype)
    if name is None:
        name = _DTYPE_NAMES[dtype] = str(dtype).removeprefix("torch.")
    return name


_MANY = 16

CONSTANT_ELEMENTS = 1024
"""A constant up to this size is written into the trace, so that the trace can run again."""

PLACEHOLDER = "foretrace.fold.default"
"""What stands in the log for the ops of a folded block, until they are written."""

_CONSTANT = Signature(
    func=None,
    name="foretrace.constant.default",
    names=("values", "dtype"),
    mutates=(),
    aliases=(None,),
    view=False,
    restrides=False,
    random=False,
    dynamic=False,
    composite=False,
    overwrites=False,
)
"""Not an ATen op: a tensor that Python made of numbers, without any op."""
_FOLD = replace(_CONSTANT, name=PLACEHOLDER, names=())


@dataclass(slots=True)
class Row:
    """One recorded op, before the graph's nouns are made of it."""

    signature: Signature
    args: dict[str, Any]
    result: Any
    phase: Phase
    module: str
    code: CodeType | None
    line: int
    sequence: int | None
    forward: int | None


class Copy(NamedTuple):
    """Rows that repeat others, and are the very same objects; what is their own stands here."""

    first: int
    like: int
    """The places of the first of them, and of the first of those that they repeat."""
    modules: list[str]
    sequences: list[int | None]
    forwards: list[int | None]
    storages: Mapping[int, int]
    """Here, by those that stand in the others."""


@dataclass(slots=True)
class Marker:
    """A phase begins: the number of ops and of events recorded before it."""

    phase: Phase
    ops: int
    events: int


class Log:
    """The storages and the rows of one trace. ``device`` is where its tensors claim to be."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.owners: dict[int, Owner] = {}
        self.bytes_of: list[int] = []
        self.device_of: list[str] = []
        self.rows: list[Row] = []
        self.copies: list[Copy] = []
        self.events: list[tuple[int, int, int]] = []
        self.markers: list[Marker] = []
        self.at_start: frozenset[int] = frozenset()
        self.recording = False
        self.phase = Phase.FORWARD
        self.module_stack: list[str] = [""]
        self.progress: Callable[[str, int], None] | None = None
        self.observe: Callable[[Phase], None] | None = None
        self.autocast: dict[str, None] = {}
        """The dtypes of the regions of autocast that the recorded step is in, in the order in which they came."""
        self.numbers: dict[int, int] = {}
        """Ids of the storages of saved Python numbers, by the sequence number of the node."""
        self.at_hand: dict[int, Owner | None] = {}
        """While an op is answered: what is known of the tensors that it was given, by their ids."""
        self._arena = Arena(self._died)
        self.frames = Frames()
        self.callers = Callers(self.frames)
        self._sequence_owner: dict[int, int] = {}
        self._next_sequence = self.first_sequence = 0
        self._empty = self.new_id(0, device)

    # -- phases ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin the recorded step: what is live now was live at its start."""
        self.rows, self.copies, self.events, self.markers = [], [], [], []
        self._sequence_owner = {}
        self.callers.forget()
        self._next_sequence = self.first_sequence = torch._C._autograd._get_sequence_nr()
        self.at_start = frozenset([*(owner.id for owner in self.owners.values()), *self.numbers.values()])
        self.recording, self.phase = True, Phase.FORWARD
        self._mark()

    def stop(self) -> None:
        """End the recorded step."""
        self.recording = False

    def enter(self, phase: Phase) -> Phase:
        """Begin a phase; returns the one before, to go back to."""
        before, self.phase = self.phase, phase
        # Forward is what runs when nothing else does: it begins with its first op, not with the end of another.
        if phase is not Phase.FORWARD:
            self._mark()
        if self.progress is not None:
            self.progress(str(phase), len(self.rows))
        return before

    def left(self, phase: Phase) -> None:
        """A phase has ended: time for `observe` to look at gradients and state."""
        if self.observe is not None:
            self.observe(phase)

    def _mark(self) -> None:
        if self.recording and (not self.markers or self.markers[-1].phase is not self.phase):
            self.markers.append(Marker(self.phase, len(self.rows), len(self.events)))

    # -- storages -------------------------------------------------------------------------------

    def new_id(self, nbytes: int, device: str) -> int:
        """The id of one more storage."""
        self.bytes_of.append(nbytes)
        self.device_of.append(device)
        return len(self.bytes_of) - 1

    def _born(self, owner: Owner, nbytes: int, device: str, known: bool, op: int) -> Owner:
        owner.bytes, owner.device, owner.known, owner.assumed, owner.noun = nbytes, device, known, None, None
        owner.drawn = False
        owner.id = self.new_id(nbytes, device)
        self.owners[owner.base] = owner
        if self.recording and nbytes:
            self.events.append((op, owner.id, nbytes))
        return owner

    def _died(self, owner: Owner) -> None:
        if self.owners.get(owner.base) is owner:
            del self.owners[owner.base]
        if self.recording and owner.bytes:
            self.events.append((len(self.rows) - 1, owner.id, -owner.bytes))

    def keep_number(self, sequence: int, nbytes: int) -> None:
        """A number of the op that comes now is saved by the node of this sequence number."""
        self.numbers[sequence] = self.new_id(nbytes, "cpu")
        if self.recording:
            self.events.append((len(self.rows), self.numbers[sequence], nbytes))

    def free_number(self, sequence: int | None) -> None:
        """The node of this sequence number is done; it may have saved no number."""
        number = self.numbers.pop(sequence, None) if sequence is not None else None
        if number is not None and self.recording:
            self.events.append((len(self.rows) - 1, number, -self.bytes_of[number]))

    def owner_of(self, tensor: torch.Tensor) -> Owner | None:
        """What is known of a tensor's storage; None for a tensor without bytes."""
        base = tensor.data_ptr()
        if not base:
            return None
        offset = tensor.storage_offset()
        owner = self.owners.get(base - int(offset) * tensor.itemsize if offset else base)
        return self._adopt(tensor) if owner is None else owner

    def owners_of(self, tensors: list[torch.Tensor]) -> list[Owner | None]:
        """The same for several; None also for a tensor that is not strided."""
        found: list[Owner | None] = []
        if len(tensors) > _MANY and all(found := self._owners_of_whole(tensors)):
            return found
        return [self.owner_of(tensor) if tensor.layout is _STRIDED else None for tensor in tensors]

    def _owners_of_whole(self, tensors: list[torch.Tensor]) -> list[Owner | None]:
        """The owners if every tensor begins with its storage, else none: optimizers have hundreds, at once."""
        try:
            whole = not any(map(torch.Tensor.storage_offset, tensors))
            return list(map(self.owners.get, map(torch.Tensor.data_ptr, tensors))) if whole else [None]
        except RuntimeError:  # a tensor without an address, such as a sparse one
            return [None]

    def _adopt(self, tensor: torch.Tensor) -> Owner:
        """Take in a tensor that came from elsewhere (Python numbers, NumPy, a constant from before the trace)."""
        storage = tensor.untyped_storage()
        owner = Owner(storage, self._died)
        owner.base, owner.small = storage.data_ptr(), True
        self._born(owner, storage.nbytes(), "cpu", True, len(self.rows))
        if self.recording:
            self._record_constant(tensor, owner)
        return owner

    def _record_constant(self, tensor: torch.Tensor, owner: Owner) -> None:
        count = owner.bytes // tensor.itemsize
        with quiet():
            whole = tensor.detach().as_strided((count,), (1,), 0)
        name = dtype_name(tensor.dtype)
        args = {
            "values": tuple(whole.tolist()) if count <= CONSTANT_ELEMENTS else None,
            "dtype": Const("dtype", name),
        }
        code, line = self.frames.user(sys._getframe(3))
        result = Tensor(owner.id, name, (count,), (1,), 0)
        self.rows.append(Row(_CONSTANT, args, result, self.phase, self.module_stack[-1], code, line, None, None))

    def new(
        self, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype, device: str, known: bool = False
    ) -> torch.Tensor:
        """A tensor over a new storage, born with the op that is being recorded."""
        nbytes = storage_bytes(shape, strides, dtype.itemsize)
        if not nbytes:
            return torch.empty_strided(shape, strides, dtype=dtype)
        tensor, owner = self._arena.new(shape, strides, dtype, nbytes, known or holds_values(nbytes, dtype))
        self._born(owner, nbytes, device, known, len(self.rows))
        return tensor

    def twin(self, tensor: torch.Tensor, device: str) -> torch.Tensor:
        """A tensor of the same kind in the arena; with the same values where those are small and there."""
        with quiet():
            shape, strides = tuple(tensor.shape), tensor.stride()
            nbytes = storage_bytes(shape, strides, tensor.dtype.itemsize)
            # Of the storage, which says where it is; the tensor would say where it is to be.
            real = holds_values(nbytes, tensor.dtype) and tensor.untyped_storage().device.type == "cpu"
            known = real and self._has_values(tensor)
            copy = self.new(shape, strides, tensor.dtype, device, known)
            if known:
                copy.copy_(tensor.detach())
            return copy

    def _has_values(self, tensor: torch.Tensor) -> bool:
        owner = self.owners.get(base_of(tensor))
        return owner is None or owner.known

    def claimed(self, tensor: torch.Tensor) -> str:
        """The device that a tensor claims to be on."""
        owner = self.owner_of(tensor)
        return owner.device if owner is not None else self.device

    def on_gpu(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor would be on the GPU in a step that is traced for one."""
        owner = self.owner_of(inmost(tensor))
        return owner is None or owner.device != "cpu"

    # -- rows -----------------------------------------------------------------------------------

    def record(self, sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Write down an op that has just been answered."""
        encoded = {name: self._encode(value) for name, value in zip(sig.names, args, strict=False)}
        for name, value in kwargs.items():
            encoded[name] = self._encode(value)
        self._row(sig, encoded, self._encode(result))

    def record_read(self, sig: Signature, tensor: torch.Tensor, owner: Owner, value: complex) -> None:
        """Write down that Python read the number in a tensor, which optimizers do for every parameter."""
        self._row(sig, {sig.names[0]: self._noun(tensor, owner)}, value)

    def _row(self, sig: Signature, args: dict[str, Any], result: Any) -> None:
        sequence, forward = self._sequence()
        code, line = self.frames.user(sys._getframe(4))
        self.rows.append(Row(sig, args, result, self.phase, self.module_stack[-1], code, line, sequence, forward))

    def _sequence(self) -> tuple[int | None, int | None]:
        """The autograd node that this op made, and the forward op whose node is being evaluated."""
        forward = None
        if self.phase is Phase.BACKWARD:
            node = torch._C._current_autograd_node()
            if node is not None:
                forward = self._sequence_owner.get(node._sequence_nr())
        coming: int = torch._C._autograd._get_sequence_nr()
        if coming == self._next_sequence:
            return None, forward
        for number in range(self._next_sequence, coming - 1):
            # Nodes made after the op before this one: a custom Function's, or one for an in-place view.
            self._sequence_owner[number] = len(self.rows) if number == coming - 2 else max(len(self.rows) - 1, 0)
        self._next_sequence = coming
        self._sequence_owner[coming - 1] = len(self.rows)
        return coming - 1 - self.first_sequence, forward

    def pass_over_nodes(self) -> None:
        """The autograd nodes made since the last op belong to none."""
        self._next_sequence = torch._C._autograd._get_sequence_nr()

    def hold_place(self) -> None:
        """Storages that were born without an op belong to this one, which will be taken out again."""
        if self.recording:
            self.rows.append(Row(_FOLD, {}, None, self.phase, "", None, 0, None, None))

    def _encode(self, value: Any) -> Any:
        kind = type(value)
        if kind is int or kind is float or kind is bool or value is None or kind is str or kind is complex:
            return value
        if isinstance(value, torch.Tensor):
            if value.layout is torch.sparse_coo:
                return (self.tensor(value._indices()), self.tensor(value._values()))
            return self.tensor(value)
        if isinstance(value, (list, tuple)):
            return tuple(self._nouns(value) or [self._encode(v) for v in value])
        if kind is torch.dtype:
            return Const("dtype", dtype_name(value))
        if kind is torch.device:
            return Const("device", str(value))
        if kind is torch.memory_format or kind is torch.layout:
            return Const(kind.__name__, str(value).removeprefix("torch."))
        return Const(kind.__name__.lower(), "")

    def _nouns(self, values: Sequence[Any]) -> list[Tensor] | None:
        """The nouns for many tensors that were all written down last as they are: optimizers hand on long lists."""
        owners = list(map(self.at_hand.get, map(id, values))) if len(values) > _MANY else [None]
        if not all(owners):
            return None
        nouns: list[Any] = [owner and owner.noun for owner in owners]
        if not all(nouns):
            return None
        _, dtypes, shapes, strides, offsets = map(list, zip(*nouns, strict=True))
        same = (
            list(map(_shape, values)) == shapes
            and list(map(torch.Tensor.stride, values)) == strides
            and list(map(torch.Tensor.storage_offset, values)) == offsets
            and list(map(_DTYPE_NAMES.get, map(_dtype, values))) == dtypes
        )
        return nouns if same else None

    def tensor(self, tensor: torch.Tensor) -> Tensor:
        """The noun for a tensor."""
        owner = self.at_hand.get(id(tensor))
        if owner is None and tensor.layout is torch.strided:
            owner = self.owner_of(tensor)
        if owner is None:
            shape = tuple(tensor.shape)
            strides = tensor.stride() if tensor.layout is torch.strided else ()
            return Tensor(self._empty, dtype_name(tensor.dtype), shape, strides or dense(shape), 0)
        return self._noun(tensor, owner)

    def _noun(self, tensor: torch.Tensor, owner: Owner) -> Tensor:
        shape, strides, offset = tuple(tensor.shape), tensor.stride(), tensor.storage_offset()
        dtype, noun = _DTYPE_NAMES.get(tensor.dtype) or dtype_name(tensor.dtype), owner.noun
        if noun is None or noun[2] != shape or noun[3] != strides or noun[4] != offset or noun[1] != dtype:
            noun = owner.noun = Tensor(owner.id, dtype, shape, strides, int(offset))
        return noun

    def where(self) -> str:
        """The module path and the user's line that is running now, for a message."""
        code, line = self.frames.user(sys._getframe(1))
        place = f"{shorten(code.co_filename)}:{line}" if code is not None else "an unknown line"
        module = self.module_stack[-1]
        return f"{module} ({place})" if module else place
