"""A hardware profile -> the `Gpu` that PyTorch's kernels ask about: what their launch and their memory depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..graph import capability_of
from .profile import Profile

THREADS_PER_MULTIPROCESSOR: Mapping[tuple[int, int], int] = MappingProxyType(
    {
        (5, 0): 2048,
        (5, 2): 2048,
        (6, 0): 2048,
        (6, 1): 2048,
        (7, 0): 2048,
        (7, 5): 1024,
        (8, 0): 2048,
        (8, 6): 1536,
        (8, 7): 1536,
        (8, 9): 1536,
        (9, 0): 2048,
        (10, 0): 2048,
        (10, 3): 2048,
        (11, 0): 1536,
        (12, 0): 1536,
        (12, 1): 1536,
    }
)
"""Most resident threads, by compute capability: table of technical specifications in the CUDA C++ programming guide,
https://docs.nvidia.com/cuda/cuda-c-programming-guide/index.html#features-and-technical-specifications"""
THREADS_OF_OTHERS = 2048
"""What is taken for a capability that the table does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU as PyTorch's kernels see it (``cudaDeviceProp``)."""

    capability: tuple[int, int]
    sm_count: int
    threads_per_sm: int
    cublas_workspace_bytes: int

    @property
    def is_nvidia(self) -> bool:
        """False for GPUs that PyTorch reaches by ROCm, which have a capability of (0, 0) here."""
        return self.capability != (0, 0)


def gpu_of(profile: Profile) -> Gpu:
    """The GPU of a profile."""
    capability = capability_of(profile.capability) if profile.capability is not None else (0, 0)
    return Gpu(
        capability=capability,
        sm_count=int(profile.sm_count),
        threads_per_sm=THREADS_PER_MULTIPROCESSOR.get(capability, THREADS_OF_OTHERS),
        cublas_workspace_bytes=int(profile.cublas_workspace_bytes),
    )
