"""The exports in the code that shows them, under node: Mermaid's parser, and PyTorch's memory viewer.

Both are skipped where they are not: `npm install mermaid jsdom` beside the repository or globally, and
``MEMORY_VIZ=…/pytorch/torch/utils/viz``, a folder of PyTorch's sources.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from foretrace import price
from foretrace.report import Report
from foretrace.report.exports import export
from foretrace.report.module_graph import module_graph
from handmade import perceptron
from hostile import hostile

TOY = Path(__file__).parents[1] / "support" / "toy.toml"
VIEWERS = Path(__file__).parents[1] / "support" / "viewers"
NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="there is no node on this machine")


def seen(script: str, folder: Path, data: bytes) -> dict[str, Any]:
    assert NODE
    done = subprocess.run([NODE, VIEWERS / script, folder], input=data, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return dict(json.loads(done.stdout))


def node_modules() -> Path:
    """A folder with Mermaid and the DOM that it wants."""
    near = [folder / "node_modules" for folder in Path(__file__).parents]
    places = [*near, *map(Path, filter(None, os.environ.get("NODE_PATH", "").split(os.pathsep)))]
    npm = shutil.which("npm")
    if npm:
        places.append(Path(subprocess.run([npm, "root", "-g"], capture_output=True, text=True).stdout.strip()))
    for place in places:
        if (place / "mermaid").is_dir() and (place / "jsdom").is_dir():
            return place
    pytest.skip("mermaid and jsdom are not installed")


@pytest.mark.parametrize("make", [perceptron, hostile, lambda: hostile('end\n  subgraph x[["a"]] %%{init}%% `;#quot;')])
def test_mermaid_s_parser_reads_the_modules(make: Any) -> None:
    report = price(make(), on=TOY)
    found = seen("mermaid.mjs", node_modules(), export(report, "mermaid"))
    graph = module_graph(report)
    assert found["type"].startswith("flowchart")
    assert (len(found["nodes"]), len(found["edges"])) == (len(graph.nodes), len(graph.edges))
    assert not any("<script" in text or "<img" in text for text in found["nodes"])


@pytest.mark.parametrize("make", [perceptron, hostile])
def test_pytorch_s_viewer_reads_the_snapshot(make: Any) -> None:
    folder = os.environ.get("MEMORY_VIZ")
    if not folder:
        pytest.skip("MEMORY_VIZ names no folder with PyTorch's viewer")
    report: Report = price(make(), on=TOY)
    found = seen("memory_viz.mjs", Path(folder), export(report, "memory-viz"))
    assert report.device_memory is not None
    assert found["most_live"] == report.device_memory.requested_peak_bytes
    assert found["most_segments"] == report.device_memory.reserved_peak_bytes
    assert {"unknown", "parameter", "saved_for_backward", "workspace"} <= set(found["categories"])
    assert any("phase" in said and "aten." in said for said in found["said"])
