"""How fast the model of the caching allocator replays a million requests: ``python benchmarks/allocator.py``.

- *recorded*: the float32 training step in ``tests/data/memory_history/``, as often as it takes. What the step leaves
  in place of what it found is given back between the rounds.
- *random*: sizes from 4 bytes to 256 MiB, freed in random order, with about 1,000 blocks live.
- *many blocks*: the same with about 50,000 blocks of up to 1 MiB live, a tenth as many requests.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tabulate import tabulate

from foretrace.hardware.alloc_conf import parse
from foretrace.hardware.allocator import CachingAllocator
from foretrace.hardware.recording import requests, start
from foretrace.hardware.requests import Free, Malloc, Request, replay

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from memory_history import read

SEED = 0


def rounds(count: int) -> tuple[CachingAllocator, list[Request]]:
    """The recorded step, again and again: each round ends with the keys that the next one begins with."""
    events, end = read("xl_ctx128_full_step_none")
    before = start(events, end)
    step = requests(events)
    made = [request.key for request in step if isinstance(request, Malloc)]
    ended = [request.key for request in step if isinstance(request, Free)]
    sizes = {block.key: block.requested_bytes for segment in before for block in segment.blocks}
    new, gone = set(made), set(ended)
    step += [Free(key) for key in made if key not in gone]
    step += [Malloc(key, sizes[key]) for key in ended if key not in new]
    return CachingAllocator(start=before), step * -(-count // len(step))


def shuffled(count: int, live_blocks: int, largest: int) -> list[Request]:
    """Requests of sizes that are uniform in their logarithm; frees in random order."""
    chance, live, found = random.Random(SEED), [], []
    for key in range(count):
        if len(live) > live_blocks * chance.random() * 2:
            place = chance.randrange(len(live))
            live[place], live[-1] = live[-1], live[place]
            found.append(Free(live.pop()))
        else:
            found.append(Malloc(key, int(2 ** chance.uniform(2, largest))))
            live.append(key)
    return found


CASES: dict[str, Callable[[int], tuple[CachingAllocator, list[Request]]]] = {
    "recorded": rounds,
    "random": lambda count: (CachingAllocator(), shuffled(count, 1000, 28)),
    "random, expandable segments": lambda count: (
        CachingAllocator(conf=parse("expandable_segments:True")),
        shuffled(count, 1000, 28),
    ),
    "many blocks": lambda count: (CachingAllocator(), shuffled(max(count // 10, 1), 50_000, 20)),
}


def measured(name: str, count: int) -> list[object]:
    """One row: what was replayed, how long it took, and what the model said."""
    allocator, stream = CASES[name](count)
    begin = time.perf_counter()
    found = replay(stream, allocator)
    seconds = time.perf_counter() - begin
    blocks = sum(len(segment.blocks) for segment in found.segments)
    return [
        name,
        f"{found.requests:,}",
        f"{seconds:.2f}",
        f"{seconds / found.requests * 1e6:.2f}",
        f"{blocks:,}",
        f"{found.peak_allocated_bytes / 2**30:.2f}",
        f"{found.peak_reserved_bytes / 2**30:.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    options = parser.parse_args()
    rows = [measured(name, options.requests) for name in CASES]
    head = ["", "requests", "seconds", "us each", "blocks at end", "allocated GiB", "reserved GiB"]
    print(tabulate(rows, head, tablefmt="github", disable_numparse=True, colalign=("left", *("right",) * 6)))


if __name__ == "__main__":
    main()
