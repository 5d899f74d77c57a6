"""The training step of a published GPU recording (see tests/data/README.md): 3.4 billion parameters, batch 4."""

from __future__ import annotations

import torch

from foretrace.tracer import Step
from gpt_by_hand import SIZES, training_step


def recorded_step(context: int, bfloat16: bool) -> Step:
    """The step as it was recorded, in float32 or under bfloat16 autocast."""
    return training_step(SIZES["xl-2026"], batch=4, context=context, autocast=torch.bfloat16 if bfloat16 else None)
