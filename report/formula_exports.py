"""A `Formula` -> what another program runs or reads: LaTeX, a Python module, JSON.

A formula of several pieces is a case for each in LaTeX, and a branch for each in Python, which raises where none holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from math import lcm
from typing import Any

from ..costmodels.formula.bound import Bound
from ..costmodels.formula.polynomial import Atom, Monomial, Polynomial
from ..costmodels.formula.result import Condition, Formula, Piece, Quantity


def formula_latex(formula: Formula) -> str:
    """The quantities as LaTeX, one aligned equation each, with a case for each piece."""
    pieces = [(piece, piece.formula) for piece in formula.pieces if piece.formula is not None]
    rows = [(q.title, _cases(pieces, name, formula)) for name, q in formula.quantities.items()]
    if formula.further:
        rows.append(("peak", _cases(pieces, "peak", formula)))
    else:
        rows += [(f"live bytes, {c.point.phase}", _latex(c.live.expression)) for c in formula.peak.winning]
    body = " \\\\\n".join(f"\\text{{{title}}} &= {text}" for title, text in rows)
    return f"\\begin{{align*}}\n{body}\n\\end{{align*}}\n"


def _cases(pieces: Sequence[tuple[Piece, Formula]], name: str, formula: Formula) -> str:
    """A quantity as LaTeX: its expression, or one for each piece with the condition."""
    texts = [(_latex(_expression(found, name)), _where(piece, formula.letters)) for piece, found in pieces]
    if not formula.further:
        return texts[0][0]
    lines = " \\\\ ".join(f"{text} & {where}" for text, where in texts)
    return f"\\begin{{cases}} {lines} \\end{{cases}}"


def _expression(formula: Formula, name: str) -> Any:
    if name == "peak":
        return formula.peak.expression
    return formula.quantities[name].expression if name in formula.quantities else 0


def _latex(expression: Any) -> str:
    import sympy

    return str(sympy.latex(expression))


def _where(piece: Piece, letters: Mapping[str, str]) -> str:
    """A piece's conditions as LaTeX."""
    said = piece.said(letters)
    for sign, latex in ((">=", "\\ge"), ("<=", "\\le"), ("≠", "\\ne"), ("mod", "\\bmod"), ("and", "\\text{ and }")):
        said = said.replace(f" {sign} ", f" {latex} ")
    return said


def formula_python(formula: Formula, target: str = "") -> str:
    """A Python module with one function for each quantity, for whole numbers and for numpy arrays of them."""
    return "\n".join([*_head(formula, target), *_functions(formula)])


def _head(formula: Formula, target: str) -> list[str]:
    count = len(formula.proof.instances)
    return [
        f'"""Closed forms of {target or "a training step"}, exact on {count} held-out traces.\n',
        *[f"Holds for {condition}." for condition in formula.conditions if not formula.further],
        *[f"No formula for {piece}." for piece in formula.further if piece.formula is None],
        '"""\n',
        "from functools import reduce\n\nimport numpy as np\n",
        *([_ARRAYS] if _is_divided(formula) else []),
    ]


_ARRAYS = '''
def over_arrays(function):
    """The function value by value, where any of its arguments is an array."""

    def each(*sizes, **named):
        arrays = any(map(np.ndim, (*sizes, *named.values())))
        return (np.vectorize(function, otypes=[object]) if arrays else function)(*sizes, **named)

    return each

'''


def _is_divided(formula: Formula) -> bool:
    return bool(formula.further or formula.conditions or formula.regimes)


def _functions(formula: Formula) -> Iterator[str]:
    for name, quantity in formula.quantities.items():
        yield _function(formula, name, f"{quantity.title}, {quantity.unit}", partial(_value, name))
    yield _function(formula, "peak", "Peak of live bytes", _peak)


def _value(name: str, formula: Formula) -> str:
    return python_expression(formula.quantities[name].polynomial) if name in formula.quantities else "0"


def _peak(formula: Formula) -> str:
    listed = "".join(f"        {python_expression(c.polynomial)},  # {c.point}\n" for c in formula.peak.candidates)
    return f"reduce(np.maximum, [\n{listed}    ])"


def _function(formula: Formula, name: str, title: str, value: Callable[[Formula], str]) -> str:
    arguments = ", ".join(formula.names)
    head = f'def {name}({arguments}):\n    """{title}."""\n'
    if not _is_divided(formula):
        return f"\n{head}    return {value(formula)}\n"
    branches = "".join(
        f"    if {condition}:\n        return {value(found).replace(chr(10), chr(10) + '    ')}\n"
        for condition, found in _branches(formula)
    )
    return f'\n@over_arrays\n{head}{branches}    raise ValueError("no formula holds for these sizes")\n'


def _branches(formula: Formula) -> Iterator[tuple[str, Formula]]:
    """Each formula, with the condition under which it holds in Python; the values that have their own come first."""
    for regime in formula.regimes:
        yield f"{regime.name} == {regime.value}", regime.formula
    for piece in formula.pieces:
        said = list(map(python_condition, piece.conditions))
        others = piece.formula.regimes if piece.formula is not None and piece.formula is not formula else ()
        for regime in others:
            yield " and ".join([*said, f"{regime.name} == {regime.value}"]), regime.formula
        if piece.formula is not None:
            yield " and ".join(said) or "True", piece.formula


def python_condition(condition: Condition) -> str:
    """A condition in Python.

    >>> python_condition(Condition("T", "", modulus=64, excluded=True))
    'T % 64 != 0'
    >>> python_condition(Condition("d", "", by="H", most=64))
    'd <= 64*H'
    """

    def times(value: int | Fraction) -> tuple[str, str]:
        whole = Fraction(value)
        left = condition.name if whole.denominator == 1 else f"{whole.denominator}*{condition.name}"
        return left, f"{whole.numerator}*{condition.by}" if condition.by else str(whole.numerator)

    if condition.exactly is not None:
        return f"{condition.name} == {condition.exactly}"
    parts = []
    if condition.modulus > 1:
        by = f"({times(condition.modulus)[1]})" if condition.by else str(condition.modulus)
        rest = times(condition.remainder)[1] if condition.remainder else "0"
        parts.append(f"{condition.name} % {by} {'!=' if condition.excluded else '=='} {rest}")
    if condition.least > 1:
        parts.append(" >= ".join(times(condition.least)))
    if condition.above:
        parts.append(" > ".join(times(condition.above)))
    if condition.most is not None:
        parts.append(" <= ".join(times(condition.most)))
    return " and ".join(parts)


def python_expression(polynomial: Polynomial) -> str:
    """A polynomial in Python, in whole numbers throughout.

    >>> x, y = Polynomial.of("x"), Polynomial.of(Atom("y", 32))
    >>> python_expression(x * x * y * Fraction(1, 2) + 3)
    '(x*x*(-(-y//32)*32) + 6)//2'
    """
    scale = lcm(1, *(c.denominator for c in polynomial.terms.values()))
    low = {a: min(0, *(dict(m).get(a, 0) for m in polynomial.terms)) for a in polynomial.atoms}
    terms = []
    for m, c in polynomial.terms.items():
        powers = dict(m)
        factors = [_python_atom(a) for a in polynomial.atoms for _ in range(powers.get(a, 0) - low[a])]
        coefficient = int(c * scale)
        if coefficient != 1 or not factors:
            factors.insert(0, str(coefficient))
        terms.append("*".join(factors))
    below = ([str(scale)] if scale > 1 else []) + [_python_atom(a) for a in polynomial.atoms for _ in range(-low[a])]
    above = " + ".join(terms).replace("+ -", "- ") or "0"
    return f"({above})//{below[0] if len(below) == 1 else '(' + '*'.join(below) + ')'}" if below else above


def _python_atom(a: Atom) -> str:
    if a.multiple == 1:
        return a.name
    return f"(-(-{a.name}//{a.multiple})*{a.multiple})" if a.up else f"({a.name}//{a.multiple}*{a.multiple})"


def formula_json(formula: Formula, target: str = "") -> str:
    """The formula as JSON: every term with its coefficient as a fraction in text, and every part."""
    return json.dumps(_formula_dict(formula, target), indent=1, ensure_ascii=False) + "\n"


def _formula_dict(formula: Formula, target: str) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "target": target,
        "letters": dict(formula.letters),
        "full": dict(formula.full),
        "quantities": {name: _quantity_dict(formula, quantity) for name, quantity in formula.quantities.items()},
        "peak": {
            "at_full": formula.peak.at(**formula.full),
            "candidates": [
                {"point": str(c.point), "share": c.share, **_quantity_dict(formula, c.live)}
                for c in formula.peak.candidates
            ],
        },
        "conditions": [{"size": c.name, "holds_for": str(c), "why": c.why} for c in formula.conditions],
        "regimes": [
            {"size": r.name, "value": r.value, "differs": r.differs, "formula": _formula_dict(r.formula, target)}
            for r in formula.regimes
        ],
        "pieces": [
            {
                "holds_for": [str(condition) for condition in piece.conditions],
                "differs": piece.differs,
                "formula": None if piece.formula is None else _formula_dict(piece.formula, target),
                "why_none": piece.why_none,
            }
            for piece in formula.further
        ],
        "proof": {
            "instances": [dict(sizes) for sizes in formula.proof.instances],
            "other_regimes": [{"differs": how, "sizes": dict(s)} for how, s in formula.proof.other_regimes.items()],
        },
    }


def _quantity_dict(formula: Formula, quantity: Quantity) -> dict[str, Any]:
    return {
        "title": quantity.title,
        "unit": quantity.unit,
        "at_full": quantity.at(**formula.full),
        "expression": str(quantity.polynomial),
        "terms": _terms(quantity.polynomial),
        "parts": [
            {
                "kind": p.kind,
                "module": p.module,
                "what": p.what,
                "at": p.at,
                "why": p.why,
                "terms": _terms(p.polynomial),
            }
            for p in quantity.parts
        ],
    }


def _terms(polynomial: Polynomial) -> list[dict[str, Any]]:
    return [{"coefficient": str(c), "powers": _powers(m)} for m, c in polynomial.terms.items()]


def _powers(m: Monomial) -> list[Mapping[str, Any]]:
    return [
        {"size": a.name, "power": power} | ({"multiple": a.multiple, "up": a.up} if a.multiple > 1 else {})
        for a, power in m
    ]


def bound_json(found: Bound) -> str:
    """A bound as JSON."""
    content = {
        "schema_version": 1,
        "bound": found.side,
        "quantity": found.name,
        "letters": dict(found.letters),
        "full": dict(found.full),
        "expression": str(found.polynomial),
        "terms": _terms(found.polynomial),
        "at_full": found.at_full,
        "traced_at_full": found.traced_at_full,
        "slack": list(found.slack),
        "made_from": found.made_from,
        "held_out": [dict(sizes) for sizes in found.held_out],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
