"""Published times of single kernels -> the constants of the time model, and how well they do on shapes left out.

    python benchmarks/fit_kernels.py [--profile NAME ...]

Reads `data/gemm.csv.gz` and `data/traffic.csv.gz`. Shapes are split by N and K of a product (by columns of a row-wise
operation), never row by row: half of them, by a hash, are fitted, the others only reported. For each profile and
element type the share of the peak of the largest tile is the one of least mean error; start and loss of smaller
tiles are common to all devices and are fitted to the A100s, V100 and H100 together. Prints what the profiles and
`hardware/kernels.toml` then hold; it writes no file.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple
from zlib import crc32

from tabulate import tabulate

from foretrace.graph import ForetraceError
from foretrace.hardware import Profile, load
from foretrace.hardware.constants import Constants, constants
from foretrace.hardware.problems import Problem
from foretrace.hardware.tiles import share_of_peak

DATA = Path(__file__).parent / "data"
COMMON = ("a100-pcie-80gb", "a100-pcie-40gb", "h100-sxm5-80gb", "v100-pcie-32gb")
ITEMSIZE = {"float32": 4, "tfloat32": 4, "bfloat16": 2, "float16": 2}
LONGEST_FLOOR = 20e-6
"""Kernels shorter than this are left to the floor."""


class Timed(NamedTuple):
    profile: str
    dtype: str
    problem: Problem
    seconds: float

    @property
    def is_fitted(self) -> bool:
        """Half of the N and K."""
        return crc32(f"{self.problem.n} {self.problem.k}".encode()) % 2 == 0


def read(name: str) -> list[dict[str, str]]:
    with gzip.open(DATA / name, "rt", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def products() -> list[Timed]:
    """Every timed matrix product that is longer than the floor."""
    found = []
    for r in read("gemm.csv.gz"):
        size = ITEMSIZE[r["dtype"]]
        n, k = int(r["n"]), int(r["k"])
        aligned = n * size % 16 == 0 and k * size % 16 == 0
        one = Problem(r["kind"], int(r["batch"]), int(r["m"]), n, k, size, aligned)
        found.append(Timed(r["profile"], r["dtype"], one, float(r["microseconds"]) * 1e-6))
    return [t for t in found if t.seconds > LONGEST_FLOOR]


def predicted(timed: Timed, profile: Profile, best: float, known: Constants) -> float:
    """Seconds of one product with that share for the largest tile."""
    tensor = timed.dtype in profile.tensor_flops_per_second
    peak = (profile.tensor_flops_per_second if tensor else profile.vector_flops_per_second)[timed.dtype]
    bandwidth = profile.memory_bandwidth_bytes_per_second * profile.memory_bandwidth_efficiency.typical
    p = timed.problem
    share = share_of_peak(p, "tensor" if tensor else "vector", best, profile.sm_count, peak / bandwidth, known)
    moved = p.itemsize * p.batch * (p.m * p.k + p.k * p.n + p.m * p.n)
    return profile.kernel_floor_seconds.typical + max(p.flops / (peak * share), moved / bandwidth)


def errors(timed: Iterable[Timed], profile: Profile, best: float, known: Constants) -> list[float]:
    return [abs(predicted(t, profile, best, known) / t.seconds - 1) for t in timed]


def best_share(timed: Sequence[Timed], profile: Profile, known: Constants) -> float:
    """The share of the peak of least mean error."""
    return min((s / 200 for s in range(60, 200)), key=lambda s: mean(errors(timed, profile, s, known)))


def thinned(timed: Sequence[Timed], most: int = 300) -> list[Timed]:
    """At most so many, evenly taken."""
    return list(timed[:: max(1, len(timed) // most)])


def common(groups: dict[tuple[str, str], list[Timed]], cores: str) -> Constants:
    """Start and loss that suit all devices at once, each with its own best share."""
    names = [key for key in groups if key[0] in COMMON and (key[1] == "float32") == (cores == "vector")]
    if cores == "tensor":
        names = [key for key in groups if key[1] == "bfloat16" and key[0].startswith("a100")]

    def cost(known: Constants) -> float:
        costs = []
        for name, dtype in names:
            timed = thinned([t for t in groups[name, dtype] if t.is_fitted and t.problem.kind == "matrix"])
            profile = load(name)
            costs.append(min(mean(errors(timed, profile, s / 40, known)) for s in range(24, 40)))
        return mean(costs)

    tried = [
        constants().having(**{f"tile_terms__{cores}": start, f"tile_halving_loss__{cores}": loss})
        for start, loss in product((0, 16, 32, 64, 96, 128, 192), (0.0, 0.02, 0.04, 0.06, 0.08))
    ]
    return min(tried, key=cost)


def faster(groups: dict[tuple[str, str], list[Timed]], known: Constants) -> float:
    """Measured over predicted time of the shapes left out, with the profiles as they are: the tenth percentile."""
    ratios = []
    for (name, dtype), timed in groups.items():
        try:
            profile = load(name)
        except ForetraceError:
            continue
        best = profile.matmul_efficiency[dtype].typical
        ratios += [t.seconds / predicted(t, profile, best, known) for t in timed if not t.is_fitted]
    return sorted(ratios)[len(ratios) // 10]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", action="append", help="that profile only; may be given several times")
    parser.add_argument("--common", action="store_true", help="fit start and loss of tiles too, which takes minutes")
    options = parser.parse_args()
    groups: dict[tuple[str, str], list[Timed]] = defaultdict(list)
    for timed in products():
        groups[timed.profile, timed.dtype].append(timed)
    known = constants()
    if options.common:
        for cores in ("vector", "tensor"):
            known = common(groups, cores)
            print(cores, {name: known[name] for name in known if name.startswith("tile_") and name.endswith(cores)})
    lines = []
    held_out: list[float] = []
    for (name, dtype), timed in sorted(groups.items()):
        if options.profile and name not in options.profile:
            continue
        try:
            profile = load(name)
        except ForetraceError:
            continue
        fitted = [t for t in timed if t.is_fitted] or timed
        share = best_share(thinned(fitted), profile, known)
        for kind in ("matrix", "batched"):
            for label, held in (("fitted", False), ("held out", True)):
                chosen = [t for t in timed if t.problem.kind == kind and t.is_fitted != held]
                if chosen:
                    found = errors(chosen, profile, share, known)
                    held_out += found if held else []
                    lines.append((name, dtype, kind, label, len(chosen), share, *_figures(found)))
    head = ("profile", "type", "kind", "shapes", "number", "share", "median", "mean", "90th")
    print(tabulate(lines, head, tablefmt="github"))
    print(f"\nAll shapes left out, {len(held_out):,}: median, mean, 90th: {', '.join(_figures(held_out))}")
    print(f"One in ten of them takes less than {faster(groups, known):.2f} of what the profiles as they are predict.")
    return 0


def _figures(found: list[float]) -> tuple[str, ...]:
    ordered = sorted(found)
    return tuple(f"{100 * v:.1f} %" for v in (median(found), mean(found), ordered[int(0.9 * (len(ordered) - 1))]))


if __name__ == "__main__":
    sys.exit(main())
