"""What other tools load: each *format* by its name, with the function that writes it and the ending of its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .dot import to_dot
from .graphml import to_graphml
from .json import to_json
from .memory_viz import to_memory_viz
from .mermaid import to_mermaid
from .model_explorer import to_model_explorer, to_model_explorer_heat
from .parquet import to_parquet
from .perfetto import to_perfetto
from .rows_csv import to_csv
from .svg import to_svg

if TYPE_CHECKING:
    from .result import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format that `export` writes."""

    ending: str
    about: str
    write: Callable[[Report, int], str | bytes]
    """From a report and the depth to which a drawing shows modules."""


FORMATS = {
    "memory-viz": Format(
        ending=".pickle",
        about="snapshot for PyTorch's memory viewer",
        write=lambda report, _: to_memory_viz(report),
    ),
    "perfetto": Format(
        ending=".json",
        about="trace for ui.perfetto.dev and chrome://tracing",
        write=lambda report, _: to_perfetto(report),
    ),
    "model-explorer": Format(
        ending=".json", about="graph for Model Explorer", write=lambda report, _: to_model_explorer(report)
    ),
    "model-explorer-heat": Format(
        ending=".json", about="its heat map: bytes allocated", write=lambda report, _: to_model_explorer_heat(report)
    ),
    "dot": Format(ending=".dot", about="Graphviz drawing of the modules", write=to_dot),
    "mermaid": Format(ending=".mmd", about="Mermaid drawing of the modules", write=to_mermaid),
    "svg": Format(ending=".svg", about="picture of the memory over the step", write=lambda report, _: to_svg(report)),
    "graphml": Format(
        ending=".graphml", about="ops and tensors as a graph", write=lambda report, _: to_graphml(report)
    ),
    "csv": Format(ending=".csv", about="a line for each op", write=lambda report, _: to_csv(report)),
    "parquet": Format(ending=".parquet", about="the same, typed (needs pyarrow)", write=lambda r, _: to_parquet(r)),
    "json": Format(ending=".json", about="the report", write=lambda report, _: to_json(report)),
}


def export(report: Report, format: str, depth: int = 2) -> bytes:
    """The report in a format of `FORMATS`. Raises ``KeyError`` for another."""
    written = FORMATS[format].write(report, depth)
    return written.encode("utf-8", "backslashreplace") if isinstance(written, str) else written
