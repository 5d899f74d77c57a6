"""A small detector: how many boxes it keeps depends on its scores, so that its trace rests on what is assumed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretrace.tracer import Step


class Detector(nn.Module):
    """A few convolutions, a score for each place, and a box for each place whose score is high enough."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(*(nn.Conv2d(3 if i == 0 else channels, channels, 3, padding=1) for i in range(3)))
        self.scores, self.boxes = nn.Conv2d(channels, 1, 1), nn.Linear(channels, 4)

    def forward(self, images: Tensor, wanted: Tensor) -> Tensor:
        features = self.body(images).relu()
        scores = self.scores(features).flatten(1).sigmoid()
        image, place = (scores > 0.5).nonzero(as_tuple=True)
        kept = features.flatten(2).transpose(1, 2)[image, place]
        return F.smooth_l1_loss(self.boxes(kept), wanted.expand(kept.shape[0], 4)) + scores.mean()


def detector(batch: int = 2, size: int = 32) -> Step:
    """One training step of it."""
    return Step(Detector(), (torch.rand(batch, 3, size, size), torch.rand(1, 4)), loss=lambda output: output)
