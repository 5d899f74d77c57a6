"""Know what a training step costs before you run it.

``foretrace.trace`` records one whole training step of any ``nn.Module`` as ATen ops, on a machine without a GPU, and
``foretrace.price`` says the memory, the FLOPs and the time that it takes on a given one. Names load when they are
first used: importing the package imports neither torch nor networkx.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .commands.fit import fit, frontier
    from .commands.formula import formula
    from .costmodels import Comparison, compare
    from .graph import ForetraceError, Measured, Outcomes, StepGraph, load, load_outcomes, save
    from .hardware import Profile
    from .hardware import names as profiles
    from .report import Report, price
    from .sweeps import Sweep, sweep
    from .tracer import Step, measure, observe, to_fx, trace, trace_target

__version__ = "0.1.0"

_HOMES = {
    "Comparison": "costmodels:Comparison",
    "ForetraceError": "graph:ForetraceError",
    "Measured": "graph:Measured",
    "Outcomes": "graph:Outcomes",
    "Profile": "hardware:Profile",
    "Report": "report:Report",
    "Step": "tracer:Step",
    "StepGraph": "graph:StepGraph",
    "Sweep": "sweeps:Sweep",
    "compare": "costmodels:compare",
    "fit": "commands.fit:fit",
    "formula": "commands.formula:formula",
    "frontier": "commands.fit:frontier",
    "load": "graph:load",
    "load_outcomes": "graph:load_outcomes",
    "measure": "tracer:measure",
    "observe": "tracer:observe",
    "price": "report:price",
    "profiles": "hardware:names",
    "save": "graph:save",
    "sweep": "sweeps:sweep",
    "to_fx": "tracer:to_fx",
    "trace": "tracer:trace",
    "trace_target": "tracer:trace_target",
}
"""Where each public name lives."""

__all__ = [
    "Comparison",
    "ForetraceError",
    "Measured",
    "Outcomes",
    "Profile",
    "Report",
    "Step",
    "StepGraph",
    "Sweep",
    "__version__",
    "compare",
    "fit",
    "formula",
    "frontier",
    "load",
    "load_outcomes",
    "measure",
    "observe",
    "price",
    "profiles",
    "save",
    "sweep",
    "to_fx",
    "trace",
    "trace_target",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(import_module(f".{module}", __name__), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
