"""A TOML file -> a `Profile`. A *hardware profile* says what one device can do, each number with its source.

Every number is a table of its own: ``value`` (or ``low``, ``typical``, ``high`` for what varies) and ``source``,
a URL or a document and table, or the measurement and the fit that it came from. The key carries the unit, and
`KEYS` says between which bounds a value is believable, so that a factor of 1,000 cannot hide. A profile of one's
own may start from another one with ``base = "a100-sxm4-80gb"`` and state only what differs.

Not covered: networks between machines, and energy.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, cast

from ..graph.errors import ForetraceError
from .constants import FILE as CONSTANTS
from .measured import Key as MeasuredKey
from .measured import Measurement, measurements

FOLDER = Path(__file__).parent

Table = dict[str, object]


class Range(NamedTuple):
    """What varies from kernel to kernel: a usual low value, the typical one, a usual high value."""

    low: float
    typical: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g} .. {self.typical:g} .. {self.high:g}"


Value = str | float | Range


class Fact(NamedTuple):
    """One line of a profile, as ``explain`` prints it."""

    key: str
    value: Value
    unit: str
    source: str


class Key(NamedTuple):
    """What a key of the file may hold: values between ``least`` and ``most``, in ``unit``."""

    unit: str
    least: float
    most: float
    kind: str = "number"
    """number, integer or range."""
    by_type: bool = False
    """True where each element type has its own table."""
    default: float | None = None
    """What is taken where the file says nothing; None where it has to."""
    unstated: str = ""
    """What then stands for the source."""


TEXT_KEYS = ("name", "full_name", "vendor", "architecture", "compute_capability")

# The bounds leave room for a device ten times smaller or larger than those on sale, not for a wrong unit.
KEYS: Mapping[str, Key] = MappingProxyType(
    {
        "memory_nominal_bytes": Key("bytes", 1e9, 1e13, "integer"),
        "memory_total_bytes": Key("bytes", 1e9, 1e13, "integer"),
        "cuda_context_bytes": Key("bytes", 0, 1e10, "integer"),
        "cublas_workspace_bytes": Key("bytes", 0, 1e9, "integer"),
        "l2_bytes": Key("bytes", 1e5, 1e10, "integer"),
        "l2_bandwidth_bytes_per_second": Key(
            "bytes/s", 0, 1e15, default=0.0, unstated="not stated; nothing is taken to be read from L2"
        ),
        "memory_bandwidth_bytes_per_second": Key("bytes/s", 1e10, 1e14),
        "link_bytes_per_second": Key("bytes/s", 0, 1e14),
        "sm_count": Key("multiprocessors", 1, 1e4, "integer"),
        "clock_hertz": Key("Hz", 1e8, 1e10),
        "tensor_flops_per_second": Key("FLOP/s", 1e11, 1e17, by_type=True),
        "vector_flops_per_second": Key("FLOP/s", 1e10, 1e16, by_type=True),
        "kernel_floor_seconds": Key("s", 1e-8, 1e-3, "range"),
        "host_speed": Key(
            "of an A100's host", 0.01, 100, default=1.0, unstated="not stated; assumed to be as fast as an A100's"
        ),
        "memory_bandwidth_efficiency": Key("share of peak", 0.001, 1, "range"),
        "vector_efficiency": Key("share of peak", 0.001, 1, "range"),
        "matmul_efficiency": Key("share of peak", 0.001, 1, "range", by_type=True),
    }
)

TENSOR_TYPES = ("float64", "tfloat32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "int8")
VECTOR_TYPES = ("float64", "float32", "bfloat16", "float16")
TYPES = {
    "tensor_flops_per_second": TENSOR_TYPES,
    "vector_flops_per_second": VECTOR_TYPES,
    "matmul_efficiency": (*TENSOR_TYPES, "float32"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What one device can do. Peaks are the vendor's, without sparsity; efficiencies are shares of them."""

    name: str
    full_name: str
    vendor: str
    architecture: str
    compute_capability: str
    memory_nominal_bytes: int
    """The capacity it is sold with."""
    memory_total_bytes: int
    """What is there for processes: ``torch.cuda.get_device_properties(0).total_memory``."""
    cuda_context_bytes: int
    """What a process holds before its first tensor; not in PyTorch's statistics."""
    cublas_workspace_bytes: int
    """What PyTorch allocates once for a cuBLAS handle and stream; in PyTorch's statistics."""
    l2_bytes: int
    l2_bandwidth_bytes_per_second: float
    """How fast it is read; 0 where that is not known, and then nothing is taken to be read from it."""
    memory_bandwidth_bytes_per_second: float
    link_bytes_per_second: float
    """To other devices of the same machine, both directions added up; 0 where there is only PCI Express."""
    sm_count: int
    clock_hertz: float
    tensor_flops_per_second: Mapping[str, float]
    """Peak of the tensor cores by element type; ``tfloat32`` is float32 rounded to 10 bits of mantissa."""
    vector_flops_per_second: Mapping[str, float]
    """Peak of the CUDA cores by element type, a fused multiply-add counted as two."""
    kernel_floor_seconds: Range
    """From the start of one kernel to that of the next when they do next to nothing."""
    host_speed: float
    """How fast the processors that this device is mostly sold with issue ops, over that of an A100's."""
    memory_bandwidth_efficiency: Range
    vector_efficiency: Range
    matmul_efficiency: Mapping[str, Range]
    """By element type; ``float32`` is a matrix product on CUDA cores."""
    measured: Mapping[MeasuredKey, Measurement]
    """Times of single ops that were measured on the device; none in a profile that comes with foretrace."""
    sources: Mapping[str, str]
    """Where each number comes from, by its key; ``key.type`` where there is one for each element type."""

    def __reduce__(self) -> tuple[object, ...]:
        """A profile goes to other processes: its mappings, which cannot be changed and so not be pickled, as dicts."""
        held = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return _rebuilt, ({name: dict(v) if isinstance(v, Mapping) else v for name, v in held.items()},)

    @property
    def capability(self) -> str | None:
        """The compute capability for which kernels are chosen; None for GPUs that have none, which are not NVIDIA's."""
        return self.compute_capability if re.fullmatch(r"\d+\.\d+", self.compute_capability) else None

    def changed(self, name: str, source: str, **values: object) -> Profile:
        """A profile of one's own, called `name`: this one with other values, which all come from `source`.

        A value is a number, ``(low, typical, high)`` where it varies, or a dict of these by element type, which
        changes those types alone: ``profile.changed("mine", "data sheet", sm_count=100,
        tensor_flops_per_second={"bfloat16": 4e14})``. Measured times of this profile are left behind. Raises
        `ForetraceError` for a key that there is not, and for a value that cannot be.
        """
        _refuse_unknown(name, "", dict(values), tuple(KEYS))
        sources = dict(self.sources)
        fields: dict[str, object] = {}
        for key, value in values.items():
            if KEYS[key].by_type:
                _refuse_unknown(name, f"{key}.", value, TYPES[key])
                changes = {
                    kind: _entry(name, f"{key}.{kind}", KEYS[key], _stated(one, source), sources)
                    for kind, one in cast(Table, value).items()
                }
                fields[key] = MappingProxyType({**getattr(self, key), **changes})
            else:
                fields[key] = _entry(name, key, KEYS[key], _stated(value, source), sources)
        own = {"name": name, "full_name": name, "measured": MappingProxyType({}), "sources": MappingProxyType(sources)}
        made = replace(self, **own, **fields)  # type: ignore[arg-type]
        _check_whole(name, made)
        return made

    def with_memory(self, memory_bytes: int) -> Profile:
        """This profile with so much memory, the CUDA context included. Raises `ForetraceError` where that fills it."""
        if memory_bytes <= self.cuda_context_bytes:
            raise ForetraceError(
                f"a device with {memory_bytes:,} bytes has no room beside the CUDA context of "
                f"{self.cuda_context_bytes:,} bytes",
                "Give the memory of the whole device.",
            )
        return replace(self, memory_total_bytes=memory_bytes)

    def facts(self) -> Iterator[Fact]:
        """Every number with its unit and source, in the order of the file."""
        for key in TEXT_KEYS:
            yield Fact(key, cast(str, getattr(self, key)), "", self.sources.get(key, ""))
        for key, spec in KEYS.items():
            held = getattr(self, key)
            values = {f"{key}.{name}": value for name, value in held.items()} if spec.by_type else {key: held}
            for name, value in values.items():
                yield Fact(name, value, spec.unit, self.sources[name])
        for one in self.measured.values():
            yield Fact(f"measured {one.op} {' '.join(one.inputs)}", one.microseconds * 1e-6, "s", one.source)


def _stated(value: object, source: str) -> Table:
    """A value as a file has it, with its source."""
    if isinstance(value, tuple | list):
        return {**dict(zip(("low", "typical", "high"), value, strict=False)), "source": source}
    return {"value": value, "source": source}


def _rebuilt(held: Mapping[str, object]) -> Profile:
    return Profile(**{n: MappingProxyType(v) if isinstance(v, dict) else v for n, v in held.items()})  # type: ignore[arg-type]


def names() -> tuple[str, ...]:
    """The profiles that come with foretrace.

    >>> "a100-sxm4-80gb" in names()
    True
    """
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml") if path != CONSTANTS))


def load(name_or_path: str | Path) -> Profile:
    """The profile of that name, or the one in that file (anything with a path separator, or ending in ``.toml``)."""
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or "\\" in text or text.endswith(".toml"):
        return _from_table(text, _read(Path(text)))
    if text not in names():
        raise _unknown(text)
    return _built_in(text)


@cache
def _built_in(name: str) -> Profile:
    return _from_table(f"{name}.toml", _read(FOLDER / f"{name}.toml"))


def _unknown(name: str) -> ForetraceError:
    close = _of_these_words(name) or get_close_matches(name.lower(), names(), n=1, cutoff=0.4)
    guess = f"Did you mean {' or '.join(map(repr, close))}? " if close else ""
    return ForetraceError(
        f"there is no hardware profile {name!r}",
        f"{guess}Known: {', '.join(names())}; or give the path of a .toml file",
    )


def _of_these_words(text: str) -> list[str]:
    """The profiles whose names have all of these words, or longer ones that begin so.

    >>> _of_these_words("H100"), _of_these_words("a100_80gb")
    (['h100-pcie-80gb', 'h100-sxm5-80gb'], ['a100-pcie-80gb', 'a100-sxm4-80gb'])
    """
    words = re.findall(r"\w+", text.lower().replace("_", " "))
    by_words = {name: name.split("-") for name in names()}
    return [n for n, parts in by_words.items() if words and all(any(p.startswith(w) for p in parts) for w in words)]


def _read(path: Path) -> Table:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ForetraceError(
            f"there is no hardware profile file {str(path)!r}", f"Known by name: {', '.join(names())}"
        ) from None
    except OSError as error:
        raise ForetraceError(f"cannot read hardware profile {str(path)!r}: {error.strerror}", "Give a file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ForetraceError(f"{path} is not TOML: {error}", "Mend that line") from None


def _from_table(file: str, table: Table) -> Profile:
    table = _with_base(file, table)
    measured = measurements(file, table.pop("measured", []))
    _refuse_unknown(file, "", table, (*TEXT_KEYS, *KEYS))
    sources: dict[str, str] = {}
    fields: dict[str, object] = {key: _text(file, table, key) for key in TEXT_KEYS}
    for key, spec in KEYS.items():
        if spec.default is not None and key not in table:
            fields[key], sources[key] = spec.default, spec.unstated
            continue
        entry = _required(file, table, key)
        if spec.by_type:
            _refuse_unknown(file, f"{key}.", entry, TYPES[key])
            by_type = {name: _entry(file, f"{key}.{name}", spec, value, sources) for name, value in entry.items()}
            fields[key] = MappingProxyType(by_type)
        else:
            fields[key] = _entry(file, key, spec, entry, sources)
    profile = Profile(**fields, measured=measured, sources=MappingProxyType(sources))  # type: ignore[arg-type]
    _check_whole(file, profile)
    return profile


def _with_base(file: str, table: Table) -> Table:
    """`table` laid over the profile that it names as its base."""
    base = table.pop("base", None)
    if base is None:
        return table
    if not isinstance(base, str) or base not in names():
        raise ForetraceError(f"{file}: base is {base!r}", f"Name one of {', '.join(names())}")
    below = _read(FOLDER / f"{base}.toml")
    return _overlay(_with_base(f"{base}.toml", below), table)


def _overlay(below: Table, above: Table) -> Table:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        whole = not isinstance(under, dict) or not isinstance(value, dict) or "source" in value
        merged[key] = value if whole else _overlay(cast(Table, under), cast(Table, value))
    return merged


def _refuse_unknown(file: str, prefix: str, table: object, known: tuple[str, ...]) -> None:
    if not isinstance(table, dict):
        raise ForetraceError(f"{file}: {prefix.rstrip('.')} is not a table", f"Give one of {', '.join(known)}")
    for key in table:
        if key not in known:
            close = get_close_matches(key, known, n=1)
            mend = f"Did you mean {prefix}{close[0]}?" if close else f"Known: {', '.join(known)}"
            raise ForetraceError(f"{file}: unknown key {prefix}{key}", mend)


def _required(file: str, table: Table, key: str) -> Table:
    entry = table.get(key)
    if entry is None:
        raise ForetraceError(f"{file}: {key} is missing", 'Add it, or start from another profile with base = "NAME"')
    if not isinstance(entry, dict):
        raise ForetraceError(f"{file}: {key} is not a table", f"Write [{key}] with value and source")
    return cast(Table, entry)


def _text(file: str, table: Table, key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value:
        what = "missing" if value is None else f"{value!r}, not text"
        raise ForetraceError(f"{file}: {key} is {what}", f'Write {key} = "..."')
    return value


def _entry(file: str, key: str, spec: Key, entry: object, sources: dict[str, str]) -> float | Range:
    """The checked number or range at `key`; its source goes into `sources`."""
    wanted = ("low", "typical", "high") if spec.kind == "range" else ("value",)
    _refuse_unknown(file, f"{key}.", entry, (*wanted, "source"))
    table = cast(Table, entry)
    sources[key] = _text(file, {f"{key}.source": table.get("source")}, f"{key}.source")
    numbers = [_number(file, f"{key}.{part}", spec, table.get(part)) for part in wanted]
    if spec.kind != "range":
        return numbers[0]
    if numbers != sorted(numbers):
        raise ForetraceError(f"{file}: {key} is {numbers}", "Order them: low <= typical <= high")
    return Range(*numbers)


def _number(file: str, key: str, spec: Key, value: object) -> float:
    if value is None:
        raise ForetraceError(f"{file}: {key} is missing", f"Give a number in {spec.unit}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ForetraceError(f"{file}: {key} is {value!r}, not a number", f"Give a number in {spec.unit}")
    if spec.kind == "integer" and not isinstance(value, int):
        raise ForetraceError(f"{file}: {key} is {value!r}, not a whole number", f"Give whole {spec.unit}")
    if not spec.least <= value <= spec.most:
        raise ForetraceError(
            f"{file}: {key} is {value:g}, outside {spec.least:g} .. {spec.most:g}", f"Give it in {spec.unit}"
        )
    return value


def _check_whole(file: str, profile: Profile) -> None:
    """What no single number can tell: does every peak that may be asked for have its efficiency?"""
    for name in ("float32", "float64"):
        if name not in profile.vector_flops_per_second:
            raise ForetraceError(f"{file}: vector_flops_per_second.{name} is missing", "Every device computes in it")
    for name in ("float32", "float64", *profile.tensor_flops_per_second):
        if name not in profile.matmul_efficiency:
            raise ForetraceError(
                f"{file}: matmul_efficiency.{name} is missing", "Each type of a matrix product needs its own"
            )
    if profile.memory_total_bytes > profile.memory_nominal_bytes:
        raise ForetraceError(
            f"{file}: memory_total_bytes is more than memory_nominal_bytes", "Give what the device reports"
        )
