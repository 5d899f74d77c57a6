"""The published shapes of one process, in the order in which they ran -> the peak of each, on one allocator.

``max_memory_allocated`` counts blocks, and a block that was cached by something before is handed out whole where less
than 1 MiB of it would remain. So what a shape takes depends on what ran before it, and where the weights lie depends
on how they were loaded. For the rows here the script is known:

    https://gist.github.com/fxmarty/7e75cc3942d6974e4849093ebea0a331 and, as it was changed for ALBERT,
    https://github.com/huggingface/transformers/pull/32092

It loads the model with fused attention under ``with torch.device("cuda")``, in float16, runs every batch and within it
every length, deletes the model, loads the one with eager attention and runs the same. For each shape it takes ten
steps, resets the peak, empties the cache, and measures. Loading in that context puts the whole checkpoint, float32, on
the GPU, where it stays until the float16 model beside it is filled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from foretrace.graph import Category, StepGraph, Storage
from foretrace.hardware import CachingAllocator, Profile
from foretrace.hardware.addresses import falling
from foretrace.hardware.script import Lasting, Script, once_each, script
from foretrace.hardware.succession import starting, succession
from foretrace.hardware.workspaces import extras
from published_rows import Row, profile_named

ORDER = ("sdpa", "eager")
WARM_UP = 10
"""Steps before the peak is reset and the cache emptied."""
MEASURED = 3
"""Steps after that; by the third all are alike."""
FLOAT32_PER_FLOAT16 = 2
WEIGHTS = (Category.PARAMETER, Category.BUFFER)


@dataclass(frozen=True)
class Checkpoint:
    """What is loaded beside the tensors that the model has, in bytes of float32, and what it calls otherwise."""

    others: Mapping[str, int]
    renamed: tuple[tuple[str, str], ...] = ()


CHECKPOINTS = {
    "bert-base-uncased": Checkpoint(
        {
            "bert.pooler.dense.bias": 768 * 4,
            "bert.pooler.dense.weight": 768 * 768 * 4,
            "cls.seq_relationship.bias": 2 * 4,
            "cls.seq_relationship.weight": 2 * 768 * 4,
        },
        (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")),
    ),
    "albert/albert-base-v2": Checkpoint({"albert.pooler.bias": 768 * 4, "albert.pooler.weight": 768 * 768 * 4}),
}
"""Models whose rows come from that script; huggingface.co/NAME/blob/main/model.safetensors, read in order of names."""


def is_of_a_run(row: Row) -> bool:
    """Whether the row's figure depends on what ran before it, and that is known."""
    return row["family"] == "hf_attention" and row["model"] in CHECKPOINTS and row["part"] == "step"


Shape = tuple[str, str, str]
"""Attention, batch and length, as the columns have them."""


def shape_of(row: Row) -> Shape:
    """Which of its run a row is."""
    return row["attention"], row["batch"], row["sequence"]


def peaks(rows: Iterable[Row], trace_of: Callable[[Row], StepGraph]) -> dict[Shape, int]:
    """The peak of allocated bytes of every row of one model's run."""
    here = {shape_of(row): row for row in rows}
    first = next(iter(here.values()))
    profile = profile_named(first["profile"])
    assert profile is not None
    process = Process(profile)
    found = {}
    for attention in ORDER:
        shapes = sorted((shape for shape in here if shape[0] == attention), key=lambda s: (int(s[1]), int(s[2])))
        for place, shape in enumerate(shapes):
            graph = trace_of(here[shape])
            if not place:
                process.load(graph, CHECKPOINTS[first["model"]])
            found[shape] = process.measure(graph)
        process.delete_model()
    return found


@dataclass
class Process:
    """One process on one GPU: an allocator, and what is live on it."""

    profile: Profile
    # These versions of PyTorch took, of equal blocks, the one at the lowest address.
    allocator: CachingAllocator = field(default_factory=lambda: CachingAllocator(by_age=False, place=falling()))
    keys: int = 0
    weights: dict[str, int] = field(default_factory=dict)
    gradients: dict[str, int] = field(default_factory=dict)
    inputs: dict[int, int] = field(default_factory=dict)
    workspaces: dict[str, int] = field(default_factory=dict)

    def load(self, graph: StepGraph, checkpoint: Checkpoint) -> None:
        """Make a model's weights, with its checkpoint beside them while they are filled."""
        found = [s for s in starting(graph) if s.category in WEIGHTS]
        loaded = self._allocate(bytes for _, bytes in sorted(in_file(found, checkpoint)))
        self.weights = dict(zip((s.name for s in found), self._allocate(s.bytes for s in found), strict=True))
        self._free(loaded)

    def delete_model(self) -> None:
        """Weights and gradients; the inputs of the last shape are still named."""
        self._free([*self.weights.values(), *self.gradients.values()])
        self.weights, self.gradients = {}, {}

    def measure(self, graph: StepGraph) -> int:
        """Run one shape, and return the peak of allocated bytes after the steps that warm up."""
        moves = script(graph, once_each(extras(self.profile), graph.kinds))
        goes_on = succession(graph, graph)
        held = self._first(graph)
        for turn in range(WARM_UP + MEASURED):
            if turn == WARM_UP:
                self.allocator.reset_peaks()
                self.allocator.empty_cache()
            if turn:
                held = {after: held[before] for after, before in goes_on.items()}
            self._play(moves, held)
        peak = self.allocator.peak_allocated_bytes
        self._return(graph, {after: held[before] for after, before in goes_on.items()})
        return peak

    def _first(self, graph: StepGraph) -> dict[int, int]:
        """What is live when a shape's first step begins: gradients of the shape before, but no output of it."""
        at_start, old = starting(graph), list(self.inputs.values())
        inputs = [s for s in at_start if s.category is Category.INPUT]
        self.inputs = dict(zip((s.id for s in inputs), self._allocate(s.bytes for s in inputs), strict=True))
        self._free(old)
        held = dict(self.inputs)
        for storage in at_start:
            named = self.weights if storage.category in WEIGHTS else self.gradients
            if storage.category is not Category.INPUT and storage.name in named:
                held[storage.id] = named[storage.name]
        return held

    def _play(self, moves: Script, held: dict[int, int]) -> None:
        for _, slot, nbytes in moves.moves:
            extra = moves.extra(slot) if slot < 0 else None
            if isinstance(extra, Lasting):
                if extra.name not in self.workspaces:
                    (self.workspaces[extra.name],) = self._allocate([nbytes])
            elif nbytes > 0:
                (held[slot],) = self._allocate([nbytes])
            elif slot in held:
                self.allocator.free(held.pop(slot))

    def _return(self, graph: StepGraph, held: dict[int, int]) -> None:
        """The function returns: its names go, gradients stay."""
        named = {graph.storages[slot].name: key for slot, key in held.items() if _is_gradient(graph.storages[slot])}
        lasting = {*self.weights.values(), *self.inputs.values(), *named.values()}
        self._free(key for key in held.values() if key not in lasting)
        self.gradients = named

    def _allocate(self, sizes: Iterable[int]) -> list[int]:
        keys = []
        for size in sizes:
            self.keys += 1
            self.allocator.malloc(self.keys, size)
            keys.append(self.keys)
        return keys

    def _free(self, keys: Iterable[int]) -> None:
        for key in keys:
            self.allocator.free(key)


def in_file(found: Iterable[Storage], checkpoint: Checkpoint) -> Iterator[tuple[str, int]]:
    """Names and bytes of a checkpoint's tensors, in float32."""
    yield from checkpoint.others.items()
    for storage in found:
        name = storage.name
        for ours, theirs in checkpoint.renamed:
            name = name.replace(ours, theirs)
        if storage.category is Category.PARAMETER:
            yield name, storage.bytes * FLOAT32_PER_FLOAT16


def _is_gradient(storage: Storage) -> bool:
    return storage.category is Category.GRADIENT
