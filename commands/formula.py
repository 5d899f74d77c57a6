"""``foretrace formula TARGET --over batch,seq,...``: the closed forms of a step, and the same from Python."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from . import options as shared

if TYPE_CHECKING:
    from ..costmodels.formula import Bound, Formula
    from ..graph import StepGraph

HELD_OUT = 20
MOST_PIECES = 8


def formula(
    target: str | Callable[..., Any],
    over: str | Sequence[str],
    *,
    parameters: Mapping[str, Any] | None = None,
    at: Mapping[str, Sequence[int]] | None = None,
    letters: Mapping[str, str] | None = None,
    apart: Iterable[str] = (),
    prove_at: Sequence[Mapping[str, int]] = (),
    held_out: int = HELD_OUT,
    pieces: int = 1,
    progress: Callable[[Mapping[str, int], int], None] | None = None,
    **how: Any,
) -> Formula:
    """The closed forms of a training step over some of its target's keyword arguments.

    `target` is ``"path.py:callable"``, or the callable itself; `over` names the sizes. `parameters` are the values of
    keyword arguments: those of the sizes are their full values, which otherwise are the callable's defaults. `at`
    names small values of a size for the lattice, `apart` the sizes whose value 1 shall have a formula of its own,
    `prove_at` further instances to prove the formula on besides `held_out` others. With `pieces` above 1 the sizes that
    run other ops or have other bytes get formulas too, so many in all. `how` are tracing options, as `trace_target`
    takes them (``autocast``, ``optimizer``, ``device``, ...).

    Raises `ForetraceError` where the target cannot be called so, and where a quantity is no polynomial.
    """
    from ..costmodels.formula import derive, piecewise

    names = _names(over)
    sizes = full_sizes(target, names, parameters or {}, how.get("device"))
    fixed = {name: value for name, value in (parameters or {}).items() if name not in names}
    derived = derive if pieces < 2 else partial(piecewise, most=pieces)
    return derived(
        tracing(target, fixed, how),
        sizes,
        at=at,
        letters=letters,
        held_out=held_out,
        prove_at=[{**sizes, **others} for others in prove_at],
        apart=frozenset(apart),
        asked=progress,
    )


def bound(
    target: str | Callable[..., Any],
    over: str | Sequence[str],
    of: str = "peak",
    *,
    side: str = "above",
    parameters: Mapping[str, Any] | None = None,
    letters: Mapping[str, str] | None = None,
    held_out: int = HELD_OUT,
    progress: Callable[[Mapping[str, int], int], None] | None = None,
    **how: Any,
) -> Bound:
    """The least polynomial that the quantity `of` is not above, or with `side` "below" the largest it is not below.

    For a quantity that `formula` says is no polynomial. It holds for all that was traced, between 1 and the full sizes;
    it is not proved elsewhere. Arguments are those of `formula`. Raises `ForetraceError` where the target cannot be
    called so, and where no bound is found.
    """
    from ..costmodels.formula import bound as fitted

    names = _names(over)
    sizes = full_sizes(target, names, parameters or {}, how.get("device"))
    fixed = {name: value for name, value in (parameters or {}).items() if name not in names}
    at = tracing(target, fixed, how)
    return fitted(at, sizes, of, side=side, letters=letters, held_out=held_out, asked=progress)


def _names(over: str | Sequence[str]) -> list[str]:
    return [name.strip() for name in over.split(",") if name.strip()] if isinstance(over, str) else list(over)


def tracing(
    target: str | Callable[..., Any], fixed: Mapping[str, Any], how: Mapping[str, Any]
) -> Callable[..., StepGraph]:
    """A function that traces the target at sizes given as keyword arguments."""
    from ..tracer import trace, trace_target

    if isinstance(target, str):
        return lambda **sizes: trace_target(target, {**fixed, **sizes}, **how)
    return lambda **sizes: trace(lambda: target(**fixed, **sizes), **how)


def full_sizes(
    target: str | Callable[..., Any], names: Sequence[str], parameters: Mapping[str, Any], device: str | None = None
) -> dict[str, int]:
    """The full value of each size: the one given, or the default of the target for that device."""
    from ..graph import ForetraceError
    from ..tracer.trace import taken

    known = taken(target, device)
    sizes = {}
    for name in names:
        value = parameters.get(name, known.get(name))
        if name not in known and name not in parameters:
            raise ForetraceError(f"the target takes no {name}", f"It takes {', '.join(known) or 'nothing by name'}.")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ForetraceError(f"{name} is {value!r}, which is no size", f"Give its full value, such as -p {name}=8.")
        sizes[name] = value
    if not sizes:
        raise ForetraceError("there is no size to vary", f"Name some of {', '.join(known)}.")
    return sizes


def add(commands: shared.Commands[argparse.ArgumentParser]) -> None:
    """The parser of the command."""
    parser = commands.add_parser(
        "formula",
        help="print a step's memory and FLOPs as exact formulas of its sizes",
        description="Trace small instances of a target, and print its memory and FLOPs as exact polynomials of its "
        "sizes, proved on traces that they were not made from.",
        epilog="example: foretrace formula train.py:make_step --over batch,seq,layers,width",
    )
    parser.add_argument("target", metavar="TARGET", help="path.py:callable or package.module:callable")
    parser.add_argument("--over", metavar="NAMES", required=True, help="keyword arguments, with commas between")
    parser.add_argument(
        "--at", metavar="NAME=A,B", action="append", help="small values of a size for the lattice; may be repeated"
    )
    parser.add_argument(
        "--apart", metavar="NAME", action="append", help="give the value 1 of a size a formula of its own"
    )
    parser.add_argument(
        "--prove", metavar="NAME=N,...", action="append", help="sizes of one more instance to prove it on"
    )
    parser.add_argument(
        "--pieces",
        metavar="MOST",
        type=int,
        nargs="?",
        const=MOST_PIECES,
        default=1,
        help="also find the formulas of sizes that run other ops: so many in all (%(const)s)",
    )
    parser.add_argument("--letter", metavar="NAME=X", action="append", help="the letter of a size")
    parser.add_argument(
        "--format", choices=("text", "latex", "python", "json"), default="text", help="what to print (%(default)s)"
    )
    parser.add_argument("--compare", metavar="EXPR", help="a formula by hand, to be compared term by term")
    parser.add_argument("--explain", metavar="TERM", help="print where a term comes from, such as 4*B*T*d")
    parser.add_argument("--of", metavar="QUANTITY", help="the quantity to compare with, or to explain (peak)")
    parser.add_argument(
        "--bound",
        choices=("above", "below"),
        help="in place of formulas, a polynomial that the quantity of --of is never above, or never below",
    )
    shared.add_tracing(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..costmodels.formula import check_expression
    from ..graph import ForetraceError

    how: dict[str, Any] = shared.given(options)
    names = _names(options.over)
    letters = dict(_pair(text, "--letter NAME=X") for text in options.letter or ())
    for text in (options.compare, options.explain):
        if text:
            check_expression(text, names, letters)
    if options.pieces < 1:
        raise ForetraceError(f"--pieces {options.pieces} is no count", "Give the most pieces to look for, such as 4.")
    if options.bound:
        return _bound(options, names, letters, how)
    with Counter() as counter:
        found = formula(
            options.target,
            names,
            parameters=shared.parameters(options),
            at={name: _numbers(name, text) for name, text in map(_values, options.at or ())},
            letters=letters,
            apart=options.apart or (),
            prove_at=[_sizes(text) for text in options.prove or ()],
            pieces=options.pieces,
            progress=counter,
            **how,
        )
    print(f"traced {found.traces} instances in {counter.seconds:.1f} s", file=sys.stderr)
    print(_printed(found, options), end="")
    return 0


def _bound(options: argparse.Namespace, names: list[str], letters: Mapping[str, str], how: Mapping[str, Any]) -> int:
    from ..report.formula import bound_text
    from ..report.formula_exports import bound_json

    with Counter() as counter:
        found = bound(
            options.target,
            names,
            options.of or "peak",
            side=options.bound,
            parameters=shared.parameters(options),
            letters=letters,
            progress=counter,
            **how,
        )
    print(f"traced {counter.traces} instances in {counter.seconds:.1f} s", file=sys.stderr)
    print(bound_json(found) if options.format == "json" else bound_text(found), end="")
    return 0


def _printed(found: Formula, options: argparse.Namespace) -> str:
    from ..costmodels.formula import compare_by_hand, explain
    from ..report import formula as views
    from ..report import formula_exports as exports

    if options.compare:
        return views.comparison_text(found, compare_by_hand(found, options.compare, options.of or "peak"))
    if options.explain:
        return views.explanation_text(found, explain(found, options.explain, options.of))
    if options.format == "latex":
        return exports.formula_latex(found)
    if options.format == "python":
        return exports.formula_python(found, options.target)
    if options.format == "json":
        return exports.formula_json(found, options.target)
    return views.formula_text(found, options.target)


def _pair(text: str, grammar: str) -> tuple[str, str]:
    from ..graph import ForetraceError

    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise ForetraceError(f"{text!r} is not {grammar}", f"Write {grammar}.")
    return name, value


def _values(text: str) -> tuple[str, str]:
    return _pair(text, "--at NAME=A,B")


def _numbers(name: str, text: str) -> list[int]:
    from ..graph import ForetraceError

    try:
        return [int(value) for value in text.split(",")]
    except ValueError as error:
        raise ForetraceError(
            f"--at {name}={text} are no whole numbers", "Write for example --at width=64,128."
        ) from error


def _sizes(text: str) -> dict[str, int]:
    pairs = (_pair(part, "--prove NAME=N,NAME=N") for part in text.split(","))
    return {name: _numbers(name, value)[0] for name, value in pairs}


class Counter:
    """A line on standard error that counts the traced instances; nothing where that is not a terminal."""

    def __enter__(self) -> Counter:
        import time

        from tqdm import tqdm

        self._aside = shared.prints_aside()
        self._aside.__enter__()
        self._clock = time.perf_counter
        self._start, self.seconds, self.traces = self._clock(), 0.0, 0
        self._bar = tqdm(desc="tracing", leave=False, disable=None, bar_format="{desc}: {n_fmt} instances, {elapsed}")
        return self

    def __call__(self, sizes: Mapping[str, int], traces: int) -> None:
        """Show the instance that was traced."""
        self._bar.set_description_str("tracing " + " ".join(f"{n}={v}" for n, v in sizes.items()), refresh=False)
        self.traces = traces
        self._bar.update(traces - self._bar.n)

    def __exit__(self, *_: object) -> None:
        self.seconds = self._clock() - self._start
        self._bar.close()
        self._aside.__exit__(None, None, None)
