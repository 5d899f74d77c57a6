"""Runs the user's code, and nobody else's: module + inputs + step -> ATen ops + event log -> `StepGraph`.

The only folder that imports torch.
"""

from .measure import measure
from .observe import observe
from .program import to_fx
from .step import Step
from .target import resolve
from .trace import trace, trace_target

__all__ = ["Step", "measure", "observe", "resolve", "to_fx", "trace", "trace_target"]
