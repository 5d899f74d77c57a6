"""A project with a git history, in which tests change a line and look at what a check says of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

MODEL = """\
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.transpose(-2, -1)
        weights = scores.softmax(-1)
        return self.out(weights @ v)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attention = Attention(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.attention(x)
        return x + self.down(F.gelu(self.up(x)))


class Model(nn.Module):
    def __init__(self, width, depth, classes):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Sparing(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)) for _ in range(2)
        )

    def forward(self, x):
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False)
        return x.square().mean()


class Distilled(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.teacher = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.student = nn.Linear(width, width)

    def forward(self, x):
        wanted = self.teacher(x).detach()
        return F.mse_loss(self.student(x), wanted)
"""

TRAIN = """\
import torch
import torch.nn.functional as F

from model import Distilled, Model, Sparing

CLASSES = 100


def small(batch=4):
    model = Model(64, 2, CLASSES).to(torch.bfloat16)
    inputs = torch.randn(batch, 64, 64, dtype=torch.bfloat16)
    targets = torch.randint(0, CLASSES, (batch * 64,))
    return model, (inputs,), lambda logits: F.cross_entropy(logits.flatten(0, 1), targets)


def sparing(batch=256):
    return Sparing(64), (torch.randn(batch, 64),), lambda loss: loss


def distilled(batch=256):
    return Distilled(64), (torch.randn(batch, 64),), lambda loss: loss
"""

CONFIG = """\
on = "a100-sxm4-80gb"

[targets.small]
step = "train.py:small"
args = { batch = 4 }

[targets.sparing]
step = "train.py:sparing"

[targets.distilled]
step = "train.py:distilled"
"""

FILES = {"model.py": MODEL, "train.py": TRAIN, "foretrace.toml": CONFIG}
Edits = dict[str, list[tuple[str, str]]]


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def write_project(folder: Path) -> Path:
    """The project as it is in its first commit."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=Begin")
    return folder


def edit(folder: Path, edits: Edits) -> None:
    """Replace texts in files; each must stand there once or more."""
    for name, pairs in edits.items():
        text = (folder / name).read_text()
        for old, new in pairs:
            assert old in text, (name, old)
            text = text.replace(old, new)
        (folder / name).write_text(text)
