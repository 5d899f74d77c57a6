"""Every op that PyTorch tests the gradient of, as a step: bytes against a real run, and a price on a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WALK = Path(__file__).parent.parent / "support" / "op_walk.py"
UNTRACED = {"sparse_mm_reduce", "sparse_sampled_addmm", "to_sparse"}
"""Ops that are given compressed sparse rows, or make a sparse matrix of unknown numbers."""


@pytest.fixture(scope="module")
def walked() -> dict[str, Any]:
    ran = subprocess.run([sys.executable, "-W", "ignore", str(WALK)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def test_live_bytes_are_the_allocators_after_forward_and_backward(walked: dict[str, Any]) -> None:
    assert walked["cases"] > 450
    assert walked["wrong"] == []
    assert set(walked["untraced"]) <= UNTRACED, walked["untraced"]


def test_every_op_of_these_steps_has_a_rule(walked: dict[str, Any]) -> None:
    assert walked["assumed"] == []
    assert walked["idle"] == []
