"""The dispatch key on which a trace listens: one that PyTorch leaves empty, right below autograd."""

from __future__ import annotations

from typing import Any

import torch

KEY = torch._C._dispatch_key_parse("Fake")
RECORDER_KEY = torch._C.DispatchKeySet(KEY)
"""Excluding it puts the recorder to sleep."""

_BELOW = RECORDER_KEY
for _name in ("ADInplaceOrView", "AutogradFunctionality", "AutogradCPU", "AutogradMeta", "AutogradOther"):
    _BELOW = _BELOW | torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, _name))


def quiet() -> Any:
    """A context in which torch calls of our own go unrecorded, below autograd."""
    return torch._C._ExcludeDispatchKeyGuard(_BELOW)
