"""Times of single ops as they were measured on a device, and how an op finds its own among them.

A *measurement* is the kernel time of one ATen op with given input types and shapes. It stands in a file beside the
shipped profile, never in it: a TOML file with ``base = "a100-sxm4-80gb"``, a name of its own, and one ``[[measured]]``
table for each op and shapes. Where an op of a step has the same name, types and shapes, its time is the measured one.

A list of tensors, as a foreach optimizer's ops take, is written as their number, their elements and a digest of their
shapes: ``"tensors[148 x 124439808 3f2a9c01]"``; its element type is not in a profiler's trace, and so not in the key.

Not covered: how operands lie in memory: two layouts of one shape share their measurement.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import NamedTuple
from zlib import crc32

from ..graph.dtype import ITEMSIZE
from ..graph.errors import ForetraceError
from ..graph.op import Op, Tensor

Key = tuple[str, tuple[str, ...]]
"""An op's name without its overload, and each tensor it is given as ``"float32[8, 1024]"``,
each list of tensors as `list_spec` writes it."""

FIELDS = ("op", "inputs", "microseconds", "low", "high", "calls", "source")
LONGEST_MICROSECONDS = 1e8


class Measurement(NamedTuple):
    """Microseconds of one call: the median of `calls`, and the range that eight in ten of them lie in."""

    op: str
    inputs: tuple[str, ...]
    microseconds: float
    low: float
    high: float
    calls: int
    source: str

    @property
    def key(self) -> Key:
        """What an op looks it up by."""
        return self.op, self.inputs


def spec(dtype: str, shape: Iterable[int]) -> str:
    """A tensor as a measurement's key writes it.

    >>> spec("bfloat16", (8, 1024))
    'bfloat16[8, 1024]'
    """
    return f"{dtype}[{', '.join(map(str, shape))}]"


def list_spec(shapes: Sequence[Sequence[int]]) -> str:
    """A list of tensors as a measurement's key writes it.

    >>> list_spec([(4, 5), (7,)])
    'tensors[2 x 27 dec89491]'
    """
    text = ";".join(",".join(map(str, shape)) for shape in shapes)
    return f"tensors[{len(shapes)} x {sum(map(prod, shapes))} {crc32(text.encode()):08x}]"


def key_of(op: Op) -> Key | None:
    """The key of `op`; None for one that is given lists with gaps, as indices are."""
    inputs = []
    for value in op.args.values():
        if isinstance(value, Tensor):
            inputs.append(spec(value.dtype, value.shape))
        elif type(value) is tuple and any(isinstance(item, Tensor) for item in value):
            shapes = [item.shape for item in value if isinstance(item, Tensor)]
            if len(shapes) != len(value):
                return None
            inputs.append(list_spec(shapes))
    return op.packet, tuple(inputs)


def measurements(file: str, entries: object) -> Mapping[Key, Measurement]:
    """The checked ``[[measured]]`` tables of a profile file. Raises `ForetraceError` for an impossible one."""
    if not isinstance(entries, list):
        raise ForetraceError(f"{file}: measured is not a list of tables", "Write [[measured]] with two brackets")
    found = [_measurement(file, place, entry) for place, entry in enumerate(entries, 1)]
    return MappingProxyType({one.key: one for one in found})


def _measurement(file: str, place: int, entry: object) -> Measurement:
    where = f"{file}: [[measured]] number {place}"
    if not isinstance(entry, dict):
        raise ForetraceError(f"{where} is not a table", f"Give it {', '.join(FIELDS)}")
    unknown = [name for name in entry if name not in FIELDS]
    missing = [name for name in FIELDS if name not in entry]
    if unknown or missing:
        raise ForetraceError(f"{where} {'has an unknown' if unknown else 'lacks'} {(unknown or missing)[0]}",
                             f"Give it {', '.join(FIELDS)}")  # fmt: skip
    op, inputs, source = entry["op"], entry["inputs"], entry["source"]
    if not isinstance(op, str) or "." not in op:
        raise ForetraceError(f"{where}: op is {op!r}", 'Give a name such as "aten.mm"')
    if not isinstance(inputs, list) or not all(isinstance(item, str) and _is_spec(item) for item in inputs):
        raise ForetraceError(f"{where}: inputs are {inputs!r}", 'Give texts such as "float32[8, 1024]"')
    if not isinstance(source, str) or not source:
        raise ForetraceError(f"{where}: source is {source!r}", "Say where it was measured")
    low, middle, high = (_microseconds(where, name, entry[name]) for name in ("low", "microseconds", "high"))
    if not low <= middle <= high:
        raise ForetraceError(f"{where}: low {low:g}, microseconds {middle:g}, high {high:g}", "Order them")
    calls = entry["calls"]
    if not isinstance(calls, int) or isinstance(calls, bool) or calls < 1:
        raise ForetraceError(f"{where}: calls is {calls!r}", "Give a whole number of at least 1")
    return Measurement(op, tuple(inputs), middle, low, high, calls, source)


def _is_spec(text: str) -> bool:
    if text.startswith("tensors["):
        return re.fullmatch(r"tensors\[\d+ x \d+ [0-9a-f]{8}\]", text) is not None
    dtype, bracket, sizes = text.partition("[")
    inside = sizes.removesuffix("]")
    parts = [part.strip() for part in inside.split(",")] if inside else []
    return dtype in ITEMSIZE and bool(bracket) and sizes.endswith("]") and all(part.isdigit() for part in parts)


def _microseconds(where: str, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ForetraceError(f"{where}: {name} is {value!r}, not a number", "Give microseconds")
    if not 0 < value <= LONGEST_MICROSECONDS:
        raise ForetraceError(
            f"{where}: {name} is {value:g}, outside 0 .. {LONGEST_MICROSECONDS:g}", "Give microseconds"
        )
    return float(value)


def to_toml(name: str, base: str, found: Iterable[Measurement]) -> str:
    """A profile file that starts from `base` and adds what was measured, sorted, as text."""
    lines = [
        f"# Measured kernel times, laid over the profile {base}. Give this file to --on in its place.",
        "",
        f'base = "{base}"',
        f'name = "{_quoted(name)}"',
    ]
    for one in sorted(found):
        inputs = ", ".join(f'"{item}"' for item in one.inputs)
        lines += [
            "",
            "[[measured]]",
            f'op = "{one.op}"',
            f"inputs = [{inputs}]",
            f"microseconds = {one.microseconds:.6g}",
            f"low = {min(one.low, one.microseconds):.6g}",
            f"high = {max(one.high, one.microseconds):.6g}",
            f"calls = {one.calls}",
            f'source = "{_quoted(one.source)}"',
        ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    clean = "".join(letter if letter.isprintable() else " " for letter in text)
    return clean.replace("\\", "\\\\").replace('"', '\\"')
