"""The user's settings of CUDA's libraries, as they stand when the step has run -> those other than PyTorch's own.

They are read and never set: also without a GPU PyTorch keeps what is assigned to ``torch.backends``. Those of
attention are read where its kernel is chosen (`attention`).

Not covered: reduced-precision sums of half-precision products, and TF32 set apart for RNNs. Of deterministic
algorithms, and of convolutions without cuDNN, a note says that they are not modelled.
"""

from __future__ import annotations

import torch

STOCK = {"matmul_tf32": False, "cudnn_tf32": True, "cudnn_benchmark": False, "cudnn": True, "deterministic": False}
"""PyTorch's own (https://docs.pytorch.org/docs/stable/notes/cuda.html, "TensorFloat-32", and torch.backends)."""

WORDS = {
    "matmul_tf32": "float32 products may run as TF32: torch.backends.cuda.matmul.allow_tf32 is on",
    "cudnn_tf32": "float32 convolutions do not run as TF32: torch.backends.cudnn.allow_tf32 is off",
    "cudnn": "convolutions are counted as cuDNN's all the same: torch.backends.cudnn.enabled is off",
    "deterministic": "kernels of deterministic algorithms, and their filling of new memory, are not modelled: "
    "torch.use_deterministic_algorithms is on",
}
"""What a report says of a setting that is not PyTorch's own."""


def backends(device: str) -> dict[str, bool]:
    """The settings that differ from `STOCK`; none for a step on the CPU."""
    if not device.startswith("cuda"):
        return {}
    found = {
        # The older names, allow_tf32 and set_float32_matmul_precision, set these too, and raise where both are in use.
        "matmul_tf32": torch.backends.cuda.matmul.fp32_precision == "tf32",
        "cudnn_tf32": torch.backends.cudnn.conv.fp32_precision == "tf32",  # type: ignore[attr-defined]
        "cudnn_benchmark": bool(torch.backends.cudnn.benchmark),
        "cudnn": torch._C._get_cudnn_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    return {name: value for name, value in found.items() if value is not STOCK[name]}
