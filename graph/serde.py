"""StepGraph -> one compressed file of plain data, and back.

The file is gzip-compressed JSON. Everything that an op, a tensor, or a fact is made of stands once in the table
``values``, children before parents; the other tables are columns of plain integers and of indices into it.
A plain JSON value (null, true, 3, 2.5, "text") stands for itself; what JSON has no word for is a list that begins
with its kind, such as ``["tuple", 4, 7]``, whose numbers are again indices. Nothing in the file is ever executed.
Not covered: the torch.fx graph that the recorder wrote, which lives only as long as the process.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from .bulk import of_columns, uncollected
from .errors import ForetraceError
from .op import Const, Op, Source, Tensor, ops_of
from .phase import Phase
from .step_graph import Facts, Named, Span, StepGraph
from .storage import Category, Event, Storage

FORMAT = "foretrace-trace"
SCHEMA_VERSION = 1

Plain = Any
"""What JSON can say: the one type here that no checker can name."""


def save(graph: StepGraph, path: str | Path) -> None:
    """Write `graph` to `path`, whole or not at all. The same graph gives the same bytes."""
    text = json.dumps(_document(graph), separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    write_whole(path, gzip.compress(text.encode("ascii"), compresslevel=6, mtime=0))


@uncollected()
def load(path: str | Path) -> StepGraph:
    """Read a graph that `save` wrote. Raises `ForetraceError` for a file that is anything else."""
    document = _checked(_parsed(Path(path)), path)
    try:
        graph = _graph(document)
        _check_references(graph)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path) from error
    return graph


def write_whole(path: str | Path, data: bytes) -> None:
    """Put `data` into the file `path`: a reader sees the old file or the new one, never a part of either."""
    target = os.path.realpath(path)
    if os.path.exists(target) and not os.path.isfile(target):
        raise ForetraceError(f"cannot write {path}: it is not a regular file", "Give the name of a file.")
    try:
        put_whole(target, data)
    except OSError as error:
        raise ForetraceError(f"cannot write {path}: {error.strerror}", "Give a place that can be written.") from error


def put_whole(target: str | Path, data: bytes) -> None:
    """What `write_whole` does, for those with words of their own. Raises ``OSError``, and leaves no draft behind."""
    draft = f"{target}.{os.getpid()}.part"
    try:
        with open(draft, "xb") as file:
            file.write(data)
        os.replace(draft, target)
    except BaseException:
        if os.path.exists(draft):
            os.unlink(draft)
        raise


# --- values: one table for whatever an argument, a tensor or a fact may be ---


class _Writer:
    """Gives each distinct value one place in the table ``values``. ``1``, ``1.0`` and ``True`` are distinct."""

    def __init__(self) -> None:
        self.values: list[Plain] = []
        self._places: dict[object, int] = {}

    def place(self, value: object) -> int:
        """The index of `value` in the table, which grows if it is new."""
        if isinstance(value, (str, int, Tensor)):
            known = self._places.get((type(value), value))
            return self._add((type(value), value), self._encoded(value)) if known is None else known
        plain = self._encoded(value)
        return self._add((type(value), repr(plain)), plain)

    def _encoded(self, value: object) -> Plain:
        encode = _ENCODERS.get(type(value))
        if encode is None:
            raise TypeError(f"a trace cannot hold {value!r} of type {type(value).__name__}")
        return encode(self, value)

    def _add(self, key: object, plain: Plain) -> int:
        place = self._places.setdefault(key, len(self.values))
        if place == len(self.values):
            self.values.append(plain)
        return place

    def column(self, values: Sequence[object]) -> list[int]:
        """The places of a whole column."""
        return [self.place(value) for value in values]


def _itself(writer: _Writer, value: Any) -> Plain:
    return value


def _encode_float(writer: _Writer, value: float) -> Plain:
    return value if math.isfinite(value) else ["float", repr(value)]


def _encode_complex(writer: _Writer, value: complex) -> Plain:
    return ["complex", repr(value.real), repr(value.imag)]


def _encode_tensor(writer: _Writer, value: Tensor) -> Plain:
    shape, strides = writer.place(value.shape), writer.place(value.strides)
    return ["tensor", value.storage, writer.place(value.dtype), shape, strides, value.offset]


def _encode_dict(writer: _Writer, value: Mapping[object, object]) -> Plain:
    return ["dict", *writer.column(list(value.keys())), *writer.column(list(value.values()))]


def _as_list_of(kind: str) -> Callable[[_Writer, Any], Plain]:
    return lambda writer, value: [kind, *writer.column(value)]


_ENCODERS: dict[type, Callable[[_Writer, Any], Plain]] = {
    type(None): _itself,
    bool: _itself,
    int: _itself,
    str: _itself,
    float: _encode_float,
    complex: _encode_complex,
    Tensor: _encode_tensor,
    Const: _as_list_of("const"),
    Source: _as_list_of("source"),
    Named: lambda writer, value: ["named", *writer.column([getattr(value, field.name) for field in fields(Named)])],
    tuple: _as_list_of("tuple"),
    list: _as_list_of("list"),
    dict: _encode_dict,
}


def _decode_tensor(values: list[Any], items: list[Any]) -> Tensor:
    storage, dtype, shape, strides, offset = items
    return Tensor(_integer(storage), values[dtype], values[shape], values[strides], _integer(offset))


def _decode_dict(values: list[Any], items: list[Any]) -> dict[Any, Any]:
    half = len(items) // 2
    return {values[key]: values[value] for key, value in zip(items[:half], items[half:], strict=True)}


_DECODERS: dict[str, Callable[[list[Any], list[Any]], Any]] = {
    "float": lambda values, items: float(items[0]),
    "complex": lambda values, items: complex(float(items[0]), float(items[1])),
    "tensor": _decode_tensor,
    "const": lambda values, items: Const(*[values[i] for i in items]),
    "source": lambda values, items: Source(*[values[i] for i in items]),
    "named": lambda values, items: Named(*[values[i] for i in items]),
    "tuple": lambda values, items: tuple([values[i] for i in items]),
    "list": lambda values, items: [values[i] for i in items],
    "dict": _decode_dict,
}


def _decoded(plain: list[Plain]) -> list[Any]:
    """The table of values: an index that points ahead of itself is an ``IndexError``."""
    values: list[Any] = []
    for entry in plain:
        values.append(_DECODERS[entry[0]](values, entry[1:]) if isinstance(entry, list) else entry)
    return values


def _integer(value: Plain) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not an index")
    return value


# --- tables: a list of records <-> a dict of columns ---


def _columns(rows: Sequence[object], names: Sequence[str]) -> dict[str, list[Any]]:
    return {name: [getattr(row, name) for row in rows] for name in names}


_PLAIN_COLUMNS = {
    "ops": ("sequence", "forward"),
    "storages": ("bytes", "born", "died"),
    "events": ("op", "storage", "bytes"),
    "spans": ("first_op", "end_op", "first_event", "end_event"),
}
_PLACED_COLUMNS = {
    "ops": ("name", "phase", "result", "mutates", "module", "source"),
    "storages": ("device", "category", "name"),
    "events": (),
    "spans": ("phase",),
}


def _table(writer: _Writer, name: str, rows: Sequence[object]) -> dict[str, list[Any]]:
    placed = {
        column: writer.column([_plain_enum(value) for value in values])
        for column, values in _columns(rows, _PLACED_COLUMNS[name]).items()
    }
    return placed | _columns(rows, _PLAIN_COLUMNS[name])


def _plain_enum(value: object) -> object:
    return str(value) if isinstance(value, (Phase, Category)) else value


def _document(graph: StepGraph) -> dict[str, Plain]:
    writer = _Writer()
    ops = _table(writer, "ops", graph.ops)
    ops["argument_names"] = [writer.place(tuple(op.args)) for op in graph.ops]
    ops["arguments"] = [writer.place(tuple(op.args.values())) for op in graph.ops]
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "ops": ops,
        "storages": _table(writer, "storages", graph.storages),
        "events": _table(writer, "events", graph.events),
        "spans": _table(writer, "spans", graph.spans),
        "facts": {field.name: writer.place(_unfrozen(getattr(graph.facts, field.name))) for field in fields(Facts)},
        "values": writer.values,
    }


def _unfrozen(value: object) -> object:
    """Mappings of any type, at any depth, as plain dicts."""
    if isinstance(value, Mapping):
        return {key: _unfrozen(item) for key, item in value.items()}
    return type(value)(map(_unfrozen, value)) if type(value) in (tuple, list) else value  # type: ignore[call-arg, call-overload]


def _read_columns(document: dict[str, Plain], name: str, values: list[Any]) -> dict[str, list[Any]]:
    """The columns of a table, what is placed in the table of values taken from there."""
    table = document[name]
    columns = {column: table[column] for column in _PLAIN_COLUMNS[name]}
    return columns | {column: [values[i] for i in table[column]] for column in _PLACED_COLUMNS[name]}


def _graph(document: dict[str, Plain]) -> StepGraph:
    values = _decoded(document["values"])
    return StepGraph(
        ops=_ops(document, values),
        storages=tuple(_storages(document, values)),
        events=tuple(_events(document, values)),
        spans=tuple(_spans(document, values)),
        facts=Facts(**{name: values[place] for name, place in document["facts"].items()}),
    )


def _ops(document: dict[str, Plain], values: list[Any]) -> tuple[Op, ...]:
    columns = _read_columns(document, "ops", values)
    columns["phase"] = _members(Phase, columns["phase"])
    names = [values[i] for i in document["ops"]["argument_names"]]
    arguments = [values[i] for i in document["ops"]["arguments"]]
    args = [dict(zip(name, given, strict=True)) for name, given in zip(names, arguments, strict=True)]
    return ops_of(args=args, **columns)


def _storages(document: dict[str, Plain], values: list[Any]) -> list[Storage]:
    columns = _read_columns(document, "storages", values)
    columns["category"] = _members(Category, columns["category"])
    count = len(columns["bytes"])
    return of_columns(Storage, count, id=range(count), **columns)


def _events(document: dict[str, Plain], values: list[Any]) -> list[Event]:
    columns = _read_columns(document, "events", values)
    return of_columns(Event, len(columns["op"]), **columns)


def _spans(document: dict[str, Plain], values: list[Any]) -> list[Span]:
    columns = _read_columns(document, "spans", values)
    columns["phase"] = _members(Phase, columns["phase"])
    return of_columns(Span, len(columns["phase"]), **columns)


def _members(kind: type[StrEnum], texts: Iterable[str]) -> list[Any]:
    """A column of texts as the members of an enumeration."""
    known = {str(member): member for member in kind}
    return [known[text] for text in texts]


# --- what may be wrong with a file ---

_GZIP_MAGIC = b"\x1f\x8b"
_WRITE_ONE = "Write one with: foretrace run TARGET --save FILE"


def _parsed(path: Path) -> Plain:
    data = _read(path)
    if data and not data.startswith(_GZIP_MAGIC[: len(data)]):
        raise _foreign(path)
    try:
        return json.loads(gzip.decompress(data or _GZIP_MAGIC))
    except (gzip.BadGzipFile, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise _damaged(path) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ForetraceError(f"there is no trace file {path}", _WRITE_ONE) from error
    except OSError as error:
        raise ForetraceError(f"cannot read {path}: {error.strerror}", "Give a file that can be read.") from error


def _checked(document: Plain, path: str | Path) -> dict[str, Plain]:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise _foreign(path)
    version = document.get("schema_version")
    if type(version) is int and version > SCHEMA_VERSION:
        raise ForetraceError(
            f"{path} has schema version {version}, and this foretrace reads up to {SCHEMA_VERSION}",
            "Upgrade foretrace, or trace the target again.",
        )
    if version != SCHEMA_VERSION:
        raise _damaged(path)
    return document


def _check_references(graph: StepGraph) -> None:
    """Every id in the file names something in the file; more than that is what the laws say."""
    ops, storages = len(graph.ops), len(graph.storages)
    named = (*graph.facts.parameters, *graph.facts.buffers, *graph.facts.inputs, *graph.facts.state)
    used = {t.storage for op in graph.ops for t in (*op.inputs, *op.outputs)}
    used.update(event.storage for event in graph.events)
    used.update(item.storage for item in named)
    if any(_integer(storage) >= storages for storage in used):
        raise ValueError("a storage that the file does not hold")
    if any(not -1 <= event.op < ops for event in graph.events):
        raise ValueError("an op that the file does not hold")


def _foreign(path: str | Path) -> ForetraceError:
    return ForetraceError(f"{path} is not a foretrace trace", _WRITE_ONE)


def _damaged(path: str | Path) -> ForetraceError:
    return ForetraceError(f"{path} is damaged or incomplete", _WRITE_ONE)
