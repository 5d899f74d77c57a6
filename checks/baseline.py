"""Snapshots <-> *baseline*: the committed file that says what each target cost when its cost was last accepted.

One fact a line, sorted, exact integers; the comment behind a number is for the eye and never read. Rows below one part
in `CUT` of their fact are left out and added up in a row of their own, so that the file stays short enough to be
reviewed and still adds up. The file is derived: whatever happened to it, ``foretrace check --update`` writes it anew.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..graph import Category, ForetraceError
from ..graph.serde import write_whole
from .quantity import FACTS, text
from .snapshot import Row, Snapshot, form_bytes

SCHEMA_VERSION = 1
CUT = 100
"""Rows of less than this part of a fact are not listed one by one."""
TIME_CUT = 20
"""The same for time, which is an estimate and made of many rows."""
PARAMETER_CUT = 1000
"""The same for parameters, which say what the model is."""

REST = "(others)"
"""The module of the row that stands for all rows that are not listed."""

HEADER = f"""\
# What each target costs, as it was last accepted. Numbers are exact; the comments are for you and are not read.
# Nobody edits this file: "foretrace check --update" writes it, and settles merge conflicts in it.
schema = {SCHEMA_VERSION}
"""

_UPDATE = "Write it with: foretrace check --update"
_TABLES = ("made-with", "how", "checkpoints")
_LISTS = ("recomputes", "assumed", "assumptions")

Snapshots = Mapping[str, Snapshot]


def read(path: str | Path) -> dict[str, Snapshot] | None:
    """The snapshots of a baseline by target; None where there is no such file.

    Raises `ForetraceError` for a file that is no baseline, or that a newer foretrace wrote.
    """
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ForetraceError(f"{path} is no baseline: {error}", _conflict(path)) from error
    except OSError as error:
        raise ForetraceError(f"cannot read {path}: {error.strerror}", "Give a file that can be read.") from error
    version = document.get("schema")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ForetraceError(
            f"{path} has schema {version}, and this foretrace reads up to {SCHEMA_VERSION}",
            "Upgrade foretrace to the version that wrote it.",
        )
    try:
        if version != SCHEMA_VERSION:
            raise ValueError("no schema")
        return parsed(document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ForetraceError(f"{path} is no baseline: it was edited by hand or damaged", _UPDATE) from error


def write(path: str | Path, snapshots: Snapshots) -> bool:
    """Write the baseline, whole or not at all; False where the file has these very bytes already."""
    data = to_toml(snapshots).encode()
    try:
        if Path(path).read_bytes() == data:
            return False
    except OSError:
        pass  # not there, or not readable: writing says why
    write_whole(path, data)
    return True


def to_toml(snapshots: Snapshots) -> str:
    """The text of a baseline: the same snapshots give the same bytes."""
    return "\n".join([HEADER, *(_target(name, snapshots[name]) for name in sorted(snapshots))])


def cut(snapshot: Snapshot) -> Snapshot:
    """The snapshot as a baseline keeps it: small rows added up, and no lines of code."""
    rows = {fact: _listed(fact, found) for fact, found in snapshot.rows.items()}
    return Snapshot(
        facts=snapshot.facts,
        rows=rows,
        made_with=snapshot.made_with,
        how=snapshot.how,
        recomputes=snapshot.recomputes,
        checkpoints=snapshot.checkpoints,
        assumed=snapshot.assumed,
        assumptions=snapshot.assumptions,
    )


def is_listed(fact: str, row: Row, total: int) -> bool:
    """Whether a row is large enough to stand by itself in a fact of `total`."""
    part = TIME_CUT if fact == "time" else PARAMETER_CUT if row.kind == Category.PARAMETER else CUT
    return row.module != REST and row.value * part >= total


def _listed(fact: str, rows: tuple[Row, ...]) -> tuple[Row, ...]:
    total = sum(row.value for row in rows)
    listed = [row._replace(source=None, cast=None) for row in rows if is_listed(fact, row, total)]
    rest = total - sum(row.value for row in listed)
    return (*listed, *([Row(REST, "", "", "", rest)] if rest else []))


def _conflict(path: str | Path) -> str:
    """What to do about a file that is no TOML: most often two branches have met in it."""
    marked = b"<<<<<<<" in Path(path).read_bytes() if os.path.isfile(path) else False
    return f"Two branches changed it. {_UPDATE}" if marked else _UPDATE


# --- writing ---


def _target(name: str, snapshot: Snapshot) -> str:
    lines = [f"[{_key(name)}]"]
    entries: dict[str, tuple[object, str]] = {
        fact: (value, f"{text(fact, value)}{'  ' + snapshot.place if fact == 'peak' else ''}")
        for fact, value in snapshot.facts.items()
    }
    entries |= {"made-with": (snapshot.made_with, ""), "how": (snapshot.how, "")}
    entries |= {name: (list(getattr(snapshot, name)), "") for name in _LISTS if getattr(snapshot, name)}
    entries |= {"checkpoints": (snapshot.checkpoints, "")} if snapshot.checkpoints else {}
    lines += [_line(_key(key), *entries[key]) for key in sorted(entries)]
    for fact, rows in sorted(cut(snapshot).rows.items()):
        if rows:
            lines += ["", f"[{_key(name)}.rows.{fact}]"]
            lines += sorted(_line(_quoted(_row_name(row)), row.value, _row_comment(fact, row)) for row in rows)
    return "\n".join(lines) + "\n"


def _line(key: str, value: object, comment: str) -> str:
    return f"{key} = {_value(value)}" + (f"  # {comment}" if comment else "")


def _key(name: str) -> str:
    plain = name and name.replace("-", "").replace("_", "").isalnum() and name.isascii()
    return name if plain else _quoted(name)


def _quoted(text: str) -> str:
    """A basic string of TOML: JSON's, but that no character may be escaped as two, and that DEL is escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:_}"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(str(key))} = {_value(value[key])}" for key in sorted(value))
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(item) for item in value)}]"
    return _quoted(str(value))


def _row_name(row: Row) -> str:
    return " ".join(filter(None, row.key))


def _row_comment(fact: str, row: Row) -> str:
    times = f"  {row.times:,} x {text(fact, row.each)}" if row.each and row.times > 1 else ""
    return f"{text(fact, row.value)}{times}"


# --- reading ---


def parsed(document: Mapping[str, Any]) -> dict[str, Snapshot]:
    """The snapshots of a baseline that has been read as TOML. Raises what damage raises, such as ``KeyError``."""
    return {name: _parsed(table) for name, table in document.items() if name != "schema"}


def _parsed(table: Mapping[str, Any]) -> Snapshot:
    facts = {key: _integer(value) for key, value in table.items() if key in FACTS}
    known = {*FACTS, *_TABLES, *_LISTS, "rows"}
    if strangers := set(table) - known:
        raise ValueError(f"{min(strangers)} is no fact")
    rows = {
        fact: tuple(_row(key, _integer(value)) for key, value in listed.items())
        for fact, listed in table.get("rows", {}).items()
    }
    return Snapshot(
        facts=facts,
        rows={fact: tuple(sorted(found, key=lambda row: (-row.value, row.key))) for fact, found in rows.items()},
        made_with={key: str(value) for key, value in table["made-with"].items()},
        how=dict(table["how"]),
        recomputes=_texts(table, "recomputes"),
        checkpoints={key: _integer(value) for key, value in table.get("checkpoints", {}).items()},
        assumed=_texts(table, "assumed"),
        assumptions=_texts(table, "assumptions"),
    )


def _texts(table: Mapping[str, Any], name: str) -> tuple[str, ...]:
    return tuple(str(item) for item in table.get(name, ()))


def _integer(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def _row(name: str, value: int) -> Row:
    if name == REST:
        return Row(REST, "", "", "", value)
    module, what, kind, *form = name.split(" ", 3)
    if form:
        form_bytes(form[0])
    return Row(module, what, kind, form[0] if form else "", value)
