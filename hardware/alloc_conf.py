"""The text of ``PYTORCH_ALLOC_CONF`` -> an `AllocConf`. An *allocator setting* is one ``key:value`` of that text.

The variable was called ``PYTORCH_CUDA_ALLOC_CONF``, which PyTorch still reads, and reads first. Keys and defaults are
those of ``c10/core/AllocatorConfig.h`` and ``c10/cuda/CUDAAllocatorConfig.h`` as PyTorch 2.13 and 2.14 ship them, and
limits those that their parsers keep; the tests hold the shared keys against the parser of the installed torch. What
that parser would read by accident (``21x`` as 21, ``-1`` as an enormous size, a missing colon) is refused here.

Settings of pinned host memory and of locks are checked and kept, and change nothing on the device.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, NamedTuple

from ..graph.errors import ForetraceError

MIB = 1 << 20
INTERVALS = 16
"""``roundup_power2_divisions`` holds one number for each power of two from 1 MiB up, this many of them."""
UNLIMITED = (1 << 64) - 1
"""``max_split_size`` where the text does not set one: every block may be split."""
MIN_LARGE_BYTES = 10 * MIB
"""``kMinLargeAlloc``: a request of this size or more gets a segment of its own size."""
MOST_REGISTER_THREADS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocConf:
    """Settings of PyTorch's CUDA caching allocator; sizes in bytes. Without arguments: PyTorch's defaults."""

    large_segment_bytes: int = 20 * MIB
    """What a request above 1 MiB and below 10 MiB takes from the device, and the page of an expandable segment."""
    max_split_bytes: int = UNLIMITED
    """Blocks of this size or more are *oversize*: never split, never used for a smaller request."""
    max_non_split_rounding_bytes: int = 20 * MIB
    """By how much an oversize block may exceed the oversize request that it serves."""
    roundup_power2_divisions: tuple[int, ...] = (0,) * INTERVALS
    """Steps between a power of two and the next, for sizes from 1 MiB, 2 MiB, 4 MiB ... up; 0 is no rounding."""
    garbage_collection_threshold: float = 0.0
    """Share of the allowed memory above which unused old blocks are freed; asks for a memory fraction below 1."""
    expandable_segments: bool = False
    per_process_memory_fraction: float = 1.0
    """Share of the device's memory that may be reserved."""
    throw_on_cudamalloc_oom: bool = False
    release_lock_on_cudamalloc: bool = False
    graph_capture_record_stream_reuse: bool = False
    pinned_use_cuda_host_register: bool = False
    pinned_use_background_threads: bool = False
    pinned_free_catch_all: bool = False
    pinned_num_register_threads: int = 1
    pinned_reserve_segment_size_mb: int = 0
    pinned_max_round_threshold_mb: int | None = None
    pinned_max_cached_size_mb: int | None = None
    backend: str = "native"

    def divisions(self, size_bytes: int) -> int:
        """The steps between powers of two for a request of that size."""
        return self.roundup_power2_divisions[min(max(size_bytes.bit_length() - 21, 0), INTERVALS - 1)]


Settings = dict[str, Any]
Read = Callable[[str, str, Settings], Any]


class Key(NamedTuple):
    """How the value of a key is read, and the field of `AllocConf` that it becomes."""

    field: str
    read: Read


def _refuse(key: str, problem: str, mend: str) -> ForetraceError:
    return ForetraceError(f"allocator setting {key}: {problem}", mend)


def _whole(key: str, text: str) -> int:
    if not re.fullmatch(r"\+?[0-9]+", text):
        raise _refuse(key, f"{text!r} is not a whole number", f"Write {key}:NUMBER, such as {key}:64")
    return int(text)


def _mebibytes(least: Callable[[Settings], int]) -> Read:
    def read(key: str, text: str, settings: Settings) -> int:
        value, smallest = _whole(key, text), least(settings)
        if value < smallest:
            raise _refuse(key, f"{value} is too small", f"Give {smallest} or more: it counts MiB")
        return min(value, UNLIMITED // MIB) * MIB

    return read


def _large_segment_mebibytes(settings: Settings) -> int:
    return int(settings.get("large_segment_bytes", AllocConf().large_segment_bytes)) // MIB


def _plain(key: str, text: str, settings: Settings) -> int:
    return _whole(key, text)


def _positive(key: str, text: str, settings: Settings) -> int:
    value = _whole(key, text)
    if value == 0:
        raise _refuse(key, "0 is too small", "Give 1 or more")
    return value


def _threads(key: str, text: str, settings: Settings) -> int:
    value = _whole(key, text)
    if not _is_power_of_2(value) or value > MOST_REGISTER_THREADS:
        raise _refuse(key, f"{value} threads", f"Give a power of 2 up to {MOST_REGISTER_THREADS}")
    return value


def _flag(key: str, text: str, settings: Settings) -> bool:
    if text not in ("True", "False"):
        raise _refuse(key, f"{text!r} is neither True nor False", f"Write {key}:True or {key}:False")
    return text == "True"


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _refuse(key, f"{text!r} is not a number", f"Write {key}:0.8") from None


def _threshold(key: str, text: str, settings: Settings) -> float:
    value = _number(key, text)
    if not sys.float_info.min <= value < 1:  # std::stod, which PyTorch reads it by, takes no subnormal number
        raise _refuse(key, f"{text} is out of bounds", "Give a number above 0 and below 1")
    return value


def _fraction(key: str, text: str, settings: Settings) -> float:
    value = _number(key, text)
    if math.isnan(value) or not 0 <= value <= 1:
        raise _refuse(key, f"{text} is out of bounds", "Give a number from 0 to 1")
    return value


def _backend(key: str, text: str, settings: Settings) -> str:
    if text == "cudaMallocAsync":
        raise _refuse(key, "cudaMallocAsync leaves memory to the CUDA driver, which is not modelled", "Use native")
    if text != "native":
        raise _refuse(key, f"{text!r} is unknown", "Use native")
    return text


def _is_power_of_2(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def _divisions(key: str, text: str, settings: Settings) -> tuple[int, ...]:
    """One number for all sizes, or a list ``[256:1,512:2,>:4]`` of sizes in MiB and the divisions from there on.

    The first size sets all smaller ones as well, ``>`` all above the last; what the list skips is not rounded.
    """
    if not text.startswith("["):
        value = _whole(key, text)
        if not _is_power_of_2(value):
            raise _refuse(key, f"{value} is not a power of 2", f"Write {key}:4")
        return (value,) * INTERVALS
    if not text.endswith("]"):
        raise _refuse(key, f"{text.partition(']')[2]!r} follows the list", "End it with ]")
    found = [0] * INTERVALS
    last: int | None = None
    for entry in filter(None, text[1:-1].split(",")):
        size, colon, number = entry.partition(":")
        if not colon:
            raise _refuse(key, f"{entry!r} has no divisions", f"Write {key}:[256:1,512:2,>:4]")
        value = _whole(key, number)
        if value and not _is_power_of_2(value):
            raise _refuse(key, f"{value} divisions", "Give a power of 2, or 0 for none")
        if size == ">":
            first = 1 if last is None else last + 1
            found[first:] = [value] * (INTERVALS - first)
            continue
        boundary = _whole(key, size)
        if not _is_power_of_2(boundary):
            raise _refuse(key, f"a size of {boundary} MiB", "Give sizes that are powers of 2")
        index = min(boundary.bit_length() - 1, INTERVALS - 1)
        if last is None:
            found[:index] = [value] * index
        found[index], last = value, index
    return tuple(found)


KEYS: Mapping[str, Key] = MappingProxyType(
    {
        "large_segment_size_mb": Key("large_segment_bytes", _mebibytes(lambda _: MIN_LARGE_BYTES // MIB + 1)),
        "max_split_size_mb": Key("max_split_bytes", _mebibytes(_large_segment_mebibytes)),
        "max_non_split_rounding_mb": Key("max_non_split_rounding_bytes", _mebibytes(_large_segment_mebibytes)),
        "roundup_power2_divisions": Key("roundup_power2_divisions", _divisions),
        "garbage_collection_threshold": Key("garbage_collection_threshold", _threshold),
        "expandable_segments": Key("expandable_segments", _flag),
        "backend": Key("backend", _backend),
        "per_process_memory_fraction": Key("per_process_memory_fraction", _fraction),
        "throw_on_cudamalloc_oom": Key("throw_on_cudamalloc_oom", _flag),
        "release_lock_on_cudamalloc": Key("release_lock_on_cudamalloc", _flag),
        "release_lock_on_hipmalloc": Key("release_lock_on_cudamalloc", _flag),
        "graph_capture_record_stream_reuse": Key("graph_capture_record_stream_reuse", _flag),
        "pinned_use_cuda_host_register": Key("pinned_use_cuda_host_register", _flag),
        "pinned_use_hip_host_register": Key("pinned_use_cuda_host_register", _flag),
        "pinned_use_background_threads": Key("pinned_use_background_threads", _flag),
        "pinned_free_catch_all": Key("pinned_free_catch_all", _flag),
        "pinned_num_register_threads": Key("pinned_num_register_threads", _threads),
        "pinned_reserve_segment_size_mb": Key("pinned_reserve_segment_size_mb", _positive),
        "pinned_max_round_threshold_mb": Key("pinned_max_round_threshold_mb", _plain),
        "pinned_max_cached_size_mb": Key("pinned_max_cached_size_mb", _plain),
    }
)
"""Every key that PyTorch 2.13 or 2.14 knows on CUDA."""


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """The settings of the text, in order; white space means nothing."""
    squeezed = "".join(text.split()).removesuffix(",")
    if squeezed.count("[") != squeezed.count("]"):
        raise ForetraceError("a list in the allocator settings does not end", "Close it with ]")
    for part in re.split(r",(?![^\[]*\])", squeezed) if squeezed else ():
        if not part:
            raise ForetraceError("the allocator settings have a comma too many", "Write key:value,key:value")
        key, colon, value = part.partition(":")
        if key not in KEYS:
            close = get_close_matches(key.partition("=")[0], KEYS, n=1)
            guess = (
                f"Did you mean {close[0]}?"
                if close
                else f"Known: {', '.join(key for key in KEYS if not key.startswith('pinned_'))}"
            )
            raise ForetraceError(f"PyTorch's allocator has no setting {key!r}", guess)
        if not colon or not value:
            raise _refuse(key, "it has no value", f"Write {key}:VALUE")
        yield key, value


def parse(text: str) -> AllocConf:
    """The settings that a value of ``PYTORCH_ALLOC_CONF`` makes; of a key given twice, the last counts.

    >>> parse("max_split_size_mb:64,expandable_segments:True").max_split_bytes
    67108864

    Raises `ForetraceError` for what PyTorch refuses, and for ``backend:cudaMallocAsync``.
    """
    pairs = list(_pairs(text))
    settings: Settings = {}
    # The size of large segments is a limit to other settings, wherever in the text it stands.
    for key, value in sorted(pairs, key=lambda pair: pair[0] != "large_segment_size_mb"):
        field, read = KEYS[key]
        settings[field] = read(key, value, settings)
    settings.setdefault("max_non_split_rounding_bytes", _large_segment_mebibytes(settings) * MIB)
    return replace(AllocConf(), **settings)
