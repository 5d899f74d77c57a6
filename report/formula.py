"""A `Formula` -> what a person reads on a screen; also beside a formula by hand, and a bound.

In text a formula is followed by where its terms come from, by module and op. ``⌈T⌉₃₂`` is *T* rounded up to a
multiple of 32.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from fractions import Fraction

from ..costmodels.formula.bound import Bound
from ..costmodels.formula.compare import HandComparison, Row
from ..costmodels.formula.expression import term, written
from ..costmodels.formula.instances import in_words
from ..costmodels.formula.polynomial import Monomial, Polynomial, total
from ..costmodels.formula.result import Formula, Part, Piece, Quantity

WIDTH = 80
SHOWN = 12
"""How many parts of a quantity are listed."""


def formula_text(formula: Formula, target: str = "") -> str:
    """The formula on a screen."""
    lines = [target or "closed forms", *_about(formula)]
    for quantity in formula.quantities.values():
        lines += ["", *_quantity(formula, quantity)]
    lines += ["", *_peak(formula)]
    for number, piece in enumerate(formula.further, 2):
        lines += ["", *_piece(formula, number, piece)]
    return "\n".join(lines) + "\n"


def _piece(formula: Formula, number: int, piece: Piece) -> list[str]:
    """A further piece: what is different about it, and its quantities in a line each."""
    lines = _wrapped(f"piece {number}: {piece}", "", "  ")
    if piece.differs:
        lines += _wrapped(f"different there: {piece.differs}", "  ", "    ")
    found = piece.formula
    if found is None:
        return lines + _wrapped(f"no formula: {piece.why_none}", "  ", "    ")
    count = len(found.proof.instances)
    lines += _wrapped(
        f"exact on {count} traces of its own" if found.names else "one trace is all there is", "  ", "    "
    )
    lines += [row for line in _elsewhere(found) for row in _wrapped(line, "  ", "    ")]
    for quantity in found.quantities.values():
        lines += _wrapped(f"{quantity.title} = {_written(found, quantity.polynomial)}", "  ", "    ")
    for candidate in found.peak.winning:
        said = f"peak, {candidate.share:.0%} of sizes near by, {candidate.point}"
        lines += _wrapped(f"{said} = {_written(found, candidate.polynomial)}", "  ", "    ")
    return lines


def _elsewhere(formula: Formula) -> list[str]:
    """Where other formulas hold, or none was proved."""
    lines = [f"{r.name}={r.value} has a formula of its own: {r.differs}" for r in formula.regimes]
    return lines + [
        f"not compared, since other ops run there: {in_words(s)} ({how})"
        for how, s in formula.proof.other_regimes.items()
    ]


def _about(formula: Formula) -> list[str]:
    over = ", ".join(f"{formula.letters[name]} {name}" for name in formula.names)
    proof = formula.proof
    lines = [f"over {over}"]
    if proof.instances:
        full = "the full-size one among them" if formula.full in proof.instances else "not the full-size one"
        lines.append(f"exact on {len(proof.instances)} traces it was not made from, {full}: {in_words(formula.full)}")
    lines += [f"holds for {condition}: {condition.why}" for condition in formula.conditions]
    lines += _elsewhere(formula)
    if formula.further:
        others = "; ".join(f"{number}, {piece}" for number, piece in enumerate(formula.further, 2))
        lines.append(f"piece 1 of {len(formula.pieces)}, that of the full size; below are {others}")
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
