"""Steps of timm's training script that took more than predicted -> the largest workspace that cuDNN would try for them.

With ``torch.backends.cudnn.benchmark``, which that script turns on, PyTorch runs the first ten plans of cuDNN's
heuristics for each new shape and keeps the fastest (ATen/native/cudnn/Conv_v8.cpp, get_plans_from_find;
``torch.backends.cudnn.benchmark_limit``). It allocates the largest of their workspaces first, so that much stays
reserved.

    python benchmarks/cudnn_tries.py /path/to/site-packages/nvidia [--only REGEX]

asks the cuDNN that lies there, for an A100, as `cudnn_workspaces` does.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from cudnn_workspaces import PASSES, Case, Cudnn, Setting
from tabulate import tabulate

from foretrace.graph import StepGraph
from memory_rows import Prediction, measured_bytes, rows, traced
from published_rows import profile_named

SETTING = Setting("a100-sxm4-40gb", "float32", "NCHW")
LIMIT = 10
MIB = 1 << 20
FEW = r"^(bat_resnext26ts|coatnet_2_rw_224|nfnet_f3)$"
"""The outliers."""


def convolutions(graph: StepGraph) -> Iterator[Case]:
    """Each convolution of a step once."""
    found = set()
    for op in graph.ops:
        if op.packet == "aten.convolution" and not op.get("transposed"):
            sizes = (op.tensor("input").shape, op.tensor("weight").shape)
            found.add((*sizes, *(op.args[name] for name in ("stride", "padding", "dilation", "groups"))))
    for case in sorted(found):  # type: ignore[type-var]
        yield Case("", graph.facts.target, *case)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", type=Path, metavar="PACKAGES", help="the folder with nvidia's packages")
    parser.add_argument("--only", default=FEW, metavar="REGEX", help="models that match (%(default)s)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    cudnn, lines = Cudnn(options.packages), []
    for row in rows():
        profile = profile_named(row["profile"])
        if row["family"] == "timm_train" and profile and re.search(options.only, row["model"]):
            graph = traced(row)
            missing = measured_bytes(row) - Prediction(graph, profile).bytes_of(row)
            tried = max(
                size
                for case in convolutions(graph)
                for name in PASSES
                for size in cudnn.tried(case, SETTING, name, LIMIT)
            )
            lines.append((f"{row['model']} b{row['batch']}", f"{missing / MIB:,.0f}", f"{tried / MIB:,.0f}"))
    print(f"cuDNN {cudnn.version}")
    print(tabulate(lines, ("step", "missing MiB, context included", "largest tried MiB"), tablefmt="github"))


if __name__ == "__main__":
    main()
