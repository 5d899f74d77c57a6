"""What ``torch.cuda`` and ``torch.accelerator`` say of a GPU that is not there.

A program may ask for more than the compute capability for which it is traced; it is told of a usual GPU of that one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch

from ..graph import ForetraceError

_CUDA = torch.device("cuda", 0)


class _Example(NamedTuple):
    """A usual GPU of a compute capability."""

    name: str
    multiprocessors: int
    l2_bytes: int
    threads: int
    """At the most on a multiprocessor."""
    shared_bytes: int
    """Of a multiprocessor; a block that asks for them gets all but 1 KiB of it from 8.0 on."""


_KIB, _MIB = 1 << 10, 1 << 20
_EXAMPLES: dict[tuple[int, int], _Example] = {
    (7, 0): _Example("Tesla V100-SXM2-16GB", 80, 6 * _MIB, 2048, 96 * _KIB),
    (7, 5): _Example("Tesla T4", 40, 4 * _MIB, 1024, 64 * _KIB),
    (8, 0): _Example("NVIDIA A100-SXM4-80GB", 108, 40 * _MIB, 2048, 164 * _KIB),
    (8, 6): _Example("NVIDIA GeForce RTX 3090", 82, 6 * _MIB, 1536, 100 * _KIB),
    (8, 9): _Example("NVIDIA GeForce RTX 4090", 128, 72 * _MIB, 1536, 100 * _KIB),
    (9, 0): _Example("NVIDIA H100 80GB HBM3", 132, 50 * _MIB, 2048, 228 * _KIB),
    (10, 0): _Example("NVIDIA B200", 148, 126 * _MIB, 2048, 228 * _KIB),
    (12, 0): _Example("NVIDIA GeForce RTX 5090", 170, 96 * _MIB, 1536, 100 * _KIB),
}
"""By compute capability: https://developer.nvidia.com/cuda-gpus, the vendor's data sheets, and the table "Technical
Specifications per Compute Capability" of the CUDA C++ Programming Guide."""


class Properties:
    """What ``torch.cuda.get_device_properties`` tells; of clocks and buses nothing."""

    total_memory = 85_094_825_984
    """An A100's, whatever the GPU: no program shall choose its batch by a memory that a trace does not have."""
    warp_size = 32
    max_threads_per_block = 1024
    shared_memory_per_block = 48 * _KIB
    regs_per_multiprocessor = 1 << 16
    is_integrated = is_multi_gpu_board = 0
    pci_bus_id = pci_device_id = pci_domain_id = 0
    gcnArchName = ""
    uuid = "00000000-0000-0000-0000-000000000000"

    def __init__(self, capability: tuple[int, int]) -> None:
        self.major, self.minor = capability
        known = max((one for one in _EXAMPLES if one <= capability), default=min(_EXAMPLES))
        example = _EXAMPLES[known]
        self.name, self.multi_processor_count, self.L2_cache_size = example[:3]
        self.max_threads_per_multi_processor = example.threads
        self.shared_memory_per_multiprocessor = example.shared_bytes
        self.shared_memory_per_block_optin = example.shared_bytes - (_KIB if capability >= (8, 0) else 0)


class _Stream:
    """A stream or an event on which nothing waits."""

    device = _CUDA
    device_index = device_type = stream_id = cuda_stream = cuda_event = priority = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes what the real ones take."""

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        pass

    synchronize = record = wait = wait_event = wait_stream = record_event = _nothing

    def query(self) -> bool:
        """All work is done."""
        return True

    def is_capturing(self) -> bool:
        """No CUDA graph is being captured."""
        return False

    def elapsed_time(self, end: Any) -> float:
        """No time passes."""
        return 0.0


_RNG_STATE_BYTES = 16
"""A CUDA generator's state: seed and offset, 8 bytes each (ATen/cuda/CUDAGeneratorImpl.cpp)."""


def _answer(value: Any) -> Callable[..., Any]:
    """A function of its own for every name: torch.compile's tables take each function of torch to be one."""
    return lambda *args, **kwargs: value


class _Graph:
    """A CUDA graph, which cannot be captured."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Raises `ForetraceError`."""
        raise ForetraceError(
            "a CUDA graph is captured, which a trace for CUDA cannot follow",
            "Trace the step without it: what is captured runs the same ops.",
        )


_MEMORY: dict[str, Any] = {
    **{name: _answer(0) for name in ("memory_allocated", "max_memory_allocated", "memory_reserved")},
    **{name: _answer(0) for name in ("max_memory_reserved", "memory_cached", "max_memory_cached")},
    "reset_peak_memory_stats": _answer(None),
    "reset_accumulated_memory_stats": _answer(None),
    "memory_stats": lambda *args, **kwargs: defaultdict(int),
    "empty_cache": _answer(None),
    "empty_host_cache": _answer(None),
}
"""A program that asks while it is traced is told that nothing is allocated."""

CUDA_MODULE: dict[str, Any] = {
    **_MEMORY,
    "reset_max_memory_allocated": _answer(None),
    "reset_max_memory_cached": _answer(None),
    "reset_peak_host_memory_stats": _answer(None),
    "reset_accumulated_host_memory_stats": _answer(None),
    "host_memory_stats": lambda *args, **kwargs: defaultdict(int),
    "memory_summary": _answer(""),
    "memory_snapshot": lambda *args, **kwargs: [],
    "get_allocator_backend": _answer("native"),
    "get_per_process_memory_fraction": _answer(1.0),
    "set_per_process_memory_fraction": _answer(None),
    "get_sync_debug_mode": _answer(0),
    "set_sync_debug_mode": _answer(None),
    "can_device_access_peer": _answer(False),
    "ipc_collect": _answer(None),
    "initial_seed": _answer(0),
    "seed": _answer(None),
    "seed_all": _answer(None),
    "set_stream": _answer(None),
    "ExternalStream": _Stream,
    **dict.fromkeys(("CUDAGraph", "graph", "graph_pool_handle", "make_graphed_callables"), _Graph),
    "is_current_stream_capturing": lambda: False,
    "current_stream": lambda device=None: _Stream(),
    "default_stream": lambda device=None: _Stream(),
    "Stream": _Stream,
    "Event": _Stream,
    "stream": lambda stream: nullcontext(),
    "device": lambda device=None: nullcontext(),
    "device_of": lambda tensor=None: nullcontext(),
    "get_rng_state": lambda device=None: torch.zeros(_RNG_STATE_BYTES, dtype=torch.uint8),
    "set_rng_state": _answer(None),
    "mem_get_info": lambda device=None: (Properties.total_memory, Properties.total_memory),
    "_lazy_init": lambda: None,
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": lambda device: None,
    "synchronize": lambda device=None: None,
    "manual_seed": lambda seed: None,
    "manual_seed_all": lambda seed: None,
}


def answers(properties: Properties) -> dict[str, Any]:
    """What depends on the GPU: bfloat16 and TF32 are computed from 8.0 on; before, bfloat16 is emulated."""
    capability = properties.major, properties.minor
    return {
        "is_bf16_supported": lambda including_emulation=True: including_emulation or capability >= (8, 0),
        "is_tf32_supported": lambda: capability >= (8, 0),
        "get_device_name": lambda device=None: properties.name,
        "get_device_capability": lambda device=None: capability,
        "get_device_properties": lambda device=None: properties,
        "get_arch_list": lambda: [f"sm_{properties.major}{properties.minor}"],
    }


ACCELERATOR_MODULE: dict[str, Any] = {
    **_MEMORY,
    "get_memory_info": lambda device_index=None: (Properties.total_memory, Properties.total_memory),
    "current_device_idx": lambda: 0,
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_accelerator": lambda check_available=False: torch.device("cuda"),
    "current_device_index": lambda: 0,
    "current_stream": lambda device=None: _Stream(),
    "set_stream": _answer(None),
    "set_device_index": _answer(None),
    "synchronize": _answer(None),
}

NVTX_MODULE: dict[str, Any] = {
    name: _answer(0) for name in ("range_push", "range_pop", "range_start", "range_end", "mark")
}
"""Marks for a profiler that does not run."""

MODULES: tuple[tuple[Any, dict[str, Any]], ...] = (
    (torch.cuda, CUDA_MODULE),
    (torch.cuda.memory, CUDA_MODULE),
    (torch.cuda.random, CUDA_MODULE),
    (torch.accelerator, ACCELERATOR_MODULE),
    (torch.accelerator.memory, ACCELERATOR_MODULE),
    (torch.cuda.nvtx, NVTX_MODULE),
)
"""Modules, and what takes the place of those of these names that they have."""
