"""What a device makes of work and of requests: hardware profiles, the time of a step, and the memory it takes."""

from .alloc_conf import AllocConf
from .alloc_conf import parse as parse_alloc_conf
from .allocator import CachingAllocator
from .blocks import BlockState, Counters, SegmentState, State
from .device_memory import DeviceMemory, device_memory
from .estimate import HFU_DEFINITION, MFU_DEFINITION, Span, StepTime, estimate, host_storages
from .first_step import first_step
from .host import available_bytes, check_room
from .kernel_time import BOUNDS, TIERS, OpTime, Unit, kernel_time
from .out_of_memory import OutOfMemory, format_size
from .profile import Fact, Profile, Range, load, names
from .replay import Failure, RunMemory, StepMemory, replay_steps
from .script import Extra, Extras, Lasting, Scratch

__all__ = [
    "BOUNDS",
    "HFU_DEFINITION",
    "MFU_DEFINITION",
    "TIERS",
    "AllocConf",
    "BlockState",
    "CachingAllocator",
    "Counters",
    "DeviceMemory",
    "Extra",
    "Extras",
    "Fact",
    "Failure",
    "Lasting",
    "OpTime",
    "OutOfMemory",
    "Profile",
    "Range",
    "RunMemory",
    "Scratch",
    "SegmentState",
    "Span",
    "State",
    "StepMemory",
    "StepTime",
    "Unit",
    "available_bytes",
    "check_room",
    "device_memory",
    "estimate",
    "first_step",
    "format_size",
    "host_storages",
    "kernel_time",
    "load",
    "names",
    "parse_alloc_conf",
    "replay_steps",
]
