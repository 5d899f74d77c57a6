"""A *step graph* is one recorded training step: ops in order, storages, and their births and deaths.

`StepGraph.graph` shows it as a ``networkx.MultiDiGraph``:

- a node is an op's id, with the attributes ``op`` (the `Op`), ``name``, ``phase``, ``module``, ``source``;
- an edge ``u -> v`` is a tensor that op ``v`` reads and op ``u`` was the last to write, with the attributes
  ``tensor`` (the `Tensor`), ``storage``, ``bytes``, ``dtype``, ``shape``. A tensor that was live before the
  step has no edge; where one op reads several tensors of another there are several edges.

Views write nothing, so an edge leads from the op that wrote the data; ``via`` is the id of the view op
through which it was read, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import cast

import networkx as nx

from .alike import kinds_of
from .bulk import uncollected
from .op import Op, Source, byte_count
from .phase import Phase
from .select import Categories, Phases
from .select import ops as selected_ops
from .select import storages as selected_storages
from .storage import Event, Storage


@dataclass(frozen=True, slots=True)
class Named:
    """A parameter, buffer, input or optimizer state tensor by name, and the storage that holds it."""

    name: str
    storage: int
    shape: tuple[int, ...]
    dtype: str
    trainable: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """A run of ops and events that belong to one phase: ``[first_op, end_op)`` and ``[first_event, end_event)``."""

    phase: Phase
    first_op: int
    end_op: int
    first_event: int
    end_event: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What else is known of a trace: where it came from, and what it is a trace of."""

    target: str = ""
    arguments: Mapping[str, object] = field(default_factory=dict)
    """What the target was called with."""
    device: str = "cpu"
    capability: str = ""
    """Compute capability of the GPU whose kernels were chosen; empty for a CPU, and in older files (there 8.0)."""
    autocast: str | None = None
    """The dtype of the ``torch.autocast`` that was asked for around forward and loss."""
    own_autocast: tuple[str, ...] = ()
    """The dtypes of the regions of it that the step's own code opens."""
    warmup: int = 1
    optimizer: Mapping[str, object] = field(default_factory=dict)
    """``class``, ``implementation`` (foreach, fused, for-loop) and the hyperparameters of the first group."""
    parameters: tuple[Named, ...] = ()
    buffers: tuple[Named, ...] = ()
    inputs: tuple[Named, ...] = ()
    state: tuple[Named, ...] = ()
    """Optimizer state at the end of the step, named ``parameter/key``."""
    modules: Mapping[str, str] = field(default_factory=dict)
    """Class name of the module at each path."""
    calls: Mapping[str, Source] = field(default_factory=dict)
    """The user's line that calls the module at each path; nothing for those that no line of the user's calls."""
    recomputed: Mapping[str, int] = field(default_factory=dict)
    """What backward runs again, as under a checkpoint, and how often: module paths, names of functions with ``()``."""
    assumptions: tuple[Mapping[str, object], ...] = ()
    notes: tuple[str, ...] = ()
    backends: Mapping[str, bool] = field(default_factory=dict)
    """Settings of CUDA's libraries other than PyTorch's own: ``matmul_tf32``, ``cudnn_tf32``, ``cudnn_benchmark``."""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def precision(self) -> str:
        """What a heading says of autocast."""
        if self.autocast is not None:
            return f"{self.autocast} autocast"
        return f"{' and '.join(self.own_autocast)} autocast of its own" if self.own_autocast else "no autocast"


Layout = tuple[tuple[int, ...], tuple[int, ...], int]
"""Shape, strides and offset."""
Attributes = dict[str, object]
Neighbours = dict[int, dict[int, Attributes]]
"""By node the edges that lead there, or come from there, by key."""


@dataclass(frozen=True)
class StepGraph:
    """One recorded step. ``ops[i].id == i`` and ``storages[i].id == i``; ``events`` are in time order."""

    ops: tuple[Op, ...]
    storages: tuple[Storage, ...]
    events: tuple[Event, ...]
    spans: tuple[Span, ...]
    facts: Facts = field(default_factory=Facts)
    again: Callable[..., StepGraph] | None = field(default=None, init=False, compare=False, repr=False)
    """Traces the same step at other sizes, given as keyword arguments; None for one that was loaded, or edited."""
    copies: Mapping[int, int] = field(default_factory=dict, init=False, compare=False, repr=False)
    """Ops that a folded block was given, each with the op of the block that it repeats: the two are alike."""

    def repeat(self, copies: Mapping[int, int]) -> None:
        """Note which ops are copies of which; what is known of them saves time, and is not saved."""
        object.__setattr__(self, "copies", copies)

    def remember(self, again: Callable[..., StepGraph]) -> None:
        """Note how the same step is traced at other sizes."""
        object.__setattr__(self, "again", again)

    def __getstate__(self) -> dict[str, object]:
        """All that is saved or sent to another process: not how it was made."""
        return {**self.__dict__, "again": None}

    @cached_property
    def graph(self) -> nx.MultiDiGraph[int]:
        """Ops as nodes and tensors as edges; the module docstring lists the attributes."""
        graph: nx.MultiDiGraph[int] = nx.MultiDiGraph()
        with uncollected():
            graph.add_nodes_from(range(len(self.ops)))
            _add_attributes(graph, self.ops)
            _add_edges(graph, self.ops)
        return graph

    @cached_property
    def kinds(self) -> tuple[int, ...]:
        """For each op the id of the first one that it is alike, as `alike` has it."""
        return kinds_of(self.ops, self.copies)

    @cached_property
    def on_device(self) -> tuple[bool, ...]:
        """For each storage whether it is on the kind of device that was traced: ``cuda:0`` is ``cuda``."""
        traced = self.facts.device.partition(":")[0]
        known = {device: device.partition(":")[0] == traced for device in {s.device for s in self.storages}}
        return tuple([known[s.device] for s in self.storages])

    @cached_property
    def at_start(self) -> tuple[Storage, ...]:
        """The storages that were live when the step began."""
        return tuple(s for s in self.storages if s.born is None)

    def select(
        self, module: str | None = None, *, name: str | None = None, phase: Phases | None = None
    ) -> tuple[Op, ...]:
        """The ops in modules, of names and in phases as given, in order; what is left out does not matter.

        Module and name are patterns: ``graph.select("h.*.attn*", name="aten.bmm", phase="backward")``. Raises
        `ForetraceError` for a phase that there is not.
        """
        return tuple(selected_ops(self, module, name, phase))

    def select_storages(
        self,
        module: str | None = None,
        *,
        name: str | None = None,
        category: Categories | None = None,
        phase: Phases | None = None,
    ) -> tuple[Storage, ...]:
        """The storages of categories, and allocated in modules and phases, as given, in order.

        Module and name are patterns; a name is that of a parameter, buffer, gradient, state or input. What was live
        when the step began has no phase and no module. Raises `ForetraceError` for a category that there is not.
        """
        return tuple(selected_storages(self, module, name, category, phase))

    def __repr__(self) -> str:
        return f"<StepGraph {self.facts.target or 'step'}: {len(self.ops):,} ops, {len(self.storages):,} storages>"

    def _repr_html_(self) -> str:
        """What a notebook shows: ops and births of each phase."""
        born = [sum(event.bytes > 0 for event in self.events[s.first_event : s.end_event]) for s in self.spans]
        rows = "".join(
            f"<tr><th style='text-align:left'>{span.phase.replace('_', ' ')}</th>"
            f"<td>{span.end_op - span.first_op:,}</td><td>{count:,}</td></tr>"
            for span, count in zip(self.spans, born, strict=True)
        )
        head = "<tr><th></th><th>ops</th><th>storages born</th></tr>"
        title = escape(f"{self.facts.target[:200] or 'step'} on {self.facts.device}")
        return f"<table><caption>{title}</caption><thead>{head}</thead><tbody>{rows}</tbody></table>"


def _add_attributes(graph: nx.MultiDiGraph[int], ops: Sequence[Op]) -> None:
    """What a node says of its op."""
    nodes = cast("Iterable[tuple[int, Attributes]]", graph.nodes(data=True))
    for op, (_, node) in zip(ops, nodes, strict=True):
        node["op"] = op
        node["name"] = op.name
        node["phase"] = op.phase
        node["module"] = op.module
        node["source"] = op.source


def _add_edges(graph: nx.MultiDiGraph[int], ops: Sequence[Op]) -> None:
    """What ``graph.add_edges_from`` does for nodes that are there, without its checks of each edge.

    The dicts are networkx's own, by node, neighbour and key, as its documentation of ``MultiDiGraph`` has them:
    https://networkx.org/documentation/stable/reference/classes/multidigraph.html
    """
    after = cast("list[Neighbours]", [to for _, to in graph.adjacency()])
    before = cast("list[Neighbours]", [of for _, of in graph.reverse(copy=False).adjacency()])
    writer: dict[int, int] = {}
    views: dict[int, dict[Layout, int]] = {}
    for op, comes_from in zip(ops, before, strict=True):
        reader = op.id
        for tensor in op.inputs:
            storage, dtype, shape, strides, offset = tensor
            source = writer.get(storage)
            if source is None:
                continue
            through = views.get(storage)
            via = through.get((shape, strides, offset)) if through else None
            edge: Attributes = {
                "tensor": tensor,
                "storage": storage,
                "bytes": byte_count(dtype, shape),
                "dtype": dtype,
                "shape": shape,
                "via": via if via is None or via > source else None,
            }
            parallel = comes_from.get(source)
            if parallel is None:
                after[source][reader] = comes_from[source] = {0: edge}
            else:
                parallel[len(parallel)] = edge
        _note_writes(op, writer, views)


def _note_writes(op: Op, writer: dict[int, int], views: dict[int, dict[Layout, int]]) -> None:
    """Remember who wrote which storage last, and through which views it is read."""
    only_views = not op.mutates
    if op.outputs:
        given = {tensor.storage for tensor in op.inputs}
        for tensor in op.outputs:
            if tensor.storage not in given:
                writer[tensor.storage] = op.id
                only_views = False
    if only_views:
        for storage, _, shape, strides, offset in op.outputs:
            views.setdefault(storage, {})[shape, strides, offset] = op.id
    elif op.mutates:
        for tensor in op.written:
            writer[tensor.storage] = op.id
