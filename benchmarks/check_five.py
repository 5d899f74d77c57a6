"""What a memory check costs: five mid-size targets, cold and from the cache, in a project of its own.

    python benchmarks/check_five.py [--jobs 2]

The targets are GPT-2 at its four sizes and the textbook transformer at the smallest, with their losses and AdamW, 124
million to 1.6 billion parameters. Each check is a process of its own, as in CI; seconds are those of the whole process.
The CPU seconds leave out the processes that trace, which are no children of it, and so tell of the cached check alone.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SIZES = {"small": (12, 768, 12), "medium": (24, 1024, 16), "large": (36, 1280, 20), "xl": (48, 1600, 25)}


def config() -> str:
    steps = [(name, "gpt2_xl", size) for name, size in SIZES.items()] + [("textbook", "by_hand", SIZES["small"])]
    return "\n".join(
        f'[targets.{name}]\nstep = "gpt2_xl.py:{step}"\n'
        f"args = {{ batch = 4, layers = {layers}, width = {width}, heads = {heads} }}\n"
        for name, step, (layers, width, heads) in steps
    )


def seconds(folder: str, *arguments: str) -> tuple[float, float]:
    """Of the wall clock, and of all processors together."""
    command = [sys.executable, "-m", "foretrace", "check", *arguments]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", default="2")
    jobs = ("--jobs", parser.parse_args().jobs)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(EXAMPLES / "gpt2_xl.py", folder)
        (Path(folder) / "foretrace.toml").write_text(config())
        rows = [("cold, writing the baseline", *seconds(folder, "--update", *jobs))]
        rows.append(("from the cache", *seconds(folder, *jobs)))
        (Path(folder) / "foretrace.toml").write_text(config().replace("batch = 4", "batch = 2", 1))
        rows.append(("one of five changed", *seconds(folder, "--update", *jobs)))
    print(tabulate(rows, ("check of five targets", "seconds", "CPU seconds"), "github", floatfmt=".1f"))


if __name__ == "__main__":
    main()
