"""The nouns: ops, tensors, storages, events, and the step graph they make.

Nothing in this folder imports torch, so everything said about a trace can be
said on a machine without it.
"""

from .capability import capability_of
from .dtype import itemsize
from .errors import ForetraceError
from .measured import Block, Measured
from .op import Const, Op, Source, Tensor
from .outcomes import Outcome, Outcomes, Result, load_outcomes
from .phase import Phase
from .serde import load, save
from .step_graph import Facts, Named, Span, StepGraph
from .storage import Category, Event, Storage

__all__ = [
    "Block",
    "Category",
    "Const",
    "Event",
    "Facts",
    "ForetraceError",
    "Measured",
    "Named",
    "Op",
    "Outcome",
    "Outcomes",
    "Phase",
    "Result",
    "Source",
    "Span",
    "StepGraph",
    "Storage",
    "Tensor",
    "capability_of",
    "itemsize",
    "load",
    "load_outcomes",
    "save",
]
