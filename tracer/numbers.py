"""Python numbers that autograd keeps: as a factor each is a small host tensor, saved for the other's gradient.

The dispatcher hands such a number on as a number, so that its tensor is never seen. It is born with the op
and dies when the engine is done with the node that saved it, or with that node, where no backward comes to it.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch

from ..graph import Phase
from .log import Log
from .signature import Signature


class _OfNode:
    """Kept by an autograd node among its metadata, and so gone when the node is."""

    def __init__(self, log: Log, sequence: int) -> None:
        self._log, self._sequence = log, sequence

    def __del__(self) -> None:
        self._log.free_number(self._sequence)


class SavedNumbers:
    """The storages of the numbers that are saved now, by the sequence number of the node that saved them."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._evaluated: int | None = None
        self._kept: int | None = None
        self._made: tuple[weakref.ref[torch.Tensor], int] | None = None

    @property
    def waiting(self) -> bool:
        """Whether a number is saved, or has been born just now, so that the next op has to be seen."""
        return self._made is not None or bool(self._log.numbers)

    def before(self, sig: Signature, args: tuple[Any, ...]) -> None:
        """An op is about to be answered: a number may be freed by now, or be born with it."""
        if self._log.numbers:
            self.release()
        if self._made is not None:
            self._watch(*self._made)
            self._made = None
        if sig.keeps_number and not isinstance(args[1], torch.Tensor):
            self._keep(args[0], args[1])

    def _keep(self, tensor: torch.Tensor, number: Any) -> None:
        # With hooks on saved tensors (checkpointing) the number goes where the hook puts it.
        hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
        if torch.is_grad_enabled() and tensor.requires_grad and hooks is None:
            nbytes = 16 if isinstance(number, complex) else 1 if isinstance(number, bool) else 8
            self._kept = torch._C._autograd._get_sequence_nr() - 1
            self._log.keep_number(self._kept, nbytes)

    def after(self, result: Any) -> None:
        """The op has been answered; its result has no node yet."""
        if self._kept is not None:
            self._made = weakref.ref(result), self._kept
            self._kept = None

    def _watch(self, made: weakref.ref[torch.Tensor], sequence: int) -> None:
        tensor = made()
        node = tensor.grad_fn if tensor is not None else None
        if node is not None and node._sequence_nr() == sequence:
            metadata: Any = node.metadata
            metadata[_OfNode] = _OfNode(self._log, sequence)

    def release(self) -> None:
        """A node lets go of what it saved when the engine is done with it, before the next one's first op."""
        node = torch._C._current_autograd_node() if self._log.phase is Phase.BACKWARD else None
        now = node._sequence_nr() if node is not None else None
        if now != self._evaluated:
            self._log.free_number(self._evaluated)
            self._evaluated = now
