"""Changes in a model of several files, with hand-written blocks and a loop of its own: the line that was changed."""

from __future__ import annotations

import json
import shutil
from contextlib import chdir
from pathlib import Path

import pytest

from foretrace import cli
from small_project import Edits, edit

LAYERS = """\
import torch
from torch import nn


def gate(x, scale):
    y = x * scale
    return nn.functional.silu(y)


class Feed(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        return self.down(gate(self.up(x), 1.702))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.feed = Feed(width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        return x + self.feed(self.norm(x))
"""
MODEL = """\
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from net.layers import Block, gate

WORDS = 500


class Decoder(nn.Module):
    def __init__(self, depth=4, sparing=False, function=False):
        super().__init__()
        self.sparing, self.function = sparing, function
        self.tokens = nn.Embedding(WORDS, 32)
        self.blocks = nn.ModuleList(Block(32) for _ in range(depth))
        self.head = nn.Linear(32, WORDS, bias=False)

    def run(self, block, x):
        return block(x)

    def forward(self, ids, labels):
        x = self.tokens(ids)
        for number, block in enumerate(self.blocks):
            if self.sparing:
                x = self.under(block, x)
            elif self.function:
                x = checkpoint(self.run, block, x, use_reentrant=False)
            else:
                x = block(x)
        logits = self.head(gate(x, 1.0))
        return cross_entropy(logits.flatten(0, 1), labels.flatten())

    def under(self, block, x):
        return checkpoint(block, x, use_reentrant=False)
"""
TRAIN = """\
import foretrace
import torch

from net.model import WORDS, Decoder


def step(model, optimizer, inputs):
    loss = model(*inputs)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def made(model, batch):
    ids = torch.randint(0, WORDS, (batch, 64))
    return foretrace.Step(
        model=model,
        inputs=(ids, ids),
        step=step,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
    )


def plain(batch=4):
    return made(Decoder(), batch)


def sparing(batch=4):
    return made(Decoder(sparing=True), batch)


def function(batch=4):
    return made(Decoder(function=True), batch)
"""
CONFIG = """\
[targets.plain]
step = "train.py:plain"

[targets.sparing]
step = "train.py:sparing"
args = { batch = 4 }

[targets.function]
step = "train.py:function"
"""
FILES = {"net/layers.py": LAYERS, "net/model.py": MODEL, "train.py": TRAIN, "foretrace.toml": CONFIG}
CHANGES: dict[str, tuple[str, Edits, str, str, str]] = {
    "no checkpoint around a block that is written by hand": (
        "sparing",
        {"net/model.py": [("return checkpoint(block, x, use_reentrant=False)", "return block(x)")]},
        "M003",
        "return block(x)",
        "blocks.* is no longer run again in backward: checkpointing is off there",
    ),
    "no checkpoint around a function": (
        "function",
        {"net/model.py": [("checkpoint(self.run, block, x, use_reentrant=False)", "self.run(block, x)")]},
        "M003",
        "x = self.run(block, x)",
        "Decoder.run() is no longer run again in backward",
    ),
    "a checkpoint for fewer blocks": (
        "sparing",
        {"net/model.py": [("if self.sparing:", "if self.sparing and number < 3:")]},
        "M003",
        "x = block(x)",
        "blocks.* is less often run again in backward",
    ),
    "one more op in a function that two layers call": (
        "plain",
        {"net/layers.py": [("functional.silu(y)", "functional.silu(y) * torch.sigmoid(y)")]},
        "M003",
        "return nn.functional.silu(y) * torch.sigmoid(y)",
        "blocks.*.feed sigmoid",
    ),
    "a wider dtype in a function that two layers call": (
        "plain",
        {"net/layers.py": [("y = x * scale", "y = (x * scale).double()"), ("silu(y)", "silu(y).to(x.dtype)")]},
        "M003",
        "y = (x * scale).double()",
        "float64[4, 64, 128] where there was float32, as one more does",
    ),
    "a cast of what a loss is made of": (
        "plain",
        {"net/model.py": [("logits = self.head(gate(x, 1.0))", "logits = self.head(gate(x, 1.0)).double()")]},
        "M002",
        "logits = self.head(gate(x, 1.0)).double()",
        "makes float64[256, 500] where there was float32, as 2 more do; it became float64 at net/model.py:30",
    ),
    "an optimizer that keeps more": (
        "plain",
        {"train.py": [("AdamW(parameters, lr=1e-3)", "Adam(parameters, lr=1e-3, amsgrad=True)")]},
        "M002",
        "optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-3, amsgrad=True),",
        "optimizer is Adam (foreach, amsgrad), it was AdamW (foreach)",
    ),
    "a slower optimizer": (
        "plain",
        {"train.py": [("lr=1e-3", "lr=1e-3, foreach=False")]},
        "T002",
        "optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, foreach=False),",
        "optimizer is AdamW (for-loop), it was AdamW (foreach)",
    ),
    "another argument": (
        "sparing",
        {"foretrace.toml": [("batch = 4", "batch = 8")]},
        "M002",
        "args = { batch = 8 }",
        "batch is 8, it was 4",
    ),
    "another default of an argument": (
        "plain",
        {"train.py": [("plain(batch=4)", "plain(batch=8)")]},
        "M002",
        "def plain(batch=8):",
        "the step is given larger inputs: int64[8, 64], they were int64[4, 64]",
    ),
    "gradients that are set to zero": (
        "plain",
        {"train.py": [("zero_grad()", "zero_grad(set_to_none=False)")]},
        "M002",
        "optimizer.zero_grad(set_to_none=False)",
        "gradients are still there when the next step begins, and backward adds to them",
    ),
    "gradients that are forgotten": (
        "plain",
        {"train.py": [("    optimizer.zero_grad()\n", "")]},
        "M002",
        "loss.backward()",
        "zero_grad() is not called, or is told to keep them",
    ),
    "accumulated gradients": (
        "plain",
        {"train.py": [("    loss.backward()\n", "    loss.backward()\n    model(*inputs).backward()\n")]},
        "F001",
        "",
        "backward runs 2 times in a step, it was 1: gradients are accumulated",
    ),
    "losses that are kept": (
        "plain",
        {"train.py": [("def step(", "losses = []\n\n\ndef step("), ("loss.b", "losses.append(loss)\n    loss.b")]},
        "M005",
        "losses.append(loss)",
        "stay alive after every step",
    ),
    "more layers": (
        "plain",
        {"net/model.py": [("depth=4", "depth=6")]},
        "M002",
        "self.blocks = nn.ModuleList(Block(32) for _ in range(depth))",
        "blocks.* is there 6 times, it was 4",
    ),
    "a larger vocabulary": (
        "plain",
        {"net/model.py": [("WORDS = 500", "WORDS = 900")]},
        "M002",
        "self.head = nn.Linear(32, WORDS, bias=False)",
        "head weight is float32[900, 32], it was float32[500, 32]",
    ),
}


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoder") / "project"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with chdir(folder):
        assert cli.main(["check", "--update", "--jobs", "1", "--no-cache"]) == 0
    return folder


@pytest.mark.parametrize("name", CHANGES)
def test_the_line_that_was_changed(
    name: str, checked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run
) -> None:
    target, edits, code, line, words = CHANGES[name]
    project = shutil.copytree(checked, tmp_path / "project")
    monkeypatch.chdir(project)
    edit(project, edits)
    ended, printed = run("check", target, "--jobs", "1", "--no-cache", "--format", "json")
    assert ended == 1, printed
    (outcome,) = json.loads(printed)["targets"]
    (found,) = [finding for finding in outcome["findings"] if finding["code"] == code]
    assert any(words in cause["text"] for cause in outcome["causes"]), outcome["causes"]
    file, _, number = (found["source"] or "").partition(":")
    assert (file and (project / file).read_text().splitlines()[int(number) - 1].strip()) == line, found
