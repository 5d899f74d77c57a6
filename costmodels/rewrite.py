"""A step graph -> the same step with other ops: some left out, some made one, some of its storages in another dtype.

A *rewritten* graph is a whole one: ops, storages and events agree, so that `price` gives its memory, its work and its
time. It says what a change would be worth, not that a kernel for it exists; where it does, or the model can be changed,
a trace of that says more. Storages that nothing touches any more are left with no bytes, which means that they are
never allocated; no storage changes its id.

Not covered: what a change does to the host's own storages, and to facts such as the names of saved tensors.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple, cast

from ..graph import Const, Facts, ForetraceError, Named, Op, Phase, StepGraph, Storage, Tensor, itemsize
from ..graph.op import Value
from .edits import is_of_scores, resized
from .fused import FUSED
from .price import price_op
from .work import place, total


def without_ops(graph: StepGraph, ops: Iterable[Op]) -> StepGraph:
    """The step without `ops`: their time and work are gone, and the storages that nothing else touches.

    A storage that a later op still reads is there when the op would have allocated it.
    """
    gone = _ids(graph, ops)
    return _rewritten(graph, [op for op in graph.ops if op.id not in gone], {})


def fuse_ops(
    graph: StepGraph, ops: Iterable[Op], *, never_written: Collection[int] = (), more_tensor_flops: int = 0
) -> StepGraph:
    """The step with `ops` as one op, in the place of the last of them.

    It has their FLOPs, reads once what they take from outside, and writes once what others read of their results;
    what they pass to each other is never allocated. `never_written` are the ids of storages that it does without all
    the same, and `more_tensor_flops` is what it computes again for that.

    Raises `ForetraceError` for no ops, for ops of several phases, and where an op between them needs what they make.
    """
    return _with_groups(graph, [_Group(frozenset(_ids(graph, ops)), frozenset(never_written), more_tensor_flops)])


def retype_storages(graph: StepGraph, storages: Iterable[Storage], dtype: str) -> StepGraph:
    """The step with the floating-point tensors in these storages in another dtype, such as ``"float8_e4m3fn"``.

    Every op that touches them moves so many bytes, and a product of them runs on the cores of that dtype, if the device
    has them. What casting or scaling would cost is not added. Raises `ForetraceError` for a dtype that is not known.
    """
    chosen = {storage.id for storage in storages}
    if not _is_float(dtype):
        raise ForetraceError(f"{dtype!r} is no floating-point dtype", "Give for example bfloat16, or float8_e4m3fn.")
    sizes: dict[int, int] = {}
    for op in graph.ops:
        for t in (*op.inputs, *op.outputs):
            if t.storage in chosen and _is_float(t.dtype):
                sizes[t.storage] = graph.storages[t.storage].bytes * itemsize(dtype) // itemsize(t.dtype)
    ops = tuple(_retyped(op, chosen, dtype) for op in graph.ops)
    changed = replace(graph, ops=ops, facts=_named_anew(graph, chosen, dtype))
    return resized(changed, sizes)


def fuse_attention(graph: StepGraph) -> StepGraph:
    """The step with each attention that is written out (product, softmax, product) as one op that writes no scores.

    Its backward computes the scores again, one product of two, as fused kernels do
    (https://arxiv.org/abs/2205.14135, section 3.1). The same graph where there is none.
    """
    groups: list[_Group] = []
    for softmax in [op for op in graph.ops if is_of_scores(graph, op)]:
        forward = _attention_around(graph, softmax)
        ids, scores = frozenset(op.id for op in forward), softmax.tensor("self").numel
        backward = [op for op in graph.ops if op.phase is Phase.BACKWARD and op.forward in ids]
        unwritten = frozenset(t.storage for op in (*forward, *backward) for t in op.outputs if t.numel == scores)
        unwritten -= {t.storage for t in forward[0].inputs}
        groups.append(_Group(ids, unwritten, 0))
        if backward:
            again = price_op(forward[0]).work.tensor_flops
            groups.append(_Group(frozenset(op.id for op in backward), unwritten, again))
    return _with_groups(graph, groups) if groups else graph


class _Group(NamedTuple):
    """Ops that become one; what it does without; what it computes again for that."""

    ids: frozenset[int]
    unwritten: frozenset[int]
    more_tensor_flops: int


def _attention_around(graph: StepGraph, softmax: Op) -> list[Op]:
    """The ops of forward from the product that makes the scores to the one that uses them."""
    near = [op for op in graph.ops if op.module == softmax.module and op.phase is Phase.FORWARD]
    products = [op.id for op in near if op.packet in ("aten.bmm", "aten.matmul", "aten.baddbmm")]
    first = max(i for i in products if i < softmax.id)
    last = min(i for i in products if i > softmax.id)
    return [op for op in near if first <= op.id <= last]


def _ids(graph: StepGraph, ops: Iterable[Op]) -> set[int]:
    ids = {op.id for op in ops}
    if not ids:
        raise ForetraceError("there are no ops to change", "Does the selection find any in this graph?")
    if not all(0 <= i < len(graph.ops) for i in ids):
        raise ForetraceError("these ops are not of this graph", "Select them anew: a rewritten graph numbers its ops.")
    return ids


def _with_groups(graph: StepGraph, groups: list[_Group]) -> StepGraph:
    """The graph with each group as one op, in the place of its last."""
    touching: dict[int, set[int]] = {}
    for op in graph.ops:
        for t in (*op.inputs, *op.outputs):
            touching.setdefault(t.storage, set()).add(op.id)
    ones = {max(group.ids): _one(graph, group, touching) for group in groups}
    moved = {i: max(group.ids) for group in groups for i in group.ids}
    ops = [ones.get(op.id, op) for op in graph.ops if op.id in ones or op.id not in moved]
    unwritten = {storage for group in groups for storage in group.unwritten}
    return _rewritten(graph, ops, moved, unwritten)


def _one(graph: StepGraph, group: _Group, touching: Mapping[int, set[int]]) -> Op:
    """The op that a group becomes, with the id of its last."""
    ops = [graph.ops[i] for i in sorted(group.ids)]
    if len({op.phase for op in ops}) > 1:
        raise ForetraceError("ops of several phases cannot be one", "Fuse those of each phase by themselves.")
    made = {t.storage for op in ops for t in op.outputs if graph.storages[t.storage].born in group.ids}
    _check_order(graph, group, made)
    outlives = {i for i in made if graph.storages[i].died is None or touching[i] - group.ids} - group.unwritten
    work = total(price_op(op).work for op in ops)
    inside = made | group.unwritten
    written = _once(t for op in ops for t in op.written if t.storage not in inside)
    counts = {
        "tensor_flops": work.tensor_flops + group.more_tensor_flops,
        "vector_flops": work.vector_flops,
        "skippable_flops": work.skippable_flops,
    }
    given: dict[str, Value] = {"inputs": _once(t for op in ops for t in op.inputs if t.storage not in inside)}
    if written:
        given["written"] = written
    return replace(
        ops[-1],
        name=FUSED,
        args={**given, **counts},
        result=_once(t for op in ops for t in op.outputs if t.storage in outlives),
        mutates=("written",) if written else (),
        module=_common([op.module for op in ops]),
    )


def _check_order(graph: StepGraph, group: _Group, made: set[int]) -> None:
    """No op between the first and the last of a group may need what the group makes."""
    for op in graph.ops[min(group.ids) : max(group.ids)]:
        if op.id not in group.ids and any(t.storage in made for t in (*op.inputs, *op.outputs)):
            raise ForetraceError(
                f"op {op.id} {op.name} between them needs what they make", "Fuse it with them, or fewer of them."
            )


def _once(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Tensors over the same bytes once."""
    return tuple({place(t): t for t in tensors}.values())


def _common(paths: list[str]) -> str:
    """The module that all of these are in."""
    parts = [path.split(".") for path in paths]
    shared = 0
    while all(len(p) > shared for p in parts) and len({p[shared] for p in parts}) == 1:
        shared += 1
    return ".".join(parts[0][:shared])


def _rewritten(graph: StepGraph, ops: list[Op], moved: Mapping[int, int], unwritten: Collection[int] = ()) -> StepGraph:
    """The graph of these ops, which have their old ids; what happened at an op of `moved` happens at another."""
    kept = [op.id for op in ops]
    new = {old: place for place, old in enumerate(kept)}

    def at(old: int) -> int:
        """Where something is that was at an op: there, or at the last op before it that is left."""
        old = moved.get(old, old)
        return new[old] if old in new else bisect_right(kept, old) - 1

    able = [op.id for op in ops if not op.is_view]

    def born_at(old: int) -> int:
        """The same for a birth: a view allocates nothing."""
        if old < 0 or moved.get(old, old) in new:
            return at(old)
        before = bisect_right(able, old) - 1
        return new[able[before]] if before >= 0 else -1

    changed = {op.id for op in graph.ops} - {op.id for op in ops} | set(moved)
    touched = {t.storage for op in ops for t in (*op.inputs, *op.outputs)}
    gone = set(unwritten) | {
        s.id for s in graph.storages if s.born is not None and s.born in changed and s.id not in touched
    }
    storages = tuple(
        replace(s, born=None if s.born is None else born_at(s.born), died=None if s.died is None else at(s.died))
        for s in graph.storages
    )
    placed = [
        replace(event, op=cast(int, storages[event.storage].born if event.bytes > 0 else storages[event.storage].died))
        for event in graph.events
    ]
    spans = tuple(
        replace(span, first_op=bisect_right(kept, span.first_op - 1), end_op=bisect_right(kept, span.end_op - 1))
        for span in graph.spans
    )
    ordered = [
        event
        for span in graph.spans
        for event in sorted(placed[span.first_event : span.end_event], key=lambda event: event.op)
    ]
    numbered = tuple(_numbered(op, new, moved) for op in ops)
    sizes = dict.fromkeys(gone, 0)
    return resized(replace(graph, ops=numbered, storages=storages, events=tuple(ordered), spans=spans), sizes)


def _numbered(op: Op, new: Mapping[int, int], moved: Mapping[int, int]) -> Op:
    forward = None if op.forward is None else new.get(moved.get(op.forward, op.forward))
    return replace(op, id=new[op.id], forward=forward)


def _is_float(dtype: str) -> bool:
    if not dtype.startswith(("float", "bfloat")):
        return False
    try:
        return itemsize(dtype) > 0
    except (KeyError, ValueError, ForetraceError):
        return False


def _retyped(op: Op, chosen: Collection[int], dtype: str) -> Op:
    if not any(t.storage in chosen and _is_float(t.dtype) for t in (*op.inputs, *op.outputs)):
        return op
    args = {name: _value(value, chosen, dtype) for name, value in op.args.items()}
    return replace(op, args=args, result=_value(op.result, chosen, dtype))


def _value(value: Value, chosen: Collection[int], dtype: str) -> Value:
    if isinstance(value, Tensor):
        return value._replace(dtype=dtype) if value.storage in chosen and _is_float(value.dtype) else value
    if isinstance(value, tuple) and not isinstance(value, Const):
        return tuple(_value(item, chosen, dtype) for item in value)
    return value


def _named_anew(graph: StepGraph, chosen: Collection[int], dtype: str) -> Facts:
    def anew(named: tuple[Named, ...]) -> tuple[Named, ...]:
        return tuple(replace(n, dtype=dtype) if n.storage in chosen and _is_float(n.dtype) else n for n in named)

    facts = graph.facts
    parameters, buffers, inputs, state = map(anew, (facts.parameters, facts.buffers, facts.inputs, facts.state))
    return replace(facts, parameters=parameters, buffers=buffers, inputs=inputs, state=state)
