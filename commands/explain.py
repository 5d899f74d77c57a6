"""``foretrace explain``: the numbers of a hardware profile, the story of a step's memory, or a finding's code."""

from __future__ import annotations

import argparse

from . import options as shared

MOST_GROUPS = 10


def add(commands: shared.Commands[argparse.ArgumentParser]) -> None:
    """The parser of the command."""
    explain = commands.add_parser(
        "explain",
        help="tell who holds the memory of a step and why, where a profile's numbers come from, or what a code means",
        description="Tell what is alive at an instant of a step: which op made it, what keeps it, and what the next "
        "peak would be without it. Of a hardware profile, print every number with its source; of a finding's code, "
        "what it means and what to do. Without a name, list the profiles and the codes.",
        epilog="example: foretrace explain train.py:make_step -p batch=8 --at peak",
    )
    explain.add_argument(
        "target",
        metavar="WHAT",
        nargs="?",
        help="a target or a saved trace, a profile (its name or .toml file), or a code",
    )
    explain.add_argument(
        "--at", metavar="INSTANT", help="peak, start, the end of a phase by its name, or an op by its id (peak)"
    )
    explain.add_argument("--most", metavar="N", type=int, default=MOST_GROUPS, help="groups to tell of (%(default)s)")
    shared.add_tracing(explain)
    explain.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..checks.codes import CODES, listing
    from ..checks.codes import explain as explain_code
    from ..hardware.profile import load as load_profile
    from ..hardware.profile import names
    from ..report import facts_table

    if options.target is None:
        print("hardware profiles:", *names(), sep="\n  ")
        print("\ncodes of findings:", listing(), sep="\n", end="")
    elif options.target.upper() in CODES:
        print(explain_code(options.target.upper()), end="")
    elif options.at is not None or ":" in options.target or not _is_profile(options.target):
        print(_story(options), end="")
    else:
        print(facts_table(load_profile(options.target)), end="")
    return 0


def _is_profile(name: str) -> bool:
    """Whether the name is of a profile rather than of a saved trace: a trace is a file with no such ending."""
    import os

    return name.endswith(".toml") or not os.path.isfile(name)


def _story(options: argparse.Namespace) -> str:
    from ..costmodels import timeline
    from ..costmodels.story import story
    from ..report.story import story_text

    return story_text(story(timeline(shared.graph_of(options)), options.at or "peak", options.most))
