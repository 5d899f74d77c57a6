"""``foretrace fit TARGET --vary batch``: the largest value of a size that fits, and the same from Python."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from . import options as shared
from .formula import Counter, full_sizes, tracing

if TYPE_CHECKING:
    from ..graph import StepGraph
    from ..hardware import Profile
    from ..hardware.fit import Fit, Frontier


def fit(
    target: str | Callable[..., Any],
    vary: str = "batch",
    *,
    memory: int | str | None = None,
    on: str = shared.DEFAULT_PROFILE,
    parameters: Mapping[str, Any] | None = None,
    headroom: float = 0.05,
    reserved: Callable[[StepGraph], int] | None = None,
    progress: Callable[[Mapping[str, int], int], None] | None = None,
    **how: Any,
) -> Fit:
    """The largest value of the keyword argument `vary` of a target whose step fits.

    `memory` is the limit, in bytes or as text (``"80GiB"``); without it, what the profile `on` has for tensors.
    `parameters` are the target's other keyword arguments, `headroom` the share of the limit to leave free for the
    second answer, `reserved` what an allocator reserves for a trace (PyTorch's, replayed). `how` are tracing
    options, as `trace_target`
    takes them. Raises `ForetraceError` where the target cannot be called so.
    """
    from ..hardware.fit import fit as search

    most, given = limit(memory, on), dict(parameters or {})
    near = full_sizes(target, [vary], given, how.get("device"))[vary]
    given.pop(vary, None)
    return search(
        tracing(target, given, how),
        vary,
        most,
        near=near,
        headroom=headroom,
        reserved=reserved or _reserved(memory, on, how),
        asked=progress,
    )


def frontier(
    target: str | Callable[..., Any],
    vary: tuple[str, str] = ("batch", "seq"),
    *,
    memory: int | str | None = None,
    on: str = shared.DEFAULT_PROFILE,
    parameters: Mapping[str, Any] | None = None,
    progress: Callable[[Mapping[str, int], int], None] | None = None,
    **how: Any,
) -> Frontier:
    """For several values of the second of `vary` the largest of the first that fits; arguments as `fit` has them."""
    from ..hardware.fit import frontier as search

    most, given = limit(memory, on), dict(parameters or {})
    near = full_sizes(target, list(vary), given, how.get("device"))
    fixed = {name: value for name, value in given.items() if name not in vary}
    return search(tracing(target, fixed, how), *vary, most, near=near, asked=progress)


def fit_step(
    graph: StepGraph,
    profile: Profile,
    name: str,
    *,
    conf: str | None = None,
    headroom: float = 0.05,
    progress: Callable[[Mapping[str, int], int], None] | None = None,
) -> Fit:
    """The same for a step that was just traced, on a device: the trace knows how it was made, and so do smaller ones.

    Raises `ForetraceError` for a trace that was loaded, one of the CPU's, and a size that it was made without.
    """
    from ..graph import ForetraceError
    from ..hardware import device_memory
    from ..hardware.alloc_conf import parse
    from ..hardware.fit import fit as search

    if graph.again is None:
        raise ForetraceError(
            f"a saved trace cannot be made again at another {name}", "Give its target, such as train.py:make_step."
        )
    if not graph.facts.device.startswith("cuda"):
        raise ForetraceError("what fits is asked of a step for CUDA", "Trace it with --device cuda; that needs no GPU.")
    given = graph.facts.arguments.get(name)
    apart, settings = profile.cublas_workspace_bytes, parse(conf) if conf else None
    return search(
        graph.again,
        name,
        profile.memory_total_bytes - profile.cuda_context_bytes - apart,
        near=given if isinstance(given, int) and not isinstance(given, bool) else 8,
        headroom=headroom,
        reserved=lambda other: device_memory(other, profile, conf=settings).reserved_peak_bytes - apart,
        asked=progress,
    )


def limit(memory: int | str | None, on: str) -> int:
    """The bytes that a step may take: those given, or what the profile has after the context and cuBLAS."""
    if memory is not None:
        from ..graph import ForetraceError

        given = memory if isinstance(memory, int) else shared.size(memory)
        if given <= 0:
            raise ForetraceError(f"{memory!r} is no memory to fit into", "Give what a step may take, such as 24GiB.")
        return given
    from ..hardware.profile import load as load_profile

    profile = load_profile(on)
    return profile.memory_total_bytes - profile.cuda_context_bytes - profile.cublas_workspace_bytes


def _reserved(memory: int | str | None, on: str, how: Mapping[str, Any]) -> Callable[[StepGraph], int] | None:
    """What the caching allocator reserves for a trace; none for the CPU.

    Without a limit of the user's own, cuBLAS's workspace is taken off the device's memory, and so is not counted here.
    """
    if str(how.get("device") or "cuda").startswith("cpu"):
        return None
    from ..hardware import device_memory
    from ..hardware.profile import load as load_profile

    profile = load_profile(on)
    apart = 0 if memory is not None else profile.cublas_workspace_bytes
    return lambda graph: device_memory(graph, profile).reserved_peak_bytes - apart


def add(commands: shared.Commands[argparse.ArgumentParser]) -> None:
    """The parser of the command."""
    parser = commands.add_parser(
        "fit",
        help="find the largest batch, sequence or other size that fits",
        description="Find the largest value of a keyword argument whose step fits in memory, from a few small traces, "
        "and confirm it by one more. With two of them, print the largest of the first for each of the second.",
        epilog="example: foretrace fit train.py:make_step --memory 80GiB --vary batch",
    )
    parser.add_argument("target", metavar="TARGET", help="path.py:callable or package.module:callable")
    parser.add_argument("--vary", metavar="NAME", action="append", help="keyword argument (batch); twice: a frontier")
    parser.add_argument("--memory", metavar="SIZE", help="the limit, such as 80GiB (what the profile has for tensors)")
    shared.add_profile(parser)
    parser.add_argument(
        "--headroom", metavar="SHARE", type=float, default=0.05, help="share of the limit to leave free (%(default)s)"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="what to print (%(default)s)")
    parser.add_argument("--svg", metavar="FILE", help="also write the curve, or the frontier, as a picture")
    shared.add_tracing(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..graph import ForetraceError
    from ..report import fit as views

    vary = options.vary or ["batch"]
    if len(vary) > 2:
        raise ForetraceError(f"--vary was given {len(vary)} times", "Vary one size, or two for a frontier.")
    if not 0 <= options.headroom < 1:
        raise ForetraceError(f"--headroom {options.headroom} is no share", "Give a number from 0 to 1, such as 0.05.")
    given = {
        "memory": options.memory,
        "on": options.on or shared.DEFAULT_PROFILE,
        "parameters": shared.parameters(options),
    }
    with Counter() as counter:
        how = {**given, "progress": counter, **shared.given(options)}
        found: Fit | Frontier
        if len(vary) == 1:
            found = fit(options.target, vary[0], headroom=options.headroom, **how)
        else:
            found = frontier(options.target, (vary[0], vary[1]), **how)
    print(f"traced {found.traces} instances in {counter.seconds:.1f} s", file=sys.stderr)
    if options.svg:
        _write(options.svg, views.picture(found))
    print(views.fit_json(found) if options.format == "json" else views.fit_text(found, options.target), end="")
    return 0


def _write(path: str, text: str) -> None:
    """Write a file whole or not at all."""
    from ..graph import ForetraceError
    from ..graph.serde import put_whole

    try:
        put_whole(path, text.encode())
    except OSError as error:
        raise ForetraceError(
            f"{path} cannot be written: {error.strerror}", "Name a file in a folder that is there."
        ) from error
