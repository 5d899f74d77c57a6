"""``foretrace calibrate``: what was measured on a GPU -> a profile that knows it, beside the one that was shipped."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import options as shared

if TYPE_CHECKING:
    from ..hardware import Profile


def add(commands: shared.Commands[argparse.ArgumentParser]) -> None:
    """The parser of the command."""
    calibrate = commands.add_parser(
        "calibrate",
        help="lay measured kernel times over a profile",
        description="Write a profile that adds measured kernel times to a shipped one, from a Chrome trace of "
        "torch.profiler; or write the script that measures on your GPU and writes such a profile.",
        epilog="example: foretrace calibrate --from-trace trace.json --on a100-sxm4-80gb --output mine.toml; then "
        "foretrace run train.py:make_step --on mine.toml",
    )
    what = calibrate.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--from-trace", metavar="FILE", type=Path, help="what prof.export_chrome_trace wrote, with record_shapes=True"
    )
    what.add_argument("--measure", action="store_true", help="write a stand-alone script that needs only torch")
    calibrate.add_argument("--output", metavar="FILE", type=Path, help="where to write it (standard output)")
    calibrate.add_argument("--name", metavar="NAME", help="of the new profile (PROFILE-measured)")
    calibrate.add_argument("--any-device", action="store_true", help="do not compare the trace's device with PROFILE's")
    shared.add_profile(calibrate)
    calibrate.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..graph import ForetraceError
    from ..hardware.profile import load as load_profile
    from ..hardware.profile import names

    options.on = options.on or shared.DEFAULT_PROFILE
    profile = load_profile(options.on)
    if options.on not in names():
        raise ForetraceError(f"--on {options.on} is no shipped profile", "Measured times are laid over one of those")
    name = options.name or f"{profile.name}-measured"
    if options.measure:
        _write(options.output, _script(profile, name))
    else:
        _measured(options, profile, name)
    return 0


def _measured(options: argparse.Namespace, profile: Profile, name: str) -> None:
    from ..hardware.chrome_trace import measured_in
    from ..hardware.measured import to_toml

    found = measured_in(options.from_trace, profile, any_device=options.any_device)
    _write(options.output, to_toml(name, profile.name, found))
    print(f"{len(found):,} ops and shapes, {sum(one.calls for one in found):,} calls", file=sys.stderr)


def _script(profile: Profile, name: str) -> str:
    from ..hardware.profile import FOLDER

    text = (FOLDER / "measure_on_gpu.txt").read_text(encoding="utf-8")
    return text.replace("@BASE@", profile.name).replace("@NAME@", name.replace("\\", "").replace('"', ""))


def _write(path: Path | None, text: str) -> None:
    """To standard output, or whole to a file: it is there complete or not at all."""
    from ..graph import ForetraceError
    from ..graph.serde import put_whole

    if path is None:
        print(text, end="")
        return
    try:
        put_whole(path, text.encode())
    except OSError as error:
        raise ForetraceError(
            f"cannot write {str(path)!r}: {error.strerror or error}", "Name a file in a folder"
        ) from None
