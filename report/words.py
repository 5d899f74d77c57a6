"""Names of ops, phases, categories and lines as a person reads them."""

from __future__ import annotations

import posixpath

from ..graph import Category, Phase, Source


def phase_text(name: Category | Phase) -> str:
    """``zero_grad`` as ``zero grad``."""
    return str(name).replace("_", " ")


def short(name: str) -> str:
    """An op of PyTorch's own without its namespace."""
    return name.removeprefix("aten.")


def line_text(source: Source | None) -> str:
    """The file's own name and the line: the folders are in the JSON."""
    return f"{posixpath.basename(source.file)}:{source.line}" if source else ""
