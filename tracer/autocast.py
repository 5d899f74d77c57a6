"""``torch.autocast("cuda")`` for tensors that are really on the CPU: CUDA's policies, with its cache of weights.

Autocast works by dispatch key, and the tensors of a trace carry the CPU's. So while tracing for CUDA,
switching autocast on for ``"cuda"`` switches the CPU's key on too, and on that key every op gets the policy
that CUDA has for it. The lists of ops are read from the installed torch's own header
(``ATen/autocast_mode.h``), where CUDA's registrations take them from as well.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch

from ..graph import ForetraceError
from .log import dtype_name
from .record import Recorder

_KEY = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
_LISTS = {
    "lower": "AT_FORALL_LOWER_PRECISION_FP",
    "float32": "AT_FORALL_FP32",
    "float32_dtype": "AT_FORALL_FP32_SET_OPT_DTYPE",
    "promote": "AT_FORALL_PROMOTE",
}
_UNLISTED = ("norm.Scalar", "norm.ScalarOpt_dim", "linalg_matrix_sqrth")
"""Ops to run in float32 that are registered one by one (ATen/autocast_mode.cpp): two norms through an extra dtype
argument, where a cast gives the same, and a decomposition that knows no half precision, where the torch has it."""


def autocast_dtype(choice: Any) -> torch.dtype | None:
    """The dtype to autocast to, from a dtype or its name. Raises `ForetraceError` for others."""
    if choice is None or choice is False:
        return None
    dtype = getattr(torch, choice, None) if isinstance(choice, str) else choice
    if dtype not in (torch.bfloat16, torch.float16):
        raise ForetraceError(f"autocast to {choice} is not possible", "Say bfloat16 or float16.")
    return dtype


def region(device: str, dtype: torch.dtype | None) -> Callable[[], AbstractContextManager[Any]]:
    """What the step puts around forward and loss: ``torch.autocast`` for that device, or nothing."""
    if dtype is None:
        return nullcontext
    kind = torch.device(device).type
    return lambda: torch.autocast(kind, dtype=dtype)


@contextmanager
def regions(recorder: Recorder) -> Iterator[None]:
    """Note the dtypes of the regions that the recorded step enters on its device."""
    set_dtype, kind = torch.set_autocast_dtype, torch.device(recorder.device).type

    def noted(device_type: str, dtype: torch.dtype) -> None:
        set_dtype(device_type, dtype)
        if recorder.recording and device_type == kind and torch.is_autocast_enabled(device_type):
            recorder.autocast[dtype_name(dtype)] = None

    torch.set_autocast_dtype = noted
    try:
        yield
    finally:
        torch.set_autocast_dtype = set_dtype


def policies() -> dict[str, list[str]]:
    """The op names of each cast policy of CUDA, as the installed torch lists them."""
    header = os.path.join(os.path.dirname(torch.__file__), "include", "ATen", "autocast_mode.h")
    with open(header, encoding="utf-8") as file:
        text = file.read()
    found = {}
    for policy, macro in _LISTS.items():
        body = re.search(rf"#define {macro}\(_\)((?:[^\n]*\\\n)*[^\n]*)", text)
        entries = re.findall(r"_\((\w+)(?:,\s*(\w+))?\)", body[1]) if body else []
        found[policy] = [f"{name}.{overload}" if overload else name for name, overload in entries]
    found["float32"] += [name for name in _UNLISTED if _overload(name) is not None]
    return found


@contextmanager
def cuda_autocast(recorder: Recorder) -> Iterator[None]:
    """Give autocast CUDA's meaning while tracing for it."""
    if torch.device(recorder.device).type != "cuda":
        yield
        return
    casts = _Casts(recorder)
    with ExitStack() as undo:
        _lend_key(undo, casts)
        library = torch.library.Library("aten", "IMPL")
        undo.callback(library._destroy)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of every kernel that takes the place of another
            _register(library, casts)
        yield


def _lend_key(undo: ExitStack, casts: _Casts) -> None:
    """Make switches of ``"cuda"`` autocast switch the key that CPU tensors carry."""
    enable, set_dtype, clear = torch.set_autocast_enabled, torch.set_autocast_dtype, torch.clear_autocast_cache
    was_enabled, was_dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def enable_both(*args: Any) -> None:
        if args[0] == "cpu":
            return  # the key is lent: what is on a GPU is not for the CPU's autocast
        enable(*args)
        if args[0] in ("cuda", True, False):
            enable("cpu", args[-1])

    def set_both(device: str, dtype: torch.dtype) -> None:
        set_dtype(device, dtype)
        if device == "cuda":
            casts.dtype = dtype

    def clear_both() -> None:
        clear()
        casts.cache.clear()

    enable("cpu", torch.is_autocast_enabled("cuda"))
    torch.set_autocast_enabled, torch.set_autocast_dtype = enable_both, set_both  # type: ignore[assignment]
    torch.clear_autocast_cache = clear_both
    undo.callback(enable, "cpu", was_enabled)
    undo.callback(set_dtype, "cpu", was_dtype)
    undo.callback(setattr, torch, "set_autocast_enabled", enable)
    undo.callback(setattr, torch, "set_autocast_dtype", set_dtype)
    undo.callback(setattr, torch, "clear_autocast_cache", clear)
    undo.callback(casts.cache.clear)


class _Casts:
    """Casts arguments as ``cached_cast`` in ATen/autocast_mode.h does, with the cache of weights."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.dtype = torch.float16
        self.cache: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def arguments(self, dtype: torch.dtype, args: Sequence[Any]) -> list[Any]:
        """The arguments of a call, cast from the last to the first, as the compiler of PyTorch's builds orders them."""
        return [self.to(dtype, value) for value in reversed(args)][::-1]

    def to(self, dtype: torch.dtype, value: Any) -> Any:
        """`value` with every eligible tensor in it cast to `dtype`."""
        if isinstance(value, torch.Tensor):
            return self._cast(dtype, value) if self._eligible(value) and value.dtype is not dtype else value
        if isinstance(value, (list, tuple)):
            return type(value)(self.to(dtype, v) for v in value)
        return value

    def _eligible(self, tensor: torch.Tensor) -> bool:
        return tensor.is_floating_point() and tensor.dtype is not torch.float64 and self.recorder.on_gpu(tensor)

    def _cast(self, dtype: torch.dtype, tensor: torch.Tensor) -> torch.Tensor:
        weight = (
            dtype is self.dtype
            and tensor.dtype is torch.float32
            and tensor.requires_grad
            and tensor.is_leaf
            and not tensor._is_view()
            and torch.is_autocast_cache_enabled()
            and not torch.is_inference_mode_enabled()
        )
        if not weight:
            return _convert(tensor, dtype)
        kept = self.cache.get(id(tensor))
        if kept is None:
            with torch.enable_grad():  # the copy serves the whole region, also where its first use has no gradient
                kept = self.cache[id(tensor)] = (tensor, _convert(tensor, dtype))
        return kept[1]


def _convert(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.ops.aten.to.dtype(tensor, dtype)


def _register(library: torch.library.Library, casts: _Casts) -> None:
    lists = policies()
    makers: dict[str, Callable[[Any], Callable[..., Any]]] = {
        "lower": lambda op: _cast(op, casts, lambda: casts.dtype),
        "float32": lambda op: _cast(op, casts, lambda: torch.float32),
        "float32_dtype": lambda op: _float32_dtype(op, casts),
        "promote": lambda op: _promote(op, casts),
    }
    done = set()
    for policy, names in lists.items():
        for name in names:
            op = _overload(name)
            if op is not None and name not in done:
                done.add(name)
                library.impl(op, makers[policy](op), "AutocastCPU", allow_override=True)
    for name, maker in _OWN_RULE.items():
        done.add(name)
        library.impl(name, maker(casts), "AutocastCPU", allow_override=True)
    for name in _only_on_cpu(frozenset(done)):
        library.impl(name, torch.library.fallthrough_kernel, "AutocastCPU", allow_override=True)


def _overload(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)


@cache
def _only_on_cpu(done: frozenset[str]) -> list[str]:
    """Ops with a policy on the CPU's key that CUDA has none for."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    names = []
    for full in torch._C._dispatch_get_all_op_names():
        name = full.removeprefix("aten::")
        if full.startswith("aten::") and name not in done and has(full, "AutocastCPU"):
            names.append(name)
    return names


def _below(op: Any, args: Any, kwargs: Any) -> Any:
    with torch._C._ExcludeDispatchKeyGuard(_KEY):
        return op(*args, **kwargs)


def _cast(op: Any, casts: _Casts, dtype: Callable[[], torch.dtype]) -> Callable[..., Any]:
    """The op on arguments of one dtype, which is asked for at each call."""

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(_KEY):
            wanted = dtype()
            named = casts.arguments(wanted, list(kwargs.values()))
            return op(*casts.arguments(wanted, args), **dict(zip(kwargs, named, strict=True)))

    return kernel


def _float32_dtype(op: Any, casts: _Casts) -> Callable[..., Any]:
    """Ops with a ``dtype`` argument are told float32 where the caller left it open; they cast inside."""
    names = [a.name for a in op._schema.arguments]
    place = names.index("dtype")

    def kernel(*args: Any, **kwargs: Any) -> Any:
        given = args[place] if place < len(args) else kwargs.get("dtype")
        if given is None and casts._eligible(args[0]):
            if place < len(args):
                args = (*args[:place], torch.float32, *args[place + 1 :])
            else:
                kwargs = {**kwargs, "dtype": torch.float32}
        return _below(op, args, kwargs)

    return kernel


def _promote(op: Any, casts: _Casts) -> Callable[..., Any]:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        flat = [t for a in args for t in (a if isinstance(a, (list, tuple)) else (a,)) if isinstance(t, torch.Tensor)]
        wide = any(t.dtype is torch.float32 for t in flat if casts._eligible(t))
        with torch._C._ExcludeDispatchKeyGuard(_KEY):
            return op(*casts.arguments(torch.float32 if wide else casts.dtype, args), **kwargs)

    return kernel


def _refuse(casts: _Casts) -> Callable[..., Any]:
    """CUDA's own autocast kernel of the op, which raises PyTorch's message (binary_cross_entropy_banned)."""
    op, cuda = torch.ops.aten.binary_cross_entropy.default, torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        return op.redispatch(cuda, *args, **kwargs) if casts.recorder.on_gpu(args[0]) else _below(op, args, kwargs)

    return kernel


def _recurrent(casts: _Casts) -> Callable[..., Any]:
    """cuDNN's recurrent layers run in float16, also where the region says bfloat16 (ATen/cudnn/AutocastRNN.cpp).

    Their weights are copied into one buffer anew at each call, past the cache of weights.
    """

    def kernel(
        input: torch.Tensor,
        weights: list[torch.Tensor],
        stride: int,
        buffer: torch.Tensor | None,
        hidden: torch.Tensor,
        cell: torch.Tensor | None,
        *options: Any,
    ) -> Any:
        half = torch.float16
        with torch._C._ExcludeDispatchKeyGuard(_KEY):
            if casts._eligible(weights[0]) and weights[0].dtype is not half:
                weights = _flattened(weights, half)
            cell, hidden, input = (casts.to(half, value) for value in (cell, hidden, input))
            return torch.ops.aten._cudnn_rnn.default(input, weights, stride, buffer, hidden, cell, *options)

    return kernel


def _flattened(weights: list[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    """Copies of weights side by side in one buffer, each with its own copy in the graph of autograd."""
    with torch.no_grad():
        counts = [weight.numel() for weight in weights]
        pieces = torch.zeros(sum(counts), dtype=dtype, device=weights[0].device).split(counts)
        parts = [piece.view(weight.shape).detach() for piece, weight in zip(pieces, weights, strict=True)]
    return [part.copy_(weight) for part, weight in zip(parts, weights, strict=True)]


_OWN_RULE: dict[str, Callable[[_Casts], Callable[..., Any]]] = {
    "binary_cross_entropy": _refuse,
    "_cudnn_rnn": _recurrent,
}
"""Ops of which CUDA's autocast does more than cast the arguments."""
