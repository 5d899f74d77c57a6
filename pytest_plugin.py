"""pytest plugin: limits on the steps that a test traces, and a committed baseline for them.

A *step fixture* call traces what a test gives it and returns the report; the marker ``foretrace`` holds every report of
a test against limits. Nothing here is imported, printed or changed until a test uses one of the two: no torch, no line
in the header.

    @pytest.mark.foretrace(peak="24 GiB", time="250 ms", on="a100-sxm4-80gb")
    def test_step_fits(foretrace_step):
        report = foretrace_step("train.py:make_step", {"batch": 8})
        foretrace_step.matches_baseline()
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .checks import Outcome, Snapshot
    from .graph import StepGraph
    from .report import Report

_FILE = os.path.abspath(__file__)
_ROOMS = tuple(
    os.path.join(os.path.dirname(_FILE), room, "") for room in ("tracer", "graph", "hardware", "report", "checks")
)
DEFAULT_PROFILE = "a100-sxm4-80gb"
DEFAULT_BASELINE = "foretrace-baseline.toml"
MARKER = (
    "foretrace(on=None, allow=None, peak=None, reserved=None, saved=None, kept=None, time=None, flops=None, "
    "max_batch=None, vary='batch'): limits "
    'for every step that the test traces with the fixture foretrace_step, such as peak="24 GiB"; on is a hardware '
    'profile, allow what may be worse than the baseline, such as {"time": "+5 %"}; a batch of max_batch must fit, '
    "vary is the argument that sets it"
)
LIMITS = ("peak", "reserved", "saved", "kept", "time", "flops")
OTHERS = ("max_batch", "vary", "on", "allow")
MOST_HOLDERS = 10
LONGEST_NAME = 150
"""Letters of a test's name in that of its page; file systems end at 255 bytes."""
_UPDATES = "foretrace_updates"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the plugin, and the same as ini keys."""
    group = parser.getgroup("foretrace", "training steps traced without a GPU")
    group.addoption("--foretrace-update", action="store_true", help="write what tests trace into the baseline")
    group.addoption("--foretrace-on", metavar="PROFILE", help="hardware profile (ini key foretrace_on)")
    group.addoption("--foretrace-html", metavar="DIR", help="write a page for each traced step (foretrace_html)")
    group.addoption("--foretrace-disable", action="store_true", help="trace, and hold nothing against limits")
    parser.addini("foretrace_on", "hardware profile of traced steps", default=DEFAULT_PROFILE)
    parser.addini("foretrace_html", "folder for a page for each traced step, from the root folder", default="")
    parser.addini("foretrace_baseline", "the baseline, from the root folder", default=DEFAULT_BASELINE)


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", MARKER)
    config.stash[_updates_key] = {}


_updates_key = pytest.StashKey[dict[str, str]]()
_steps_key = pytest.StashKey["Steps"]()


class LimitExceeded(AssertionError):
    """Raised when a traced step is over a limit, or worse than its baseline."""


class Steps:
    """What the fixture ``foretrace_step`` gives a test: call it to trace a step and have it priced."""

    def __init__(self, node: pytest.Item) -> None:
        self._node = node
        self._named: set[str] = set()
        self._again: list[Callable[[int], StepGraph]] = []
        self.reports: list[Report] = []
        """Every report of the test, in order."""

    def __call__(self, target: Any, *arguments: Any, **how: Any) -> Report:
        """The report of a step; arguments are those of ``foretrace.trace``, or of ``trace_target`` for a text."""
        from .report import price
        from .tracer import trace, trace_target

        graph = (trace_target if isinstance(target, str) else trace)(target, *arguments, **how)
        report = price(graph, on=self._profile())
        self.reports.append(report)
        self._again.append(partial(self._at_batch, target, *arguments, **how))
        return report

    def _at_batch(self, target: Any, *arguments: Any, **how: Any) -> StepGraph:
        """The step once more with another batch, the last argument: as an argument of the target, or as a size."""
        from .tracer import trace, trace_target

        *given, batch = arguments
        size = {self._vary(): batch}
        if not isinstance(target, str):
            return trace(target, *given, **{**how, "sizes": {**how.get("sizes", {}), **size}})
        known = given[0] if given else how.pop("parameters", None)
        return trace_target(target, {**(known or {}), **size}, **how)

    def matches_baseline(self, report: Report | None = None, name: str = "") -> None:
        """Fail where a report, the last one unless it is given, is worse than the baseline says of this test.

        A test that compares several names each. ``pytest --foretrace-update`` writes the baseline.
        """
        if report is None and not self.reports:
            raise LimitExceeded("nothing was traced yet: call foretrace_step first")
        key = self._node.nodeid + (f" {name}" if name else "")
        if key in self._named:
            raise LimitExceeded(f"{key} is compared twice: give each report a name")
        self._named.add(key)
        _hold(self._node, key, report or self.reports[-1], self._limits()[1])

    def check_limits(self) -> None:
        """Fail where a report is over a limit of the marker."""
        from .checks.quantity import FACTS, text

        limits, _ = self._limits()
        if limits and not self.reports:
            raise LimitExceeded("limits are set, and nothing was traced: use the fixture foretrace_step")
        for report in self.reports:
            facts = _snapshot(report).facts
            for fact, limit in limits.items():
                if fact not in facts:
                    raise LimitExceeded(f"{fact} is not known of a step yet, so it cannot be limited")
                if facts[fact] > limit:
                    over = text(fact, facts[fact] - limit)
                    raise LimitExceeded(
                        f"{_name(report)}: {FACTS[fact].words} is {text(fact, facts[fact])}, {over} over the limit of "
                        f"{text(fact, limit)} on {report.profile.name}"
                    )
        self._check_batch()

    def _check_batch(self) -> None:
        """Fail where the batch that the marker asks for does not fit."""
        from .checks.quantity import quantity, text
        from .graph import ForetraceError
        from .report import price

        asked = self._marked("max_batch")
        if asked is None:
            return
        if not self.reports:
            raise LimitExceeded("max_batch is set, and nothing was traced: use the fixture foretrace_step")
        batch = quantity("max-batch", asked)
        for report, again in zip(self.reports, self._again, strict=True):
            try:
                larger = price(again(batch), on=report.profile)
            except ForetraceError as error:
                raise LimitExceeded(
                    f"{_name(report)} at {self._vary()}={batch}: {error.message}. Name the argument that is the batch "
                    'size: @pytest.mark.foretrace(max_batch=16, vary="rows").'
                ) from error
            needs = larger.device_memory
            if needs is None:
                raise LimitExceeded("max_batch is of a GPU: trace the step for device='cuda'")
            if not needs.fits:
                raise LimitExceeded(
                    f"{_name(report)}: {self._vary()}={batch} does not fit on {report.profile.name}: it takes "
                    f"{text('reserved', needs.reserved_peak_bytes)}, and there is "
                    f"{text('reserved', needs.capacity_bytes)} for tensors"
                )

    def _vary(self) -> str:
        return str(self._marked("vary") or "batch")

    def _marked(self, name: str) -> Any:
        """What the nearest marker says of it."""
        said = (marker.kwargs.get(name) for marker in self._node.iter_markers("foretrace"))
        return next((value for value in said if value is not None), None)

    def _profile(self) -> str:
        config = self._node.config
        return str(config.getoption("--foretrace-on") or self._marked("on") or config.getini("foretrace_on"))

    def _limits(self) -> tuple[dict[str, int], dict[str, Any]]:
        """The limits of the markers in their units, the nearest first, and the allowances."""
        from .checks.quantity import quantity

        limits: dict[str, int] = {}
        allow: dict[str, Any] = {}
        for marker in self._node.iter_markers("foretrace"):
            _check_marker(marker)
            for fact in LIMITS:
                if marker.kwargs.get(fact) is not None:
                    limits.setdefault(fact, quantity(fact, marker.kwargs[fact]))
            allow = {**(marker.kwargs.get("allow") or {}), **allow}
        return limits, allow


def _check_marker(marker: pytest.Mark) -> None:
    """A limit that is not known would hold nothing."""
    import difflib

    known = (*LIMITS, *OTHERS)
    for name in marker.kwargs:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(known)}"
            raise pytest.UsageError(f"@pytest.mark.foretrace has no {name!r}: {hint}")
    if marker.args:
        raise pytest.UsageError('@pytest.mark.foretrace takes names only, such as peak="24 GiB"')


@pytest.fixture
def foretrace_step(request: pytest.FixtureRequest) -> Steps:
    """Trace a step and have it priced: ``foretrace_step(model, inputs)``, or of a target's name."""
    steps = Steps(request.node)
    request.node.stash[_steps_key] = steps
    return steps


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """After the test itself, its limits."""
    result = yield
    if item.get_closest_marker("foretrace") and not item.config.getoption("--foretrace-disable"):
        item.stash.get(_steps_key, Steps(item)).check_limits()
    return result


def _end_at_the_tests_line(item: pytest.Item, excinfo: pytest.ExceptionInfo[BaseException]) -> bool:
    """Of a mistake in what is to be traced, or in a marker, our own lines tell nothing: cut them off.

    Whether no line is left, as the test was not reached.
    """
    errors = sys.modules.get(f"{__package__}.graph.errors")
    if not excinfo.errisinstance((pytest.UsageError, *((errors.ForetraceError,) if errors else ()))):
        return False
    files = [str(entry.path) for entry in excinfo.traceback]
    if str(item.path) not in files:
        return any(file == _FILE for file in files)
    after = range(files.index(str(item.path)), len(files))
    ours = next((i for i in after if files[i] == _FILE or files[i].startswith(_ROOMS)), None)
    last: TracebackType | None = excinfo.tb
    while last is not None and ours is not None and not item.config.getoption("--full-trace"):
        ours -= 1
        if ours == 0:
            last.tb_next = None
        last = last.tb_next
    return False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that is over a limit says who holds the peak, and is told from other failures."""
    unreached = call.excinfo is not None and _end_at_the_tests_line(item, call.excinfo)
    report = yield
    if unreached and call.excinfo is not None:
        report.longrepr = str(call.excinfo.value)
    if call.excinfo is not None and call.excinfo.errisinstance(LimitExceeded):
        report.foretrace = True  # type: ignore[attr-defined]
        report.longrepr = str(call.excinfo.value)
        steps = item.stash.get(_steps_key, None)
        for priced in steps.reports if steps else ():
            most = None if item.config.get_verbosity() > 1 else MOST_HOLDERS
            report.sections.append((f"who holds the peak of {_name(priced)}", _holders(priced, most)))
    if call.when == "call" and (folder := _pages(item.config)) is not None:
        _write_pages(folder, item)
    return report


def _pages(config: pytest.Config) -> Path | None:
    """The folder for pages; None where none are asked for."""
    asked, configured = config.getoption("--foretrace-html"), str(config.getini("foretrace_html"))
    if asked:
        return config.invocation_params.dir / str(asked)
    return config.rootpath / configured if configured else None


def _write_pages(folder: Path, item: pytest.Item) -> None:
    """A page for each step that the test has traced; a worker of pytest-xdist writes those of its own tests."""
    steps = item.stash.get(_steps_key, None)
    for place, report in enumerate(steps.reports if steps else (), 1):
        from .report import save_html

        folder.mkdir(parents=True, exist_ok=True)
        save_html(folder / f"{_file_name(item.nodeid)}{f'-{place}' if place > 1 else ''}.html", report)


def _file_name(nodeid: str) -> str:
    """A test's name as that of a file.

    >>> _file_name("tests/test_fit.py::test_step"), _file_name("test_fit.py::test_step[a/b]")
    ('tests.test_fit.py.test_step', 'test_fit.py.test_step_a.b_-f9bb2e35')
    """
    import hashlib
    import re

    plain = nodeid.replace("::", ".").replace("/", ".")
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", plain)[:LONGEST_NAME]
    return safe if safe == plain and "[" not in nodeid else f"{safe}-{hashlib.sha256(nodeid.encode()).hexdigest()[:8]}"


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """The letter M for a test that is over a limit."""
    return ("failed", "M", "MEMORY") if report.failed and getattr(report, "foretrace", False) else None


def _name(report: Report) -> str:
    from .report.json import portable

    return portable(report.trace.facts.target) or "the step"


def _holders(report: Report, most: int | None) -> str:
    """The rows of the peak, largest first."""
    from .checks.snapshot import UNKNOWN
    from .report.format import bytes_text, share_text

    rows = _snapshot(report).rows["peak"]
    lines = [
        f"{bytes_text(row.value):>9}  {share_text(row.value, report.memory.peak_bytes):>5}  {row.times} x {row.form}  "
        f"{'' if row.module == UNKNOWN else row.module + ' '}{row.what} ({row.kind}) {row.source or ''}".rstrip()
        for row in rows[:most]
    ]
    rest = len(rows) - len(lines)
    return "\n".join([*lines, *([f"and {rest} more; -vv shows all"] if rest else [])])


# --- the baseline ---


def _snapshot(report: Report) -> Snapshot:
    from . import __version__
    from .checks import snapshot

    return snapshot(report, __version__)


def _path(config: pytest.Config) -> Path:
    return config.rootpath / str(config.getini("foretrace_baseline"))


def _hold(node: pytest.Item, key: str, report: Report, allow: dict[str, Any]) -> None:
    """A report against the baseline; with ``--foretrace-update`` it becomes the baseline."""
    from .checks import judge
    from .checks.baseline import read, to_toml
    from .checks.config import plain

    config = node.config
    now = _snapshot(report)
    if config.getoption("--foretrace-update"):
        config.stash[_updates_key][key] = to_toml({key: now})
        return
    if config.getoption("--foretrace-disable"):
        return
    before = (read(_path(config)) or {}).get(key)
    if before is None:
        raise LimitExceeded(f"{_path(config).name} has nothing of {key}: write it with pytest --foretrace-update")
    outcome = judge(replace(plain(key, {}), allow=_allowances(allow)), now, before, Path.cwd())
    if outcome.findings:
        raise LimitExceeded(_said(outcome))


def _allowances(given: dict[str, Any]) -> dict[str, Any]:
    from .checks.config import plain
    from .checks.quantity import allowance

    return {**plain("", {}).allow, **{fact: allowance(fact, text) for fact, text in given.items()}}


def _said(outcome: Outcome) -> str:
    from .checks.findings import Checked
    from .checks.full import to_full

    return to_full(Checked(outcomes=(outcome,), accept="pytest --foretrace-update", baseline="the baseline"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the baseline once; a worker of pytest-xdist hands what it has to the process that started it."""
    config = session.config
    updates = config.stash[_updates_key]
    if not updates:
        return
    output: dict[str, Any] | None = getattr(config, "workeroutput", None)
    if output is not None:
        output[_UPDATES] = updates
    else:
        _write(config, updates)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """What a worker of pytest-xdist has traced, which sends text but no objects."""
    handed = getattr(node, "workeroutput", {}).get(_UPDATES, {})
    node.config.stash[_updates_key].update(handed)


def _write(config: pytest.Config, updates: dict[str, str]) -> None:
    """The baseline with what these tests have traced; what other tests and targets have in it stays."""
    import tomllib

    from .checks.baseline import parsed, read, write

    new = {key: snapshot for text in updates.values() for key, snapshot in parsed(tomllib.loads(text)).items()}
    write(_path(config), {**(read(_path(config)) or {}), **new})


__all__: list[str] = ["LimitExceeded", "Steps", "foretrace_step"]
