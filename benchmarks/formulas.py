"""Closed forms and what fits on six families of models: is every polynomial exact, what does it cost, is the fit right?

    python benchmarks/formulas.py                 # the formulas, with their proof
    python benchmarks/formulas.py llama vit       # some of them
    python benchmarks/formulas.py --fit           # fit beside a search that traces every value

For each family: seconds by the clock and of the processor, traces, held-out instances that agreed (an instance that
did not would end the program), and the largest of them. With ``--fit`` the answer of `foretrace.fit` beside that of
tracing every value from 1 until one no longer fits.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import foretrace
from foretrace.costmodels import timeline

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
    vary: str = "batch"
    small: dict[str, Any] = field(default_factory=dict)
    limit_bytes: int = 0


FAMILIES = {
    "textbook": Family(
        "gpt2_xl.py:by_hand",
        "batch,seq,layers,width,heads,vocab",
        {"batch": 8},
        small={"layers": 4, "width": 256, "heads": 4, "seq": 256, "vocab": 5000},
        limit_bytes=1200 * MIB,
    ),
    "gpt2": Family(
        "gpt2_xl.py:gpt2_xl",
        "batch,seq,layers,width,heads,vocab",
        small={"layers": 4, "width": 256, "heads": 4, "seq": 256, "vocab": 5000},
        limit_bytes=1200 * MIB,
    ),
    "llama": Family(
        "families.py:llama",
        "batch,seq,layers,width,heads,kv_heads,hidden,vocab",
        {"batch": 2},
        at={"heads": [12, 24], "kv_heads": [2, 3], "width": [1152, 1728]},
        how={"autocast": "bfloat16"},
        small={"layers": 3, "width": 256, "heads": 4, "kv_heads": 2, "hidden": 512, "seq": 256, "vocab": 5000},
        limit_bytes=800 * MIB,
    ),
    "vit": Family(
        "families.py:vit", "batch,image,layers,width,heads", small={"layers": 3, "width": 192, "heads": 3},
        limit_bytes=700 * MIB,
    ),
    "resnet": Family(
        "families.py:resnet", "batch,depth,width,image", prove_at=({"depth": 23}, {"depth": 36}),
        small={"depth": 3, "width": 16, "image": 96}, limit_bytes=600 * MIB,
    ),
    "lstm": Family(
        "families.py:lstm", "batch,time,layers,width,vocab", small={"width": 128, "vocab": 2000, "time": 64},
        limit_bytes=200 * MIB,
    ),
    "lstm_cells": Family(
        "families.py:lstm_cells", "batch,time,width,vocab", small={"width": 128, "vocab": 2000, "batch": 8},
        vary="time", limit_bytes=16 * MIB,
    ),
}  # fmt: skip


def formulas(name: str, family: Family) -> None:
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
    print(
        f"{name:<11} {seconds:5.1f} s, {processor:5.1f} s of the processor, {found.traces:>3} traces, exact on "
        f"{len(found.proof.instances)} held-out instances, {sizes} among them: {found.full in found.proof.instances}",
        flush=True,
    )


def fits(name: str, family: Family) -> None:
    target = f"{EXAMPLES}/{family.target}"
    foretrace.trace_target(target, family.small, **family.how)  # what is imported once is neither's time
    start = time.process_time()
    found = foretrace.fit(target, family.vary, memory=family.limit_bytes, parameters=family.small, **family.how)
    quick = time.process_time() - start
    start, value = time.process_time(), 0
    while True:
        graph = foretrace.trace_target(target, {**family.small, family.vary: value + 1}, **family.how)
        if timeline(graph).peak_bytes > family.limit_bytes:
            break
        value += 1
    slow = time.process_time() - start
    verdict = "agree" if found.largest == value else "DIFFER"
    print(
        f"{name:<11} {family.vary}: fit {found.largest} from {found.traces} traces in {quick:.1f} s, every value "
        f"{value} in {slow:.1f} s: they {verdict}, {quick / slow:.1%} of the time",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help=", ".join(FAMILIES))
    parser.add_argument("--fit", action="store_true", help="compare what fits with a search over traces")
    options = parser.parse_args()
    for name in options.families or FAMILIES:
        (fits if options.fit else formulas)(name, FAMILIES[name])


if __name__ == "__main__":
    main()
