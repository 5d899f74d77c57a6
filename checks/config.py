"""``[tool.foretrace]`` of pyproject.toml, or foretrace.toml -> `Config`: what a project wants to be checked.

The project's *root* is the folder of that file. Targets are found and traced from there, and lines of code are said
relative to it. ``config.schema.json`` beside this file says the same to editors.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..graph import ForetraceError, Source
from .codes import CODES
from .quantity import FACTS, Allowance, allowance, quantity

SAMPLE = (
    'A working sample: [tool.foretrace.targets.small] step = "train.py:make_step"; args = { batch = 8 }; '
    'budget = { peak = "24 GiB" } (each on a line of its own)'
)
DEFAULT_PROFILE = "a100-sxm4-80gb"
BASELINE = "foretrace-baseline.toml"
CACHE = ".foretrace_cache"
NAMES = ("foretrace.toml", "pyproject.toml")
UNBUDGETED = ("parameters", "kept")

Settings = Mapping[str, bool | int | float | tuple[int | float, ...]]


@dataclass(frozen=True, kw_only=True)
class Target:
    """One step that is checked, with everything that is said about it."""

    name: str
    step: str
    """``path.py:callable`` or ``package.module:callable``, from the root."""
    args: Mapping[str, Any] = field(default_factory=dict)
    tracing: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of ``trace_target``: ``inputs``, ``device``, ``autocast``, ``optimizer``, ``warmup``,
    ``assume``, ``strict``."""
    on: str = DEFAULT_PROFILE
    budget: Mapping[str, int] = field(default_factory=dict)
    """What a fact may be at most, or at least where less is worse; in its unit."""
    allow: Mapping[str, Allowance] = field(default_factory=dict)
    """What a fact may be worse than the baseline; every fact that is judged has one."""
    vary: str = ""
    """The argument that is the batch size, where the largest batch is asked for."""
    ignore: frozenset[str] = frozenset()
    """Codes of findings that are not wanted."""
    place: Source | None = None
    """The line that configures it."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a project says about itself."""

    root: Path
    file: str
    targets: Mapping[str, Target] = field(default_factory=dict)
    baseline: str = BASELINE
    cache: str = CACHE
    plugins: tuple[str, ...] = ()
    assume: Settings = field(default_factory=dict)

    def chosen(self, names: list[str]) -> tuple[Target, ...]:
        """The targets of these names, or all; in the order of the file. Raises `ForetraceError` for an unknown one."""
        for name in names:
            if name not in self.targets:
                raise ForetraceError(
                    f"{self.file} has no target {name!r}", _near(name, self.targets) or f"It has none. {SAMPLE}"
                )
        return tuple(target for name, target in self.targets.items() if not names or name in names)


def find(start: Path) -> Path | None:
    """The configuration that counts in `start`: the nearest in it or above it."""
    for folder in (start, *start.parents):
        for name in NAMES:
            if (folder / name).is_file() and _section(folder / name) is not None:
                return folder / name
    return None


def load(path: Path | None, start: Path) -> Config:
    """The configuration in `path`, or the one that counts in `start`. Raises `ForetraceError` with the line."""
    found = path or find(start)
    if found is None:
        raise ForetraceError("nothing is configured: no foretrace.toml, no [tool.foretrace] in pyproject.toml", SAMPLE)
    section = _section(found)
    if section is None:
        raise ForetraceError(f"{found.name} has no [tool.foretrace]", SAMPLE)
    return _Reader(found).config(section)


def _section(path: Path) -> dict[str, Any] | None:
    """What a file says of foretrace; None where it says nothing."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ForetraceError(f"cannot read {path.name}: {error.strerror}", "Give a file that can be read.") from error
    except UnicodeDecodeError as error:
        raise ForetraceError(f"{path.name} is not UTF-8: {error}", "Save it as UTF-8.") from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        if path.name == "pyproject.toml" and "foretrace" not in text:
            return None
        raise ForetraceError(f"{path.name} is no TOML: {error}{_shown(text, str(error))}", SAMPLE) from error
    if path.name != "pyproject.toml":
        return document
    tool = document.get("tool", {})
    found = tool.get("foretrace") if isinstance(tool, dict) else None
    return found if isinstance(found, dict) else None


def _shown(text: str, message: str) -> str:
    """The line that a parser complains of."""
    place = re.search(r"line (\d+)", message)
    lines = text.splitlines()
    return f": {lines[int(place[1]) - 1].strip()}" if place and int(place[1]) <= len(lines) else ""


def _near(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, [str(key) for key in known], 1)
    return f"Did you mean {near[0]!r}?" if near else f"It knows {', '.join(map(str, known))}." if known else ""


Check = Callable[[str, Any], Any]


def _of(kind: type | tuple[type, ...], words: str) -> Check:
    def check(name: str, value: Any) -> Any:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise ForetraceError(f"{name} must be {words}, not {value!r}", SAMPLE)
        return value

    return check


def _one_of(*known: str) -> Check:
    def check(name: str, value: Any) -> str:
        if value not in known:
            raise ForetraceError(f"{name} is {value!r}", _near(str(value), known))
        return str(value)

    return check


def _specs(name: str, value: Any) -> str:
    """One spec or several, as ``trace_target`` takes them."""
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) for item in listed):
        raise ForetraceError(f"{name} must be a spec or a list of specs, not {value!r}", SAMPLE)
    return "; ".join(listed)


def _codes(name: str, value: Any) -> frozenset[str]:
    listed = value if isinstance(value, list) else [value]
    for code in listed:
        if code not in CODES:
            raise ForetraceError(f"{name} has {code!r}, which is no finding's code", _near(str(code), CODES))
    return frozenset(listed)


_text, _table = _of(str, "text"), _of(dict, "a table")
_names = _of(list, "a list of names")

TRACING: dict[str, Check] = {
    "input": _specs,
    "device": _one_of("cuda", "cpu"),
    "autocast": _one_of("none", "bfloat16", "float16"),
    "optimizer": _text,
    "warmup": _of(int, "a whole number"),
    "strict": _of(bool, "true or false"),
    "assume": _table,
}
"""How to trace; at the top they hold for every target that does not say otherwise."""

SHARED: dict[str, Check] = {**TRACING, "on": _text, "allow": _table, "ignore": _codes}
TOP: dict[str, Check] = {
    **SHARED,
    "baseline": _text,
    "cache": _text,
    "plugins": _names,
    "targets": _table,
}
TARGET: dict[str, Check] = {**SHARED, "step": _text, "args": _table, "budget": _table, "vary": _text}


class _Reader:
    """Reads one file; its errors say the line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = path.read_text(encoding="utf-8").splitlines()

    def config(self, section: dict[str, Any]) -> Config:
        """The whole of it."""
        top = self._checked(section, TOP, "[tool.foretrace]")
        targets = {name: self._target(name, table, top) for name, table in top.get("targets", {}).items()}
        return Config(
            root=self.path.resolve().parent,
            file=self.path.name,
            targets=targets,
            baseline=top.get("baseline", BASELINE),
            cache=top.get("cache", CACHE),
            plugins=tuple(top.get("plugins", ())),
            assume=_settings(top),
        )

    def _target(self, name: str, table: Any, top: Mapping[str, Any]) -> Target:
        where = f"[targets.{name}]"
        if not isinstance(table, dict):
            raise ForetraceError(f"{self._at(name)}{where} is no table", SAMPLE)
        if "::" in name:
            raise ForetraceError(f"{self._at(name)}{where}: '::' is kept for tests", "Give it another name.")
        own = self._checked(table, TARGET, where)
        if "step" not in own:
            raise ForetraceError(f"{self._at(name)}{where} names no step", SAMPLE)
        both = {**top, **own}
        tracing = {key: both[key] for key in TRACING if key in both}
        tracing["assume"] = {**_settings(top), **_settings(own)}
        return Target(
            name=name,
            step=own["step"],
            args=own.get("args", {}),
            tracing=_as_keywords(tracing),
            on=both.get("on", DEFAULT_PROFILE),
            budget=self._numbers(own.get("budget", {}), quantity, where + " budget", UNBUDGETED),
            allow=_allowances({**self._allow(top, "[tool.foretrace]"), **self._allow(own, where)}),
            vary=self._vary(own, where),
            ignore=top.get("ignore", frozenset()) | own.get("ignore", frozenset()),
            place=self._place(name),
        )

    def _place(self, name: str) -> Source | None:
        """The line of the target's arguments, or that of its table, where one can be told."""
        head = re.compile(rf"\[(tool\.foretrace\.)?targets\.[\"']?{re.escape(name)}[\"']?[\].]")
        begin = next((number for number, line in enumerate(self.lines, 1) if head.match(line.strip())), None)
        if begin is None:
            return None
        for number, line in enumerate(self.lines[begin:], begin + 1):
            if line.startswith("["):
                break
            if re.match(r"\s*args\b", line):
                return Source(self.path.name, number, "")
        return Source(self.path.name, begin, "")

    def _allow(self, table: Mapping[str, Any], where: str) -> dict[str, Allowance]:
        return self._numbers(table.get("allow", {}), allowance, f"{where} allow", ("parameters",))

    def _vary(self, own: Mapping[str, Any], where: str) -> str:
        if "vary" not in own and "max-batch" in own.get("budget", {}):
            raise ForetraceError(
                f"{self._at('max-batch')}{where} has a budget for max-batch and does not say what to vary",
                'Name the argument that is the batch size: vary = "batch".',
            )
        return str(own.get("vary", ""))

    def _numbers(
        self, table: Mapping[str, Any], parse: Callable[[str, object], Any], where: str, not_here: tuple[str, ...]
    ) -> dict[str, Any]:
        known = [name for name in FACTS if name not in not_here]
        found = {}
        for name, value in table.items():
            if name not in known:
                raise ForetraceError(f"{self._at(name)}unknown key {name!r} in {where}", _near(name, known))
            try:
                found[name] = parse(name, value)
            except ForetraceError as error:
                raise ForetraceError(f"{self._at(name)}{error.message}", error.mend) from error
        return found

    def _checked(self, table: Mapping[str, Any], known: Mapping[str, Check], where: str) -> dict[str, Any]:
        found = {}
        for key, value in table.items():
            if key not in known:
                raise ForetraceError(f"{self._at(key)}unknown key {key!r} in {where}", f"{_near(key, known)} {SAMPLE}")
            try:
                found[key] = known[key](key, value)
            except ForetraceError as error:
                raise ForetraceError(f"{self._at(key)}{error.message}", error.mend) from error
        return found

    def _at(self, key: str) -> str:
        """``foretrace.toml:7: `` where that is the line with the key; the file alone where it cannot be told."""
        pattern = re.compile(rf"(^|[\s{{.,\[\"']){re.escape(key)}[\"']?\s*[=.\]]")
        found = [number for number, line in enumerate(self.lines, 1) if pattern.search(line.partition("#")[0])]
        return f"{self.path.name}:{found[0]}: " if len(found) == 1 else f"{self.path.name}: "


def _settings(table: Mapping[str, Any]) -> Settings:
    """What is assumed; several values in a list are taken in turn."""
    return {key: tuple(told) if isinstance(told, list) else told for key, told in table.get("assume", {}).items()}


def _as_keywords(tracing: dict[str, Any]) -> dict[str, Any]:
    """The settings under the names that ``trace_target`` gives them, those that say nothing left out."""
    found = {"inputs" if key == "input" else key: value for key, value in tracing.items()}
    if found.get("autocast") == "none":
        del found["autocast"]
    return {key: value for key, value in sorted(found.items()) if value is not False and value != {}}


def _allowances(said: Mapping[str, Allowance]) -> dict[str, Allowance]:
    default = {name: allowance(name, fact.allow) for name, fact in FACTS.items() if fact.allow is not None}
    return {**default, **said}


def plain(step: str, assume: Settings) -> Target:
    """A target that is not configured, with what a project assumes."""
    return Target(name=step, step=step, tracing=_as_keywords({"assume": dict(assume)}), on="", allow=_allowances({}))
