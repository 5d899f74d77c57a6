"""The training step of a published GPU recording (see tests/data/README.md): 3.4 billion parameters, batch 4."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from foretrace.tracer import Step
from gpt_by_hand import SIZES, VOCABULARY, Transformer, training_step

SIZE, BATCH = SIZES["xl-2026"], 4


def recorded_step(context: int, bfloat16: bool) -> Step:
    """The step as it was recorded, in float32 or under bfloat16 autocast."""
    return training_step(SIZE, BATCH, context, autocast=torch.bfloat16 if bfloat16 else None)


def recorded_forward(context: int, bfloat16: bool) -> Step:
    """The forward alone, without gradients."""

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: tuple[Tensor, Tensor]) -> None:
        with torch.no_grad():
            with torch.autocast("cuda", torch.bfloat16) if bfloat16 else nullcontext():
                logits = model(inputs[0])
            del logits

    ids, targets = (torch.randint(0, VOCABULARY, (BATCH, context)) for _ in range(2))
    return Step(Transformer(SIZE, context), (ids, targets), step=step, optimizer=None)
