"""Pure functions: a step graph becomes work per op, a timeline of bytes, a model of the optimizer, and a comparison.

Importing this package registers every built-in rule: the families are the list below.
"""

from . import (
    attention,
    convolution,
    fused,
    indexing,
    linear_algebra,
    losses,
    matmul,
    movement,
    normalization,
    optimizer,
    pointwise,
    pooling,
    recurrent,
    reduction,
    spectral,
)
from .compare import NUMBER, Beside, Comparison, Difference, How, Reading, Scratch, compare
from .holders import Holder, group, holders, roll, saved_by_module, saved_by_op
from .optimizer import (
    OptimizerWork,
    Term,
    adamw_flops_per_parameter,
    adamw_state_bytes,
    adamw_state_bytes_per_parameter,
    optimizer_work,
    sgd_flops_per_parameter,
    trained_parameters,
)
from .pairing import WRAPPED_NUMBER_BYTES, Pairing, Parting, pair
from .price import Assumed, Priced, Totals, price_op, price_ops, totals
from .rewrite import fuse_attention, fuse_ops, retype_storages, without_ops
from .rules import Answer, Kind, Rule, Table, free, lookup, override, rule
from .timeline import PhaseMemory, Timeline, timeline
from .work import Work, moves

FAMILIES = (
    attention,
    convolution,
    fused,
    indexing,
    linear_algebra,
    losses,
    matmul,
    movement,
    normalization,
    optimizer,
    pointwise,
    pooling,
    recurrent,
    reduction,
    spectral,
)
"""The modules whose rules are built in."""

__all__ = [
    "FAMILIES",
    "NUMBER",
    "WRAPPED_NUMBER_BYTES",
    "Answer",
    "Assumed",
    "Beside",
    "Comparison",
    "Difference",
    "Holder",
    "How",
    "Kind",
    "OptimizerWork",
    "Pairing",
    "Parting",
    "PhaseMemory",
    "Priced",
    "Reading",
    "Rule",
    "Scratch",
    "Table",
    "Term",
    "Timeline",
    "Totals",
    "Work",
    "adamw_flops_per_parameter",
    "adamw_state_bytes",
    "adamw_state_bytes_per_parameter",
    "compare",
    "free",
    "fuse_attention",
    "fuse_ops",
    "group",
    "holders",
    "lookup",
    "moves",
    "optimizer_work",
    "override",
    "pair",
    "price_op",
    "price_ops",
    "retype_storages",
    "roll",
    "rule",
    "saved_by_module",
    "saved_by_op",
    "sgd_flops_per_parameter",
    "timeline",
    "totals",
    "trained_parameters",
    "without_ops",
]
