"""Steps a model whose blocks repeat, and runs only a few of them: the others are *folded*.

A *fold* answers the call of a block that is like one that has run (see `alike`) with tensors like that one's results,
by one autograd node in its place. What the block hands on, the gradient that it passes down and the gradients of its
parameters are there, so the rest of the step runs as ever; its own ops are missing in the log, and `unfold` writes them
from the *template block*, the one that has run. A block is folded only where its call is like the template's, and
whatever it cannot vouch for raises `Unfoldable`: then the step is traced without.
"""

from __future__ import annotations

import ctypes
import functools
import random
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ..graph import Phase
from . import caches
from .alike import Run, State, inside, runs, shared, shared_state, state, surroundings, unchanged
from .arena import base_of, storage_bytes
from .key import quiet
from .modules import members
from .record import Recorder
from .turn import VALUES, Argument, Before, Call, Given, Kind, Mark, New, Turn, Unfoldable, filled

_ENGINE = "_engine_run_backward"


class Folding:
    """All runs of a model, step by step."""

    def __init__(self, model: nn.Module, recorder: Recorder, choices: Counter[str]) -> None:
        self.recorder, self.choices = recorder, choices
        self.failed = ""
        self.chosen: Counter[str] | None = None
        """The choices when the backward of folded blocks begins."""
        self.runs = [FoldedRun(run, self) for run in runs(model)]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Every block of a run answers through its fold."""
        with ExitStack() as undo:
            for run in self.runs:
                for place, (_, block) in enumerate(run.run.blocks):
                    block.__dict__["forward"] = _Answer(run, place, block.forward)
                    undo.callback(block.__dict__.pop, "forward", None)
                run.shared = shared(run.run.blocks[0][1])
                run.states = [state(block) for _, block in run.run.blocks]
            if self.runs:
                engine = getattr(torch.autograd, _ENGINE)
                setattr(torch.autograd, _ENGINE, self._whole_backward(engine))
                undo.callback(setattr, torch.autograd, _ENGINE, engine)
            yield

    def _whole_backward(self, engine: Callable[..., Any]) -> Callable[..., Any]:
        """The engine; it gives every parameter its gradient, or blocks are not folded."""

        def run(tensors: Any, gradients: Any, keep: bool, create: bool, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            whole = not inputs and not create and kwargs.get("accumulate_grad")
            if not whole and any(run.started for run in self.runs):
                raise self.refuse("backward is asked for some gradients only")
            return engine(tensors, gradients, keep, create, inputs, *args, **kwargs)

        return run

    def begin(self) -> None:
        """A step begins."""
        self.chosen = None
        for run in self.runs:
            run.turn = Turn()

    def end(self) -> None:
        """A step has ended. Raises `Unfoldable` where a run was left half-way."""
        for run in self.runs:
            run.check_whole()
        if self.chosen is not None and self.chosen != self.choices:
            raise self.refuse("kernels were chosen in backward")
        if self.failed:
            raise Unfoldable(self.failed)

    def mark(self) -> Mark:
        """Where the log is."""
        recorder = self.recorder
        sequence = torch._C._autograd._get_sequence_nr() - recorder.first_sequence
        return Mark(len(recorder.rows), len(recorder.events), sequence)

    def refuse(self, reason: str) -> Unfoldable:
        """The exception to raise; it is remembered, should somebody catch it."""
        self.failed = self.failed or reason
        return Unfoldable(reason)


class _Answer:
    """Stands in a block for its ``forward``; in a copy of the block it is the copy's own."""

    def __init__(self, run: FoldedRun, place: int, forward: Callable[..., Any]) -> None:
        self.run, self.place = run, place
        functools.update_wrapper(self, forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run.called(self.place, self.__wrapped__, args, kwargs)  # type: ignore[attr-defined]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        block = self.run.run.blocks[self.place][1]
        return _Own(memo.get(id(block), block))


class _Own:
    """The ``forward`` of a copied block's class, without a circle of references that would keep it alive."""

    def __init__(self, block: nn.Module) -> None:
        self.block = weakref.ref(block)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        block: Any = self.block()
        return type(block).forward(block, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        block: Any = self.block()
        return _Own(memo.get(id(block), block))


class FoldedRun:
    """One run of blocks while it is traced."""

    def __init__(self, run: Run, folding: Folding) -> None:
        self.run, self.folding, self.recorder = run, folding, folding.recorder
        self.turn = Turn()
        self.started = self.off = False
        """Whether a block has been folded; whether all are run from now on."""
        self.keeps = True
        """Whether a block keeps what it is given until its backward."""
        self.states: list[State] = []
        both = [members(block, "_parameters", "_buffers") for _, block in run.blocks]
        self.parameters, self.buffers = [parameters for parameters, _ in both], [buffers for _, buffers in both]
        self.shared: list[dict[str, Any]] = []

    def reference(self, place: int) -> int:
        """The block of the last unit but one that is like the one at `place`: its backward runs first."""
        return (self.run.units - 2) * self.run.period + place % self.run.period

    def check_whole(self) -> None:
        """Raises `Unfoldable` unless all blocks were called, or none, and all folded ones came back."""
        if self.off or not self.started:
            return
        turn, count = self.turn, len(self.run.blocks)
        if len(turn.exits) not in (0, count) or len(turn.entries) != len(turn.exits):
            raise self.refuse("not every block was called")
        folded = [place for place in range(count) if not self.run.is_run(place)]
        if turn.exits and turn.differentiable and set(turn.backward) != set(folded):
            raise self.refuse("backward did not go through every block")

    # -- forward --------------------------------------------------------------------------------

    def called(self, place: int, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A block is called. Until one has been folded, what forbids it only means that all blocks are run."""
        if self.off:
            return forward(*args, **kwargs)
        result: list[Any] = []
        try:
            return self._answer(place, forward, args, kwargs, result)
        except Unfoldable:
            if self.started:
                raise
            self.off = True
        return result[0] if result else forward(*args, **kwargs)

    def refuse(self, reason: str) -> Unfoldable:
        """The exception to raise."""
        return self.folding.refuse(reason) if self.started else Unfoldable(reason)

    def _answer(self, place: int, forward: Callable[..., Any], args: Any, kwargs: Any, result: list[Any]) -> Any:
        turn = self.turn
        if self.folding.failed or len(turn.entries) != place or len(turn.exits) != place:
            raise self.refuse("the blocks were not called once each, in order")
        if self.recorder.phase is not Phase.FORWARD:
            raise self.refuse("a block was called outside of forward")
        turn.entries.append(self.folding.mark())
        leaves: list[Any] = []
        self._flat((args, kwargs), leaves)
        given = [self._described(leaf) for leaf in leaves]
        around = self._around(place)
        if not self.started and place == 2 * self.run.period:
            self._see_what_is_kept()
        if self.run.is_run(place):
            self._really(place, lambda: result.append(forward(*args, **kwargs)), result, leaves, given, around)
        else:
            self.started = True
            result.append(self._folded(place, leaves, given, around))
        turn.exits.append(self.folding.mark())
        return result[0]

    def _see_what_is_kept(self) -> None:
        """A block's argument may die before the next one runs: then it has two neighbours in the log, not one."""
        period, alive = self.run.period, {owner.id for owner in self.recorder.owners.values()}
        given = [one.whose for one in self.turn.calls[period].given if type(one) is Given]
        if any(whose == "carried" and self.turn.results[period - 1][number] not in alive for whose, number in given):
            self.keeps, self.run.lead = False, 3

    def _around(self, place: int) -> tuple[Any, ...]:
        name, block = self.run.blocks[place]
        recorder = self.recorder
        if recorder.module_stack[-1] != name or torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
            raise self.refuse("a block runs inside of something")
        return (
            recorder.frames.user(sys._getframe(3)),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
            torch.is_autocast_cache_enabled(),
            block.training,
        )

    def _flat(self, value: Any, leaves: list[Any]) -> None:
        kind = type(value)
        if kind is tuple or kind is list:
            leaves.append((kind, len(value)))
            for item in value:
                self._flat(item, leaves)
        elif kind is dict:
            leaves.append((kind, tuple(value)))
            for item in value.values():
                self._flat(item, leaves)
        else:
            leaves.append(value)

    def _described(self, leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            owner = self._owner(leaf)
            before = self.turn.results[-1] if self.turn.results else []
            if owner.id in before:
                if owner.known:
                    raise self.refuse("the numbers that blocks hand on are known")
                whose: Any = ("carried", before.index(owner.id))
            else:
                whose = ("shared", owner.id)
            return Given(whose, self.kind(leaf), leaf.is_leaf, type(leaf))
        if type(leaf) in VALUES:
            return (type(leaf), leaf)
        if isinstance(leaf, tuple) and leaf and leaf[0] in (tuple, list, dict):
            return leaf
        if caches.is_cache(leaf):
            return ("cache", id(leaf))
        raise self.refuse(f"a block is given a {type(leaf).__name__}")

    def _owner(self, tensor: torch.Tensor) -> Any:
        if tensor.layout is torch.strided and type(tensor) in (torch.Tensor, nn.Parameter) and tensor.data_ptr():
            owner = self.recorder.owners.get(base_of(tensor))
            if owner is not None:
                return owner
        raise self.refuse("a tensor of a block is of an unknown kind")

    def kind(self, tensor: torch.Tensor) -> Kind:
        """What kind of tensor it is."""
        owner = self._owner(tensor)
        shape, offset = tuple(tensor.shape), int(tensor.storage_offset())
        return Kind(shape, tensor.stride(), tensor.dtype, owner.device, tensor.requires_grad, offset, owner.bytes)

    def _really(
        self, place: int, forward: Callable[[], None], results: list[Any], leaves: Any, given: Any, around: Any
    ) -> None:
        """Run the block, and see to it that nothing of it stays but tensors."""
        recorder, (_, block) = self.recorder, self.run.blocks[place]
        own, around_it = self.states[place], shared_state(self.shared)
        rooms = surroundings(block)
        looks, born, choices = recorder.looks, len(recorder.bytes_of), self.folding.choices.copy()
        drawn = _randomness()
        cache = self._cache(leaves)
        layers = caches.layers(cache, self._told) if cache is not None else []
        used: list[bool] = []
        versions = [tensor._version for _, tensor in self.buffers[place]]
        recorder.oldest, recorder.own = born, frozenset(self._owner(t).id for _, t in self.buffers[place])
        with caches.numbers(self.run.numbers, inside(block), lambda: used.append(True)):
            forward()
        recorder.oldest = 0
        result = results[0]
        before = own, around_it, rooms
        after = state(block), shared_state(self.shared), surroundings(block)
        if not all(map(unchanged, before, after)):
            raise self.refuse("a block keeps something from one call to the next")
        if used or recorder.looks != looks or drawn != _randomness():
            raise self.refuse("a block looks at its number, at values or at what was drawn at random")
        call = Call(around, given, None, [], [], {}, self.folding.choices - choices, around_it)
        now = [tensor._version for _, tensor in self.buffers[place]]
        call.written = [n for (n, _), v, w in zip(self.buffers[place], versions, now, strict=True) if v != w]
        storages: list[int] = []
        call.structure = self._structure(result, leaves, born, call.kinds, storages)
        if cache is not None:
            did = caches.filled(layers, cache, self._told)
            call.cached = self._filled(place, did, cache, leaves, born, call, storages)
        call.order = sorted(range(len(storages)), key=storages.__getitem__)
        self.turn.calls[place] = call
        self.turn.results.append(storages)
        self._listen(place, result, call)

    def _structure(self, value: Any, leaves: list[Any], born: int, kinds: list[Kind], storages: list[int]) -> Any:
        """The result with its new tensors described."""
        kind = type(value)
        if kind is tuple or kind is list:
            return kind(self._structure(item, leaves, born, kinds, storages) for item in value)
        if kind is dict:
            return {key: self._structure(item, leaves, born, kinds, storages) for key, item in value.items()}
        for place, leaf in enumerate(leaves):
            if leaf is value and isinstance(value, torch.Tensor):
                return Argument(place)
        if kind in VALUES:
            return value
        if not isinstance(value, torch.Tensor):
            raise self.refuse(f"a block returns a {kind.__name__}")
        owner = self._owner(value)
        if owner.id < born or owner.id in storages or owner.known:
            raise self.refuse("a block returns something twice or not its own, or numbers that are known")
        kinds.append(self.kind(value))
        storages.append(owner.id)
        return New(len(storages) - 1)

    def _cache(self, leaves: list[Any]) -> Any:
        found = {id(leaf): leaf for leaf in leaves if caches.is_cache(leaf)}
        if len(found) > 1:
            raise self.refuse("a block is given two caches")
        return next(iter(found.values()), None)

    def _filled(
        self, place: int, did: caches.Filled | None, cache: Any, leaves: Any, born: int, call: Call, storages: list[int]
    ) -> tuple[caches.Filled, Any]:
        """What a block put into its cache, if that is its own layer."""
        first = self.turn.calls[0].cached if place else None
        if did is None or (place and (first is None or did.number != first[0].number + place)):
            raise self.refuse("a block fills another layer of the cache than its own")
        before = did.before or {}
        held = [value for value in before.values() if type(value) is caches.Held]
        if any(value.values is None or len(value.values) >= _MOST_BYTES for value in held):
            raise self.refuse("a layer of the cache is full already")
        self.turn.cached[place] = did.storages
        after: dict[str, Any] = {}
        for name, value in vars(cache.layers[did.number]).items():
            if not isinstance(value, torch.Tensor):
                after[name] = self._structure(value, leaves, born, call.kinds, storages)
                continue
            owner = self._owner(value)
            if owner.id == did.storages.get(name):
                after[name] = Before(name)
            elif owner.known and owner.id >= born:
                with quiet():
                    call.values[len(storages)] = value.detach().clone()
                after[name] = New(len(storages))
                call.kinds.append(self.kind(value))
                storages.append(owner.id)
            else:
                after[name] = self._structure(value, leaves, born, call.kinds, storages)
        return did, after

    def _told(self, value: Any) -> Any:
        """What is in a layer of a cache, without holding it."""
        if not isinstance(value, torch.Tensor):
            if type(value) not in VALUES:
                raise self.refuse(f"a layer of the cache holds a {type(value).__name__}")
            return value
        if not value.numel():
            return caches.Held(-1, (value.dtype, tuple(value.shape)), b"")
        owner = self._owner(value)
        values = ctypes.string_at(owner.base, min(owner.bytes, _MOST_BYTES)) if owner.known else None
        return caches.Held(owner.id, self.kind(value), values)

    def _fill_cache(self, place: int, call: Call, cache: Any, made: tuple[torch.Tensor, ...]) -> None:
        """Put into the block's layer of the cache what the template block put into its own."""
        if call.cached is None:
            return
        like, after = call.cached
        layer = caches.layer(cache, like.number - self.run.template(place) + place, like)
        now = caches.contents(layer, self._told) if layer is not None else None
        if now is None or _of_any(now) != _of_any(like.before or {}):
            raise self.refuse("the cache is not as the template block found it")
        self.turn.cached[place] = like._replace(before=now).storages
        inside_it = vars(layer)
        filling = {
            name: inside_it[name] if type(value) is Before else filled(value, [], made) for name, value in after.items()
        }
        caches.fill(cache, layer, like, filling)

    def _listen(self, place: int, result: Any, call: Call) -> None:
        """Have a block that runs tell the gradients of what it returned."""
        tensors: list[Any] = []
        self._flat(result, tensors)
        new = [t for t in tensors if isinstance(t, torch.Tensor) and self._owner(t).id in self.turn.results[place]]
        for number, tensor in enumerate(new):
            if tensor.requires_grad:
                self.turn.differentiable = True
                if _keeps(tensor):
                    call.kept.append(number)
                self.turn.gradients.setdefault(place, [None] * len(new))
                tensor.register_hook(_Listener(self, place, number))

    def heard(self, place: int, number: int, gradient: torch.Tensor) -> None:
        """The gradient of what a block returned has come."""
        if self.off:
            return
        heard = self.turn.gradients[place]
        if heard[number] is not None:
            raise self.refuse("a gradient came twice")
        heard[number] = (self._owner(gradient).id, self.kind(gradient))

    # -- in the place of a block ----------------------------------------------------------------

    def _folded(self, place: int, leaves: list[Any], given: list[Any], around: Any) -> Any:
        turn, (_, block) = self.turn, self.run.blocks[place]
        call = turn.calls[self.run.template(place)]
        if given != call.given or around != call.around:
            raise self.refuse("a block is called otherwise than the one that it is like")
        if not unchanged(self.states[place], state(block)) or not unchanged(call.shared, shared_state(self.shared)):
            raise self.refuse("the attributes of a block have changed")
        self.folding.choices.update(call.choices)
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if torch.is_grad_enabled() and any(kind.requires_grad for kind in call.kinds):
            inputs = [t for t in tensors if t.requires_grad]
            if not inputs:
                raise self.refuse("a block is the first that has a gradient")
            carried = [self._carried(t) for t in inputs]
            made = _Fold.apply(_Folded(self, place, carried), *inputs)
        else:
            made = self.make_results(call)
        turn.results.append([self._owner(t).id for t in made])
        self.recorder.pass_over_nodes()
        self._write_buffers(place, call)
        self._fill_cache(place, call, self._cache(leaves), made)
        return filled(call.structure, leaves, made)

    def _write_buffers(self, place: int, call: Call) -> None:
        """Buffers that the template block has written to hold what its own hold."""
        if not call.written:
            return
        own, template = dict(self.buffers[place]), dict(self.buffers[self.run.template(place)])
        for name in call.written:
            owner, like = self._owner(own[name]), self._owner(template[name])
            if owner.known and like.known:
                with quiet():
                    own[name].detach().copy_(template[name].detach())
            owner.known = owner.known and like.known

    def _carried(self, tensor: torch.Tensor) -> int | None:
        before, owner = self.turn.results[-1], self._owner(tensor)
        return before.index(owner.id) if owner.id in before else None

    def make_results(self, call: Call) -> tuple[torch.Tensor, ...]:
        """New tensors like those that the template block returned."""
        made = {number: self.make(call.kinds[number], call.values.get(number)) for number in call.order}
        return tuple(made[number] for number in range(len(made)))

    def make(self, kind: Kind, values: torch.Tensor | None = None) -> torch.Tensor:
        """A new tensor of a kind, with its values if they are known."""
        with quiet():
            itemsize = kind.dtype.itemsize
            if values is not None:
                return self.recorder.new(kind.shape, kind.strides, kind.dtype, kind.device, known=True).copy_(values)
            if not kind.offset and storage_bytes(kind.shape, kind.strides, itemsize) == kind.nbytes:
                return self.recorder.new(kind.shape, kind.strides, kind.dtype, kind.device)
            whole = self.recorder.new((kind.nbytes // itemsize,), (1,), kind.dtype, kind.device)
            return whole.as_strided(kind.shape, kind.strides, kind.offset)

    def came_back(self, place: int, gradients: tuple[torch.Tensor | None, ...]) -> None:
        """The backward of a folded block begins."""
        if place in self.turn.backward or self.folding.failed:
            raise self.refuse("backward came twice")
        self.recorder.release_number()
        if self.folding.chosen is None:
            self.folding.chosen = self.folding.choices.copy()
        self.turn.backward[place] = self.folding.mark()
        self.turn.gradients[place] = [
            None if gradient is None else (self._owner(gradient).id, self.kind(gradient)) for gradient in gradients
        ]

    def passed_down(
        self, place: int, carried: list[int | None], inputs: list[Kind], gradients: tuple[torch.Tensor | None, ...]
    ) -> list[torch.Tensor | None]:
        """The gradients of what a folded block was given, by what the reference block passed down."""
        reference = self.reference(place)
        above = [heard and heard[0] for heard in self.turn.gradients[reference]]
        below = self.turn.gradients.get(reference - 1)
        if below is None:
            raise self.refuse("no gradient was heard of")
        made: list[torch.Tensor | None] = []
        for number, kind in zip(carried, inputs, strict=True):
            heard = below[number] if number is not None else None
            if number is None:
                made.append(self.make(kind))
            elif heard is None:
                made.append(None)
            elif heard[0] in above:
                made.append(gradients[above.index(heard[0])])
            else:
                made.append(self.make(heard[1]))
        return made

    def give_gradients(self, place: int) -> None:
        """Gradients for the block's parameters like those of the reference block's, born in the same order."""
        for number, kind in self._gradients_of(self.reference(place)):
            parameter = self.parameters[place][number][1]
            if parameter.grad is None:
                parameter.grad = self.make(kind)
        self.recorder.hold_place()

    def _gradients_of(self, place: int) -> list[tuple[int, Kind]]:
        """Which parameters of a block whose backward is done have gradients, and of what kind, in order of birth."""
        found = self.turn.own_gradients.get(place)
        if found is None:
            given = [(number, p.grad) for number, (_, p) in enumerate(self.parameters[place]) if p.grad is not None]
            owners = [self._owner(gradient) for _, gradient in given]
            if any(owner.known for owner in owners):
                raise self.refuse("the numbers of a gradient are known")
            born = sorted((owner.id, n, self.kind(t)) for owner, (n, t) in zip(owners, given, strict=True))
            found = self.turn.own_gradients[place] = [(number, kind) for _, number, kind in born]
        return found


_MOST_BYTES = 4096
"""Of a known tensor in a cache, these are compared; there it is a length or a window."""


def _of_any(layer: caches.Layer) -> list[Any]:
    """What is in a layer, whichever it is."""
    return [(k, type(v), v._replace(storage=0) if type(v) is caches.Held else v) for k, v in layer.items()]


class _Listener:
    """A hook that tells the run of a gradient and lets it go."""

    def __init__(self, run: FoldedRun, place: int, number: int) -> None:
        self.run, self.place, self.number = run, place, number

    def __call__(self, gradient: torch.Tensor) -> None:
        self.run.heard(self.place, self.number, gradient)


class _Folded(NamedTuple):
    run: FoldedRun
    place: int
    carried: list[int | None]


class _Fold(torch.autograd.Function):
    """The one node that stands for a folded block."""

    @staticmethod
    def forward(ctx: Any, folded: _Folded, *inputs: torch.Tensor) -> Any:
        call = folded.run.turn.calls[folded.run.run.template(folded.place)]
        ctx.folded, ctx.inputs = folded, [folded.run.kind(t) for t in inputs]
        ctx.set_materialize_grads(False)
        made = folded.run.make_results(call)
        carried = [t for t, n in zip(inputs, folded.carried, strict=True) if n is not None and folded.run.keeps]
        ctx.save_for_backward(*carried, *(made[number] for number in call.kept))
        ctx.mark_non_differentiable(*(t for t, kind in zip(made, call.kinds, strict=True) if not kind.requires_grad))
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        folded = ctx.folded
        run, place = folded.run, folded.place
        run.came_back(place, gradients)
        down = run.passed_down(place, folded.carried, ctx.inputs, gradients)
        run.give_gradients(place)
        return (None, *down)


def _keeps(tensor: torch.Tensor) -> bool:
    """Whether the node of a tensor saves the tensor itself."""
    node: Any = tensor.grad_fn
    saved = (getattr(node, name) for name in dir(node) if name.startswith("_saved_"))
    return any(isinstance(t, torch.Tensor) and t.data_ptr() == tensor.data_ptr() for t in saved)


# -- what must not be looked at -------------------------------------------------------------------


def _randomness() -> tuple[Any, ...]:
    state = np.random.get_state()
    return random.getstate(), state[1].tobytes(), state[2]  # type: ignore[index]
