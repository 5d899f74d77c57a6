"""The page of what CUDA does otherwise names all of it; ``pytest --update-golden`` rewrites its list of kernels."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from importlib import import_module
from pathlib import Path

import pytest

from foretrace.hardware.extra_rules import RULES
from foretrace.tracer.autocast import _OWN_RULE
from foretrace.tracer.cuda import KERNELS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cuda.md"
BEGIN, END = "<!-- families -->", "<!-- end of families -->"


def families() -> str:
    """A line for each rule of what kernels take inside: its ops, its file, and the first sentence about it."""
    import_module("foretrace.hardware.workspaces")  # which has all rules
    packets = defaultdict(list)
    for packet, found in RULES.items():
        packets[found].append(packet.removeprefix("aten."))
    lines = ["| ops | what is taken | rule |", "|---|---|---|"]
    for found, names in sorted(packets.items(), key=lambda item: item[1]):
        file = Path(inspect.getsourcefile(found) or "").name
        said = " ".join((inspect.getdoc(found) or "").split("\n\n")[0].split())
        lines.append(f"| {', '.join(f'`{name}`' for name in names)} | {said} | `{file}`, {found.__name__} |")
    return "\n".join(lines)


def test_the_page_lists_what_kernels_take_inside(request: pytest.FixtureRequest) -> None:
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    if request.config.getoption("--update-golden"):
        PAGE.write_text(f"{before}{BEGIN}\n\n{families()}\n\n{END}{rest.split(END)[1]}")
        return
    assert rest.split(END)[0].strip() == families()


def test_the_page_names_every_op_that_goes_another_way() -> None:
    named = set(re.findall(r"`([^`]+)`", PAGE.read_text().split("## What kernels take inside")[0]))
    assert {*KERNELS, *_OWN_RULE} - named == set()
