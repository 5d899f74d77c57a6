"""Turns an op's name into the function that prices it: the registry.

A *rule* is a function ``Op -> Work``, registered under the names it prices. A name is a packet
(``"aten.mm"``, every overload of it) or one overload (``"aten.add.Tensor"``), which wins over its packet.
An op in place is priced by the rule of the op it is a variant of (``add_`` by ``add``), and an op over lists
by the rule of the op over one tensor (``_foreach_add_`` by ``add``), unless they have rules of their own:
which bytes move follows from the op's arguments.

Rules are looked for in the overrides in scope, then in the tables that installed packages offer under the
entry point group ``foretrace.rules``, then here. The *answer* says how an op was priced: by a *rule*, as
*free*, or *assumed* where nobody knows the op: one FLOP for each element that it makes, all inputs read
once, all outputs written once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

from ..graph import ForetraceError, Op
from .work import NOTHING, Work, moves, produced

Rule = Callable[[Op], Work]
ENTRY_POINT_GROUP = "foretrace.rules"
PACKAGE = Path(__file__).resolve().parents[1]


class Kind(StrEnum):
    """How an op was priced."""

    RULE = "rule"
    FREE = "free"
    ASSUMED = "assumed"


class Answer(NamedTuple):
    """What a lookup gives: how to price the op, and ``by`` whom: a file and line."""

    kind: Kind
    by: str
    function: Rule
    because: str = ""


def shown(filename: str, line: int) -> str:
    """``costmodels/matmul.py:12``: relative to this package where it lies in it."""
    path = Path(filename)
    try:
        path = path.resolve().relative_to(PACKAGE)
    except ValueError:
        path = Path(*path.parts[-2:])
    return f"{path.as_posix()}:{line}"


def caller(depth: int = 2) -> str:
    """The file and line that called the function which asks."""
    frame = sys._getframe(depth)
    return shown(frame.f_code.co_filename, frame.f_lineno)


def home(function: Rule) -> str:
    """The file and line where `function` is defined, or its name where it is no Python function."""
    code = getattr(function, "__code__", None)
    return repr(function) if code is None else shown(code.co_filename, code.co_firstlineno)


def nothing(op: Op) -> Work:
    """No work at all."""
    return NOTHING


class Table:
    """Answers by op name. A name may be registered once; a second time is an error that names both places."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}

    def add(self, name: str, answer: Answer) -> None:
        """Register `answer` under `name`. Raises ``ValueError`` if the name is taken."""
        first = self.answers.get(name)
        if first is not None:
            raise ValueError(f"two rules for {name}: {first.by} and {answer.by}")
        self.answers[name] = answer

    def rule(self, *names: str) -> Callable[[Rule], Rule]:
        """Decorate the function that prices the ops called `names`."""

        def register(function: Rule) -> Rule:
            for name in names:
                self.add(name, Answer(Kind.RULE, home(function), function))
            return function

        return register

    def free(self, *names: str, because: str) -> None:
        """Say that the ops called `names` do no work, and why."""
        by = caller()
        for name in names:
            self.add(name, Answer(Kind.FREE, by, nothing, because))

    def find(self, names: tuple[str, ...]) -> Answer | None:
        """The answer for the first of `names` that has one."""
        return next((self.answers[name] for name in names if name in self.answers), None)


BUILT_IN = Table()
rule = BUILT_IN.rule
free = BUILT_IN.free


def aten(names: str) -> tuple[str, ...]:
    """The full names of ATen ops that are given apart by blanks.

    >>> aten("mm bmm")
    ('aten.mm', 'aten.bmm')
    """
    return tuple(f"aten.{name}" for name in names.split())


def elementwise(flops: int, names: str, *, because: str) -> None:
    """Price the ATen ops `names` at `flops` for each element that they make, for the reason given."""

    def price(op: Op) -> Work:
        return moves(op, vector_flops=flops * produced(op))

    by = caller()
    for name in aten(names):
        BUILT_IN.add(name, Answer(Kind.RULE, by, price, because))


@cache
def candidates(name: str) -> tuple[str, ...]:
    """The names under which an op may be registered, the closest first.

    >>> candidates("aten._foreach_add_.List")
    ('aten._foreach_add_.List', 'aten._foreach_add_', 'aten._foreach_add', 'aten.add')
    """
    packet = name.rsplit(".", 1)[0]
    functional = packet.removesuffix("_")
    single = functional.replace("._foreach_", ".", 1)
    return tuple(dict.fromkeys((name, packet, functional, single)))


def as_table(rules: Table | Mapping[str, Rule]) -> Table:
    """A table of the functions in a mapping from op names."""
    if isinstance(rules, Table):
        return rules
    table = Table()
    for name, function in rules.items():
        table.add(name, Answer(Kind.RULE, home(function), function))
    return table


@cache
def plugins() -> Table:
    """The rules of installed packages, read once. Each entry point names a `Table` or a mapping."""
    table = Table()
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            offered = as_table(point.load())
        except Exception as error:
            raise ForetraceError(
                f"the rules {point.name!r} ({point.value}) cannot be loaded: {error}",
                "Mend or uninstall the package that offers them.",
            ) from error
        for name, answer in offered.answers.items():
            table.add(name, answer)
    return table


_overrides: ContextVar[tuple[Table, ...]] = ContextVar("overrides", default=())


@contextmanager
def override(rules: Table | Mapping[str, Rule]) -> Iterator[None]:
    """Price with `rules` before all others while the block runs; the innermost block wins."""
    token = _overrides.set((as_table(rules), *_overrides.get()))
    try:
        yield
    finally:
        _overrides.reset(token)


def assume(op: Op) -> Work:
    """An op that nobody knows: one FLOP per element made, every input read, every output written."""
    return moves(op, vector_flops=produced(op))


VIEW = Answer(Kind.FREE, home(nothing), nothing, "moves no bytes: new strides over the same storage")
ASSUMED = Answer(Kind.ASSUMED, home(assume), assume, "no rule for this op")
OF_NO_TENSOR = Answer(Kind.ASSUMED, home(assume), assume, "its rule knows nothing of sparse arguments")


OWN = __name__.rpartition(".")[0]


def looks_at_form_only(answer: Answer) -> bool:
    """True for the functions of this package, which price ops that are alike (`graph.alike`) alike.

    A rule from elsewhere may look at all that it is given, the module too.
    """
    home = getattr(answer.function, "__module__", None) or ""
    return home == OWN or home.startswith(f"{OWN}.")


def lookup(op: Op) -> Answer:
    """How to price `op`: the first answer found in the overrides, the plugins and the built-in table.

    Without one, an op that only makes a view is free, and any other is assumed.
    """
    names = candidates(op.name)
    for table in (*_overrides.get(), plugins(), BUILT_IN):
        answer = table.find(names)
        if answer is not None:
            return answer
    return VIEW if op.is_view else ASSUMED
