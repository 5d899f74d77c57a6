"""What a person reads or another program loads: a `Report`, and one file for each format."""

from .html import save_html, to_html
from .json import to_json
from .measured import measured_json, measured_table
from .profile import facts_table
from .result import Coverage, Flops, Parameters, Report, Taker, price
from .table import to_table

__all__ = [
    "Coverage",
    "Flops",
    "Parameters",
    "Report",
    "Taker",
    "facts_table",
    "measured_json",
    "measured_table",
    "price",
    "save_html",
    "to_html",
    "to_json",
    "to_table",
]
