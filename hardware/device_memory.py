"""A recorded step + hardware profile -> what ``torch.cuda`` would report of its memory there, and whether it fits.

The step is replayed on a model of the caching allocator, `STEPS` times, with what its kernels take for themselves:
*allocated* is ``max_memory_allocated`` (blocks as they are handed out), *reserved* is ``max_memory_reserved`` (the
segments), and the *device total* is reserved and the CUDA context, about what ``nvidia-smi`` shows. A step *fits* when
every request of the replay finds memory on the device, also where the allocator first has to give back what it holds
in reserve.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..graph import StepGraph
from ..graph.bulk import uncollected
from .alloc_conf import AllocConf
from .blocks import Counters
from .profile import Profile
from .replay import Failure, replay_steps, run_of
from .script import Scripts, once_each
from .workspaces import extras_of


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """The memory of one steady step on a device, in bytes."""

    allocated_peak_bytes: int
    reserved_peak_bytes: int
    requested_peak_bytes: int
    """The live bytes that the blocks hold, workspaces included."""
    at_peak: Counters
    """When the allocated bytes reached their peak."""
    context_bytes: int
    capacity_bytes: int
    """What the device has for tensors, the context taken off."""
    failure: Failure | None
    """The request that finds no memory; None where the step fits. The other figures are then those without a limit."""

    @property
    def fits(self) -> bool:
        """True when every request finds memory."""
        return self.failure is None

    @property
    def device_peak_bytes(self) -> int:
        """Reserved and the context."""
        return self.reserved_peak_bytes + self.context_bytes


@uncollected()
def device_memory(graph: StepGraph, profile: Profile, *, conf: AllocConf | None = None) -> DeviceMemory:
    """Replay a step for CUDA with the allocator's settings `conf`, or PyTorch's own.

    Raises `ForetraceError` for a trace of another device.
    """
    taken = once_each(extras_of(graph, profile), graph.kinds)
    steps = run_of(graph)
    scripts = Scripts(taken)
    found = replay_steps(steps, profile=profile, conf=conf, extras=scripts, with_segments=False)
    failure = found.failure
    if failure is not None:
        found = replay_steps(steps, conf=conf, extras=scripts, with_segments=False)
    last = found.last
    return DeviceMemory(
        allocated_peak_bytes=last.peak_allocated_bytes,
        reserved_peak_bytes=found.peak_reserved_bytes,
        requested_peak_bytes=last.peak_requested_bytes,
        at_peak=last.at_peak,
        context_bytes=profile.cuda_context_bytes,
        capacity_bytes=profile.memory_total_bytes - profile.cuda_context_bytes,
        failure=failure,
    )
