"""What a device makes of work: hardware profiles, and the time of an op and of a step on them."""

from .estimate import HFU_DEFINITION, MFU_DEFINITION, Span, StepTime, estimate, host_storages
from .host import available_bytes, check_room
from .kernel_time import BOUNDS, TIERS, OpTime, Unit, kernel_time
from .profile import Fact, Profile, Range, load, names

__all__ = [
    "BOUNDS",
    "HFU_DEFINITION",
    "MFU_DEFINITION",
    "TIERS",
    "Fact",
    "OpTime",
    "Profile",
    "Range",
    "Span",
    "StepTime",
    "Unit",
    "available_bytes",
    "check_room",
    "estimate",
    "host_storages",
    "kernel_time",
    "load",
    "names",
]
