"""The command line -> a call of the library, something printed, and an exit code.

Exit codes: 0 done, 1 measured and not as predicted, 2 could not do it. Standard output carries the report and nothing
else; progress and errors go to standard error. What a command needs is imported when it runs, so that ``--help`` and
mistakes answer at once, and a saved trace is read without torch.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from . import __version__

if TYPE_CHECKING:
    from .graph import Measured, StepGraph

DEFAULT_PROFILE = "a100-sxm4-80gb"
DIFFERS = 1
COULD_NOT = 2
TRACING = ("parameters", "inputs", "device", "autocast", "optimizer", "warmup", "assume", "strict")
"""The options that say how to trace, and so mean nothing for a saved trace."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        _print_anything(stream)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return COULD_NOT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return COULD_NOT
    except Exception as error:
        return _failed(error)
    return code


def _print_anything(stream: TextIO) -> None:
    """A file name that the terminal cannot show is no reason to stop."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _failed(error: Exception) -> int:
    from .graph import ForetraceError

    if isinstance(error, ForetraceError):
        print(f"error: {error.message}", *([f"mend: {error.mend}"] if error.mend else []), sep="\n", file=sys.stderr)
    else:
        traceback.print_exception(error)
        print("This is a fault of foretrace's. Please report it with the lines above.", file=sys.stderr)
    return COULD_NOT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="foretrace", description="Know what a training step costs before you run it, without a GPU."
    )
    parser.add_argument("--version", action="version", version=f"foretrace {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_run(commands)
    _add_measure(commands)
    _add_explain(commands)
    return parser


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = commands.add_parser(
        "run",
        help="trace a step, price it, and print the report",
        description="Trace one training step, price it on a hardware profile, and print the report.",
        epilog="example: foretrace run train.py:make_step -p batch=8 --on a100-sxm4-80gb",
    )
    run.add_argument("target", metavar="TARGET", help="path.py:callable, package.module:callable, or a saved trace")
    run.add_argument(
        "--on",
        metavar="PROFILE",
        default=DEFAULT_PROFILE,
        help="hardware profile: a name or a .toml file (%(default)s)",
    )
    run.add_argument("--format", choices=("table", "json"), default="table", help="what to print (%(default)s)")
    run.add_argument("--save", metavar="FILE", help="also write the trace, to be given as TARGET later")
    tracing = run.add_argument_group("how to trace")
    tracing.add_argument(
        "-p",
        dest="parameters",
        metavar="NAME=VALUE",
        action="append",
        help="keyword argument for the callable, or size of a spec: a whole number, a number, true, false, or text; "
        "may be repeated",
    )
    tracing.add_argument(
        "--input",
        dest="inputs",
        metavar="SPEC",
        action="append",
        help='input of the module, such as "x: int64[batch, 2*seq]", its sizes set by -p; may be repeated',
    )
    tracing.add_argument("--device", choices=("cuda", "cpu"), help="where the step would run (cuda)")
    tracing.add_argument("--autocast", choices=("bfloat16", "float16"), help="dtype of torch.autocast (none)")
    tracing.add_argument("--optimizer", metavar="NAME", help="of torch.optim, or none (what the target says, or adamw)")
    tracing.add_argument("--warmup", metavar="N", type=int, help="steps run before the recorded one (1)")
    tracing.add_argument(
        "--assume",
        metavar="WHAT=VALUE",
        action="append",
        help="what holds where the step depends on data: nonzero=0.25, model.py:71=100; may be repeated",
    )
    tracing.add_argument("--strict", action="store_true", default=None, help="an assumption is an error")
    run.set_defaults(run=_run)


def _add_measure(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    measure = commands.add_parser(
        "measure",
        help="run a small step for real on the CPU, and print predicted beside measured",
        description="Trace one training step for the CPU, then run it there for real, and print the predicted live "
        "bytes beside those of the allocator. The exit code is 1 where they differ at the end of a phase.",
        epilog="example: foretrace measure train.py:make_step -p batch=2",
    )
    measure.add_argument("target", metavar="TARGET", help="path.py:callable or package.module:callable")
    measure.add_argument("--format", choices=("table", "json"), default="table", help="what to print (%(default)s)")
    step = measure.add_argument_group("the step")
    step.add_argument(
        "-p", dest="parameters", metavar="NAME=VALUE", action="append", help="keyword argument for the callable"
    )
    step.add_argument(
        "--input", dest="inputs", metavar="SPEC", action="append", help="input of the module, as in foretrace run"
    )
    step.add_argument("--optimizer", metavar="NAME", help="of torch.optim, or none (what the target says, or adamw)")
    step.add_argument("--warmup", metavar="N", type=int, help="steps run before the measured one (1)")
    step.add_argument(
        "--assume", metavar="WHAT=VALUE", action="append", help="what the trace assumes, as in foretrace run"
    )
    measure.set_defaults(run=_measure, device="cpu")


def _add_explain(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    explain = commands.add_parser(
        "explain",
        help="print every number of a hardware profile with its source",
        description="Print every number of a hardware profile with its source; without a name, list the profiles.",
    )
    explain.add_argument("profile", metavar="PROFILE", nargs="?", help="a name or a .toml file")
    explain.set_defaults(run=_explain)


def _run(options: argparse.Namespace) -> int:
    from .hardware.profile import load as load_profile
    from .report import price, to_json, to_table

    profile = load_profile(options.on)
    graph = _saved(options) if _is_saved(options.target) else _traced(options)
    if options.save:
        from .graph import save

        save(graph, options.save)
    report = price(graph, on=profile)
    print(to_json(report) if options.format == "json" else to_table(report), end="")
    return 0


def _measure(options: argparse.Namespace) -> int:
    from .costmodels import compare
    from .graph import ForetraceError
    from .hardware import check_room
    from .report import measured_json, measured_table

    if _is_saved(options.target):
        raise ForetraceError(f"{options.target} is no target to run", "Write path/to/file.py:callable.")
    graph = _traced(options)
    check_room(graph)
    comparison = compare(graph, _really(options))
    print(measured_json(comparison) if options.format == "json" else measured_table(comparison), end="")
    return 0 if comparison.agrees else DIFFERS


def _really(options: argparse.Namespace) -> Measured:
    """The real run of what was traced."""
    from .tracer import measure

    names = ("inputs", "optimizer", "warmup")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if "inputs" in given:
        given["inputs"] = "; ".join(given["inputs"])
    return measure(options.target, dict(_parameter(text) for text in options.parameters or ()), **given)


def _is_saved(target: str) -> bool:
    return ":" not in target or (os.path.isfile(target) and not target.endswith(".py"))


def _saved(options: argparse.Namespace) -> StepGraph:
    from .graph import ForetraceError, load

    if options.target.endswith(".py"):
        raise ForetraceError(
            f"{options.target} names no callable", f"Write {options.target}:callable, or give a saved trace."
        )
    given = [name for name in TRACING if getattr(options, name) is not None]
    if given:
        flag = {"parameters": "-p", "inputs": "--input"}.get(given[0], f"--{given[0]}")
        raise ForetraceError(f"{flag} means nothing for a saved trace", "Leave it out, or trace the target again.")
    return load(options.target)


def _traced(options: argparse.Namespace) -> StepGraph:
    from .tracer import trace_target

    given = {name: getattr(options, name) for name in TRACING[1:] if getattr(options, name, None) is not None}
    parameters = dict(_parameter(text) for text in options.parameters or ())
    if "inputs" in given:
        given["inputs"] = "; ".join(given["inputs"])
    if "assume" in given:
        given["assume"] = dict(_assumption(text) for text in given["assume"])
    start = time.perf_counter()
    with _Progress() as progress:
        graph = trace_target(options.target, parameters, progress=progress, **given)
    seconds = time.perf_counter() - start
    print(f"traced {len(graph.ops):,} ops in {seconds:.1f} s on this CPU; nothing was allocated", file=sys.stderr)
    return graph


def _parameter(text: str) -> tuple[str, object]:
    """``name=value`` as a keyword argument.

    >>> _parameter("batch=8"), _parameter("rate=1e-3"), _parameter("tied=true"), _parameter("kind=gelu")
    (('batch', 8), ('rate', 0.001), ('tied', True), ('kind', 'gelu'))
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        from .graph import ForetraceError

        raise ForetraceError(f"-p {text} is not NAME=VALUE", "Write for example -p batch=8")
    return name, _value(value)


def _assumption(text: str) -> tuple[str, object]:
    """``kind=value`` or ``file:line=value`` as a setting of what is assumed.

    >>> _assumption("nonzero=0.25"), _assumption("model.py:71=100")
    (('nonzero', 0.25), ('model.py:71', 100))
    """
    name, _, value = text.rpartition("=")
    if not name:
        from .graph import ForetraceError

        raise ForetraceError(f"--assume {text} is not WHAT=VALUE", "Write for example --assume model.py:71=100")
    return name, _value(value)


def _value(text: str) -> object:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


class _Progress:
    """A line on standard error that counts the recorded ops; nothing where that is not a terminal."""

    def __enter__(self) -> _Progress:
        from tqdm import tqdm

        self._bar = tqdm(desc="tracing", leave=False, disable=None, bar_format="{desc}: {n_fmt} ops, {elapsed}")
        return self

    def __call__(self, phase: str, ops_recorded: int) -> None:
        self._bar.set_description_str(f"tracing {phase}", refresh=False)
        self._bar.update(ops_recorded - self._bar.n)

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def _explain(options: argparse.Namespace) -> int:
    from .hardware.profile import load as load_profile
    from .hardware.profile import names
    from .report import facts_table

    if options.profile is None:
        print("hardware profiles:", *names(), sep="\n  ")
    else:
        print(facts_table(load_profile(options.profile)), end="")
    return 0
