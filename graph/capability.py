"""A text such as ``"8.0"`` -> a *compute capability*: the generation of an NVIDIA GPU, as major and minor number.

What kernels PyTorch chooses depends on it: https://developer.nvidia.com/cuda-gpus lists the GPUs of each.
"""

from __future__ import annotations

from .errors import ForetraceError

LEAST, MOST = (5, 0), (12, 1)
"""Those that PyTorch has kernels for (ATen/native/transformers/cuda/sdp_utils.cpp asks for this range)."""


def capability_of(text: str) -> tuple[int, int]:
    """The two numbers of a compute capability.

    >>> capability_of("12.0")
    (12, 0)

    Raises `ForetraceError` for anything else, and for one that PyTorch has no kernels for.
    """
    major, _, minor = str(text).partition(".")
    if not (major.isascii() and major.isdecimal() and minor.isascii() and minor.isdecimal()):
        raise ForetraceError(f"{text!r} is no compute capability", "Write it as in 8.0 (an A100) or 9.0 (an H100).")
    if not LEAST <= (int(major), int(minor)) <= MOST:
        raise ForetraceError(f"there is no GPU of compute capability {text} to trace for", "Give one from 5.0 to 12.1.")
    return int(major), int(minor)
