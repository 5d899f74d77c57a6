"""``foretrace explain [PROFILE]``: every number of a hardware profile with its source."""

from __future__ import annotations

import argparse

from . import options as shared


def add(commands: shared.Commands[argparse.ArgumentParser]) -> None:
    """The parser of the command."""
    explain = commands.add_parser(
        "explain",
        help="print every number of a hardware profile with its source",
        description="Print every number of a hardware profile with its source; without a name, list the profiles.",
    )
    explain.add_argument("profile", metavar="PROFILE", nargs="?", help="a name or a .toml file")
    explain.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..hardware.profile import load as load_profile
    from ..hardware.profile import names
    from ..report import facts_table

    if options.profile is None:
        print("hardware profiles:", *names(), sep="\n  ")
    else:
        print(facts_table(load_profile(options.profile)), end="")
    return 0
