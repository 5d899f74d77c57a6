"""Closed forms: a function that traces becomes exact polynomials in a model's sizes, and what a hand formula misses."""

from .bound import Bound, bound
from .compare import HandComparison, Row, compare_by_hand, explain
from .derive import derive, line
from .digest import Digest, digest
from .expression import check_expression, letters_for, parse, written
from .instances import Instances, NoInstance, in_words
from .lattice import HIGHEST_DEGREE, Axis, Recovery, recover
from .pieces import piecewise
from .plan import longer
from .polynomial import Atom, Polynomial
from .result import Candidate, Condition, Formula, Part, Peak, Piece, Proof, Quantity, Regime, Residue

__all__ = [
    "HIGHEST_DEGREE",
    "Atom",
    "Axis",
    "Bound",
    "Candidate",
    "Condition",
    "Digest",
    "Formula",
    "HandComparison",
    "Instances",
    "NoInstance",
    "Part",
    "Peak",
    "Piece",
    "Polynomial",
    "Proof",
    "Quantity",
    "Recovery",
    "Regime",
    "Residue",
    "Row",
    "bound",
    "check_expression",
    "compare_by_hand",
    "derive",
    "digest",
    "explain",
    "in_words",
    "letters_for",
    "line",
    "longer",
    "parse",
    "piecewise",
    "recover",
    "written",
]
