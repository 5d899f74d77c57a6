"""``foretrace sweep TARGET...``: targets, lists of parameters and profiles -> a table, many at once."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from . import options as shared

if TYPE_CHECKING:
    from ..sweeps import Row, Sweep

MOST_SHOWN = 10
"""Failures that are told on the screen where the table goes to a file."""


def add(commands: shared.Commands[argparse.ArgumentParser]) -> None:
    """The parser of the command."""
    sweep = commands.add_parser(
        "sweep",
        help="trace and price many steps at once, into a table",
        description="Trace and price every target with every combination of parameters on every profile, many at once. "
        "A point that fails, hangs or dies is a row with its error. The exit code is 1 where there is one.",
        epilog="example: foretrace sweep train.py:make_step -p batch=1,2,4 -p seq=512,1024 "
        "--on a100-sxm4-80gb,h100-sxm5-80gb --store .sweep --out sweep.parquet",
    )
    sweep.add_argument("target", metavar="TARGET", nargs="+", help="path.py:callable or package.module:callable")
    sweep.add_argument(
        "--on",
        metavar="PROFILE,...",
        default=shared.DEFAULT_PROFILE,
        help="hardware profiles: names or .toml files (%(default)s)",
    )
    sweep.add_argument("--store", metavar="DIR", help="keep there what is done, and do not do it again")
    sweep.add_argument("--out", metavar="FILE", help="write the table there: .parquet or .csv (print it)")
    sweep.add_argument("--workers", metavar="N", type=int, help="processes that trace (as many as there are cores)")
    sweep.add_argument("--timeout", metavar="S", type=float, help="the most seconds that one trace may take (none)")
    sweep.add_argument("--host-memory", metavar="SIZE", help="the most memory that one process may take (no limit)")
    shared.add_tracing(sweep)
    sweep.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..sweeps import sweep, table

    if options.out:
        table.check(options.out)
    start = time.perf_counter()
    asked = sweep(
        options.target,
        shared.listed(options),
        options.on.split(","),
        workers=options.workers,
        store=options.store,
        timeout=options.timeout,
        host_memory_bytes=shared.size(options.host_memory) if options.host_memory else None,
        **shared.given(options),  # type: ignore[arg-type]
    )
    with asked:
        _follow(asked)
        rows = asked.rows()
    if options.out:
        asked.save(options.out)
        _tell(rows)
    else:
        print(table.to_text(rows), end="")
    failed = sum(row.failure is not None for row in rows)
    print(_summary(rows, failed, time.perf_counter() - start, options.out), file=sys.stderr)
    return 1 if failed else 0


def _follow(asked: Sweep) -> None:
    """A progress bar on standard error; nothing where that is not a terminal."""
    from tqdm import tqdm

    for _ in tqdm(asked, desc="sweep", unit="point", leave=False, disable=None):
        pass


def _tell(rows: tuple[Row, ...]) -> None:
    """Why points failed, where no table on the screen says so."""
    from ..sweeps.table import named

    failures = [(row, row.failure) for row in rows if row.failure]
    for row, failure in failures[:MOST_SHOWN]:
        print(f"{named(row)} on {row.hardware}: {failure}", file=sys.stderr)
    if len(failures) > MOST_SHOWN:
        print(f"and {len(failures) - MOST_SHOWN:,} more", file=sys.stderr)


def _summary(rows: tuple[Row, ...], failed: int, seconds: float, out: str | None) -> str:
    stored = sum(row.stored for row in rows)
    parts = [f"{len(rows):,} point{'' if len(rows) == 1 else 's'} in {seconds:.1f} s"]
    parts += [f"{stored:,} from the store"] if stored else []
    parts += [f"{failed:,} failed"] if failed else []
    parts += [f"written to {out}"] if out else []
    return "; ".join(parts)
