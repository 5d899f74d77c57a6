"""The heart: every ATen op that PyTorch dispatches becomes a row and, where it allocates, an event.

The recorder is a boxed fallback on a dispatch key that sits right below autograd and that PyTorch
itself leaves empty. While tracing, the key is switched on for this thread, so each op arrives here
after autograd has done its part and before any kernel runs. No dispatch mode is pushed and no tensor
subclass is used, so that neither the model nor PyTorch's C++ can tell that it is being traced.

An op is answered in one of three ways: a view is really taken (it moves no data); an op on known small
values is really computed; everything else gets new storages of the right size from the arena, their
shapes from the op's meta kernel, which is asked once per distinct call.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType
from typing import Any

import torch

from ..graph import Const, ForetraceError, Phase, Tensor
from . import signature
from .arena import Arena, Owner, base_of, holds_values, storage_bytes
from .assumptions import Assumptions
from .calls import META, dense, describe, fits, has_mask, on_meta, scan
from .corrections import CORRECTIONS, SHAPES
from .frames import Frames, shorten
from .signature import Signature

_KEY = torch._C._dispatch_key_parse("Fake")
RECORDER_KEY = torch._C.DispatchKeySet(_KEY)
"""Excluding it puts the recorder to sleep."""

_BELOW = RECORDER_KEY
for _name in ("ADInplaceOrView", "AutogradFunctionality", "AutogradCPU", "AutogradMeta", "AutogradOther"):
    _BELOW = _BELOW | torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, _name))

_DTYPE_NAMES: dict[torch.dtype, str] = {}


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.float32`` as ``"float32"``."""
    name = _DTYPE_NAMES.get(dtype)
    if name is None:
        name = _DTYPE_NAMES[dtype] = str(dtype).removeprefix("torch.")
    return name


CONSTANT_ELEMENTS = 1024
"""A constant up to this size is written into the trace, so that the trace can run again."""

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


@dataclass(slots=True)
class Marker:
    """A phase begins: the number of ops and of events recorded before it."""

    phase: Phase
    ops: int
    events: int


class Recorder:
    """Runs the ops of one trace. Use it as a context manager around the code to be recorded.

    ``device`` is where the model's tensors claim to be: ``"cpu"`` or ``"cuda:0"``.
    """

    def __init__(self, device: str, assumptions: Assumptions | None = None) -> None:
        self.device = device
        self.assumptions = assumptions or Assumptions()
        self.owners: dict[int, Owner] = {}
        self.bytes_of: list[int] = []
        self.device_of: list[str] = []
        self.rows: list[Row] = []
        self.events: list[tuple[int, int, int]] = []
        self.markers: list[Marker] = []
        self.at_start: frozenset[int] = frozenset()
        self.recording = False
        self.phase = Phase.FORWARD
        self.module_stack: list[str] = [""]
        self.failed_at = ""
        """Where the first op failed, with its module."""
        self.asked_for: list[str] = []
        """Devices that Python code is asking a factory for just now, innermost last."""
        self.progress: Callable[[str, int], None] | None = None
        self.observe: Callable[[Phase], None] | None = None
        self._arena = Arena(self._died)
        self._signatures: dict[Any, Signature] = {}
        self._specs: dict[Any, Any] = {}
        self._frames = Frames()
        self._sequence_owner: dict[int, int] = {}
        self._next_sequence = self._first_sequence = 0
        self._empty = self._new_id(0, device)

    # -- switching on and off -------------------------------------------------------------------

    def __enter__(self) -> Recorder:
        _install()
        _active.append(self)
        torch._C._dispatch_tls_set_dispatch_key_included(_KEY, True)
        return self

    def __exit__(self, *error: object) -> None:
        _active.pop()
        torch._C._dispatch_tls_set_dispatch_key_included(_KEY, bool(_active))

    def start(self) -> None:
        """Begin the recorded step: what is live now was live at its start."""
        self.rows, self.events, self.markers = [], [], []
        self._sequence_owner = {}
        self._next_sequence = self._first_sequence = torch._C._autograd._get_sequence_nr()
        self.at_start = frozenset(owner.id for owner in self.owners.values())
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

    def _new_id(self, nbytes: int, device: str) -> int:
        self.bytes_of.append(nbytes)
        self.device_of.append(device)
        return len(self.bytes_of) - 1

    def _born(self, owner: Owner, nbytes: int, device: str, known: bool, op: int) -> Owner:
        owner.bytes, owner.device, owner.known = nbytes, device, known
        owner.id = self._new_id(nbytes, device)
        self.owners[owner.base] = owner
        if self.recording and nbytes:
            self.events.append((op, owner.id, nbytes))
        return owner

    def _died(self, owner: Owner) -> None:
        if self.owners.get(owner.base) is owner:
            del self.owners[owner.base]
        if self.recording and owner.bytes:
            self.events.append((len(self.rows) - 1, owner.id, -owner.bytes))

    def owner_of(self, tensor: torch.Tensor) -> Owner | None:
        """What is known of a tensor's storage; None for a tensor without bytes."""
        if not tensor.data_ptr():
            return None
        owner = self.owners.get(base_of(tensor))
        return self._adopt(tensor) if owner is None else owner

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
        whole = tensor.detach().as_strided((count,), (1,), 0)
        name = dtype_name(tensor.dtype)
        args = {
            "values": tuple(whole.tolist()) if count <= CONSTANT_ELEMENTS else None,
            "dtype": Const("dtype", name),
        }
        code, line = self._frames.user(sys._getframe(3))
        result = Tensor(owner.id, name, (count,), (1,), 0)
        self.rows.append(Row(_CONSTANT, args, result, self.phase, self.module_stack[-1], code, line, None, None))

    def new(
        self, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype, device: str, known: bool = False
    ) -> torch.Tensor:
        """A tensor over a new storage, born with the op that is being recorded."""
        nbytes = storage_bytes(shape, strides, dtype.itemsize)
        if not nbytes:
            return torch.empty_strided(shape, strides, dtype=dtype)
        tensor, owner = self._arena.new(shape, strides, dtype, known or holds_values(nbytes, dtype))
        self._born(owner, nbytes, device, known, len(self.rows))
        return tensor

    def twin(self, tensor: torch.Tensor, device: str) -> torch.Tensor:
        """A tensor of the same kind in the arena; with the same values where those are small and there."""
        with _quiet():
            shape, strides = tuple(tensor.shape), tensor.stride()
            nbytes = storage_bytes(shape, strides, tensor.dtype.itemsize)
            real = tensor.device.type == "cpu" and holds_values(nbytes, tensor.dtype)
            known = real and self._has_values(tensor)
            copy = self.new(shape, strides, tensor.dtype, device, known)
            if known:
                copy.copy_(tensor.detach())
            return copy

    def _has_values(self, tensor: torch.Tensor) -> bool:
        owner = self.owners.get(base_of(tensor))
        return owner is None or owner.known

    # -- the op ---------------------------------------------------------------------------------

    def signature(self, func: Any) -> Signature:
        """The overload's schema, read once."""
        found = self._signatures.get(func)
        if found is None:
            found = self._signatures[func] = signature.read(func)
        return found

    def dispatch(self, sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer one op and record it."""
        if self.recording and self.markers[-1].phase is not self.phase:
            self._mark()
        key: list[Any] = [sig.func, torch.is_grad_enabled()]
        given: list[torch.Tensor] = []
        for value in args:
            scan(value, key, given)
        for name, value in kwargs.items():
            key.append(name)
            scan(value, key, given)
        owners = [self.owner_of(t) if t.layout is torch.strided else None for t in given]
        place = kwargs.get("device")
        if (place is not None and place.type == "meta") or any(t.is_meta for t in given):
            return sig.func(*args, **kwargs)
        answer = _SPECIAL.get(sig.name)
        if answer is not None:
            result = answer(self, sig, args, kwargs, owners)
        elif sig.view or sig.restrides:
            result = sig.func(*args, **kwargs)
        else:
            result = self._compute(sig, tuple(key), args, kwargs, given, owners)
        if self.recording:
            self._record(sig, args, kwargs, result)
        return result

    def _compute(
        self,
        sig: Signature,
        key: tuple[Any, ...],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        given: list[torch.Tensor],
        owners: list[Owner | None],
    ) -> Any:
        known = all(owner is None or owner.known for owner in owners)
        if sig.dynamic and (sig.name != "aten.index.Tensor" or has_mask(args[1])):
            return self._dynamic(sig, args, kwargs, owners, known)
        spec = self._specs.get(key)
        if spec is None:
            spec = self._specs[key] = self._ask(sig, args, kwargs)
        if (known or sig.overwrites) and self._is_small(sig, spec, args, kwargs, owners):
            return self.really(sig, args, kwargs, owners)
        device = self._device(kwargs, owners)
        for owner in self._written(sig, args, kwargs):
            owner.known = False
        return self._allocate(spec, args, device)

    def _is_small(
        self, sig: Signature, spec: Any, args: tuple[Any, ...], kwargs: dict[str, Any], owners: list[Owner | None]
    ) -> bool:
        """Whether the op can be computed for real: all it reads is known, all it writes can hold values."""
        if sig.name.startswith("aten.empty") or sig.name.startswith("aten.new_empty"):
            return False
        if any(not fits(item) for item in spec[1]):
            return False
        written = self._written(sig, args, kwargs)
        if not sig.overwrites:
            return all(owner.small for owner in written)
        target = args[0]
        reads = [owner for owner in owners[1:] if owner is not None]
        whole = written and written[0].small and target.numel() * target.itemsize == written[0].bytes
        return bool(whole or (written and written[0].known)) and all(owner.known for owner in reads)

    def really(self, sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any], owners: list[Owner | None]) -> Any:
        """Run the op on real values and move what it returns into the arena."""
        device = self._device(kwargs, owners)
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        for owner in self._written(sig, args, kwargs):
            owner.known = True
        return self._house(sig.func(*args, **kwargs), device)

    def _house(self, value: Any, device: str) -> Any:
        if isinstance(value, torch.Tensor):
            if value.numel() == 0 or base_of(value) in self.owners:
                return value
            copy = self.new(tuple(value.shape), value.stride(), value.dtype, device, known=True)
            return copy.copy_(value)
        if isinstance(value, (tuple, list)):
            return type(value)(self._house(v, device) for v in value)
        return value

    def _dynamic(
        self, sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any], owners: list[Owner | None], known: bool
    ) -> Any:
        if known:
            return self.really(sig, args, kwargs, owners)
        shapes = self.assumptions.shapes(sig.name, args, kwargs, self.where())
        if shapes is None:
            raise self.refusal(sig, "its result depends on the values of its input, which a trace does not have")
        device = self._device(kwargs, owners)
        made = [self.new(shape, dense(shape), dtype, device) for shape, dtype in shapes]
        return made[0] if len(made) == 1 and len(sig.func._schema.returns) == 1 else tuple(made)

    def _ask(self, sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Ask the meta kernel for the shapes: the container of the results and a description of each."""
        if sig.name in SHAPES:
            results = SHAPES[sig.name](args)
            return (tuple if len(sig.aliases) > 1 else None, results)
        twins: dict[int, torch.Tensor] = {}
        meta_args = tuple(on_meta(a, twins) for a in args)
        meta_kwargs = {name: on_meta(v, twins) for name, v in kwargs.items()}
        if meta_kwargs.get("device") is not None or (not twins and "device" in sig.names):
            meta_kwargs["device"] = META
        meta_kwargs.pop("pin_memory", None)
        try:
            result = sig.func(*meta_args, **meta_kwargs)
        except Exception as error:
            self.failed_at = self.failed_at or self.where()
            if isinstance(error, NotImplementedError) or "no fake impl" in str(error):
                raise self.refusal(sig, "it has no meta kernel to tell its output's shape") from error
            raise
        back = {id(meta): meta for meta in twins.values()}
        single = not isinstance(result, (tuple, list))
        results = [result] if single else list(result)
        # An op on lists (foreach) that returns nothing has no result to describe.
        aliases = sig.aliases if len(sig.aliases) == len(results) else (None,) * len(results)
        spec = [describe(r, alias, back, meta_args) for r, alias in zip(results, aliases, strict=True)]
        correct = CORRECTIONS.get(sig.name)
        return (type(result) if not single else None, correct(spec, args) if correct is not None else spec)

    def _allocate(self, spec: Any, args: tuple[Any, ...], device: str) -> Any:
        container, items = spec
        made = [self._make(item, args, device) for item in items]
        if container is None:
            return made[0]
        return made if container is list else tuple(made)

    def _make(self, item: Any, args: tuple[Any, ...], device: str) -> Any:
        kind = item[0]
        if kind == "new":
            return self.new(item[1], item[2], item[3], device)
        if kind == "argument":
            return self._resized(args[item[1]], item[2])
        if kind == "list":
            return [self._make(i, args, device) for i in item[1]]
        return item[1]

    def _resized(self, tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        if tuple(tensor.shape) != shape:
            tensor.set_(self.new(shape, dense(shape), tensor.dtype, self._claimed(tensor)))  # type: ignore[call-overload]
        return tensor

    def _written(self, sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Owner]:
        if not sig.mutates:
            return []
        found = []
        for name in sig.mutates:
            position = sig.names.index(name)
            value = args[position] if position < len(args) else kwargs.get(name)
            for tensor in value if isinstance(value, (list, tuple)) else (value,):
                owner = self.owner_of(tensor) if isinstance(tensor, torch.Tensor) else None
                if owner is not None:
                    found.append(owner)
        return found

    def emit(self, func: Any, args: tuple[Any, ...], results: list[tuple[tuple[int, ...], torch.dtype]]) -> Any:
        """Record an op that this build of torch has no kernel for; its results are new, of these shapes and dtypes."""
        with _quiet():
            owners = [self.owner_of(a) for a in args if isinstance(a, torch.Tensor)]
            device = self._device({}, owners)
            made = tuple(self.new(shape, dense(shape), dtype, device) for shape, dtype in results)
            if self.recording:
                self._record(self.signature(func), args, {}, made)
            return made

    # -- devices --------------------------------------------------------------------------------

    def _claimed(self, tensor: torch.Tensor) -> str:
        owner = self.owner_of(tensor)
        return owner.device if owner is not None else self.device

    def _device(self, kwargs: dict[str, Any], owners: list[Owner | None]) -> str:
        """Where an op's results are: where it is told, else where its inputs are."""
        place = kwargs.get("device")
        if place is not None and place.type != "cpu":
            return self.device if place.type == torch.device(self.device).type else str(place)
        if self.asked_for:
            return self.asked_for[-1]
        claims = [owner.device for owner in owners if owner is not None]
        if not claims:
            return self.device if self.recording_model else "cpu"
        return next((device for device in claims if device != "cpu"), "cpu")

    recording_model = False
    """True while the model's step runs, when C++ code that copies a tensor's options means our device."""

    # -- rows -----------------------------------------------------------------------------------

    def _record(self, sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        encoded = {name: self._encode(value) for name, value in zip(sig.names, args, strict=False)}
        for name, value in kwargs.items():
            encoded[name] = self._encode(value)
        sequence, forward = self._sequence()
        code, line = self._frames.user(sys._getframe(3))
        self.rows.append(
            Row(sig, encoded, self._encode(result), self.phase, self.module_stack[-1], code, line, sequence, forward)
        )

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
        return coming - 1 - self._first_sequence, forward

    def _encode(self, value: Any) -> Any:
        kind = type(value)
        if kind is int or kind is float or kind is bool or value is None or kind is str or kind is complex:
            return value
        if isinstance(value, torch.Tensor):
            return self.tensor(value)
        if isinstance(value, (list, tuple)):
            return tuple([self._encode(v) for v in value])
        if kind is torch.dtype:
            return Const("dtype", dtype_name(value))
        if kind is torch.device:
            return Const("device", str(value))
        if kind is torch.memory_format or kind is torch.layout:
            return Const(
                "memory_format" if kind is torch.memory_format else "layout", str(value).removeprefix("torch.")
            )
        return Const(kind.__name__.lower(), "")

    def tensor(self, tensor: torch.Tensor) -> Tensor:
        """The noun for a tensor."""
        owner = self.owner_of(tensor) if tensor.layout is torch.strided else None
        strides = tensor.stride() if tensor.layout is torch.strided else ()
        shape = tuple(tensor.shape)
        return Tensor(
            self._empty if owner is None else owner.id,
            dtype_name(tensor.dtype),
            shape,
            strides or dense(shape),
            int(tensor.storage_offset()) if owner is not None else 0,
        )

    # -- telling where --------------------------------------------------------------------------

    def where(self) -> str:
        """The module path and the user's line that is running now, for a message."""
        code, line = self._frames.user(sys._getframe(1))
        place = f"{shorten(code.co_filename)}:{line}" if code is not None else "an unknown line"
        module = self.module_stack[-1]
        return f"{module} ({place})" if module else place

    def refusal(self, sig: Signature, reason: str) -> ForetraceError:
        """The error for an op that cannot be traced."""
        return ForetraceError(
            f"{sig.name} cannot be traced at {self.where()}: {reason}",
            f"Register its shapes with torch.library.register_fake({sig.func.name()!r}, ...).",
        )


# -- sleeping -----------------------------------------------------------------------------------


def _quiet() -> Any:
    """Run torch calls of our own unrecorded, below autograd."""
    return torch._C._ExcludeDispatchKeyGuard(_BELOW)


# -- ops that need an answer of their own -------------------------------------------------------


def _scalar(recorder: Recorder, sig: Signature, args: Any, kwargs: Any, owners: list[Owner | None]) -> Any:
    """``.item()``: the value where it is known, else an assumption."""
    owner = owners[0]
    if owner is None or owner.known:
        return sig.func(*args, **kwargs)
    return recorder.assumptions.scalar(args[0].dtype, recorder.where())


def _lift(recorder: Recorder, sig: Signature, args: Any, kwargs: Any, owners: list[Owner | None]) -> Any:
    """``torch.tensor(...)``: C++ has just written the values into memory that it asked us for."""
    if owners[0] is not None and owners[0].small:
        owners[0].known = True
    return sig.func(*args, **kwargs)


_SPECIAL: dict[str, Callable[..., Any]] = {
    "aten._local_scalar_dense.default": _scalar,
    "aten.lift_fresh.default": _lift,
}


# -- the fallback -------------------------------------------------------------------------------

_active: list[Recorder] = []
_library: list[torch.library.Library] = []


def _install() -> None:
    """Register the fallback, once a process. It sleeps until the key is switched on for a thread."""
    if not _library:
        library = torch.library.Library("_", "IMPL", "Fake")
        library.fallback(_fallback)
        _library.append(library)


def _fallback(func: Any, *args: Any, **kwargs: Any) -> Any:
    recorder = _active[-1] if _active else None
    if recorder is None:
        with _quiet():
            return func(*args, **kwargs)
    if func.namespace == "profiler":
        with _quiet():
            return func(*args, **kwargs)
    sig = recorder.signature(func)
    if sig.composite:
        return func.decompose(*args, **kwargs)
    with torch._C._ExcludeDispatchKeyGuard(_BELOW):
        return recorder.dispatch(sig, args, kwargs)
