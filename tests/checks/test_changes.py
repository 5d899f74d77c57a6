"""What a pull request does to a step, and what a check says of it: the right line, in words that show the mend."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from foretrace.checks import FORMATS
from foretrace.checks.baseline import read
from foretrace.checks.quantity import text
from small_project import MODEL, Edits, edit

CHANGES: dict[str, tuple[str, Edits, set[str], str, str]] = {
    "float32 upcast": (
        "small",
        {"model.py": [("scores.softmax(-1)", "scores.float().softmax(-1).to(v.dtype)")]},
        {"M002", "M003"},
        "weights = scores.float().softmax(-1).to(v.dtype)",
        "blocks.*.attention _softmax makes float32[4, 64, 64] where there was bfloat16",
    ),
    "forgotten detach": (
        "distilled",
        {"model.py": [("self.teacher(x).detach()", "self.teacher(x)")]},
        {"M002", "M003", "F001"},
        "wanted = self.teacher(x)",
        "teacher is differentiated, it was not",
    ),
    "kept list of activations": (
        "small",
        {
            "model.py": [
                (
                    "self.head = nn.Linear(width, classes)",
                    "self.head = nn.Linear(width, classes)\n        self.seen = []",
                ),
                ("x = block(x)\n", "x = block(x)\n            self.seen.append(x)\n"),
            ]
        },
        {"M002", "M005"},
        "self.seen.append(x)",
        "stay alive after every step: the result of blocks.* add, bfloat16[4, 64, 64], made at model.py:29",
    ),
    "disabled checkpoint": (
        "sparing",
        {"model.py": [("checkpoint(layer, x, use_reentrant=False)", "layer(x)")]},
        {"M002", "M003"},
        "x = layer(x)",
        "layers.* is no longer run again in backward: checkpointing is off there",
    ),
    "bigger head": (
        "small",
        {
            "model.py": [("self.head = nn.Linear(width, classes)", "self.head = nn.Linear(width, 10 * classes)")],
        },
        {"M002", "M003", "F001"},
        "self.head = nn.Linear(width, 10 * classes)",
        "head weight is bfloat16[1000, 64], it was bfloat16[100, 64]",
    ),
    "changed default dtype": (
        "sparing",
        {"train.py": [("CLASSES = 100", "torch.set_default_dtype(torch.float64)\nCLASSES = 100")]},
        {"M002", "M003"},
        "torch.set_default_dtype(torch.float64)",
        "parameters are float64, they were float32: the default dtype, or the dtype of the model, changed",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_costs_is_caught_at_its_line(name: str, project: Path, run) -> None:
    target, edits, codes, line, words = CHANGES[name]
    edit(project, edits)
    code, printed = run("check", target, "--jobs", "1", "--no-cache", "--format", "json")
    assert code == 1
    (found,) = json.loads(printed)["targets"]
    assert codes <= {finding["code"] for finding in found["findings"]}
    assert any(words in cause["text"] for cause in found["causes"])
    for finding in found["findings"]:
        if finding["code"] in codes:
            assert line_at(project, finding["source"]) == line, finding


def line_at(project: Path, source: str) -> str:
    file, _, line = source.partition(":")
    return (project / file).read_text().splitlines()[int(line) - 1].strip()


def test_the_targets_that_a_change_leaves_alone_stay_the_same(project: Path, run) -> None:
    edit(project, CHANGES["forgotten detach"][1])
    code, printed = run("check", "--jobs", "1", "--no-cache", "--format", "json")
    assert (code, [(outcome["target"], outcome["status"]) for outcome in json.loads(printed)["targets"]]) == (
        1,
        [("small", "same"), ("sparing", "same"), ("distilled", "found")],
    )


def test_the_words_of_a_finding(project: Path, run) -> None:
    edit(project, CHANGES["disabled checkpoint"][1])
    code, printed = run("check", "sparing", "--jobs", "1", "--no-cache")
    assert code == 1
    lines = printed.splitlines()
    # Of each of two layers, 256 rows: what goes into GELU and what comes out of it, 256 floats wide each.
    saved = 2 * 2 * 256 * 256 * 4
    assert f"  M003  memory saved for backward grew by {saved / 2**20:.2f} MiB" in printed
    assert "sparing: 2 findings" in lines
    page = (Path(__file__).parents[2] / "docs" / "ci.md").read_text()
    shown = page[page.index("```\nsparing") + 4 : page.index("```\n\n`foretrace explain`")].split("...\n")
    assert len(shown) == 2 and all(part in printed for part in shown)
    assert "  mend  Put torch.utils.checkpoint.checkpoint back around it, or accept the" in lines
    assert lines[-1] == "to accept it:  foretrace check --update, and commit foretrace-baseline.toml"


def module_renamed(old: str, new: str) -> Edits:
    return {"model.py": [(f"self.{old}", f"self.{new}")]}


MOVED = MODEL[MODEL.index("class Attention") : MODEL.index("class Block")]
REFACTORINGS: dict[str, Edits] = {
    "a comment at the top": {"model.py": [("import torch\n", "# The model.\nimport torch\n")]},
    "docstrings": {"model.py": [("(nn.Module):\n", '(nn.Module):\n    """One part."""\n\n')]},
    "type hints": {"model.py": [("def forward(self, x):", "def forward(self, x: torch.Tensor) -> torch.Tensor:")]},
    "a module renamed": module_renamed("attention", "mixer"),
    "the list of modules renamed": module_renamed("blocks", "stack"),
    "the head renamed": module_renamed("head", "classifier"),
    "every module renamed": {
        "model.py": [
            ("self.qkv", "self.project"),
            ("self.out", "self.merge"),
            ("self.attention", "self.mix"),
            ("self.up", "self.widen"),
            ("self.down", "self.narrow"),
            ("self.blocks", "self.steps"),
            ("self.head", "self.last"),
        ]
    },
    "a class renamed": {"model.py": [("Attention", "SelfAttention")]},
    "a class moved down": {"model.py": [(MOVED, ""), ("class Model", f"{MOVED}class Model")]},
    "layers defined in another order": {
        "model.py": [
            (
                "        self.attention = Attention(width)\n        self.up = nn.Linear(width, 4 * width)\n"
                "        self.down = nn.Linear(4 * width, width)\n",
                "        self.down = nn.Linear(4 * width, width)\n        self.up = nn.Linear(width, 4 * width)\n"
                "        self.attention = Attention(width)\n",
            )
        ]
    },
    "keyword arguments": {
        "model.py": [("nn.Linear(width, width)", "nn.Linear(in_features=width, out_features=width)")]
    },
    "a constant with a name": {
        "model.py": [("class Attention", "WIDER = 4\n\n\nclass Attention"), ("4 * width", "WIDER * width")]
    },
    "a loop for a comprehension": {
        "model.py": [
            (
                "nn.ModuleList(Block(width) for _ in range(depth))",
                "nn.ModuleList()\n        for _ in range(depth):\n            self.blocks.append(Block(width))",
            )
        ]
    },
    "Sequential for ModuleList": {
        "model.py": [
            (
                "nn.ModuleList(Block(width) for _ in range(depth))",
                "nn.Sequential(*(Block(width) for _ in range(depth)))",
            )
        ]
    },
    "a local renamed": {"model.py": [("scores", "affinity")]},
    "a helper method": {
        "model.py": [
            (
                "return x + self.down(F.gelu(self.up(x)))",
                "return x + self.wide(x)\n\n    def wide(self, x):\n        return self.down(F.gelu(self.up(x)))",
            )
        ]
    },
    "another way to import": {
        "model.py": [("import torch.nn.functional as F\n", "from torch.nn import functional as F\n")]
    },
    "the model in a package": {"train.py": [("from model import", "from parts.model import")]},
    "the target renamed": {
        "train.py": [("def sparing", "def frugal")],
        "foretrace.toml": [("train.py:sparing", "train.py:frugal")],
    },
    "another number of threads": {"train.py": [("CLASSES = 100", "torch.set_num_threads(1)\nCLASSES = 100")]},
    "an argument by its default": {"foretrace.toml": [("args = { batch = 4 }\n", "")]},
    "what the code prints": {"train.py": [("    model = Model(", '    print("building")\n    model = Model(')]},
    "a seed": {"train.py": [("CLASSES = 100", "torch.manual_seed(7)\nCLASSES = 100")]},
}


WRAPPED: dict[str, list[tuple[str, str]]] = {
    "train.py": [
        (
            "def small",
            "class Outer(torch.nn.Module):\n    def __init__(self, inner):\n        super().__init__()\n"
            "        self.inner = inner\n\n    def forward(self, x):\n        return self.inner(x)\n\n\ndef small",
        ),
        ("    model = Model(64, 2, CLASSES)", "    model = Outer(Model(64, 2, CLASSES))"),
    ]
}


@pytest.mark.parametrize("name", REFACTORINGS)
def test_a_change_that_costs_nothing_is_no_change(name: str, project: Path, run) -> None:
    if name == "the model in a package":
        (project / "parts").mkdir()
        (project / "model.py").rename(project / "parts" / "model.py")
    edit(project, REFACTORINGS[name])
    target = "sparing" if name == "the target renamed" else "small"
    assert run("check", target, "--jobs", "1", "--no-cache") == (0, expected(project, target))


def test_a_module_around_the_model_costs_the_host_a_call_and_nothing_else(project: Path, run) -> None:
    edit(project, WRAPPED)
    code, said = run("check", "small", "--jobs", "1", "--no-cache", "--format", "json")
    (found,) = json.loads(said)["targets"]
    assert (code, found["status"], found["findings"]) == (0, "changed", [])
    assert {name for name, value in found["facts"].items() if value != found["baseline"][name]} == {"time"}
    assert 0 < found["facts"]["time"] - found["baseline"]["time"] < 50_000


def expected(project: Path, target: str) -> str:
    """The screen of a clean check, from the numbers that the committed baseline holds."""
    known = read(project / "foretrace-baseline.toml")
    assert known is not None
    said = ", ".join(f"{fact} {text(fact, known[target].facts[fact])}" for fact in ("peak", "saved", "flops", "time"))
    return f"{target}: ok, no change\n  {said}\n\n1 target: nothing found\n"


def test_another_process_path_and_hash_seed_give_the_same_bytes(project: Path, tmp_path: Path, run) -> None:
    """What this process writes of a change, and another one elsewhere, with its own processes, to the byte."""
    edit(project, CHANGES["float32 upcast"][1])
    writes = [f"--write={name}=out.{name}" for name in FORMATS]
    here = run("check", "small", "--jobs", "1", "--no-cache", *writes)
    written = {path.name: path.read_bytes() for path in project.glob("out.*")}
    elsewhere = tmp_path / "another place" / "deep"
    elsewhere.parent.mkdir()
    project.rename(elsewhere)
    command = [sys.executable, "-m", "foretrace", "check", "small", "--jobs", "2", "--no-cache", *writes]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == here, done.stderr
    assert {path.name: path.read_bytes() for path in elsewhere.glob("out.*")} == written
    assert here[0] == 1 and len(written) == len(FORMATS)
    assert not any(str(tmp_path).encode() in text for text in written.values())
