"""A `Formula` -> what a person reads (text, LaTeX) or another program runs (Python, JSON).

In text a formula is followed by where its terms come from, by module and op. ``⌈T⌉₃₂`` is *T* rounded up to a
multiple of 32.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping
from fractions import Fraction
from math import lcm
from typing import Any

from ..costmodels.formula.bound import Bound
from ..costmodels.formula.compare import HandComparison, Row
from ..costmodels.formula.expression import term, written
from ..costmodels.formula.instances import in_words
from ..costmodels.formula.polynomial import Atom, Monomial, Polynomial, total
from ..costmodels.formula.result import Formula, Part, Quantity

WIDTH = 80
SHOWN = 12
"""How many parts of a quantity are listed."""


def formula_text(formula: Formula, target: str = "") -> str:
    """The formula on a screen."""
    lines = [target or "closed forms", *_about(formula)]
    for quantity in formula.quantities.values():
        lines += ["", *_quantity(formula, quantity)]
    lines += ["", *_peak(formula)]
    return "\n".join(lines) + "\n"


def _about(formula: Formula) -> list[str]:
    over = ", ".join(f"{formula.letters[name]} {name}" for name in formula.names)
    proof = formula.proof
    lines = [f"over {over}"]
    if proof.instances:
        full = "the full-size one among them" if formula.full in proof.instances else "not the full-size one"
        lines.append(f"exact on {len(proof.instances)} traces it was not made from, {full}: {in_words(formula.full)}")
    lines += [f"holds for {condition}: {condition.why}" for condition in formula.conditions]
    lines += [f"{r.name}={r.value} has a formula of its own: {r.differs}" for r in formula.regimes]
    lines += [
        f"not compared, since other ops run there: {in_words(s)} ({how})" for how, s in proof.other_regimes.items()
    ]
    return [row for line in lines for row in _wrapped(line, "  ", "    ")]


def _quantity(formula: Formula, quantity: Quantity) -> list[str]:
    value = quantity.at(**formula.full)
    lines = [f"{quantity.title}: {value:,} {quantity.unit} at the full size"]
    lines += _wrapped(f"= {_written(formula, quantity.polynomial)}", "  ", "    ")
    return lines + _parts(formula, quantity.parts)


def _parts(formula: Formula, parts: Iterable[Part]) -> list[str]:
    """Parts of the same module, op and line added up, the largest first."""
    grouped: dict[tuple[str, str, str, str, str], list[Polynomial]] = {}
    for part in parts:
        grouped.setdefault((part.kind, part.module, part.what, part.at, part.why), []).append(part.polynomial)
    rows = sorted(
        ((key, total(polynomials)) for key, polynomials in grouped.items()),
        key=lambda row: (-row[1].at(**formula.full), row[0]),
    )
    lines = [line for key, polynomial in rows[:SHOWN] for line in _part(formula, key, polynomial)]
    if len(rows) > SHOWN:
        lines.append(f"    and {len(rows) - SHOWN} smaller")
    return lines


def _part(formula: Formula, key: tuple[str, str, str, str, str], polynomial: Polynomial) -> list[str]:
    _, module, what, at, why = key
    where = " ".join(part for part in (module or "-", what) if part)
    note = why or at
    return _wrapped(f"{_written(formula, polynomial)}  in {where}{f' ({note})' if note else ''}", "    ", "        ")


def _peak(formula: Formula) -> list[str]:
    value = formula.peak.at(**formula.full)
    lines = [f"peak: {value:,} bytes at the full size, the largest of"]
    for candidate in formula.peak.winning:
        lines += _wrapped(f"{candidate.share:.0%} of sizes near by: {candidate.point}", "  ", "    ")
        lines += _wrapped(f"= {_written(formula, candidate.polynomial)}", "    ", "      ")
    rest = len(formula.peak.candidates) - len(formula.peak.winning)
    if rest:
        lines += _wrapped(f"and {rest} points that win nowhere near the full size, which count elsewhere", "  ", "    ")
    winner = formula.peak.winner(**formula.full)
    lines += [
        "",
        *_wrapped(f"live at the full size's peak, {winner.point}", "", "  "),
        *_parts(formula, winner.live.parts),
    ]
    return lines


def _written(formula: Formula, polynomial: Polynomial) -> str:
    return written(polynomial, formula.letters, formula.names)


def _wrapped(text: str, first: str, later: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )


# --- beside a hand formula, and where a term comes from ---


def comparison_text(formula: Formula, comparison: HandComparison) -> str:
    """A hand formula beside the trace, term by term."""
    unit = comparison.quantity.unit
    lines = _wrapped(f"by hand:  {_written(formula, comparison.hand)}", "", "    ")
    lines += _wrapped(f"by trace: {_written(formula, comparison.quantity.polynomial)}", "", "    ")
    lines += _wrapped(f"({comparison.quantity.title})", "    ", "    ")
    lines.append(
        f"at the full size {_number(comparison.full_by_hand)} by hand, "
        f"{_number(comparison.full_traced)} {unit} by trace"
    )
    for row in comparison.rows:
        lines += ["", *_row(formula, row)]
    return "\n".join(lines) + "\n"


def _number(value: int | Fraction) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{float(value):,.1f}"


def _row(formula: Formula, row: Row) -> list[str]:
    letters, ranks = formula.letters, {name: i for i, name in enumerate(formula.names)}
    said = term(row.term, Fraction(1), letters, ranks) if row.term else "constant"
    verdict = (
        "agrees" if row.agrees else f"{'surplus' if row.difference > 0 else 'missing'} {_plain(abs(row.difference))}"
    )
    lines = [f"{said}: {_plain(row.hand)} by hand, {_plain(row.traced)} by trace, {verdict}"]
    for part in row.sources[:SHOWN]:
        note = part.why or part.at
        what = f"{_plain(part.polynomial.terms[row.term])} is {part.kind.replace('_', ' ')} {_where(part)}"
        lines += _wrapped(what + (f" ({note})" if note else ""), "  ", "      ")
    if row.difference > 0:
        for part in row.elsewhere[:SHOWN]:
            share = _plain(part.polynomial.terms[row.term])
            what = f"not live then: {share} is {part.kind.replace('_', ' ')} {_where(part)}"
            lines += _wrapped(what + (f" ({part.at})" if part.at else ""), "  ", "      ")
        if not row.sources and not row.elsewhere:
            lines.append("  nothing in the step has this term")
    return lines


def _where(part: Part) -> str:
    return " ".join(text for text in (part.module or "-", part.what) if text)


def _plain(value: Fraction) -> str:
    return f"{value.numerator:,}" + ("" if value.denominator == 1 else f"/{value.denominator:,}")


def explanation_text(formula: Formula, found: Iterable[tuple[Quantity, Monomial, tuple[Part, ...]]]) -> str:
    """Where a term comes from, quantity by quantity."""
    lines: list[str] = []
    ranks = {name: i for i, name in enumerate(formula.names)}
    for quantity, asked, parts in found:
        coefficient = quantity.polynomial.terms[asked]
        said = term(asked, abs(coefficient), formula.letters, ranks)
        lines += _wrapped(f"{'-' if coefficient < 0 else ''}{said} in {quantity.title}", "", "    ")
        for part in parts:
            share = part.polynomial.terms[asked]
            said = term(asked, abs(share), formula.letters, ranks)
            note = part.why or part.at
            text = f"{'-' if share < 0 else ''}{said} inside {_where(part)}, {part.kind.replace('_', ' ')}"
            lines += _wrapped(text + (f": {note}" if note else ""), "  ", "      ")
    return "\n".join(lines) + "\n"


def bound_text(found: Bound) -> str:
    """A bound on a screen, labelled as one."""
    lines = _wrapped(f"{found.name} is never {found.side} (a bound, not a formula)", "", "  ")
    lines += _wrapped(f"= {written(found.polynomial, found.letters, tuple(found.full))}", "  ", "    ")
    low, high = found.slack
    others = f"true on {len(found.held_out)} others" if found.held_out else "these are all that can be built"
    lines += _wrapped(
        f"made from {found.made_from} traces of sizes from 1 to these, and then {others}; {low:.1%} to {high:.1%} away "
        "from what was traced",
        "  ",
        "    ",
    )
    return "\n".join([*lines, "  elsewhere nothing is known of it"]) + "\n"


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


# --- for other programs ---


def formula_latex(formula: Formula) -> str:
    """The quantities as LaTeX, one aligned equation each."""
    import sympy

    rows = [(q.title, sympy.latex(q.expression)) for q in formula.quantities.values()]
    rows += [(f"live bytes, {c.point.phase}", sympy.latex(c.live.expression)) for c in formula.peak.winning]
    body = " \\\\\n".join(f"\\text{{{title}}} &= {text}" for title, text in rows)
    return f"\\begin{{align*}}\n{body}\n\\end{{align*}}\n"


def formula_python(formula: Formula, target: str = "") -> str:
    """A Python module with one function for each quantity, for whole numbers and for numpy arrays of them."""
    arguments = ", ".join(formula.names)
    parts = [
        f'"""Closed forms of {target or "a training step"}, exact on {len(formula.proof.instances)} held-out traces.\n',
        *[f"Holds for {condition}." for condition in formula.conditions],
        *[f"{r.name}={r.value} is another program, which is not in here." for r in formula.regimes],
        '"""\n',
        "from functools import reduce\n\nimport numpy as np\n",
    ]
    for quantity in formula.quantities.values():
        body = python_expression(quantity.polynomial)
        parts.append(
            f'\ndef {quantity.name}({arguments}):\n    """{quantity.title}, {quantity.unit}."""\n    return {body}\n'
        )
    listed = "".join(f"        {python_expression(c.polynomial)},  # {c.point}\n" for c in formula.peak.candidates)
    parts.append(
        f'\ndef peak({arguments}):\n    """Peak of live bytes."""\n    return reduce(np.maximum, [\n{listed}    ])\n'
    )
    return "\n".join(parts)


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
