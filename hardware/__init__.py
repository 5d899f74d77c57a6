"""What a device makes of work: hardware profiles, the time of an op and of a step on them, and the memory it takes."""

from .device_memory import DeviceMemory, device_memory
from .estimate import MFU_DEFINITION, Span, StepTime, estimate, host_storages
from .host import available_bytes, check_room
from .kernel_time import BOUNDS, OpTime, Unit, kernel_time
from .profile import Fact, Profile, Range, load, names

__all__ = [
    "BOUNDS",
    "MFU_DEFINITION",
    "DeviceMemory",
    "Fact",
    "OpTime",
    "Profile",
    "Range",
    "Span",
    "StepTime",
    "Unit",
    "available_bytes",
    "check_room",
    "device_memory",
    "estimate",
    "host_storages",
    "kernel_time",
    "load",
    "names",
]
