"""Real models with repeated blocks, traced with and without folding: the same graph, in what time.

    python benchmarks/folding.py [--suite causal ...] [--only REGEX] [--layers 14] [--device cuda] [--every 1]

The models are those of ``zoo.py`` at reduced width, made deeper and without memory. One line each: whether both graphs
are equal in every op, storage, event, span and fact, how many blocks were folded (0 where something forbids it), and
the seconds of processor time that each trace took. The exit code is 1 where two graphs differ.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

import zoo_models
from foretrace.tracer import Step, trace
from foretrace.tracer import unfold as unfolding
from zoo_models import SUITES, build

LAYERS = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"),
    *("num_encoder_layers", "num_decoder_layers"),
)
PARTS = ("ops", "storages", "events", "spans", "facts")


def deepened(layers: int) -> None:
    """Give the models of the scoreboard so many layers."""
    deep = dict.fromkeys(LAYERS, layers)
    zoo_models.ATTEMPTS = tuple({**sizes, **deep} for sizes in zoo_models.ATTEMPTS)


def without_memory(suite: str, name: str, attempt: int) -> Step:
    """The step with a model on the meta device; its inputs are ones."""
    with torch.device("meta"):
        step = build(suite, name, attempt)
    return replace(step, inputs=tree_map_only(torch.Tensor, lambda t: torch.ones_like(t, device="cpu"), step.inputs))


def compared(make: Callable[[], Step], device: str, folded: list[int]) -> dict[str, Any]:
    """Both traces: the parts in which they differ, and the seconds of each."""
    graphs, seconds = [], []
    for fold in (True, False):
        start = time.process_time()
        graphs.append(trace(make, fold=fold, device=device))
        seconds.append(time.process_time() - start)
    differing = [part for part in PARTS if getattr(graphs[0], part) != getattr(graphs[1], part)]
    return {"differing": differing, "folded": sum(folded), "seconds": seconds, "ops": len(graphs[0].ops)}


def counting(folded: list[int]) -> None:
    """Have `folded` take up how many blocks of each run are written from others."""
    stock = unfolding._Writer.write

    def write(self: Any) -> None:
        stock(self)
        folded.extend(len(gap.places) for gap in self.gaps if not gap.backward and gap.deaths is None)

    unfolding._Writer.write = write  # type: ignore[method-assign]


def first_that_runs(suite: str, name: str, device: str, folded: list[int]) -> dict[str, Any]:
    error: Exception | None = None
    for attempt in range(SUITES[suite].attempts):
        folded.clear()
        try:
            return compared(lambda attempt=attempt: without_memory(suite, name, attempt), device, folded)
        except Exception as raised:
            error = raised
    return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:120]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", action="append", choices=SUITES, help="may be repeated (causal, masked, vision)")
    parser.add_argument("--only", default="", help="regular expression that the name must match")
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--every", type=int, default=1, help="take every n-th model only")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    deepened(options.layers)
    folded: list[int] = []
    counting(folded)
    same = different = failed = helped = 0
    for suite in options.suite or ("causal", "masked", "vision"):
        names = [name for name, _ in SUITES[suite].names() if re.search(options.only, name)]
        for name in names[:: options.every]:
            found = first_that_runs(suite, name, options.device, folded)
            if "error" in found:
                failed += 1
                print(f"{suite} {name}: {found['error']}", flush=True)
                continue
            different += bool(found["differing"])
            same += not found["differing"]
            helped += found["folded"] > 0
            with_it, without = found["seconds"]
            verdict = f"DIFFER in {', '.join(found['differing'])}" if found["differing"] else "same"
            print(
                f"{suite} {name}: {verdict}, {found['folded']} blocks folded, "
                f"{found['ops']:,} ops, {with_it:.2f} s and {without:.2f} s",
                flush=True,
            )
    print(f"{same} the same, {different} different, {helped} of them folded; {failed} do not run")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
