"""`Report` -> its rows as Parquet, a typed column for each key; needs pyarrow, which the extra ``parquet`` installs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..graph import ForetraceError

if TYPE_CHECKING:
    from .result import Report


def to_parquet(report: Report) -> bytes:
    """The rows as a Parquet file. Raises `ForetraceError` where pyarrow is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ForetraceError("Parquet needs pyarrow", "pip install 'foretrace[parquet]', or take csv.") from error
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(_encodable(report)), sink)
    return bytes(sink.getvalue())


def _encodable(report: Report) -> list[dict[str, object]]:
    """The rows; half a surrogate pair, which a file name may hold and UTF-8 may not, becomes a question mark."""
    return [
        {
            key: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
            for key, value in row.items()
        }
        for row in report.rows()
    ]
