"""A row of published memory figures of image models -> the training step that was measured.

Where a row does not say something, the builder's docstring says what was taken, and from what.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretrace.tracer import Step

Row = Mapping[str, str]


def resnet_trace(row: Row) -> Step:
    """ResNet-50 of torchvision as the profiler's example trains it, when ``zero_grad`` filled gradients with zeros."""
    import torchvision.models

    def step(model: nn.Module, optimizer: Any, inputs: tuple[Tensor, Tensor]) -> None:
        images, labels = inputs
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.001, momentum=0.9, foreach=False)

    model = getattr(torchvision.models, row["model"])(weights=None).train()
    return Step(model, _images(row, int(row["sequence"])), step=step, optimizer=optimizer)


def timm_train(row: Row) -> Step:
    """A model of timm with the defaults of its train.py: float32, SGD with Nesterov momentum, labels smoothed by 0.1.

    The source names neither precision nor optimizer; these are taken because they are the defaults. The loop keeps
    the output and the loss of an iteration until the next.
    """
    import timm

    model = timm.create_model(row["model"]).train()
    size = model.default_cfg.get("train_input_size", model.default_cfg["input_size"])
    kept: dict[str, Any] = {}

    def step(model: nn.Module, optimizer: Any, inputs: tuple[Tensor, Tensor]) -> None:
        images, labels = inputs
        kept["output"] = model(images)
        logs = F.log_softmax(kept["output"], dim=-1)
        right = -logs.gather(dim=-1, index=labels.unsqueeze(1)).squeeze(1)
        kept["loss"] = (0.9 * right + 0.1 * -logs.mean(dim=-1)).mean()
        kept["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True)

    return Step(model, _images(row, size[-1]), step=step, optimizer=optimizer)


def timm_bench(row: Row) -> Step:
    """A model of timm as its benchmark.py trained it with --amp: forward, loss and backward under autocast.

    Labels are drawn in the step. PyTorch 1.12 filled gradients with zeros, updated parameters one by one, and had no
    fused attention.
    """
    import timm.layers

    timm.layers.set_fused_attn(False)
    try:
        model = timm.create_model(row["model"]).train()
    finally:
        timm.layers.set_fused_attn(True)
    images, _ = _images(row, int(row["sequence"]))

    def step(model: nn.Module, optimizer: Any, images: Tensor) -> None:
        optimizer.zero_grad(set_to_none=False)
        with torch.autocast("cuda", torch.float16):
            output = model(images)
            labels = torch.empty(len(output), device=output.device, dtype=torch.long).random_(1000)
            F.cross_entropy(output, labels).backward()
        optimizer.step()

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, nesterov=True, foreach=False)

    return Step(model, (images,), step=step, optimizer=optimizer)


def _images(row: Row, size: int) -> tuple[Tensor, Tensor]:
    batch = int(row["batch"])
    return torch.randn(batch, 3, size, size), torch.randint(0, 1000, (batch,))
