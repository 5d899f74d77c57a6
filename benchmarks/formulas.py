"""Closed forms and what fits on seven families of models: is every polynomial exact, what does it cost, is fit right?

    python benchmarks/formulas.py                 # the formulas, with their proof
    python benchmarks/formulas.py llama vit       # some of them
    python benchmarks/formulas.py --fit           # fit beside searches that trace
    python benchmarks/formulas.py --page docs/formula.md    # both, and write the tables there (a quarter of an hour)
    python benchmarks/formulas.py --page docs/formula.md lstm      # the rows of one family alone
    python benchmarks/formulas.py --page docs/formula.md --pieces  # the table of examples/branching.py alone

For each family: seconds by the clock and of the processor, traces, held-out instances that agreed (an instance that
did not would end the program), and the largest of them. With ``--fit`` the answer of `foretrace.fit` (by allocated
bytes, with headroom, and by reserved bytes) beside two searches that trace and ask for allocated bytes alone: *every
value* from 1 until one no longer fits, and *halving*, which doubles the value until it no longer fits and then halves
the interval. The model of each search is a small one, so that every value can be traced at all.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import foretrace
from foretrace.costmodels import timeline
from foretrace.costmodels.formula import written
from foretrace.hardware.fit import largest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MIB = 1 << 20


@dataclass(frozen=True)
class Family:
    """A target, the sizes that its formulas are over, and how much memory its search is to fill."""

    target: str
    over: str
    parameters: dict[str, Any] = field(default_factory=dict)
    at: dict[str, list[int]] = field(default_factory=dict)
    how: dict[str, Any] = field(default_factory=dict)
    prove_at: tuple[dict[str, int], ...] = ()
    small: dict[str, Any] = field(default_factory=dict)
    searches: tuple[tuple[str, int], ...] = ()
    """The size to vary, and the MiB that it may fill."""


FAMILIES = {
    "textbook": Family(
        "gpt2_xl.py:by_hand",
        "batch,seq,layers,width,heads,vocab",
        {"batch": 8},
        small={"layers": 4, "width": 256, "heads": 4, "seq": 256, "vocab": 5000},
        searches=(("batch", 6 * 1024), ("seq", 300)),
    ),
    "gpt2": Family(
        "gpt2_xl.py:gpt2_xl",
        "batch,seq,layers,width,heads,vocab",
        small={"layers": 4, "width": 256, "heads": 4, "seq": 256, "vocab": 5000},
        searches=(("batch", 6 * 1024), ("seq", 600)),
    ),
    "llama": Family(
        "families.py:llama",
        "batch,seq,layers,width,heads,kv_heads,hidden,vocab",
        {"batch": 2},
        at={"heads": [12, 24], "kv_heads": [2, 3], "width": [1152, 1728]},
        how={"autocast": "bfloat16"},
        small={"layers": 3, "width": 256, "heads": 4, "kv_heads": 2, "hidden": 512, "seq": 256, "vocab": 5000},
        searches=(("batch", 4 * 1024), ("seq", 100)),
    ),
    "vit": Family(
        "families.py:vit", "batch,image,layers,width,heads", small={"layers": 3, "width": 192, "heads": 3},
        searches=(("batch", 2 * 1024), ("image", 1024)),
    ),
    "resnet": Family(
        "families.py:resnet", "batch,depth,width,image", prove_at=({"depth": 23}, {"depth": 36}),
        small={"depth": 3, "width": 16, "image": 96}, searches=(("batch", 600), ("image", 2048)),
    ),
    "lstm": Family(
        "families.py:lstm", "batch,time,layers,width,vocab", small={"width": 128, "vocab": 2000, "time": 64},
        searches=(("batch", 400), ("time", 512)),
    ),
    "lstm_cells": Family(
        "families.py:lstm_cells", "batch,time,width,vocab", small={"width": 128, "vocab": 2000, "batch": 8},
        searches=(("batch", 1024), ("time", 64)),
    ),
}  # fmt: skip


def formulas(name: str, family: Family) -> list[str]:
    """Print what the formulas of a family cost; the row of the table."""
    start, processor = time.perf_counter(), time.process_time()
    found = foretrace.formula(
        f"{EXAMPLES}/{family.target}",
        family.over,
        parameters=family.parameters,
        at=family.at,
        prove_at=family.prove_at,
        **family.how,
    )
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    sizes = " ".join(f"{n}={v}" for n, v in found.full.items())
    assert found.full in found.proof.instances
    proved = len(found.proof.instances)
    print(
        f"{name:<11} {seconds:5.1f} s, {processor:5.1f} s of the processor, {found.traces:>3} traces, exact on "
        f"{proved} held-out instances, {sizes} among them",
        flush=True,
    )
    return [name, sizes, str(found.traces), str(proved), f"{processor:.0f} s"]


def fits(name: str, family: Family, vary: str, limit_bytes: int) -> list[str]:
    """Print what one search costs; the row of the table."""
    target = f"{EXAMPLES}/{family.target}"
    foretrace.trace_target(target, family.small, **family.how)  # what is imported once is neither's time
    start = time.process_time()
    found = foretrace.fit(target, vary, memory=limit_bytes, parameters=family.small, **family.how)
    quick = time.process_time() - start

    def fits_at(value: int) -> bool:
        try:
            graph = foretrace.trace_target(target, {**family.small, vary: value}, **family.how)
        except foretrace.ForetraceError:
            return value < found.largest  # too small for the model
        return timeline(graph).peak_bytes <= limit_bytes

    start = time.process_time()
    halved = largest(fits_at)
    halving = time.process_time() - start
    start = time.process_time()
    value = next(v for v in count(1) if not fits_at(v)) - 1
    slow = time.process_time() - start
    assert found.largest == halved == value, (name, vary, found.largest, halved, value)
    print(
        f"{name:<11} {vary}: {value} by all; fit {found.traces} traces in {quick:.1f} s, every value {slow:.1f} s "
        f"({quick / slow:.1%}), halving {halving:.1f} s ({quick / halving:.0%})",
        flush=True,
    )
    size = f"{limit_bytes // MIB:,} MiB"
    shares = [f"{quick:.1f} s", f"{slow:.1f} s", f"{quick / slow:.1%}", f"{halving:.1f} s"]
    return [name, vary, size, f"{value:,}", str(found.traces), *shares]


BRANCHING: dict[str, tuple[str, dict[str, Any]]] = {
    "attention": ("batch,width,heads", {"autocast": "bfloat16"}),
    "padded": ("batch,seq", {}),
    "windowed": ("batch,seq", {}),
}
"""What the formulas of a target in `examples/branching.py` are over, and how it is traced."""


def pieces(name: str) -> list[list[str]]:
    """Print a target's formulas piece by piece; the rows of the table."""
    over, how = BRANCHING[name]
    found = foretrace.formula(f"{EXAMPLES}/branching.py:{name}", over, pieces=8, **how)
    rows = []
    for piece in found.pieces:
        saved, proved = "none", 0
        if piece.formula is not None:
            polynomial = piece.formula.saved_for_backward.polynomial
            saved, proved = written(polynomial, found.letters, found.names), len(piece.formula.proof.instances)
        rows.append([name, str(piece), saved, str(proved)])
    for row in rows:
        print(f"{name}: {found.traces} traces; {'; '.join(row[1:])}", flush=True)
    return rows


PIECES = ["target", "piece", "saved for backward", "held-out instances"]
FORMULAS = ["family", "proved at", "traces", "held-out instances", "processor"]
FITS = ["family", "size", "limit", "largest", "traces of fit", "fit", "every value", "fit's share", "halving"]


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cells(line: str) -> list[str]:
    """The cells of one line of such a table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def write(page: Path, name: str, heads: list[str], rows: list[list[str]], order: list[str]) -> None:
    """Put a family's rows into the table between a page's marks, in place of those that it had."""
    before, begin, rest = page.read_text().partition(f"<!-- {name} -->\n")
    inside, end, after = rest.partition(f"<!-- end {name} -->\n")
    if not begin or not end:
        raise SystemExit(f"{page} has no place for {name}: <!-- {name} --> and <!-- end {name} -->")
    known = [cells(line) for line in inside.splitlines() if line.startswith("|")][2:]
    kept = [row for row in known if row[0] in order and row[0] != rows[0][0]]
    text = table(heads, sorted(kept + rows, key=lambda row: order.index(row[0])))
    page.write_text(f"{before}<!-- {name} -->\n\n{text}\n<!-- end {name} -->\n{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help=", ".join(FAMILIES))
    parser.add_argument("--fit", action="store_true", help="compare what fits with searches over traces")
    parser.add_argument("--pieces", action="store_true", help="the formulas of examples/branching.py, piece by piece")
    parser.add_argument("--page", type=Path, help="do both, and write the tables into this page")
    options = parser.parse_args()
    chosen = {name: FAMILIES[name] for name in options.families or FAMILIES}
    for name in BRANCHING if options.pieces else ():
        rows = pieces(name)
        if options.page:
            write(options.page, "pieces", PIECES, rows, list(BRANCHING))
    for name, family in chosen.items() if not options.pieces else ():
        if options.page or not options.fit:
            row = formulas(name, family)
            if options.page:
                write(options.page, "costs", FORMULAS, [row], list(FAMILIES))
        if options.page or options.fit:
            rows = [fits(name, family, vary, mib * MIB) for vary, mib in family.searches]
            if options.page:
                write(options.page, "searches", FITS, rows, list(FAMILIES))


if __name__ == "__main__":
    main()
