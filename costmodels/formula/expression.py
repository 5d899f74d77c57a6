"""Polynomials <-> expressions as people write them: ``16*L*(12*d**2 + 2*d)``, in letters or in full names.

A *letter* is the symbol of a size: the usual one (*B* for the batch, *T* for the context, *d* for the width) where it
is free, and otherwise the size's own name. Parsing takes arithmetic only (no names are looked up, nothing is called
but ``ceiling``, ``floor``, which must round to a multiple), so that an expression from anywhere is safe to read.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

from ...graph import ForetraceError
from .polynomial import Atom, Monomial, Polynomial

USUAL = {
    "batch": "B",
    "batch_size": "B",
    "seq": "T",
    "context": "T",
    "seq_len": "T",
    "time": "T",
    "layers": "L",
    "depth": "L",
    "num_layers": "L",
    "width": "d",
    "hidden": "h",
    "d_model": "d",
    "heads": "H",
    "kv_heads": "K",
    "vocab": "V",
    "vocab_size": "V",
    "feedforward": "F",
    "intermediate": "F",
    "classes": "C",
    "image": "S",
    "patch": "P",
}
"""The letters that texts on transformers use."""

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_MEND = "Write sums and products of the sizes, such as 4*B*T*d + 2*V*d; powers as d**2 or d^2."


def letters_for(names: Sequence[str], chosen: Mapping[str, str] | None = None) -> dict[str, str]:
    """A letter for each of the sizes `names`, the `chosen` ones first.

    >>> letters_for(["batch", "seq", "context"])
    {'batch': 'B', 'seq': 'T', 'context': 'context'}
    """
    found: dict[str, str] = {}
    taken = set((chosen or {}).values())
    for name in names:
        letter = (chosen or {}).get(name) or USUAL.get(name, name)
        if letter in found.values() or (letter in taken and name not in (chosen or {})):
            letter = name
        found[name] = letter
    return found


@cache
def symbol(name: str) -> Any:
    """A sympy symbol for a size: a positive whole number."""
    import sympy

    return sympy.Symbol(name, integer=True, positive=True)


def as_sympy(polynomial: Polynomial, letters: Mapping[str, str]) -> Any:
    """A polynomial as a sympy expression, expanded."""
    import sympy

    def atom(a: Atom) -> Any:
        x = symbol(letters.get(a.name, a.name))
        rounded = sympy.ceiling if a.up else sympy.floor
        return x if a.multiple == 1 else a.multiple * rounded(x / a.multiple)

    return sympy.Add(
        *(
            sympy.Mul(sympy.Rational(c.numerator, c.denominator), *(atom(a) ** power for a, power in m))
            for m, c in polynomial.terms.items()
        )
    )


def parse(text: str, letters: Mapping[str, str]) -> Polynomial:
    """The polynomial that a person wrote, in letters or in the sizes' names.

    >>> parse("2*V*d + L*(12*d^2 + 2·d)", {"vocab": "V", "width": "d", "layers": "L"}).at(vocab=2, width=3, layers=1)
    126

    Raises `ForetraceError` for what does not parse, and for a name that is no size.
    """
    plain = text.replace("·", "*").replace("\u00d7", "*").replace("\u2212", "-").replace("^", "**")
    plain = "".join(f"**{c.translate(_SUPERSCRIPTS)}" if c in "⁰¹²³⁴⁵⁶⁷⁸⁹" else c for c in plain)
    try:
        tree = ast.parse(plain.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        place = getattr(error, "offset", 0) or len(text)
        raise ForetraceError(f"{text!r} does not parse at character {place}", _MEND) from error
    return _Reader(text, {**{n: n for n in letters}, **{letter: n for n, letter in letters.items()}}).read(tree)


def check_expression(text: str, names: Sequence[str], chosen: Mapping[str, str] | None = None) -> None:
    """Raise `ForetraceError` for a `text` that does not parse over the sizes `names`: before anything is traced."""
    parse(text, letters_for(names, chosen))


class _Reader:
    """Walks through the tree of an expression."""

    def __init__(self, text: str, names: Mapping[str, str]) -> None:
        self.text, self.names = text, names

    def read(self, node: ast.AST) -> Polynomial:
        match node:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return Polynomial.of(Fraction(str(number)))
            case ast.Name(id=name):
                return self.size(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.read(operand)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.read(operand)
            case ast.BinOp(left=left, op=op, right=right):
                return self.binary(op, self.read(left), self.read(right))
            case ast.Call(func=ast.Name(id="ceiling" | "ceil" | "floor" as name), args=[inside], keywords=[]):
                return self.rounded(self.read(inside), name != "floor")
        raise self.mistake(f"{ast.unparse(node)!r} is no arithmetic")

    def size(self, name: str) -> Polynomial:
        if name not in self.names:
            known = ", ".join(f"{letter}" for letter in self.names)
            raise ForetraceError(f"{name!r} in {self.text!r} is none of the sizes", f"They are {known}.")
        return Polynomial.of(self.names[name])

    def binary(self, op: ast.operator, left: Polynomial, right: Polynomial) -> Polynomial:
        match op:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
            case ast.Div() if len(right.terms) == 1:
                return left * right**-1
            case ast.Pow():
                return self.power(left, right)
        raise self.mistake("only + - * / ** are arithmetic here, and only one term may be divided by")

    def power(self, left: Polynomial, right: Polynomial) -> Polynomial:
        exponent = right.terms.get((), Fraction(0))
        if right != Polynomial.of(exponent) or exponent.denominator != 1 or abs(exponent) > 12:
            raise self.mistake("an exponent is a small whole number")
        if exponent < 0 and len(left.terms) != 1:
            raise self.mistake("only one term may be divided by")
        return left ** int(exponent)

    def rounded(self, inside: Polynomial, up: bool) -> Polynomial:
        match list(inside.terms.items()):
            case [(((Atom(name=name, multiple=1), 1),), c)] if c.numerator == 1:
                return Polynomial.of(Atom(name, c.denominator, up)) * Fraction(1, c.denominator)
        raise self.mistake("only a size divided by a whole number is rounded, as in ceiling(T/32)")

    def mistake(self, what: str) -> ForetraceError:
        return ForetraceError(f"{self.text!r} does not parse: {what}", _MEND)


def written(polynomial: Polynomial, letters: Mapping[str, str], order: Iterable[str] = ()) -> str:
    """A polynomial as people write it, its largest terms first: ``12·L·d² + 13·L·d + 2·d``.

    >>> x = Polynomial.of("x")
    >>> written(3 * x * x - x + 1, {})
    '3·x² - x + 1'
    """
    ranks = {name: i for i, name in enumerate(order)}
    terms = sorted(polynomial.terms.items(), key=lambda item: _rank(item[0], ranks))
    text = ""
    for m, c in terms:
        sign = "-" if c < 0 else "+"
        text += (f" {sign} " if text else "-" * (c < 0)) + term(m, abs(c), letters, ranks)
    return text or "0"


def _rank(m: Monomial, ranks: Mapping[str, int]) -> tuple[object, ...]:
    degree = sum(power for _, power in m)
    return -degree, [(ranks.get(a.name, 99), a.name, -power) for a, power in m]


def term(m: Monomial, c: Fraction, letters: Mapping[str, str], ranks: Mapping[str, int] | None = None) -> str:
    """One term as people write it: ``4·B·T·d``, ``2·V·d``, ``B·T/32``."""
    atoms = sorted(m, key=lambda item: ((ranks or {}).get(item[0].name, 99), item[0].name))
    above = [_power(a, power, letters) for a, power in atoms if power > 0]
    below = [_power(a, -power, letters) for a, power in atoms if power < 0]
    if c.numerator != 1 or not above:
        above.insert(0, f"{c.numerator:,}")
    if c.denominator != 1:
        below.append(f"{c.denominator:,}")
    return "·".join(above) + "".join(f"/{factor}" for factor in below)


def _power(a: Atom, power: int, letters: Mapping[str, str]) -> str:
    letter = letters.get(a.name, a.name)
    if a.multiple > 1:
        left, right = "⌈⌉" if a.up else "⌊⌋"
        letter = f"{left}{letter}{right}{str(a.multiple).translate(_LOW)}"
    return letter + ("" if power == 1 else str(power).translate(_HIGH))


_HIGH = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_LOW = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
