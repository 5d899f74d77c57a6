"""Rows -> a table: as text, CSV, Parquet (which needs pyarrow, of the extra ``parquet``) or a data frame.

A column is a parameter, a figure, or a part of a failure, by its name in `Row.to_dict`; a row has an empty cell where
its target takes no such parameter, and figures or failure, not both.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ..graph import ForetraceError
from ..graph.serde import write_whole
from ..report.format import bytes_text, seconds_text, share_text
from .row import Failure, Figures, Row

FORMULA = ("=", "+", "-", "@", "\t", "\r")
ENDINGS = (".parquet", ".csv")
ALIGNED = {"point": "left", "on": "left", "fits": "left", "needs": "right", "time": "right", "error": "left"}
"""The columns on a screen."""


def check(path: str | Path) -> None:
    """Raise `ForetraceError` for a file that could not be written: ask before the work is done."""
    ending, folder = Path(path).suffix, os.path.dirname(os.path.abspath(path))
    if ending not in ENDINGS:
        raise ForetraceError(f"{path} is neither Parquet nor CSV", f"Let the name end in {' or '.join(ENDINGS)}.")
    if ending == ".parquet" and find_spec("pyarrow") is None:
        raise ForetraceError("Parquet needs pyarrow", "pip install 'foretrace[parquet]', or let the name end in .csv.")
    if not os.path.isdir(folder) or os.path.isdir(path):
        raise ForetraceError(f"{path} cannot be written", "Give the name of a file in a folder that is there.")


def save(rows: Sequence[Row], path: str | Path) -> None:
    """Write the table, whole or not at all."""
    write_whole(path, to_parquet(rows) if Path(path).suffix == ".parquet" else to_csv(rows).encode())


def columns(rows: Sequence[Row]) -> list[str]:
    """The names of all columns: what was asked, parameters in the order in which they come, what came of it."""
    names = list(dict.fromkeys(name for row in rows for name in row.to_dict()))
    fixed = ("hardware", *Figures.__dataclass_fields__, "error", "error_message", "error_mend", "error_line")
    return [name for name in names if name not in fixed] + [name for name in fixed if name in names]


def to_csv(rows: Sequence[Row]) -> str:
    """The table as CSV with line feeds alone; what a spreadsheet would take for a formula gets an apostrophe."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.to_dict().items()} for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def to_parquet(rows: Sequence[Row]) -> bytes:
    """The table as Parquet; a parameter that is a number here and a text there is a text."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ForetraceError("Parquet needs pyarrow", "pip install 'foretrace[parquet]', or take csv.") from error
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(_typed(rows)), sink)
    return bytes(sink.getvalue())


def _typed(rows: Sequence[Row]) -> dict[str, list[Any]]:
    flat = [row.to_dict() for row in rows]
    found = {name: [row.get(name) for row in flat] for name in columns(rows)}
    return {name: _of_one_type(values) for name, values in found.items()}


def _of_one_type(values: list[Any]) -> list[Any]:
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) < 2 or kinds == {int, float}:
        values = [float(value) if len(kinds) == 2 and value is not None else value for value in values]
    else:
        values = [None if value is None else str(value) for value in values]
    return [value.encode("utf-8", "replace").decode() if isinstance(value, str) else value for value in values]


def to_pandas(rows: Sequence[Row]) -> Any:
    """The table as a ``pandas.DataFrame``. Raises `ForetraceError` where pandas is not installed."""
    try:
        import pandas
    except ImportError as error:
        raise ForetraceError("a data frame needs pandas", "pip install pandas, or take row.to_dict().") from error
    return pandas.DataFrame([row.to_dict() for row in rows], columns=columns(rows))


def to_text(rows: Sequence[Row]) -> str:
    """The table for a screen, ending in a newline; a failure in the place of the figures."""
    wide = len(ALIGNED) if any(row.failure for row in rows) else len(ALIGNED) - 1
    cells = [(named(row), row.hardware, *_shown(row.figures), _reason(row.failure))[:wide] for row in rows]
    heads, align = list(ALIGNED)[:wide], list(ALIGNED.values())[:wide]
    return tabulate(cells, heads, tablefmt="plain", colalign=align, disable_numparse=True) + "\n"


def named(row: Row) -> str:
    """The target and what it was called with."""
    return " ".join((row.target, *(f"{name}={value}" for name, value in row.parameters.items())))


def _shown(figures: Figures | None) -> tuple[str, str, str]:
    if figures is None:
        return "-", "-", "-"
    fits = "-" if figures.fits is None else "yes" if figures.fits else "no"
    share = share_text(figures.needed_bytes, figures.available_bytes)
    return f"{fits} {share}", bytes_text(figures.needed_bytes), f"~ {seconds_text(figures.step_seconds)}"


def _reason(failure: Failure | None) -> str:
    return "" if failure is None else str(failure)
