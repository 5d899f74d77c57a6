"""sympy's side of a formula: common factors taken out, the way that a person would write it down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .polynomial import Polynomial


def factored(polynomial: Polynomial, letters: Mapping[str, str]) -> Any:
    """A polynomial as a sympy expression with its common factors taken out."""
    import sympy

    return sympy.factor_terms(polynomial.sympy(letters))
