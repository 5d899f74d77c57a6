"""A step graph -> the same step with some of its storages larger, smaller, or gone: what a change would leave.

An edited graph is for counting bytes. Its ops are those of the original, so neither work nor time follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod

from ..graph import Category, Event, Op, Phase, StepGraph, Tensor


def resized(graph: StepGraph, bytes_by_storage: Mapping[int, int]) -> StepGraph:
    """`graph` with these storages of another size; one of 0 bytes is never allocated."""
    storages = tuple(replace(s, bytes=bytes_by_storage.get(s.id, s.bytes)) for s in graph.storages)
    events, place_of = [], [0]
    for event in graph.events:
        size = storages[event.storage].bytes
        if size:
            events.append(Event(event.op, event.storage, size if event.bytes > 0 else -size))
        place_of.append(len(events))
    spans = tuple(
        replace(span, first_event=place_of[span.first_event], end_event=place_of[span.end_event])
        for span in graph.spans
    )
    return replace(graph, storages=storages, events=tuple(events), spans=spans)


# 8-bit state is kept in blocks of 256 numbers, each with a float32 scale, and tensors below 4,096 numbers keep 32 bits:
# https://github.com/bitsandbytes-foundation/bitsandbytes/blob/0.45.0/bitsandbytes/optim/optimizer.py
# (Optimizer2State: min_8bit_size=4096, block_wise=True; init_state: blocks = n // 256).
BLOCK_NUMBERS = 256
LEAST_NUMBERS = 4_096


def eight_bit_state(graph: StepGraph) -> StepGraph | None:
    """Optimizer state in 8 bits, in blocks with a scale each; None where there is none in float32."""
    sizes = {
        named.storage: numbers + 4 * -(-numbers // BLOCK_NUMBERS)
        for named in graph.facts.state
        if named.dtype == "float32" and (numbers := prod(named.shape)) >= LEAST_NUMBERS
    }
    return resized(graph, sizes) if sizes else None


CHUNKS = 8


def chunked_loss(graph: StepGraph) -> StepGraph | None:
    """The head and the loss computed for an eighth of the rows at a time, so that no more logits exist at once.

    Logits are what the last log-softmax of forward reads, and every storage of as many numbers that is not a
    parameter, a gradient or state. None where no forward ends in one.
    """
    losses = [op for op in graph.ops if op.packet == "aten._log_softmax" and op.phase is Phase.FORWARD]
    if not losses:
        return None
    logits = losses[-1].tensor("self").numel
    lasting = (Category.PARAMETER, Category.GRADIENT, Category.OPTIMIZER_STATE, Category.BUFFER, Category.INPUT)
    sizes = {
        tensor.storage: graph.storages[tensor.storage].bytes // CHUNKS
        for op in graph.ops
        for tensor in op.outputs
        if tensor.numel == logits and graph.storages[tensor.storage].category not in lasting
    }
    return resized(graph, sizes)


def fused_attention(graph: StepGraph) -> StepGraph | None:
    """Attention that never writes its scores down: all storages of as many numbers as the scores, in their modules.

    Scores are what a softmax between two batched products reads. None where there are none.
    """
    scores = {(op.module, op.tensor("self").numel) for op in graph.ops if is_of_scores(graph, op)}
    if not scores:
        return None
    sizes = {
        tensor.storage: 0
        for op in graph.ops
        for tensor in op.outputs
        if (op.module, tensor.numel) in scores and not graph.storages[tensor.storage].name
    }
    return resized(graph, sizes)


def is_of_scores(graph: StepGraph, op: Op) -> bool:
    """Whether the op is a softmax of batched products that is itself multiplied afterwards."""
    if op.packet != "aten._softmax" or op.phase is not Phase.FORWARD:
        return False
    size = op.tensor("self").shape
    around = [other for other in graph.ops if other.module == op.module and other.packet in ("aten.bmm", "aten.matmul")]
    made = [o for o in around if o.id < op.id and _ends_in(o.outputs, size)]
    used = [o for o in around if o.id > op.id and _ends_in(o.inputs, size)]
    return bool(made and used)


def _ends_in(found: tuple[Tensor, ...], size: tuple[int, ...]) -> bool:
    return any(t.shape[-2:] == size[-2:] for t in found)


EDITS: Mapping[str, Callable[[StepGraph], StepGraph | None]] = {
    "8-bit optimizer state": eight_bit_state,
    f"loss in {CHUNKS} chunks": chunked_loss,
    "fused attention": fused_attention,
}
"""What can be told from a trace alone."""
