"""What several commands share: the options that say what to trace and how, and what becomes of them."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, chdir, nullcontext, redirect_stdout
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..checks import Config, Target
    from ..graph import StepGraph
    from ..hardware import Profile

Commands = argparse._SubParsersAction
"""What `add` of a command is given."""

DEFAULT_PROFILE = "a100-sxm4-80gb"
TRACING = (
    "parameters",
    "inputs",
    "device",
    "autocast",
    "optimizer",
    "warmup",
    "assume",
    "outcomes",
    "strict",
    "max_ops",
    "fold",
)
"""The options that say how to trace, and so mean nothing for a saved trace."""


def add_profile(parser: argparse.ArgumentParser) -> None:
    """``--on PROFILE``."""
    parser.add_argument(
        "--on",
        metavar="PROFILE",
        help=f"hardware profile: a name or a .toml file (what is configured for the target, or {DEFAULT_PROFILE})",
    )


def device(options: argparse.Namespace, on: str) -> Profile:
    """The profile `on` with the memory that was given, before any trace: what makes no sense is refused first."""
    from ..hardware.alloc_conf import parse
    from ..hardware.profile import load

    of_cuda(options, options.device or "cuda")
    if options.conf:
        parse(options.conf)
    return load(on).with_memory(size(options.memory)) if options.memory else load(on)


def of_cuda(options: argparse.Namespace, traced_for: str) -> None:
    """Refuse what would be passed over of a step for the CPU."""
    from ..graph import ForetraceError

    given = [flag for flag, text in (("--memory", options.memory), ("--alloc-conf", options.conf)) if text]
    if given and not traced_for.startswith("cuda"):
        raise ForetraceError(
            f"{given[0]} is of a GPU, and this step is one for the {traced_for}",
            "Leave it out, or trace with --device cuda; that needs no GPU.",
        )


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--on PROFILE``, and what of it the user knows better."""
    add_profile(parser)
    parser.add_argument("--memory", metavar="SIZE", help="the device's memory, such as 24GiB (what the profile says)")
    parser.add_argument(
        "--alloc-conf",
        dest="conf",
        metavar="SETTINGS",
        help="settings of the caching allocator, as in PYTORCH_ALLOC_CONF (PyTorch's own)",
    )


UNITS = {
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", 1)},
}


def size(text: str) -> int:
    """A number of bytes with its unit.

    >>> size("24GiB"), size("1.5 GB")
    (25769803776, 1500000000)
    """
    found = re.fullmatch(r"([0-9.]+) ?([KMGT]?i?B)", text.strip())
    if found is None or found[2] not in UNITS or found[1].count(".") > 1:
        from ..graph import ForetraceError

        raise ForetraceError(f"{text!r} is no size", "Write for example 24GiB, or 24GB.")
    return int(float(found[1]) * UNITS[found[2]])


def add_tracing(parser: argparse.ArgumentParser, *, on_cpu: bool = False) -> None:
    """The options of `TRACING`; `on_cpu` leaves out those that mean another device."""
    group = parser.add_argument_group("how to trace")
    group.add_argument(
        "-p",
        dest="parameters",
        metavar="NAME=VALUE",
        action="append",
        help="keyword argument for the callable, or size of a spec: a whole number, a number, true, false, or text; "
        "may be repeated",
    )
    group.add_argument(
        "--input",
        dest="inputs",
        metavar="SPEC",
        action="append",
        help='input of the module, such as "x: int64[batch, 2*seq]", its sizes set by -p; may be repeated',
    )
    if on_cpu:
        parser.set_defaults(device="cpu")
    else:
        group.add_argument("--device", choices=("cuda", "cpu"), help="where the step would run (cuda)")
    group.add_argument("--autocast", choices=("bfloat16", "float16"), help="dtype of torch.autocast (none)")
    group.add_argument("--optimizer", metavar="NAME", help="of torch.optim, or none (what the target says, or adamw)")
    group.add_argument("--warmup", metavar="N", type=int, help="steps run before the recorded one (1)")
    group.add_argument(
        "--assume",
        metavar="WHAT=VALUE",
        action="append",
        help="what holds where the step depends on data: nonzero=0.25, model.py:71=100, or 100,3 in turn; "
        "may be repeated",
    )
    group.add_argument(
        "--assume-unknown",
        dest="assume",
        action="append_const",
        const="unknown=true",
        help="an op of which nothing is known returns tensors like its first",
    )
    group.add_argument(
        "--outcomes",
        metavar="FILE",
        help="what data decided in a real run, as measure --save-outcomes wrote it, in place of what is assumed",
    )
    group.add_argument("--strict", action="store_true", default=None, help="an assumption is an error")
    group.add_argument("--max-ops", metavar="N", type=int, help="a step of more ops never ends (2000000)")
    group.add_argument(
        "--no-fold", dest="fold", action="store_false", default=None, help="run every block, also those that are alike"
    )


def given(options: argparse.Namespace) -> dict[str, object]:
    """The tracing options that were given, as keyword arguments of `trace_target`, its ``parameters`` apart."""
    names = (*TRACING[1:], "variant")
    found = {name: getattr(options, name) for name in names if getattr(options, name, None) is not None}
    if "inputs" in found:
        found["inputs"] = "; ".join(found["inputs"])
    if "assume" in found:
        found["assume"] = dict(assumption(text) for text in found["assume"])
    if "outcomes" in found:
        from ..graph import load_outcomes

        found["outcomes"] = load_outcomes(found["outcomes"])
    return found


def parameters(options: argparse.Namespace) -> dict[str, object]:
    """What ``-p`` gave."""
    return _by_name(options.parameters or ())


def _by_name(texts: Iterable[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in map(parameter, texts):
        if name in found:
            from ..graph import ForetraceError

            raise ForetraceError(f"-p {name} is given twice", f"Give it once; several numbers are -p {name}=1,2.")
        found[name] = value
    return found


def cases(options: argparse.Namespace) -> list[argparse.Namespace]:
    """The runs that the options mean: each target with each combination of the numbers that ``-p`` lists."""
    choices = [_choices(text) for text in options.parameters or ()]
    combinations = [list(chosen) or None for chosen in product(*choices)]
    return [
        argparse.Namespace(
            **{**vars(options), "target": target, "parameters": chosen, "on": options.on or profile_of(target)}
        )
        for target in options.target
        for chosen in combinations
    ]


def listed(options: argparse.Namespace) -> list[dict[str, object]]:
    """The parameters of each run that ``-p`` means: every combination of the numbers that it lists."""
    chosen = product(*(_choices(text) for text in options.parameters or ()))
    return [_by_name(texts) for texts in chosen]


def _choices(text: str) -> list[str]:
    """``batch=1,2`` as one text for each number; a value that is no list of numbers is one value.

    >>> _choices("batch=1,2"), _choices("kind=a,b")
    (['batch=1', 'batch=2'], ['kind=a,b'])
    """
    name, _, values = text.partition("=")
    parts = values.split(",")
    several = len(parts) > 1 and all(isinstance(_value(part), (int, float)) for part in parts)
    return [f"{name}={part}" for part in parts] if several else [text]


def command_line(command: str, options: argparse.Namespace) -> str:
    """The command that does the same again, as a shell reads it; what it writes is left out."""
    words = ["foretrace", command, options.target, "--on", options.on]
    for flag, given_text in (("--memory", options.memory), ("--alloc-conf", options.conf)):
        words += [flag, given_text] if given_text else []
    for name in TRACING:
        flag = _flag(name)
        value = getattr(options, name)
        if isinstance(value, bool):
            words.append(flag)
        elif value is not None:
            words += [word for item in (value if isinstance(value, list) else [value]) for word in (flag, str(item))]
    return shlex.join(words)


def _flag(name: str) -> str:
    """How an option of `TRACING` is written."""
    return {"parameters": "-p", "inputs": "--input", "fold": "--no-fold"}.get(name, f"--{name.replace('_', '-')}")


def graph_of(options: argparse.Namespace, capability: str | None = None) -> StepGraph:
    """The trace that ``TARGET`` names: a saved one is loaded, another is traced for a GPU of that capability."""
    known = _configured(options.target)
    if known is not None:
        config, target = known
        with chdir(config.root):
            how = {**_of(capability), **target.tracing, **given(options)}
            return _trace(target.step, {**target.args, **parameters(options)}, how)
    return _saved(options) if is_saved(options.target) else traced(options, capability)


def at_home(name: str) -> AbstractContextManager[None]:
    """The folder that a configured target is called in; for any other the working directory stays."""
    known = _configured(name)
    return nullcontext() if known is None else chdir(known[0].root)


def _of(capability: str | None) -> dict[str, object]:
    return {} if capability is None else {"capability": capability}


def profile_of(name: str) -> str:
    """The profile that is configured for a target of that name, or else the default one."""
    known = _configured(name)
    if known is None:
        return DEFAULT_PROFILE
    config, target = known
    own = config.root / target.on
    return str(own) if own.is_file() else target.on


def is_saved(target: str) -> bool:
    """Whether a target is a file with a trace, and no callable."""
    return ":" not in target or (os.path.isfile(target) and not target.endswith(".py"))


def _saved(options: argparse.Namespace) -> StepGraph:
    from ..graph import ForetraceError, load

    if options.target.endswith(".py"):
        raise ForetraceError(
            f"{options.target} names no callable", f"Write {options.target}:callable, or give a saved trace."
        )
    if not os.path.exists(options.target) and (config := _config()) is not None and config.targets:
        raise ForetraceError(
            f"there is no trace file {options.target}, and no configured target of that name",
            f"Configured are {', '.join(config.targets)}; a target of Python is written path.py:callable.",
        )
    meaningless = [name for name in TRACING if getattr(options, name) is not None]
    if meaningless:
        flag = _flag(meaningless[0])
        raise ForetraceError(f"{flag} means nothing for a saved trace", "Leave it out, or trace the target again.")
    return load(options.target)


def traced(options: argparse.Namespace, capability: str | None = None) -> StepGraph:
    """The trace of a callable, with a progress line and a last line on standard error."""
    config, how = _config(), {**_of(capability), **given(options)}
    if config is not None and config.assume:
        how["assume"] = {**config.assume, **how.get("assume", {})}  # type: ignore[dict-item]
    return _trace(options.target, parameters(options), how)


def _trace(target: str, arguments: dict[str, object], how: dict[str, object]) -> StepGraph:
    from ..tracer import trace_target

    start = time.perf_counter()
    with Progress() as progress:
        graph = trace_target(target, arguments, progress=progress, **how)  # type: ignore[arg-type]
    seconds = time.perf_counter() - start
    how_so = "nothing was allocated" if graph.facts.device.startswith("cuda") else "its kernels' scratch was tried"
    print(f"traced {len(graph.ops):,} ops in {seconds:.1f} s on this CPU; {how_so}", file=sys.stderr)
    return graph


def _config() -> Config | None:
    """What is configured for the working directory."""
    from ..checks.config import find, load

    found = find(Path.cwd())
    return load(found, Path.cwd()) if found else None


def _configured(name: str) -> tuple[Config, Target] | None:
    """The configured target of that name, where it names no file and no callable."""
    if ":" in name or os.path.exists(name) or (config := _config()) is None or name not in config.targets:
        return None
    return config, config.targets[name]


def parameter(text: str) -> tuple[str, object]:
    """``name=value`` as a keyword argument.

    >>> parameter("batch=8"), parameter("rate=1e-3"), parameter("tied=true"), parameter("kind=gelu")
    (('batch', 8), ('rate', 0.001), ('tied', True), ('kind', 'gelu'))
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        from ..graph import ForetraceError

        raise ForetraceError(f"-p {text} is not NAME=VALUE", "Write for example -p batch=8")
    return name, _value(value)


def assumption(text: str) -> tuple[str, object]:
    """``kind=value`` or ``file:line=value`` as a setting of what is assumed; several values are taken in turn.

    >>> assumption("nonzero=0.25"), assumption("model.py:71=100,3")
    (('nonzero', 0.25), ('model.py:71', (100, 3)))
    """
    name, _, value = text.rpartition("=")
    if not name:
        from ..graph import ForetraceError

        raise ForetraceError(f"--assume {text} is not WHAT=VALUE", "Write for example --assume model.py:71=100")
    values = tuple(_value(part) for part in value.split(","))
    return name, values if len(values) > 1 else values[0]


def _value(text: str) -> object:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def prints_aside() -> AbstractContextManager[object]:
    """While the user's code runs, what it prints goes to standard error: it is no part of our result."""
    return redirect_stdout(sys.stderr)


class Progress:
    """A line on standard error that counts the recorded ops; nothing where that is not a terminal."""

    def __enter__(self) -> Progress:
        from tqdm import tqdm

        self._aside = prints_aside()
        self._aside.__enter__()
        self._bar = tqdm(desc="tracing", leave=False, disable=None, bar_format="{desc}: {n_fmt} ops, {elapsed}")
        return self

    def __call__(self, phase: str, ops_recorded: int) -> None:
        """Show how many ops have been recorded so far."""
        self._bar.set_description_str(f"tracing {phase}", refresh=False)
        self._bar.update(ops_recorded - self._bar.n)

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._aside.__exit__(None, None, None)
