"""What Python is told while the tensors of a trace claim to be on a GPU.

The tensors really are CPU tensors (see `arena`), so with ``device="cpu"`` nothing here is needed. With
``device="cuda"`` a few properties and methods of ``torch.Tensor`` and a few functions of ``torch.cuda``
answer for the claimed device; all are put back when the trace ends.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext, _device_constructors

from ..graph import ForetraceError, Outcome
from . import cudnn_layers
from .cuda_module import MODULES, Properties, answers
from .key import RECORDER_KEY, quiet
from .record import Recorder
from .replay import AS_RUN, READ, READS, can_be_read, fill

_CUDA = torch.device("cuda", 0)
_CPU = torch.device("cpu")


@contextmanager
def disguise(recorder: Recorder) -> Iterator[None]:
    """Make the recorder's tensors look as they would on ``recorder.device``."""
    with ExitStack() as undo:
        _patch(undo, torch.Tensor, "__deepcopy__", _deepcopy(recorder))
        undo.enter_context(subclasses())
        for name in READS:
            _patch(undo, torch.Tensor, name, _reading(recorder, getattr(torch.Tensor, name)))
        _patch(undo, DistributedDataParallel, "__init__", _join_nobody)
        for place in (torch, torch.Tensor):
            _patch(undo, place, "isfinite", _finite(recorder, torch.isfinite))
        for owner in (torch, torch.random):
            _patch(undo, owner, "get_rng_state", _counted(recorder, torch.random.get_rng_state))
        if torch.device(recorder.device).type == "cuda":
            for name, value in _tensor_face(recorder).items():
                _patch(undo, torch.Tensor, name, value)
            for module, replaced in (*MODULES, (torch.cuda, answers(Properties(recorder.capability)))):
                for name, value in replaced.items():
                    if hasattr(module, name):
                        _patch(undo, module, name, value)
            for owner, name, value in cudnn_layers.FACE:
                _patch(undo, owner, name, value)
            _patch(undo, torch, "Generator", _Generator)
            for function in _device_constructors():
                name = getattr(function, "__name__", "")
                if callable(function) and getattr(torch, name, None) is function:
                    _patch(undo, torch, name, _asking(recorder, getattr(torch, name)))
            _patch(undo, torch.Tensor, "_make_wrapper_subclass", staticmethod(_on_the_host_alone()))
            undo.callback(_forget_lazy_init)
            compiler: Any = torch.jit._script
            _patch(undo, compiler, "_script_impl", _compiled(compiler._script_impl))
        yield


@contextmanager
def subclasses() -> Iterator[None]:
    """Let tensors become instances of subclasses, parameters above all, while a recorder listens."""
    with ExitStack() as undo:
        for name in ("_make_subclass", "_make_wrapper_subclass"):
            _patch(undo, torch.Tensor, name, staticmethod(unrecorded(getattr(torch.Tensor, name))))
        _patch(undo, torch.Tensor, "as_subclass", unrecorded(torch.Tensor.as_subclass))
        yield


_MISSING: Any = object()
_patches: list[tuple[Any, str, Any, Any]] = []
"""What is patched now: of what, its name, what was there before, and what is there."""


def _patch(undo: ExitStack, owner: Any, name: str, value: Any) -> None:
    patch = owner, name, vars(owner).get(name, _MISSING), value
    _put_in(patch)
    _patches.append(patch)
    undo.callback(lambda: _put_back(_patches.pop()))


def _put_in(patch: tuple[Any, str, Any, Any]) -> None:
    owner, name, _, value = patch
    setattr(owner, name, value)


def _put_back(patch: tuple[Any, str, Any, Any]) -> None:
    owner, name, before, _ = patch
    if before is _MISSING:
        delattr(owner, name)
    else:
        setattr(owner, name, before)


def _compiled(stock: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.jit.script`` without the disguise: it reads the source of what it finds, and knows torch's own alone."""

    @functools.wraps(stock)
    def script(*args: Any, **kwargs: Any) -> Any:
        lifted = _patches.copy()
        for patch in reversed(lifted):
            _put_back(patch)
        try:
            return stock(*args, **kwargs)
        finally:
            for patch in lifted:
                _put_in(patch)

    return script


def _on_the_host_alone() -> Callable[..., Any]:
    """C++ would look up CUDA's device guard for a wrapper without memory, find none and end the process."""
    stock = torch.Tensor._make_wrapper_subclass

    def make(cls: type, *args: Any, **kwargs: Any) -> Any:
        device = next((value for value in args if isinstance(value, torch.device)), kwargs.get("device"))
        if device is not None and torch.device(device).type == "cuda":
            raise ForetraceError(
                f"a {cls.__name__} wraps other tensors, which a trace for CUDA cannot follow",
                'Trace it with device="cpu", or with plain tensors: padded ones for nested, unquantized for quantized.',
            )
        return stock(cls, *args, **kwargs)

    return make


def _join_nobody(self: DistributedDataParallel, module: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
    """A wrapper that talks to no other process; the trace is of the module inside."""
    torch.nn.Module.__init__(self)
    self.module = module


# -- torch.Tensor ---------------------------------------------------------------------------------


def _deepcopy(recorder: Recorder) -> Callable[..., Any]:
    """Copies of arena tensors are made by an op; the stock method would read memory that nobody wrote."""
    stock = torch.Tensor.__deepcopy__

    def deepcopy(self: torch.Tensor, memo: dict[int, Any]) -> Any:
        plain = type(self) in (torch.Tensor, torch.nn.Buffer) and self.is_leaf and self.layout is torch.strided
        if not plain or id(self) in memo:
            return stock(self, memo)
        with torch.no_grad():
            copy = self.detach().clone().requires_grad_(self.requires_grad)
        copy.__dict__.update(self.__dict__)
        memo[id(self)] = copy
        return copy

    return deepcopy


_OF_THE_HOST = ("numpy", "__array__")
"""What only a tensor of the host can do."""


def _reading(recorder: Recorder, stock: Callable[..., Any]) -> Callable[..., Any]:
    """C++ reads the memory without any op, which for unknown values is all zeros: an assumption like any other."""

    @functools.wraps(stock)
    def read(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        owner = recorder.owner_of(self) if can_be_read(self) else None
        replay = recorder.assumptions.replay
        outcome = replay.next(READ, recorder.where()) if replay is not None and can_be_read(self) else None
        if owner is not None:
            if stock.__name__ in _OF_THE_HOST and owner.device != "cpu" and not kwargs.get("force"):
                raise TypeError(
                    f"can't convert {owner.device} device type tensor to numpy. "
                    "Use Tensor.cpu() to copy the tensor to host memory first."
                )
            if outcome is not None and (owner.assumed or not owner.known) and _put(self, outcome):
                recorder.assumptions.say(f"torch.Tensor.{stock.__name__}", AS_RUN, recorder.where())
            else:
                recorder.read(owner, self.dtype)
        return stock(self, *args, **kwargs)

    return read


def _put(tensor: torch.Tensor, outcome: Outcome) -> bool:
    """Write what a real run read; a tensor whose memory is not its own is read at once, before another is written."""
    with quiet():
        return fill(tensor, outcome.results[0])


def _finite(recorder: Recorder, stock: Callable[..., Any]) -> Callable[..., Any]:
    """Unknown numbers are finite. (In C++ the test is made of others, each of which would say no.)"""

    @functools.wraps(stock)
    def isfinite(input: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = stock(input)
        strided = input.layout is torch.strided and not input.is_meta
        owner = recorder.owner_of(input) if strided else None
        if owner is not None and not owner.known:
            recorder.take(made, True, ("aten.isfinite.default", "all numbers are finite", recorder.where()))
        return made

    return isfinite


def _counted(recorder: Recorder, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose result C++ allocates without any op."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        made = function(*args, **kwargs)
        recorder.owner_of(made)
        return made

    return call


def unrecorded(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with the recorder asleep.

    C++ makes a subclass instance of a fresh ``detach()``, which must not have met Python before.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(RECORDER_KEY):
            return function(*args, **kwargs)

    return call


def _tensor_face(recorder: Recorder) -> dict[str, Any]:
    stock_device: Any = torch.Tensor.device
    stock_to, stock_type = torch.Tensor.to, torch.Tensor.type

    def claimed(tensor: torch.Tensor) -> torch.device:
        real: torch.device = stock_device.__get__(tensor)
        if real.type != "cpu" or tensor.layout is not torch.strided:
            return real
        return _CUDA if recorder.on_gpu(tensor) else _CPU

    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        copy = kwargs.pop("copy", False)
        if args and isinstance(args[0], torch.Tensor):
            args = (claimed(args[0]), args[0].dtype, *args[1:])
        elif isinstance(kwargs.get("other"), torch.Tensor):
            other = kwargs.pop("other")
            args = (claimed(other), other.dtype, *args)
        if len(args) == 4:
            *args, copy = args  # type: ignore[assignment]
        device, dtype, _, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        options: dict[str, Any] = {"memory_format": memory_format} if memory_format is not None else {}
        if device is None or device.type == claimed(self).type:
            return stock_to(self, dtype or self.dtype, copy=copy, **options)
        with _Asked(recorder, device):
            return torch.ops.aten._to_copy.default(self, dtype=dtype or self.dtype, **options)

    def pin_memory(self: torch.Tensor, device: Any = None) -> torch.Tensor:
        if claimed(self).type == "cuda":
            raise RuntimeError(f"cannot pin '{as_type(self)}' only dense CPU tensors can be pinned")
        return self.clone()

    def as_type(self: torch.Tensor, dtype: Any = None, non_blocking: bool = False) -> Any:
        if dtype is None:
            name = stock_type(self)
            return name.replace("torch.", "torch.cuda.") if claimed(self).type == "cuda" else name
        if isinstance(dtype, str) and dtype.startswith("torch.cuda."):
            dtype = dtype.replace("torch.cuda.", "torch.")
        return stock_type(self, dtype, non_blocking)

    return {
        "device": property(claimed),
        "is_cuda": property(lambda self: claimed(self).type == "cuda"),
        "is_cpu": property(lambda self: claimed(self).type == "cpu"),
        "to": to,
        "type": as_type,
        "cuda": lambda self, device=None, non_blocking=False, **kw: to(self, torch.device("cuda"), **kw),
        "cpu": lambda self, **kw: to(self, _CPU, **kw),
        "get_device": lambda self: 0 if claimed(self).type == "cuda" else -1,
        "pin_memory": pin_memory,
        "record_stream": lambda self, stream: None,
    }


class _Asked:
    """While this is entered, what is made without a device goes where Python asked for it."""

    __slots__ = ("_asked_for", "_place")

    def __init__(self, recorder: Recorder, device: torch.device) -> None:
        self._asked_for, self._place = recorder.asked_for, "cuda:0" if device.type == "cuda" else str(device)

    def __enter__(self) -> None:
        self._asked_for.append(self._place)

    def __exit__(self, *error: object) -> None:
        self._asked_for.pop()


def _asking(recorder: Recorder, function: Callable[..., Any]) -> Callable[..., Any]:
    """A factory that tells the recorder which device Python asked for: C++ can only say "cpu"."""

    @functools.wraps(function)
    def factory(*args: Any, **kwargs: Any) -> Any:
        device = kwargs.get("device")
        if device is None:
            like = args[0] if function.__name__.endswith("_like") and args else None
            if isinstance(like, torch.Tensor):
                return function(*args, **kwargs)
            device = _default_device()
        device = torch.device(device) if not isinstance(device, int) else _CUDA
        if device.type == "cuda" and function.__name__ in _FROM_DATA:
            return _copied(function, args, kwargs)
        with _Asked(recorder, device):
            return function(*args, **kwargs)

    return factory


_FROM_DATA = ("tensor", "as_tensor", "asarray")


def _copied(function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
    """A tensor of Python's data on the GPU, as C++ makes it: on the CPU, and then copied (where no key is asked)."""
    wanted = kwargs.pop("requires_grad", False)
    made = function(*args, **{**kwargs, "device": "cpu"}).to(_CUDA)
    return made.requires_grad_() if wanted else made


_StockGenerator = torch.Generator


class _AnyGenerator(type(torch.Generator)):  # type: ignore[misc]
    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, _StockGenerator)


class _Generator(torch.Generator, metaclass=_AnyGenerator):
    """A generator that says it is where it was asked to be; C++ has none for a GPU that is not there."""

    claimed_device: torch.device

    def __new__(cls, device: Any = "cpu") -> _Generator:
        """Like ``torch.Generator(device)``."""
        made: _Generator = super().__new__(cls, "cpu")  # type: ignore[call-arg]
        made.claimed_device = _CUDA if torch.device(device).type == "cuda" else torch.device(device)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where it claims to be."""
        return self.claimed_device


def _default_device() -> torch.device:
    """What ``with torch.device(...)`` or ``set_default_device`` says; asking torch itself would make a tensor."""
    for mode in reversed(_get_current_function_mode_stack()):
        if isinstance(mode, DeviceContext):
            return torch.device(mode.device)
    return _CPU


def _forget_lazy_init() -> None:
    """Tell C++ that CUDA has not been initialised, so that a later real use does it.

    While tracing, ``_lazy_init`` did nothing, but its caller keeps a flag that it ran
    (``torch::utils::device_lazy_init``). Where CUDA really had been initialised, running it again is harmless.
    """
    folder = os.path.join(os.path.dirname(torch.__file__), "lib")
    for file in ("libtorch_python.so", "libtorch_python.dylib", "torch_python.dll"):
        path = os.path.join(folder, file)
        if os.path.exists(path):
            library = ctypes.CDLL(path)
            symbol = "_ZN5torch5utils24set_requires_device_initEN3c1010DeviceTypeEb"
            if hasattr(library, symbol):
                getattr(library, symbol)(ctypes.c_int8(1), ctypes.c_bool(True))
