"""The heart: every ATen op that PyTorch dispatches becomes a row and, where it allocates, an event.

The recorder is a boxed fallback on a dispatch key that sits right below autograd and that PyTorch
itself leaves empty. While tracing, the key is switched on for this thread, so each op arrives here
after autograd has done its part and before any kernel runs. No dispatch mode is pushed and no tensor
subclass is used, so that neither the model nor PyTorch's C++ can tell that it is being traced.

An op is answered in one of three ways: a view is really taken (it moves no data); an op on known small
values is really computed; everything else gets new storages of the right size from the arena, their
shapes from the op's meta kernel, which is asked once per distinct call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..graph import ForetraceError, Outcome, Phase, Result
from . import foreach, kernels, signature, sparse
from .arena import SMALL_FLOAT_BYTES, SMALL_INTEGER_BYTES, Owner, base_of, holds_values, storage_bytes
from .assumptions import Assumptions
from .bounds import Outside, outside
from .calls import META, dense, describe, fits, has_mask, listed, on_meta, scan
from .choices import ASSIGNS, CHOICES, HALF, fill_places, half
from .corrections import CORRECTIONS, SHAPES, STANDS_FOR_META
from .key import KEY, quiet
from .log import Log
from .numbers import SavedNumbers
from .refusals import refusal
from .replay import AS_RUN, depends_on_data, fill, shapes_of
from .signature import Signature, decompose, in_order
from .special import ITEM, READS, SPECIAL

MAX_OPS = 2_000_000
"""A step with more ops is taken for one that never ends: 50 times those of a model with 100 billion parameters."""


DRAWN = "what was drawn at random here; a real run may draw otherwise"
"""Said where a size or a branch comes to depend on it, such as whether a layer is dropped."""


class Recorder(Log):
    """Runs the ops of one trace. Use it as a context manager around the code to be recorded.

    ``device`` is where the model's tensors claim to be: ``"cpu"`` or ``"cuda:0"``.
    """

    def __init__(
        self,
        device: str,
        assumptions: Assumptions | None = None,
        max_ops: int | None = None,
        capability: tuple[int, int] = (8, 0),
    ) -> None:
        super().__init__(device)
        self.capability = capability
        """Of the GPU whose kernels are chosen."""
        self.max_ops = MAX_OPS if max_ops is None else max_ops
        self.answered = 0
        """Ops answered since the present step began."""
        self.assumptions = assumptions or Assumptions()
        self.looks = 0
        """How often the step looked at values, or drew some at random."""
        self.oldest = 0
        """Writing known values to a storage from before this one counts as a look, too, ..."""
        self.own: frozenset[int] = frozenset()
        """... if it is none of these."""
        self.failed_in: dict[int, Phase] = {}
        """The phase in which an exception passed first out of one, by the identity of the exception."""
        self.failed_at = ""
        """Where the first op failed, with its module."""
        self.asked_for: list[str] = []
        """Devices that Python code is asking a factory for just now, innermost last."""
        self.recording_model = False
        """True while the model's step runs, when C++ code that copies a tensor's options means our device."""
        self.roads: dict[str, Callable[..., Any]] = {}
        """What to run for composite ops that take CUDA's road, where no autograd kernel did (``inference_mode``)."""
        self._signatures: dict[int, Signature] = {}
        self._specs: dict[Any, Any] = {}
        self._guessed: set[str] = set()
        self._numbers = SavedNumbers(self)
        self.outcome: Outcome | None = None
        """Of the op that is being answered, in a real run."""

    # -- switching on and off -------------------------------------------------------------------

    def __enter__(self) -> Recorder:
        _install()
        _active.append(self)
        torch._C._dispatch_tls_set_dispatch_key_included(KEY, True)
        return self

    def __exit__(self, *error: object) -> None:
        _active.pop()
        torch._C._dispatch_tls_set_dispatch_key_included(KEY, bool(_active))

    def forget(self) -> None:
        """Let go of all that was written down: it has become a graph, and some references lead round in circles."""
        for kept in (self.rows, self.copies, self.events, self.markers, self.owners, self._specs, self._signatures):
            kept.clear()
        self.observe = self.progress = None

    def left(self, phase: Phase) -> None:
        """A phase has ended."""
        if phase is Phase.BACKWARD:
            self._numbers.release()
        super().left(phase)

    def release_number(self) -> None:
        """Another node is evaluated than before, which may free a number."""
        if self.numbers:
            self._numbers.release()

    # -- the op ---------------------------------------------------------------------------------

    def signature(self, func: Any) -> Signature:
        """The overload's schema, read once."""
        found = self._signatures.get(id(func))  # torch computes an overload's hash in Python; ours keeps it alive
        if found is None:
            found = self._signatures[id(func)] = signature.read(func)
        return found

    def dispatch(self, sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer one op and record it."""
        self.answered += 1
        if self.answered > self.max_ops:
            raise ForetraceError(
                f"the step goes on after {self.max_ops:,} ops, at {self.where()}",
                "Look for a loop whose end depends on values; give a larger --max-ops if the step is that long.",
            )
        if self.recording and self.markers[-1].phase is not self.phase:
            self._mark()
        if sig.name == ITEM and (owner := self._of_known_number(args[0])) is not None:
            number = sig.func(args[0])
            self.looks += 1
            if self.recording:
                self.record_read(sig, args[0], owner, number)
            return number
        key: list[Any] = []
        given: list[torch.Tensor] = []
        if sig.needs_no_key or sig.name in SPECIAL:
            listed(args, given)
            listed(kwargs.values(), given)
        else:
            key += (sig.name, torch.is_grad_enabled())
            for value in args:
                scan(value, key, given)
            for name, value in kwargs.items():
                key.append(name)
                scan(value, key, given)
        owners = self.owners_of(given)
        in_memory = all(owners)
        self.at_hand = dict(zip(map(id, given), owners, strict=True))
        if sig.keeps_number or self._numbers.waiting:
            self._numbers.before(sig, args)
        place = kwargs.get("device")
        if (place is not None and place.type == "meta") or (not in_memory and any(t.is_meta for t in given)):
            self.at_hand = {}
            # To fill what has no memory changes nothing, and the meta kernels of it are slow.
            return args[0] if sig.overwrites and len(given) == 1 and args else sig.func(*args, **kwargs)
        if self.assumptions.replay is not None:
            self.outcome = self._outcome_of(sig, args)
        if sig.told_from_lists and in_memory and self._passes_over(sig, args, owners):
            self.at_hand = {}
            return None
        answer = SPECIAL.get(sig.name)
        if answer is not None:
            self.at_hand = {}
            self.looks += sig.name in READS
            result = answer(self, sig, args, kwargs, owners)
        elif not in_memory and any(t.layout is not torch.strided for t in given):
            result = sparse.answer(self, sig, args, kwargs)
        elif sig.view or sig.restrides:
            result = sig.func(*args, **kwargs)
            if sig.restrides:
                self.at_hand = {}
        else:
            result = self._compute(sig, tuple(key), args, kwargs, given, owners)
        if sig.keeps_number:
            self._numbers.after(result)
        if self.recording:
            self.record(sig, args, kwargs, result)
        self.at_hand = {}
        return result

    def _passes_over(self, sig: Signature, args: tuple[Any, ...], owners: list[Any]) -> bool:
        """Whether all that comes of an op on lists is that what it writes to is unknown: nobody writes it down."""
        if self.recording or not sig.mutates or all(owner.known for owner in owners):
            return False
        for owner in owners[: len(args[0])]:
            owner.known = False
        return True

    def _of_known_number(self, tensor: torch.Tensor) -> Owner | None:
        """What is known of a tensor whose number can be read with no more ado; else None."""
        if self._numbers.waiting or self.assumptions.replay is not None or tensor.layout is not torch.strided:
            return None
        owner = self.owners.get(tensor.data_ptr()) if not tensor.is_meta else None
        return owner if owner is not None and owner.known and not owner.assumed else None

    def _compute(
        self,
        sig: Signature,
        key: tuple[Any, ...],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        given: list[torch.Tensor],
        owners: list[Owner | None],
    ) -> Any:
        if sig.name in ASSIGNS:
            self._assume_mask(sig, *ASSIGNS[sig.name](args))
        read = [] if sig.name in _LIKE else owners
        known = all(owner is None or owner.known for owner in read)
        if sig.dynamic and sig.name not in STANDS_FOR_META and (sig.name != "aten.index.Tensor" or has_mask(args[1])):
            return self._dynamic(sig, args, kwargs, owners, known)
        spec = self._specs.get(key) if key else self._ask(sig, args, kwargs)
        if spec is None:
            refused = refusal(sig, args, kwargs, given, self.device)
            if refused:
                raise RuntimeError(refused)
            spec = self._specs[key] = self._asked_once(sig, key, args, kwargs)
        if sig.name in self._guessed:
            self.looks += 1
            self.assumptions.say(sig.name, "its results are like its first input", self.where(), told=True)
        if sig.name in _ZEROS:
            return self._zeros(spec[1][0], self._device(kwargs, owners))
        if (known or sig.overwrites) and self._is_small(sig, spec, args, kwargs, given, owners):
            # The CPU may have no kernel for a dtype for which the GPU has one, and numbers that were drawn for a spec
            # may lie beside a small table that they are looked up in: then there are no values.
            try:
                return self._with_values(sig, args, kwargs, owners)
            except (NotImplementedError, IndexError):
                pass
            except RuntimeError as error:
                if self.device == "cpu" or not any(said in str(error) for said in _NO_KERNEL):
                    raise
        if sig.takes_indices:
            given_by_name = dict(zip(sig.names, args, strict=False)) | kwargs
            if said := outside(sig.name, given_by_name, self._is_certain):
                raise Outside(said)
        device = self._device(kwargs, owners)
        for owner in self.written(sig, args, kwargs):
            owner.known = False
        result = self._allocate(spec, in_order(sig, args, kwargs), device)
        return self._assume(sig, args, kwargs, result) if sig.name.split(".")[1] in CHOICES else result

    def _with_values(
        self, sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any], owners: list[Owner | None]
    ) -> Any:
        result = self.really(sig, args, kwargs, owners)
        self.looks += sig.random
        if self.outcome is not None and (sig.random or any(owner and owner.assumed for owner in owners)):
            return self._fill(sig, result, self.outcome)
        chance = sig.random and self.recording_model
        return self._marked(result, (sig.name, DRAWN, self.where())) if chance else result

    def _zeros(self, item: Any, device: str) -> torch.Tensor:
        """Zeros as described. What is small is known: new memory holds zeros."""
        _, shape, strides, dtype = item
        known = holds_values(storage_bytes(shape, strides, dtype.itemsize), dtype)
        return self.new(shape, strides, dtype, device, known)

    def _is_small(
        self,
        sig: Signature,
        spec: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        given: list[torch.Tensor],
        owners: list[Owner | None],
    ) -> bool:
        """Whether the op can be computed for real: all it reads is known, all it writes can hold values."""
        if sig.name.startswith("aten.empty") or sig.name.startswith("aten.new_empty"):
            return False
        if sig.name in _WIDENING and args[2]:
            return False  # half_to_float, which only GPUs have a kernel for
        if any(tensor.numel() > SMALL_INTEGER_BYTES for tensor in given):
            return False  # one value seen as many, as the gradient of a sum is: it would be read that many times
        # What derives from masks, ids and lengths may be as large as these, also where it is a float.
        wide = sig.name not in _LIKE and any(
            owner is not None and (owner.bytes > SMALL_FLOAT_BYTES or not t.is_floating_point())
            for t, owner in zip(given, owners, strict=True)
        )
        if any(not fits(item, wide) for item in spec[1]):
            return False
        written = self.written(sig, args, kwargs)
        if not sig.overwrites:
            return all(owner.small for owner in written)
        target = args[0]
        reads = [owner for owner in owners[1:] if owner is not None]
        whole = written and written[0].small and target.numel() * target.itemsize == written[0].bytes
        return bool(whole or (written and written[0].known)) and all(owner.known for owner in reads)

    def really(self, sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any], owners: list[Owner | None]) -> Any:
        """Run the op on real values and move what it returns into the arena."""
        device = self._device(kwargs, owners)
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        assumed = next((owner.assumed for owner in owners if owner is not None and owner.assumed), None)
        drawn = any(owner is not None and owner.drawn for owner in owners)
        for owner in self.written(sig, args, kwargs):
            owner.known, owner.assumed, owner.drawn = True, assumed, drawn
            self.looks += owner.id < self.oldest and owner.id not in self.own
        if assumed and sig.dynamic:
            self.assumptions.say(*assumed)
        if sig.mutates and any(t.numel() == 0 for t in self._mutated(sig, args, kwargs)):
            result = self._house(self._on_copies(sig, args, kwargs, device), device)
        else:
            result = self._house(sig.func(*args, **kwargs), device)
        return self._marked(result, assumed, drawn) if assumed or drawn else result

    def _on_copies(self, sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any], device: str) -> Any:
        """Run an op that fills empty tensors, which it resizes: on memory of PyTorch's own, then moved to ours."""
        copies = tuple(a.clone() if isinstance(a, torch.Tensor) else a for a in args)
        named = {name: v.clone() if isinstance(v, torch.Tensor) else v for name, v in kwargs.items()}
        result = sig.func(*copies, **named)
        for old, new in zip(self._mutated(sig, args, kwargs), self._mutated(sig, copies, named), strict=True):
            if old.shape == new.shape:
                old.copy_(new)
            else:
                old.set_(self.new(tuple(new.shape), new.stride(), new.dtype, device, known=True).copy_(new))  # type: ignore[call-overload]
        back = dict(zip(map(id, (*copies, *named.values())), (*args, *kwargs.values()), strict=True))
        return back.get(id(result), result)

    def _marked(self, result: Any, assumed: tuple[str, str, str] | None, drawn: bool = False) -> Any:
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            owner = self.owner_of(tensor) if isinstance(tensor, torch.Tensor) else None
            if owner is not None:
                owner.assumed, owner.drawn = assumed, drawn
        return result

    def take(self, tensor: torch.Tensor, value: Any, assumed: tuple[str, str, str]) -> None:
        """Give an unknown tensor one value throughout, by an assumption."""
        owner = self.owner_of(tensor)
        if owner is not None and owner.small:
            with quiet():
                tensor.fill_(value)
            owner.known, owner.assumed = True, assumed

    def _outcome_of(self, sig: Signature, args: tuple[Any, ...]) -> Outcome | None:
        """What the next call like this gave in the real run that is replayed."""
        replay = self.assumptions.replay
        return replay.next(sig.name, self.where()) if replay is not None and depends_on_data(sig, args) else None

    def _as_run(self, found: Result, device: str) -> torch.Tensor:
        """A tensor like one that a real run made."""
        dtype = getattr(torch, found.dtype)
        kind = ("new", found.shape, dense(found.shape), dtype)
        return self._make(kind if found.bytes is None else ("within", *kind[1:], found.bytes), (), device)

    def _fill(self, sig: Signature, result: Any, outcome: Outcome) -> Any:
        """Values of a real run for results that can hold them."""
        tensors = result if isinstance(result, (tuple, list)) else (result,)
        for tensor, found in zip(tensors, outcome.results, strict=False):
            owner = self.owner_of(tensor)
            if owner is not None and owner.small and fill(tensor, found):
                owner.known, owner.assumed = True, (sig.name, AS_RUN, self.where())
        return result

    def read(self, owner: Owner, dtype: torch.dtype) -> None:
        """The program looks at values: say so where they are assumed."""
        self.looks += 1
        if owner.assumed:
            self.assumptions.say(*owner.assumed)
        elif not owner.known:
            self.assumptions.scalar(dtype, self.where())

    def _assume(self, sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
        """Values for what a choice among unknown numbers returns."""
        if self.outcome is not None and any(found.values is not None for found in self.outcome.results):
            return self._fill(sig, result, self.outcome)
        choice = CHOICES[sig.name.split(".")[1]]
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            owner = self.owner_of(tensor)
            chosen = choice.of_floats or not tensor.is_floating_point()
            values = choice.values(tensor, args, kwargs) if owner is not None and owner.small and chosen else None
            if owner is not None and values is not None:
                tensor.copy_(values)
                owner.known, owner.assumed = True, (sig.name, choice.assumed, self.where())
        return result

    def _assume_mask(self, sig: Signature, masks: Any, parts: Any) -> None:
        """Let an unknown mask pick half of the elements where known integers are assigned by it."""
        mask: Any = masks[0] if len(masks) == 1 else None
        owner = self.owner_of(mask) if mask is not None and mask.dtype is torch.bool else None
        if owner is None or owner.known or not owner.small:
            return
        if mask.numel() == owner.bytes and not parts[0].is_floating_point() and self._all_known(parts):
            with quiet():
                mask.copy_(half(tuple(mask.shape), self.assumptions.next_mask()))
            owner.known, owner.assumed = True, (sig.name, HALF, self.where())

    def _house(self, value: Any, device: str) -> Any:
        if isinstance(value, torch.Tensor):
            if value.numel() == 0 or base_of(value) in self.owners:
                return value
            shape, strides, held = tuple(value.shape), value.stride(), value.untyped_storage().nbytes()
            if held <= storage_bytes(shape, strides, value.itemsize):
                return self.new(shape, strides, value.dtype, device, known=True).copy_(value)
            # A kernel may resize what it has allocated, which keeps the memory.
            whole = self.new((held // value.itemsize,), (1,), value.dtype, device, known=True)
            return whole.as_strided(shape, strides).copy_(value)
        if isinstance(value, (tuple, list)):
            return type(value)(self._house(v, device) for v in value)
        return value

    def _dynamic(
        self, sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any], owners: list[Owner | None], known: bool
    ) -> Any:
        self.looks += 1
        told = self.outcome is not None or self.assumptions.is_set(sig.name, self.where())
        if known and not (told and any(owner and owner.assumed for owner in owners)):
            return self.really(sig, args, kwargs, owners)
        if not told and sig.name in _SIZE_FROM and self._all_known(_SIZE_FROM[sig.name](args)):
            return self._allocate(self._sized(sig, args, kwargs), args, self._device(kwargs, owners))
        shapes = self.assumptions.shapes(sig.name, args, kwargs, self.where(), self.outcome)
        if shapes is None:
            asked = kernels.ask(sig.func, args, kwargs)
            if asked is not None:
                run = None if self.outcome is None else [found.shape for found in self.outcome.results]
                what = AS_RUN if run == [item[1] for item in asked[1]] else _AS_RANDOM
                self.assumptions.say(sig.name, what, self.where())
                return self._allocate(asked, args, self._device(kwargs, owners))
            if self.outcome is None or self.outcome.given != shapes_of((*args, *kwargs.values())):
                raise self.refusal(sig, _NO_VALUES)
            self.assumptions.say(sig.name, AS_RUN, self.where())
            shapes = [(found.shape, getattr(torch, found.dtype)) for found in self.outcome.results]
        device = self._device(kwargs, owners)
        if self.outcome and [shape for shape, _ in shapes] == [found.shape for found in self.outcome.results]:
            made = [self._as_run(found, device) for found in self.outcome.results]
            self._fill(sig, made, self.outcome)
            return made[0] if len(made) == 1 and len(sig.func._schema.returns) == 1 else tuple(made)
        made = [self.new(shape, dense(shape), dtype, device) for shape, dtype in shapes]
        for place in fill_places(sig.name, made, args):
            owner = self.owner_of(made[place])
            if owner is not None:
                owner.known, owner.assumed = True, (sig.name, "which ones they are", self.where())
        return made[0] if len(made) == 1 and len(sig.func._schema.returns) == 1 else tuple(made)

    def _sized(self, sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The description of what known masks pick of unknown values."""
        if sig.name == "aten.masked_select.default":
            mask = torch.broadcast_to(args[1], torch.broadcast_shapes(args[0].shape, args[1].shape))
            return (None, [("new", (int(torch.count_nonzero(mask)),), (1,), args[0].dtype)])
        places: list[Any] = []
        for index in args[1]:
            masks = index is not None and index.dtype in (torch.bool, torch.uint8)
            places += _counted(index) if masks else [index]
        return self._ask(sig, (args[0], places), kwargs)

    def _is_certain(self, tensor: torch.Tensor) -> bool:
        """Whether the values are those that a real run has: known, not assumed, and not drawn for a spec."""
        owner = self.owner_of(tensor)
        return owner is None or (owner.known and not owner.assumed and not owner.drawn)

    def _all_known(self, tensors: Any) -> bool:
        found = [self.owner_of(t) for t in tensors if t is not None]
        return all(owner is None or owner.known for owner in found)

    def _asked_once(self, sig: Signature, key: tuple[Any, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The answer for PyTorch's own ops is the same in every trace: a search or a sweep asks once a process."""
        if not (sig.name.startswith("aten.") and all(type(part) in _LASTING for part in key)):
            return self._ask(sig, args, kwargs)
        place = (self.device, torch.get_default_dtype(), key)
        spec = _asked.get(place)
        if spec is None:
            spec = self._ask(sig, args, kwargs)
            if sig.name not in self._guessed:
                if len(_asked) >= _MOST_ASKED:
                    _asked.clear()
                _asked[place] = spec
        return spec

    def _ask(self, sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Ask the meta kernel for the shapes: the container of the results and a description of each."""
        if sig.name in SHAPES:
            results = SHAPES[sig.name](args)
            return (tuple if len(sig.aliases) > 1 else None, results)
        if sig.told_from_lists and (told := foreach.answer(sig, args)) is not None:
            return told
        if self.device == "cpu" and sig.name in kernels.CPU_DIFFERS:
            asked = kernels.ask(sig.func, args, kwargs)
            if asked is not None:
                return asked
        twins: dict[int, torch.Tensor] = {}
        meta_args = tuple(on_meta(a, twins) for a in args)
        meta_kwargs = {name: on_meta(v, twins) for name, v in kwargs.items()}
        if meta_kwargs.get("device") is not None or (not twins and "device" in sig.names):
            meta_kwargs["device"] = META
        meta_kwargs.pop("pin_memory", None)
        try:
            result = STANDS_FOR_META.get(sig.name, sig.func)(*meta_args, **meta_kwargs)
        except Exception as error:
            self.failed_at = self.failed_at or self.where()
            if isinstance(error, NotImplementedError) or "no fake impl" in str(error):
                if self.assumptions.setting("unknown", self.where()) and meta_args:
                    return self._like_first(sig, args)
                asked = kernels.ask(sig.func, args, kwargs)
                if asked is not None:
                    return asked
                raise self.refusal(sig, "it has no meta kernel to tell its output's shape") from error
            raise
        if any(isinstance(r, torch.Tensor) and r.layout is not torch.strided for r in _listed(result)):
            raise self.refusal(sig, f"what its {str(_listed(result)[0].layout)[6:]} tensor holds is not known")
        back = {id(meta): meta for meta in twins.values()}
        meta_args = in_order(sig, meta_args, meta_kwargs)
        single = not isinstance(result, (tuple, list))
        results = [result] if single else list(result)
        # An op on lists (foreach) that returns nothing has no result to describe.
        aliases = sig.aliases if len(sig.aliases) == len(results) else (None,) * len(results)
        spec = [describe(r, alias, back, meta_args) for r, alias in zip(results, aliases, strict=True)]
        correct = CORRECTIONS.get(sig.name)
        return (type(result) if not single else None, correct(spec, args, self.device) if correct is not None else spec)

    def _like_first(self, sig: Signature, args: tuple[Any, ...]) -> Any:
        """Results like the first tensor that is given, for an op of which nothing is known."""
        first = next((a for a in args if isinstance(a, torch.Tensor)), None)
        if first is None:
            raise self.refusal(sig, "it has no meta kernel and is given no tensor that its results could be like")
        shape = tuple(first.shape)
        self._guessed.add(sig.name)
        spec = [("new", shape, dense(shape), first.dtype) for _ in sig.aliases]
        return (tuple if len(spec) > 1 else None, spec)

    def _allocate(self, spec: Any, args: tuple[Any, ...], device: str) -> Any:
        container, items = spec
        made = [self._make(item, args, device) for item in items]
        if container is None:
            return made[0]
        return made if container is list else tuple(made)

    def _make(self, item: Any, args: tuple[Any, ...], device: str) -> Any:
        kind = item[0]
        if kind == "new":
            return self.new(item[1], item[2], item[3], device)
        if kind == "within":
            return self.new((item[4] // item[3].itemsize,), (1,), item[3], device).as_strided(item[1], item[2])
        if kind == "argument":
            return self._resized(args[item[1]], item[2])
        if kind == "list":
            return [self._make(i, args, device) for i in item[1]]
        return item[1]

    def _resized(self, tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        if tuple(tensor.shape) != shape:
            self.at_hand = {}
            tensor.set_(self.new(shape, dense(shape), tensor.dtype, self.claimed(tensor)))  # type: ignore[call-overload]
        return tensor

    def written(self, sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Owner]:
        """The storages that the call writes to."""
        if not sig.mutates:
            return []
        found = []
        for tensor in self._mutated(sig, args, kwargs):
            owner = self.at_hand.get(id(tensor)) or self.owner_of(tensor)
            if owner is not None:
                found.append(owner)
        return found

    def _mutated(self, sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
        found = []
        for name in sig.mutates:
            position = sig.names.index(name)
            value = args[position] if position < len(args) else kwargs.get(name)
            found += [t for t in _listed(value) if isinstance(t, torch.Tensor)]
        return found

    def emit(self, func: Any, args: tuple[Any, ...], results: list[tuple[tuple[int, ...], torch.dtype]]) -> Any:
        """Record an op that this build of torch has no kernel for; its results are new, of these shapes and dtypes."""
        self.at_hand = {}
        with quiet():
            owners = [self.owner_of(a) for a in args if isinstance(a, torch.Tensor)]
            device = self._device({}, owners)
            made = tuple(self.new(shape, dense(shape), dtype, device) for shape, dtype in results)
            if self.recording:
                self.record(self.signature(func), args, {}, made)
            return made

    # -- devices --------------------------------------------------------------------------------

    def _device(self, kwargs: dict[str, Any], owners: list[Owner | None]) -> str:
        """Where an op's results are: where it is told, else where its inputs are."""
        place = kwargs.get("device")
        if place is not None and place.type != "cpu":
            return self.device if place.type == torch.device(self.device).type else str(place)
        if self.asked_for:
            return self.asked_for[-1]
        claims = [owner.device for owner in owners if owner is not None]
        if not claims:
            return self.device if self.recording_model else "cpu"
        return next((device for device in claims if device != "cpu"), "cpu")

    def refusal(self, sig: Signature, reason: str) -> ForetraceError:
        """The error for an op that cannot be traced."""
        return ForetraceError(
            f"{sig.name} cannot be traced at {self.where()}: {reason}",
            f"Register its shapes with torch.library.register_fake({sig.func.name()!r}, ...), "
            "or let them be assumed with --assume-unknown.",
        )


# -- sizes --------------------------------------------------------------------------------------


_AS_RANDOM = "its results are as large as for random numbers"
_NO_KERNEL = ("expected scalar type", "doesn't support tensors of type")
"""How kernels of the CPU refuse a dtype, where they do not say that they are not implemented for it."""
_NO_VALUES = "its result depends on the values of its input, which a trace does not have"


_SIZE_FROM: dict[str, Callable[..., Any]] = {
    "aten.index.Tensor": lambda args: args[1],
    "aten.masked_select.default": lambda args: args[1:2],
}
"""Ops whose result's size depends on the values of some of their arguments only: on these."""


_WIDENING = ("aten._softmax.default", "aten._log_softmax.default")
"""Ops that may widen float16 in the same kernel."""


_LIKE = frozenset(
    f"aten.{name}.default" for name in ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
)
"""Ops that take shape and dtype of what they are given, and read no values."""

_LASTING = frozenset(
    {
        *(str, bool, int, float, complex, type, tuple, type(None)),
        *(torch.dtype, torch.device, torch.layout, torch.memory_format),
    }
)
"""What may stand in a key that outlives the trace."""

_asked: dict[Any, Any] = {}
_MOST_ASKED = 20_000

_ZEROS = frozenset({"aten.zeros_like.default", "aten.new_zeros.default"})
"""Those that make zeros of it."""


def _listed(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else (value,)


def _counted(mask: torch.Tensor) -> list[torch.Tensor]:
    """The places where a known mask is true, one list a dimension, without their values."""
    count = int(torch.count_nonzero(mask))
    return [torch.empty(count, dtype=torch.int64, device=META) for _ in range(mask.dim())]


# -- the fallback -------------------------------------------------------------------------------

_active: list[Recorder] = []
_library: list[torch.library.Library] = []


def _install() -> None:
    """Register the fallback, once a process. It sleeps until the key is switched on for a thread."""
    if not _library:
        library = torch.library.Library("_", "IMPL", "Fake")
        library.fallback(_fallback)
        _library.append(library)


def _fallback(func: Any, *args: Any, **kwargs: Any) -> Any:
    recorder = _active[-1] if _active else None
    if recorder is None:
        with quiet():
            return func(*args, **kwargs)
    sig = recorder.signature(func)
    if sig.name in recorder.roads:
        return recorder.roads[sig.name](*args, **kwargs)
    if sig.composite:
        return decompose(func, *args, **kwargs)
    if sig.name in sparse.INSTEAD and (made := sparse.INSTEAD[sig.name](*args, **kwargs)) is not None:
        return made
    with quiet():
        return func(*args, **kwargs) if sig.of_profiler else recorder.dispatch(sig, args, kwargs)
