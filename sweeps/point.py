"""Targets, parameters and profiles -> the *points* of a sweep: one target at one setting on one device.

A *task* is what one worker does at a time: one trace, priced on every profile that it is good for. Kernels are chosen
for a compute capability, so that profiles of the same capability share a trace. Points are numbered in the order
targets, parameters, profiles, the last one fastest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from ..graph import ForetraceError
from ..hardware import Profile
from ..hardware import load as load_profile

Plain = bool | int | float | str | None
"""What a parameter may be: what can be written into a table and means the same in every process."""

Grid = Mapping[str, Any] | Iterable[Mapping[str, Any]]
"""Values by name, of which every combination is taken; or the combinations themselves, one mapping each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One line of the table that a sweep makes. ``number`` is its place in it."""

    number: int
    target: str
    parameters: Mapping[str, Plain]
    profile: Profile = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Points that one trace answers."""

    points: tuple[Point, ...]
    root: str
    """The folder in which the target is found and run."""
    tracing: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of ``trace_target``."""
    time_limit_seconds: float | None = None
    host_memory_bytes: int | None = None

    @property
    def target(self) -> str:
        """What is traced."""
        return self.points[0].target

    @property
    def parameters(self) -> Mapping[str, Plain]:
        """What it is called with."""
        return self.points[0].parameters

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of ``trace_target``, the capability of the task's profiles among them."""
        capability = self.points[0].profile.capability
        return {**({} if capability is None else {"capability": capability}), **self.tracing}

    def only(self, points: Iterable[Point]) -> Task:
        """The same for fewer points."""
        return replace(self, points=tuple(points))


def as_targets(targets: str | Iterable[str]) -> tuple[str, ...]:
    """The targets, as texts. Raises `ForetraceError` for what is none."""
    found: tuple[Any, ...] = (targets,) if isinstance(targets, str) or callable(targets) else tuple(targets)
    for target in found:
        if not isinstance(target, str) or not all(target.rpartition(":")):
            shown = target if isinstance(target, str) else getattr(target, "__name__", type(target).__name__)
            raise ForetraceError(
                f"{shown!r} is no target that another process can find",
                "Write path/to/file.py:callable or package.module:callable.",
            )
    if not found:
        raise ForetraceError("a sweep of no targets", "Give at least one, such as train.py:make_step.")
    return found


def as_settings(parameters: Grid | None) -> tuple[dict[str, Plain], ...]:
    """What the targets are called with, one after the other.

    >>> as_settings({"batch": (1, 2), "seq": 8})
    ({'batch': 1, 'seq': 8}, {'batch': 2, 'seq': 8})
    """
    if parameters is None:
        return ({},)
    if isinstance(parameters, Mapping):
        listed = {name: _values(name, value) for name, value in parameters.items()}
        settings = [dict(zip(listed, chosen, strict=True)) for chosen in product(*listed.values())]
    else:
        settings = [dict(setting) for setting in parameters]
    if not settings:
        raise ForetraceError("a sweep of no parameters", "Give a mapping for each point, or none at all.")
    for name, value in (item for setting in settings for item in setting.items()):
        if not isinstance(value, Plain):
            raise ForetraceError(
                f"the parameter {name} is {type(value).__name__}, which is no number and no text",
                "Give bool, int, float, str or None; let the target build what it needs from these.",
            )
    return tuple(settings)


def _values(name: str, value: Any) -> Sequence[Plain]:
    values = (value,) if isinstance(value, Plain) else tuple(value) if isinstance(value, Iterable) else (value,)
    if not values:
        raise ForetraceError(f"the parameter {name} has no values", "Give one or more, or leave it out.")
    return values


def as_profiles(profiles: str | Path | Profile | Iterable[str | Path | Profile]) -> tuple[Profile, ...]:
    """The profiles, loaded. Raises `ForetraceError` for one that is not there, and for two of one name."""
    single = isinstance(profiles, str | Path | Profile)
    listed: Iterable[Any] = (profiles,) if single else tuple(profiles)  # type: ignore[arg-type]
    found = tuple(item if isinstance(item, Profile) else load_profile(item) for item in listed)
    if not found:
        raise ForetraceError("a sweep on no device", "Give at least one profile, such as a100-sxm4-80gb.")
    names = [profile.name for profile in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ForetraceError(f"two profiles are called {twice}", "Name each once; give one's own a name of its own.")
    return found


def tasks(
    targets: Sequence[str], settings: Sequence[Mapping[str, Plain]], profiles: Sequence[Profile], like: Task
) -> Iterator[Task]:
    """Every point of the sweep, in tasks that are otherwise as `like`; made as they are asked for."""
    number = 0
    for target, setting in product(targets, settings):
        together: dict[str | None, list[Point]] = {}
        for profile in profiles:
            point = Point(number=number, target=target, parameters=setting, profile=profile)
            together.setdefault(profile.capability, []).append(point)
            number += 1
        yield from (like.only(points) for points in together.values())
