"""A Chrome trace that ``torch.profiler`` exported -> the kernel time of each ATen op, by input types and shapes.

The *kernel time of an op* is the sum of the kernels that it and the ops inside it launched, so a convolution's is there
both under ``aten.convolution`` and under the cuDNN op that it called: a step's op finds it under either name. Kernels
belong to the innermost op that launched them (their ``External id``), which lies inside others of its thread by time.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple, cast

from ..graph.errors import ForetraceError
from .measured import Key, Measurement, list_spec, spec
from .profile import Profile

Event = Mapping[str, object]

KERNELS = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
DTYPES = {
    "float": "float32",
    "double": "float64",
    "c10::Half": "float16",
    "c10::BFloat16": "bfloat16",
    "long": "int64",
    "long int": "int64",
    "int": "int32",
    "short": "int16",
    "short int": "int16",
    "signed char": "int8",
    "unsigned char": "uint8",
    "bool": "bool",
    "c10::Float8_e4m3fn": "float8_e4m3fn",
    "c10::Float8_e5m2": "float8_e5m2",
    "c10::complex<float>": "complex64",
    "c10::complex<double>": "complex128",
}
"""C++ names in the trace's ``Input type``, and ours. What is not here is no tensor."""

MEMORY_TOLERANCE = 0.07
"""How far a device's memory may be from the profile's and still be the same device."""


class Call(NamedTuple):
    """One call of an op on the host, in microseconds of the trace's clock."""

    key: Key | None
    start: float
    end: float
    thread: tuple[object, object]
    number: object


def measured_in(path: Path, profile: Profile, *, any_device: bool = False) -> list[Measurement]:
    """Every op of the trace in `path` that launched kernels. Raises `ForetraceError` where the file cannot tell."""
    document = _read(path)
    if not any_device:
        _check_device(path, document, profile)
    events = [e for e in cast(Sequence[object], document["traceEvents"]) if isinstance(e, dict)]
    calls = [call for call in map(_call, events) if call is not None]
    _check_shapes(path, events, calls)
    kernels = _kernel_microseconds(events)
    if not kernels:
        raise ForetraceError(
            f"{path} has no GPU kernels", "Profile with activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]"
        )
    source = f"{path.name}, {_device_name(document) or 'device not named'}"
    return _summed(_inclusive(calls, kernels), source)


def _read(path: Path) -> Mapping[str, object]:
    try:
        raw = path.read_bytes()
        document = json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    except FileNotFoundError:
        raise ForetraceError(f"there is no trace {str(path)!r}", "Give what prof.export_chrome_trace wrote") from None
    except OSError as error:
        raise ForetraceError(f"cannot read {str(path)!r}: {error.strerror or error}", "Give a file") from None
    except (ValueError, EOFError) as error:
        raise ForetraceError(f"{path} is not JSON: {error}", "Give what prof.export_chrome_trace wrote") from None
    if not isinstance(document, dict) or not isinstance(document.get("traceEvents"), list):
        raise ForetraceError(f"{path} is no Chrome trace", "Give what prof.export_chrome_trace wrote")
    return document


def _devices(document: Mapping[str, object]) -> list[Mapping[str, object]]:
    found = document.get("deviceProperties")
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _device_name(document: Mapping[str, object]) -> str:
    return next((str(device.get("name", "")) for device in _devices(document)), "")


def _check_device(path: Path, document: Mapping[str, object], profile: Profile) -> None:
    """Refuse a trace of another device than the profile's: another chip by name, or another amount of memory."""
    for device in _devices(document)[:1]:
        name, memory = str(device.get("name", "")), device.get("totalGlobalMem")
        chip = _chip(profile)
        same_chip = chip in name.upper().replace("-", " ").split()
        same_memory = not isinstance(memory, int | float) or (
            abs(memory / profile.memory_total_bytes - 1) <= MEMORY_TOLERANCE
        )
        if not (same_chip and same_memory):
            held = f" with {memory / 2**30:.1f} GiB" if isinstance(memory, int | float) else ""
            raise ForetraceError(
                f"{path} is of a device {name!r}{held}, and the profile is of {profile.full_name}",
                "Name that device's profile with --on, or say --any-device if it is the same",
            )


def _chip(profile: Profile) -> str:
    """The word of the name that tells the chip: the first with a digit, such as A100 or 3090."""
    words = profile.full_name.upper().replace("-", " ").split()
    return next((word for word in words if any(c.isdigit() for c in word)), words[-1])


def _check_shapes(path: Path, events: Sequence[Event], calls: Sequence[Call]) -> None:
    if not any(event.get("cat") == "cpu_op" for event in events):
        raise ForetraceError(f"{path} has no ops of PyTorch", "Profile with activities=[ProfilerActivity.CPU, ...]")
    if all(call.key is None for call in calls):
        raise ForetraceError(f"{path} has no input shapes", "Profile with torch.profiler.profile(record_shapes=True)")


def _call(event: Event) -> Call | None:
    if event.get("cat") != "cpu_op" or not isinstance(event.get("args"), dict):
        return None
    args = cast(Mapping[str, object], event["args"])
    start, length = _number(event.get("ts")), _number(event.get("dur"))
    name = str(event.get("name", ""))
    key = _key(name, args)
    return Call(key, start, start + length, (event.get("pid"), event.get("tid")), args.get("External id"))


def _key(name: str, args: Mapping[str, object]) -> Key | None:
    """The op's name and its tensors; None without shapes."""
    dims, types = args.get("Input Dims"), args.get("Input type")
    space, colons, packet = name.partition("::")
    if not isinstance(dims, list) or not isinstance(types, list) or not colons:
        return None
    found = [_spec(shape, kind) for shape, kind in zip(dims, types, strict=False)]
    if UNKNOWN in found:
        return None
    tensors = tuple(text for text in found if text)
    return (f"{space}.{packet}", tensors) if tensors else None


UNKNOWN = "?"


def _spec(shape: object, kind: object) -> str:
    """How a key writes that input; empty where it is no tensor, `UNKNOWN` for a list without its shapes."""
    if kind == "TensorList":
        whole = isinstance(shape, list) and bool(shape) and all(_is_shape(item) for item in shape)
        return list_spec(cast(list[list[int]], shape)) if whole else UNKNOWN
    return spec(DTYPES[kind], cast(list[int], shape)) if kind in DTYPES and _is_shape(shape) else ""


def _is_shape(shape: object) -> bool:
    return isinstance(shape, list) and all(isinstance(size, int) for size in shape)


def _number(value: object) -> float:
    try:
        return float(cast(float, value))
    except (TypeError, ValueError):
        return 0.0


def _kernel_microseconds(events: Iterable[Event]) -> dict[object, float]:
    """Microseconds on the device by the number of the op that launched them."""
    found: dict[object, float] = defaultdict(float)
    for event in events:
        args = event.get("args")
        if str(event.get("cat", "")).lower() in KERNELS and isinstance(args, dict):
            number = args.get("External id", args.get("external id"))
            if number is not None:
                found[number] += _number(event.get("dur"))
    return found


def _inclusive(calls: Iterable[Call], kernels: Mapping[object, float]) -> dict[Key, list[float]]:
    """Microseconds of each call by key, those of the ops inside it included."""
    by_thread: dict[tuple[object, object], list[Call]] = defaultdict(list)
    for call in calls:
        by_thread[call.thread].append(call)
    found: dict[Key, list[float]] = defaultdict(list)
    for thread in by_thread.values():
        open_calls: list[tuple[Call, list[float]]] = []
        for call in sorted(thread, key=lambda c: (c.start, -c.end)):
            while open_calls and open_calls[-1][0].end <= call.start:
                _close(open_calls, found)
            open_calls.append((call, [kernels.get(call.number, 0.0)]))
        while open_calls:
            _close(open_calls, found)
    return found


def _close(open_calls: list[tuple[Call, list[float]]], found: dict[Key, list[float]]) -> None:
    call, parts = open_calls.pop()
    spent = sum(parts)
    if open_calls:
        open_calls[-1][1].append(spent)
    if spent and call.key is not None:
        found[call.key].append(spent)


def _summed(found: Mapping[Key, Sequence[float]], source: str) -> list[Measurement]:
    made = []
    for (op, inputs), times in found.items():
        ordered = sorted(times)
        low, high = ordered[len(ordered) // 10], ordered[-1 - len(ordered) // 10]
        made.append(Measurement(op, inputs, median(ordered), low, high, len(ordered), source))
    return made
