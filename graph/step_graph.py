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

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html import escape

import networkx as nx

from .op import Op, Source
from .phase import Phase
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
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StepGraph:
    """One recorded step. ``ops[i].id == i`` and ``storages[i].id == i``; ``events`` are in time order."""

    ops: tuple[Op, ...]
    storages: tuple[Storage, ...]
    events: tuple[Event, ...]
    spans: tuple[Span, ...]
    facts: Facts = field(default_factory=Facts)

    @cached_property
    def graph(self) -> nx.MultiDiGraph[int]:
        """Ops as nodes and tensors as edges; the module docstring lists the attributes."""
        graph: nx.MultiDiGraph[int] = nx.MultiDiGraph()
        graph.add_nodes_from(
            (op.id, {"op": op, "name": op.name, "phase": op.phase, "module": op.module, "source": op.source})
            for op in self.ops
        )
        graph.add_edges_from(self._edges())
        return graph

    def _edges(self) -> list[tuple[int, int, dict[str, object]]]:
        writer: dict[int, int] = {}
        view: dict[tuple[int, tuple[int, ...], tuple[int, ...], int], int] = {}
        edges = []
        for op in self.ops:
            for t in op.inputs:
                source = writer.get(t.storage)
                if source is not None:
                    via = view.get((t.storage, t.shape, t.strides, t.offset))
                    attributes = {
                        "tensor": t,
                        "storage": t.storage,
                        "bytes": t.bytes,
                        "dtype": t.dtype,
                        "shape": t.shape,
                        "via": via if via is not None and via > source else None,
                    }
                    edges.append((source, op.id, attributes))
            if op.is_view:
                for t in op.outputs:
                    view[t.storage, t.shape, t.strides, t.offset] = op.id
            else:
                given = {t.storage for t in op.inputs}
                for t in op.outputs:
                    if t.storage not in given:
                        writer[t.storage] = op.id
                for t in op.written:
                    writer[t.storage] = op.id
        return edges

    @cached_property
    def at_start(self) -> tuple[Storage, ...]:
        """The storages that were live when the step began."""
        return tuple(s for s in self.storages if s.born is None)

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
