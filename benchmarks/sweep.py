"""Many at once: 1,000 points over 20 models with two processes beside one, killed and resumed, and on a dask cluster.

    python benchmarks/sweep.py [--models N] [--batches N] [--sizes N] [--page docs/sweeps.md]

Every model is swept over batches, sizes and two devices of different compute capability, so that each point is a trace
of its own. One process and two take turns model by model, so that both see the machine in the same state; wall times
are added up, loading torch included. Where other programs keep the cores busy the ratio says less: the load is printed
with it, and the processor time of both ways, which is what two free cores would divide between them. Then a sweep of
the same points into a store is killed when half are done, and resumed; and a cluster of two dask workers sweeps them
again. The rows must be the same each time, or the program fails.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import foretrace
from foretrace.sweeps import Row
from foretrace.sweeps.worker import Processes
from sweep_models import MODELS

HERE = Path(__file__).resolve().parent
DEVICES = ("a100-sxm4-80gb", "h100-sxm5-80gb")
BUSY = 0.5
SHARED = "Other programs used these cores at the time, too: the ratio of wall times says less then."
"""What is said of a run on a machine whose load was more than this share of its cores."""
MARKS = ("<!-- measured -->\n", "<!-- end -->\n")


def targets(models: int) -> list[str]:
    return [f"sweep_models.py:{name}" for name in MODELS[:models]]


def swept(target: str | Sequence[str], grid: dict[str, Any], **how: Any) -> tuple[list[Row], float]:
    """The rows, and the seconds that they took."""
    start = time.perf_counter()
    rows = foretrace.sweep(target, grid, DEVICES, root=HERE, **how).rows()
    return list(rows), time.perf_counter() - start


def turns(models: int, grid: dict[str, Any]) -> tuple[dict[int, list[float]], dict[int, float], list[Row]]:
    """Seconds of each model with one process and with two, which take turns; the processor's in all; the rows."""
    pools = {1: Processes(1), 2: Processes(2)}
    seconds: dict[int, list[float]] = {1: [], 2: []}
    found: list[Row] = []
    for place, target in enumerate(targets(models)):
        rows = {}
        for count in (1, 2) if place % 2 else (2, 1):
            rows[count], took = swept(target, grid, executor=pools[count])
            seconds[count].append(took)
        same(rows[1], rows[2], f"{target} with two processes")
        found += rows[1]
        print(f"{target}: {seconds[1][-1]:.1f} s by one, {seconds[2][-1]:.1f} s by two", file=sys.stderr, flush=True)
    processor = {count: ended(pool) for count, pool in pools.items()}
    return seconds, processor, found


def ended(pool: Processes) -> float:
    """End the processes; the seconds of processor time that they had."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    pool.shutdown(cancel_futures=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def same(one: Sequence[Row], other: Sequence[Row], what: str) -> None:
    facts = [[(row.target, row.parameters, row.hardware, row.figures, row.failure) for row in r] for r in (one, other)]
    if facts[0] != facts[1]:
        raise SystemExit(f"{what}: other rows")
    if failed := [row for row in one if row.failure]:
        raise SystemExit(f"{what}: {len(failed)} points failed, the first is {failed[0]}")


def resumed(models: int, grid: dict[str, Any], expected: Sequence[Row], store: str) -> tuple[int, int]:
    """How many points were done when the sweep was killed, and how many of these were done again."""
    listed = [f"{name}={','.join(map(str, values))}" for name, values in grid.items()]
    command = [
        sys.executable,
        "-m",
        "foretrace",
        "sweep",
        *targets(models),
        "--on",
        ",".join(DEVICES),
        "--store",
        store,
    ]
    command += [word for text in listed for word in ("-p", text)]
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and done(store) < len(expected) // 2:
            time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    known = done(store)
    rows, _ = swept(targets(models), grid, store=store)
    same(rows, expected, "resumed")
    return known, known - sum(row.stored for row in rows)


def done(store: str) -> int:
    return sum(1 for _ in Path(store).glob("*/*/*.json"))


def on_dask(models: int, grid: dict[str, Any], expected: Sequence[Row]) -> float:
    from distributed import Client, LocalCluster

    with tempfile.TemporaryDirectory() as scratch:
        cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=scratch)
        with cluster, Client(cluster) as client:
            executor: Executor = client.get_executor()
            rows, seconds = swept(targets(models), grid, executor=executor)
    same(rows, expected, "on dask")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=len(MODELS), help="how many of the models (%(default)s)")
    parser.add_argument("--batches", type=int, default=5, help="batches of each (%(default)s)")
    parser.add_argument("--sizes", type=int, default=5, help="sizes of each (%(default)s)")
    parser.add_argument("--page", help="write the figures between the marks of this page")
    options = parser.parse_args()
    grid = {"batch": list(range(1, options.batches + 1)), "size": list(range(1, options.sizes + 1))}
    load = os.getloadavg()[0]
    seconds, processor, rows = turns(options.models, grid)
    ratios = sorted(one / two for one, two in zip(seconds[1], seconds[2], strict=True))
    with tempfile.TemporaryDirectory() as store:
        known, again = resumed(options.models, grid, rows, store)
    dask = on_dask(options.models, grid, rows)
    one, two = sum(seconds[1]), sum(seconds[2])
    each = f"model by model {ratios[0]:.2f} to {ratios[-1]:.2f}, median {statistics.median(ratios):.2f}"
    lines = [
        f"- {len(rows):,} points of {options.models} models, a trace each: {one:,.0f} s by one process, "
        f"{two:,.0f} s by two: {one / two:.2f} times as fast ({each}); "
        f"{processor[1]:,.0f} s of processor time by one, {processor[2]:,.0f} s by two;",
        f"- killed when {known:,} were done, and resumed: {again:,} of these done again, the same rows;",
        f"- two dask workers on the same machine: {dask:,.0f} s, the same rows.",
        "",
        f"foretrace {foretrace.__version__}, torch {version('torch')}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores of {platform.machine()}; load {load:.1f} before, {os.getloadavg()[0]:.1f} after.",
    ]
    if load > BUSY * (os.cpu_count() or 1):
        lines += ["", SHARED]
    print("\n".join(lines))
    if options.page:
        before, rest = Path(options.page).read_text().split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        Path(options.page).write_text(before + MARKS[0] + "\n".join(lines) + "\n" + MARKS[1] + after)


if __name__ == "__main__":
    main()
