"""What the machine that this runs on can give to a step that is run for real.

*Available* is what a program may take without making others swap: physical memory that is free or can be freed.
"""

from __future__ import annotations

import os

from ..costmodels import timeline
from ..graph import ForetraceError, StepGraph

MOST_PERCENT = 80
"""A real run may take this much of what is available; the rest is for Python, torch and its kernels' scratch."""


def available_bytes() -> int:
    """Memory that is available on this machine now; where the system does not tell, all that it has."""
    name = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return max(os.sysconf(name) * os.sysconf("SC_PAGE_SIZE"), _freeable_bytes())


def _freeable_bytes() -> int:
    """What Linux says is available, its file cache included; 0 on other systems."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0


def check_room(graph: StepGraph) -> None:
    """Raise `ForetraceError` where the step's predicted peak is too large to run it here."""
    peak, available = timeline(graph).peak_bytes, available_bytes()
    if peak * 100 > available * MOST_PERCENT:
        raise ForetraceError(
            f"the step's peak of {peak / 2**30:,.2f} GiB is more than {MOST_PERCENT} % of the "
            f"{available / 2**30:,.2f} GiB that this machine has available",
            "Measure it at a smaller size, such as -p batch=1, or with fewer layers.",
        )
