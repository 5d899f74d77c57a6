"""Two snapshots -> *causes*: in words, what was done to the step that made it larger, and how to mend it.

A cause is a pattern of changes that has one usual reason, such as rows that turned to a wider dtype. Where no pattern
fits, the rows that grew speak for themselves. The first of several causes is the one with the most bytes behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..graph import Category, Phase, Source, itemsize
from ..graph.dtype import is_floating
from . import lines
from .baseline import REST
from .matching import Change, came, changes, comparable, renames
from .quantity import text
from .snapshot import UNKNOWN, Snapshot, dtype_of, shape_of

PARAMETER = str(Category.PARAMETER)
MEMORY = ("peak", "reserved", "saved", "kept", "max-batch")
WORK = ("flops", "time")
ALWAYS = 1 << 62
LEAST_PART = 0.05
"""A cause with less than this part of the first one's bytes behind it is not worth saying."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why facts got worse. ``source`` is the line to look at, ``facts`` are those that it explains."""

    text: str
    mend: str
    facts: tuple[str, ...]
    source: Source | None = None
    weight: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """What a cause is looked for in."""

    before: Snapshot
    after: Snapshot
    changes: Mapping[str, tuple[Change, ...]]
    renamed: Mapping[str, str]
    root: Path
    files: tuple[str, ...]


def causes(case: Case) -> tuple[Cause, ...]:
    """What is recognised in a case, the weightiest first; nothing that is said twice."""
    found = list(_default_dtype(case))
    found += [cause for look in _LOOKS if not found or look not in _OF_ONE_ROW for cause in look(case)]
    found = found or list(_most_growth(case))
    found.sort(key=lambda cause: (-cause.weight, cause.text))
    own = max((cause.weight for cause in found if cause.weight != ALWAYS), default=0)
    worth = [cause for cause in found if cause.weight >= own * LEAST_PART]
    return tuple({(cause.text, cause.source): cause for cause in worth}.values())


def case(before: Snapshot, after: Snapshot, root: Path, step: str) -> Case:
    """The changes between two snapshots, and where the code is."""
    seen = comparable(before, after)
    return Case(
        before=before,
        after=seen,
        changes={fact: changes(before, after, fact) for fact in after.rows},
        renamed=renames(before, seen),
        root=root,
        files=(*after.files, *([lines.file_of(step)] if step else [])),
    )


# --- one function a cause ---


def _asked_for(case: Case) -> Iterator[Cause]:
    """The target is called with other arguments, or traced in another way."""
    before, after = dict(case.before.how), dict(case.after.how)
    old, new = _mapping(before.pop("args", {})), _mapping(after.pop("args", {}))
    before.pop("target", None), after.pop("target", None)
    differ = [f"{key} is {_said(new, key)}, it was {_said(old, key)}" for key in _differing(old, new)]
    differ += [f"{key} is {_said(after, key)}, it was {_said(before, key)}" for key in _differing(before, after)]
    if differ:
        yield Cause(
            f"the target is asked for something else: {'; '.join(differ)}",
            "If that is meant, accept it.",
            (*MEMORY, *WORK),
            weight=ALWAYS,
        )


def _default_dtype(case: Case) -> Iterator[Cause]:
    """Most parameters have another dtype."""
    all_bytes = sum(row.value for row in case.after.rows.get("peak", ()) if row.kind == PARAMETER)
    turned: dict[tuple[str, str], int] = {}
    for change in case.changes.get("peak", ()):
        if change.dtypes and change.row.kind == PARAMETER:
            turned[change.dtypes] = turned.get(change.dtypes, 0) + change.row.value
    for (old, new), held in turned.items():
        if held * 2 > all_bytes:
            yield Cause(
                f"parameters are {new}, they were {old}: the default dtype, or the dtype of the model, changed",
                f"Look for torch.set_default_dtype, .to(torch.{new}) or a tensor of that dtype that the model is "
                "built from.",
                (*MEMORY, *WORK),
                lines.cast(case.root, case.files, new),
                _weight(case),
            )


def _wider(case: Case) -> Iterator[Cause]:
    """Something is held in a wider dtype than it was, or where its module had a narrower one."""
    for change in _grown(case, "saved", "peak"):
        row = change.row
        if row.kind == PARAMETER or row.kind == str(Category.OPTIMIZER_STATE):
            continue
        narrow = change.dtypes[0] if change.dtypes else _narrower(case, change)
        if narrow and itemsize(dtype_of(row)) > itemsize(narrow):
            yield Cause(
                f"{_where(change)} makes {row.form} where there was {narrow}",
                "Look for .float(), .to(dtype) or an op that runs in a wider dtype here; compute in the narrow dtype, "
                "or cast back before the result is kept.",
                (*MEMORY, *WORK),
                row.source,
                change.delta,
            )


def _narrower(case: Case, change: Change) -> str:
    """The narrower dtype that the module of a new row had for that shape, where it never had this one."""
    row = change.row
    if change.before is not None or not dtype_of(row).startswith("float"):
        return ""
    had = {
        (dtype_of(other), shape_of(other), other.what)
        for fact in ("saved", "peak")
        for other in case.before.rows.get(fact, ())
        if case.renamed.get(other.module, other.module) == row.module
    }
    if any(dtype == dtype_of(row) and (shape == shape_of(row) or what == row.what) for dtype, shape, what in had):
        return ""
    narrow = sorted(dtype for dtype, shape, _ in had if shape == shape_of(row) and is_floating(dtype))
    return narrow[0] if narrow else ""


def _not_recomputed(case: Case) -> Iterator[Cause]:
    """A checkpoint is gone, or is there less often. The line is that which calls what was under it."""
    was = {case.renamed.get(name, name) for name in case.before.recomputes}
    gone = was - set(case.after.recomputes)
    less = _less_often(case)
    fewer = {name for name in was if _inside(name, less)}
    saved = came(case.changes.get("saved", ()))
    grown = [change for change in saved if _inside(change.row.module, gone | fewer)]
    if not grown:
        return
    units = [name for name in less if name.endswith("()") or _inside(name, gone | fewer) or _around(name, gone | fewer)]
    what = units or _callers(case, gone)
    every = all(name not in case.after.checkpoints for name in units)
    yield Cause(
        f"{_listed(what)} is {'no longer' if every else 'less often'} run again in backward: checkpointing is off there, "
        "and what its ops save is held instead",
        "Put torch.utils.checkpoint.checkpoint back around it, or accept the memory for the time it saves.",
        MEMORY,
        _call(case, what) or grown[0].row.source,
        sum(change.delta for change in grown),
    )


def _less_often(case: Case) -> list[str]:
    """What backward runs again less often than it did, under the names that it has now."""
    now = case.after.checkpoints
    before = {_renamed(case, name): times for name, times in case.before.checkpoints.items()}
    return sorted(name for name, times in before.items() if now.get(name, 0) < times)


def _renamed(case: Case, name: str) -> str:
    """What the module is called now; it may have no rows, and then those inside it tell."""
    if name in case.renamed:
        return case.renamed[name]
    for old, new in sorted(case.renamed.items()):
        inside = old.removeprefix(f"{name}.")
        if inside != old and new.endswith(f".{inside}"):
            return new.removesuffix(f".{inside}")
    return name


def _callers(case: Case, names: Iterable[str]) -> list[str]:
    """The outermost modules that hold nothing that runs in forward but these, and that a line calls."""
    forward = _modules_of(case.after, Phase.FORWARD, {}) - {UNKNOWN}
    wanted = set(names)
    found = set()
    for name in wanted:
        parts = name.split(".")
        above = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
        called = (
            outer
            for outer in above
            if outer in case.after.calls and all(_inside(one, wanted) for one in forward if _inside(one, [outer]))
        )
        found.add(next(called, name))
    return _outer(sorted(found))


def _call(case: Case, names: Iterable[str]) -> Source | None:
    """The line that calls the first of these modules or functions for which one is known."""
    for name in names:
        function = name.removesuffix("()")
        found = case.after.calls.get(name) if function == name else lines.call(case.root, case.files, function)
        if found is not None:
            return found
    return None


def _differentiated(case: Case) -> Iterator[Cause]:
    """A module has gradients that it did not have."""
    before = _modules_of(case.before, Phase.BACKWARD, case.renamed)
    forward = _modules_of(case.before, Phase.FORWARD, case.renamed)
    now = sorted((_modules_of(case.after, Phase.BACKWARD, {}) - before) & forward - {UNKNOWN})
    grown = [change for change in _grown(case, "saved", "peak") if _inside(change.row.module, now)]
    if now and grown:
        what = _callers(case, now)
        yield Cause(
            f"{_listed(what)} is differentiated, it was not: autograd saves its activations and makes its gradients",
            "If no gradient is wanted, put it under torch.no_grad(), or .detach() what goes in or comes out.",
            (*MEMORY, *WORK),
            _call(case, what) or grown[0].row.source,
            sum(change.delta for change in grown),
        )


def _kept(case: Case) -> Iterator[Cause]:
    """Something of the step outlives it and is added to what earlier steps left."""
    grew = case.after.facts.get("kept", 0) - case.before.facts.get("kept", 0)
    grown = came(case.changes.get("kept", ()))
    if grew > 0 and grown:
        row = grown[0].row
        yield Cause(
            f"{text('kept', grew)} more stay alive after every step: the result of {_where(grown[0])}, {row.form}, "
            f"made at {row.source or 'no line of yours'}, is still referred to, by a list, an attribute or a graph",
            "Keep .item() or .detach() of it, or clear what holds it.",
            MEMORY,
            lines.keeper(case.root, case.files) or row.source,
            _weight(case),
        )


def _reshaped(case: Case) -> Iterator[Cause]:
    """A parameter has another shape; of each module the largest one."""
    said: set[str] = set()
    for change in _grown(case, "peak"):
        row = change.row
        if row.kind == PARAMETER and change.shapes and change.before and row.module not in said:
            said.add(row.module)
            yield Cause(
                f"{_where(change)} is {row.form}, it was {change.before.form}",
                "If the larger layer is meant, accept it.",
                (*MEMORY, *WORK),
                lines.definition(case.root, case.files, row.module) or row.source,
                _behind(case, row.module),
            )


def _new_parameters(case: Case) -> Iterator[Cause]:
    """There are more layers; of each module the largest parameter speaks."""
    said: set[str] = set()
    for change in _grown(case, "peak"):
        row = change.row
        if row.kind != PARAMETER or change.shapes or change.dtypes or row.module in said:
            continue
        said.add(row.module)
        was = f", it was {change.before.times}" if change.before else f", which {_absent(case)}"
        yield Cause(
            f"{_where(change)} is there {row.times} {'time' if row.times == 1 else 'times'}{was}",
            "If the larger model is meant, accept it.",
            (*MEMORY, *WORK),
            lines.definition(case.root, case.files, row.module) or row.source,
            _behind(case, row.module),
        )


def _most_growth(case: Case) -> Iterator[Cause]:
    """Nothing is recognised: the largest growth of any fact speaks for itself."""
    for facts in (("peak", "saved", "kept"), ("flops",), ("time",)):
        grown = _grown(case, *facts)
        if grown:
            change = max(grown, key=lambda change: change.delta)
            was = f"was {_was(change)}" if change.before else _absent(case)
            yield Cause(
                f"most of it is {_where(change)}{', ' + change.row.form if change.row.form else ''}, which {was}",
                "If that is meant, accept it.",
                MEMORY if "peak" in facts else facts,
                change.row.source,
                change.delta,
            )


_LOOKS: tuple[Callable[[Case], Iterator[Cause]], ...] = (
    _wider,
    _asked_for,
    _not_recomputed,
    _differentiated,
    _kept,
    _reshaped,
    _new_parameters,
)
_OF_ONE_ROW = (_wider, _reshaped, _new_parameters)
"""Those that would say of each row what is the matter with all of them when the default dtype changed."""


# --- what they share ---


def _absent(case: Case) -> str:
    """What is known of a row that a snapshot does not have."""
    cut = any(row.module == REST for row in case.before.rows.get("peak", ()))
    return "was not there, or too small to be listed" if cut else "was not there"


def _was(change: Change) -> str:
    assert change.before is not None
    before = change.before
    return f"{before.times:,} x {before.form}" if before.form else f"{before.value:,}"


def _grown(case: Case, *facts: str) -> list[Change]:
    return [change for fact in facts for change in came(case.changes.get(fact, ())) if change.row.module != REST]


def _behind(case: Case, module: str) -> int:
    """The growth of the peak in a module."""
    return sum(change.delta for change in _grown(case, "peak") if change.row.module == module)


def _weight(case: Case) -> int:
    """All growth of the peak: more than any part of it."""
    return sum(change.delta for change in _grown(case, "peak")) + 1


def _where(change: Change) -> str:
    row = change.row
    return f"{'' if row.module == UNKNOWN else row.module + ' '}{row.what}"


def _modules_of(snapshot: Snapshot, phase: Phase, renamed: Mapping[str, str]) -> set[str]:
    """The modules that do arithmetic in a phase."""
    rows = snapshot.rows.get("flops", ())
    return {renamed.get(row.module, row.module) for row in rows if row.kind == phase and row.module != REST}


def _inside(module: str, outer: Iterable[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in outer)


def _around(name: str, inner: Iterable[str]) -> bool:
    return any(other.startswith(f"{name}.") for other in inner)


def _outer(names: list[str]) -> list[str]:
    """The names without those inside another."""
    return [name for name in names if not _inside(name, [other for other in names if other != name])]


def _listed(names: list[str]) -> str:
    shown = names[:3]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _differing(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    return sorted(key for key in {*old, *new} if old.get(key) != new.get(key))


def _said(values: Mapping[str, object], key: str) -> str:
    return str(values.get(key, "not set"))
