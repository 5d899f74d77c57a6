"""Every op that PyTorch tests the gradient of, as a step: bytes against a real run, and a price on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
from programs import printed

UNTRACED = {"sparse_mm_reduce", "sparse_sampled_addmm", "to_sparse"}
"""Ops that are given compressed sparse rows, or make a sparse matrix of unknown numbers."""


@pytest.fixture(scope="module")
def walked() -> dict[str, Any]:
    return printed("op_walk.py")


def test_live_bytes_are_the_allocators_after_forward_and_backward(walked: dict[str, Any]) -> None:
    assert walked["cases"] > 450
    assert walked["wrong"] == []
    assert set(walked["untraced"]) <= UNTRACED, walked["untraced"]


def test_every_op_of_these_steps_has_a_rule(walked: dict[str, Any]) -> None:
    assert walked["assumed"] == []
    assert walked["idle"] == []
