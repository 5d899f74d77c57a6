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
    from .commands.formula import bound, formula
    from .costmodels import (
        Comparison,
        Work,
        compare,
        fuse_attention,
        fuse_ops,
        moves,
        retype_storages,
        rule,
        without_ops,
    )
    from .costmodels import override as override_rules
    from .graph import ForetraceError, Measured, Outcomes, StepGraph, load, load_outcomes, save
    from .hardware import Profile
    from .hardware import load as load_profile
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
    "Work": "costmodels:Work",
    "bound": "commands.formula:bound",
    "compare": "costmodels:compare",
    "fit": "commands.fit:fit",
    "formula": "commands.formula:formula",
    "frontier": "commands.fit:frontier",
    "fuse_attention": "costmodels:fuse_attention",
    "fuse_ops": "costmodels:fuse_ops",
    "load": "graph:load",
    "load_outcomes": "graph:load_outcomes",
    "load_profile": "hardware:load",
    "measure": "tracer:measure",
    "moves": "costmodels:moves",
    "observe": "tracer:observe",
    "override_rules": "costmodels:override",
    "price": "report:price",
    "profiles": "hardware:names",
    "retype_storages": "costmodels:retype_storages",
    "rule": "costmodels:rule",
    "save": "graph:save",
    "sweep": "sweeps:sweep",
    "to_fx": "tracer:to_fx",
    "trace": "tracer:trace",
    "trace_target": "tracer:trace_target",
    "without_ops": "costmodels:without_ops",
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
    "Work",
    "__version__",
    "bound",
    "compare",
    "fit",
    "formula",
    "frontier",
    "fuse_attention",
    "fuse_ops",
    "load",
    "load_outcomes",
    "load_profile",
    "measure",
    "moves",
    "observe",
    "override_rules",
    "price",
    "profiles",
    "retype_storages",
    "rule",
    "save",
    "sweep",
    "to_fx",
    "trace",
    "trace_target",
    "without_ops",
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
