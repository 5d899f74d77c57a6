"""``foretrace explain [PROFILE | CODE]``: every number of a hardware profile, or what a finding's code means."""

from __future__ import annotations

import argparse

from . import options as shared


def add(commands: shared.Commands[argparse.ArgumentParser]) -> None:
    """The parser of the command."""
    explain = commands.add_parser(
        "explain",
        help="print every number of a hardware profile with its source, or what a finding's code means",
        description="Print every number of a hardware profile with its source, or what the code of a finding means "
        "and what to do about it; without a name, list both.",
    )
    explain.add_argument("about", metavar="NAME", nargs="?", help="a profile's name or .toml file, or a code like M002")
    explain.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..checks.codes import CODES, listing
    from ..checks.codes import explain as explain_code
    from ..hardware.profile import load as load_profile
    from ..hardware.profile import names
    from ..report import facts_table

    if options.about is None:
        print("hardware profiles:", *names(), sep="\n  ")
        print("\ncodes of findings:", listing(), sep="\n", end="")
    elif options.about.upper() in CODES:
        print(explain_code(options.about.upper()), end="")
    else:
        print(facts_table(load_profile(options.about)), end="")
    return 0
