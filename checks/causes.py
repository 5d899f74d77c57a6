"""Two snapshots -> *causes*: in words, what was done to the step that made it larger, and how to mend it.

A cause is a pattern of changes that has one usual reason, such as rows that turned to a wider dtype. Where no pattern
fits, the rows that grew speak for themselves. The first of several causes is the one with the most bytes behind it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..graph import Category, Phase, Source, itemsize
from ..graph.dtype import is_floating
from . import lines
from .baseline import REST
from .matching import Change, came, changes, comparable, renames
from .quantity import text
from .snapshot import KEPT, UNKNOWN, Snapshot, dtype_of, form_bytes, shape_of

PARAMETER = str(Category.PARAMETER)
MEMORY = ("peak", "reserved", "saved", "kept", "max-batch")
WORK = ("flops", "time")
ALWAYS = 1 << 62
_TOLD = ("target", "inputs", "backward", "gradients")
"""What of how a step goes is no request, or has a cause of its own."""
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
    step: str = ""
    place: Source | None = None
    """Where the target is configured."""


def causes(case: Case) -> tuple[Cause, ...]:
    """What is recognised in a case, the weightiest first; nothing that is said twice."""
    found = list(_default_dtype(case))
    found += [cause for look in _LOOKS if not found or look not in _OF_ONE_ROW for cause in look(case)]
    found = found or list(_most_growth(case))
    found.sort(key=lambda cause: (-cause.weight, cause.text))
    own = max((cause.weight for cause in found if cause.weight != ALWAYS), default=0)
    worth = [cause for cause in found if cause.weight >= own * LEAST_PART]
    return tuple({(cause.text, cause.source): cause for cause in worth}.values())


def case(before: Snapshot, after: Snapshot, root: Path, step: str, place: Source | None = None) -> Case:
    """The changes between two snapshots, and where the code is."""
    seen = comparable(before, after)
    return Case(
        before=before,
        after=seen,
        changes={fact: changes(before, after, fact) for fact in after.rows},
        renamed=renames(before, seen),
        root=root,
        files=(*after.files, *([lines.file_of(step)] if step else [])),
        step=step,
        place=place,
    )


# --- one function a cause ---


def _asked_for(case: Case) -> Iterator[Cause]:
    """The target is called with other arguments, or traced in another way."""
    before, after = ({key: how[key] for key in how if key not in _TOLD} for how in (case.before.how, case.after.how))
    old, new = _mapping(before.pop("args", {})), _mapping(after.pop("args", {}))
    differ = [f"{key} is {_said(new, key)}, it was {_said(old, key)}" for key in _differing(old, new)]
    differ += [f"{key} is {_said(after, key)}, it was {_said(before, key)}" for key in _differing(before, after)]
    if differ:
        yield Cause(
            f"the target is asked for something else: {'; '.join(differ)}",
            "If that is meant, accept it.",
            (*MEMORY, *WORK),
            _constructor(case) if old == new and _differing(before, after) == ["optimizer"] else case.place,
            ALWAYS,
        )


def _constructor(case: Case) -> Source | None:
    """The line that makes the optimizer, or else that of the target in the configuration."""
    name = str(case.after.how.get("optimizer", "")).partition(" ")[0]
    return lines.call(case.root, case.files, name) or case.place


def _larger_inputs(case: Case) -> Iterator[Cause]:
    """The target gives larger inputs, without being asked for it."""
    old, new = (str(how.get("inputs", "")) for how in (case.before.how, case.after.how))
    asked = _mapping(case.before.how.get("args")) != _mapping(case.after.how.get("args"))
    if old and new and not asked and _elements_of(new) > _elements_of(old):
        yield Cause(
            f"the step is given larger inputs: {new}, they were {old}",
            "If the larger step is meant, accept it.",
            (*MEMORY, *WORK),
            lines.function(case.root, case.step),
            ALWAYS,
        )


def _elements_of(forms: str) -> int:
    return sum(form_bytes(f"uint8{shape}") for shape in re.findall(r"\[[^]]*\]", forms))


def _more_passes(case: Case) -> Iterator[Cause]:
    """Backward runs more often in a step, as where gradients are accumulated."""
    old, new = (how.get("backward", 1) for how in (case.before.how, case.after.how))
    if isinstance(old, int) and isinstance(new, int) and new > old:
        yield Cause(
            f"backward runs {new} times in a step, it was {old}: gradients are accumulated",
            "If that is meant, accept it.",
            (*MEMORY, *WORK),
            lines.call(case.root, case.files, "backward"),
            ALWAYS,
        )


def _gradients_stay(case: Case) -> Iterator[Cause]:
    """Gradients outlive the step."""
    grown = [change for change in _grown(case, "peak") if change.row.kind == str(Category.GRADIENT)]
    if grown and case.after.how.get("gradients") and not case.before.how.get("gradients"):
        yield Cause(
            "gradients are still there when the next step begins, and backward adds to them: zero_grad() is not "
            "called, or is told to keep them",
            "Call optimizer.zero_grad() in every step, without set_to_none=False.",
            (*MEMORY, *WORK),
            lines.call(case.root, case.files, "zero_grad") or lines.call(case.root, case.files, "backward"),
            _weight(case),
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
    """Something is held in a wider dtype than it was, or where its module had a narrower one.

    All that was cast in one line is one cause.
    """
    found: dict[tuple[Source | None, str, str], list[Change]] = {}
    for change in _grown(case, "saved", "peak"):
        row = change.row
        if row.kind == PARAMETER or row.kind == str(Category.OPTIMIZER_STATE):
            continue
        narrow = change.dtypes[0] if change.dtypes else _narrower(case, change)
        if narrow and itemsize(dtype_of(row)) > itemsize(narrow):
            found.setdefault((row.cast or row.source, narrow, dtype_of(row)), []).append(change)
    for (source, narrow, wide), group in found.items():
        first = group[0].row
        others = len({_where(change) for change in group}) - 1
        more = f", as {others} more do" if others > 1 else ", as one more does" if others else ""
        cast = f"; it became {wide} at {source}" if source != first.source else ""
        yield Cause(
            f"{_where(group[0])} makes {first.form} where there was {narrow}{more}{cast}",
            "Look for .float(), .to(dtype) or an op that runs in a wider dtype here; compute in the narrow dtype, "
            "or cast back before the result is kept.",
            (*MEMORY, *WORK),
            source,
            sum(change.delta for change in group),
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
    fewer = {name for name in was if _inside(name, less) or any(unit.endswith("()") for unit in less)}
    saved = came(case.changes.get("saved", ()))
    grown = [change for change in saved if _inside(change.row.module, gone | fewer)]
    if not grown:
        return
    units = [name for name in less if name.endswith("()") or _inside(name, gone | fewer) or _around(name, gone | fewer)]
    what = units or _callers(case, gone)
    every = all(name not in case.after.checkpoints for name in units)
    yield Cause(
        f"{_listed(what)} is {'no longer' if every else 'less often'} run again in backward: checkpointing is off "
        "there, and what its ops save is held instead",
        "Put torch.utils.checkpoint.checkpoint back around it, or accept the memory for the time it saves.",
        MEMORY,
        _call(case, what) or grown[0].row.source,
        sum(change.delta for change in grown),
    )


def _less_often(case: Case) -> list[str]:
    """What backward runs again less often than it did, under the names that it has now."""
    now = case.after.checkpoints
    before = {_renamed(case, name): times for name, times in case.before.checkpoints.items()}
    if sum(now.values()) >= sum(before.values()):
        return []
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
    """There are more layers; of repeated ones the whole, of another module the largest parameter speaks."""
    found: dict[str, list[Change]] = {}
    for change in _grown(case, "peak"):
        if change.row.kind == PARAMETER and not change.shapes and not change.dtypes:
            found.setdefault(_repeated(change.row.module), []).append(change)
    for module, group in found.items():
        first = min(group, key=lambda change: change.row.times)
        row = first.row
        was = f", it was {first.before.times}" if first.before else f", which {_absent(case)}"
        yield Cause(
            f"{module if len(group) > 1 else _where(first)} is there {row.times} "
            f"{'time' if row.times == 1 else 'times'}{was}",
            "If the larger model is meant, accept it.",
            (*MEMORY, *WORK),
            lines.definition(case.root, case.files, module) or row.source,
            sum(_behind(case, inside) for inside in {change.row.module for change in group}),
        )


def _repeated(module: str) -> str:
    """The innermost repeated module around a module, or itself where none is.

    >>> _repeated("blocks.*.attention.out"), _repeated("head")
    ('blocks.*', 'head')
    """
    outer, star, _ = module.rpartition("*")
    return outer + star or module


def _most_growth(case: Case) -> Iterator[Cause]:
    """Nothing is recognised: the largest growth of any fact speaks for itself."""
    for facts in (("peak", "saved", "kept"), ("flops",), ("time",)):
        grown = _grown(case, *facts)
        if grown:
            change = _clearest(grown)
            if change.row.kind == KEPT:
                yield _held(case, change)
                continue
            was = f"was {_was(change)}" if change.before else _absent(case)
            yield Cause(
                f"most of it is {_where(change)}{', ' + change.row.form if change.row.form else ''}, which {was}",
                "If that is meant, accept it.",
                MEMORY if "peak" in facts else facts,
                change.row.source,
                change.delta,
            )


def _clearest(grown: list[Change]) -> Change:
    """The largest growth; a row that is new tells its line for sure, and is preferred where it is half as large."""
    largest = max(change.delta for change in grown)
    return max(grown, key=lambda change: (change.before is None and change.delta * 2 >= largest, change.delta))


def _held(case: Case, change: Change) -> Cause:
    """Something of the step before is alive in this one."""
    return Cause(
        f"the result of {_where(change)}, {change.row.form}, made at {change.row.source or 'no line of yours'}, is "
        "alive until the next step has made it again: an attribute, a name or a list still refers to it",
        "Keep .item() or .detach() of it, or clear what holds it.",
        MEMORY,
        lines.keeper(case.root, case.files) or change.row.source,
        change.delta,
    )


_LOOKS: tuple[Callable[[Case], Iterator[Cause]], ...] = (
    _wider,
    _asked_for,
    _larger_inputs,
    _more_passes,
    _gradients_stay,
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
