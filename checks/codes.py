"""The codes of findings, with what each means and what to do: what ``foretrace explain CODE`` prints.

A *finding* is one fact of one target that is worse than what was agreed on. M is memory, T is time, F is FLOPs, C is
how sure the numbers are, B is the baseline itself.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """What a code stands for. ``fact`` is the number that it is about, where it is about one."""

    code: str
    title: str
    meaning: str
    mend: str
    fact: str = ""
    budget: bool = False


_ACCEPT = "To accept it, run foretrace check --update and commit the baseline."
_RAISE = "Make the step smaller, or raise the budget in the configuration."

_ALL = (
    Code(
        "M001",
        "peak over budget",
        "The most bytes that are live at once during the step (torch.cuda.max_memory_allocated) are more than "
        "the budget of the target.",
        _RAISE,
        "peak",
        True,
    ),
    Code(
        "M002",
        "peak grew",
        "The most bytes that are live at once during the step are more than the baseline says. Traces repeat to the "
        "byte, so nothing is allowed by default. The line named is the one whose part of the peak grew most.",
        _ACCEPT,
        "peak",
    ),
    Code(
        "M003",
        "saved for backward grew",
        "Autograd keeps more bytes from forward to backward than the baseline says. Usual causes: a copy in a wider "
        "dtype, a layer that is now differentiated, checkpointing that was turned off, larger activations.",
        "Use torch.no_grad() or .detach() for what needs no gradient, or checkpoint the module. " + _ACCEPT,
        "saved",
    ),
    Code(
        "M004",
        "largest batch fell",
        "The largest batch that fits on the hardware profile is smaller than the baseline says.",
        _ACCEPT,
        "max-batch",
    ),
    Code(
        "M005",
        "memory is kept from step to step",
        "The step ends with more live bytes than it began with, and so does every step after it: something that the "
        "step made is still referred to, such as a tensor appended to a list, or a loss that is summed with its graph.",
        "Keep tensor.item() or tensor.detach() in place of the tensor, or clear the list. " + _ACCEPT,
        "kept",
    ),
    Code(
        "M006",
        "reserved memory grew",
        "The caching allocator holds more at its peak (torch.cuda.max_memory_reserved) than the baseline says.",
        _ACCEPT,
        "reserved",
    ),
    Code(
        "M007",
        "reserved memory over budget",
        "The caching allocator holds more at its peak (torch.cuda.max_memory_reserved) than the budget of the target.",
        _RAISE,
        "reserved",
        True,
    ),
    Code(
        "M008",
        "saved for backward over budget",
        "Autograd keeps more bytes from forward to backward than the budget of the target.",
        _RAISE,
        "saved",
        True,
    ),
    Code(
        "M009",
        "largest batch under budget",
        "The largest batch that fits on the hardware profile is smaller than the target asks for.",
        _RAISE,
        "max-batch",
        True,
    ),
    Code(
        "T001",
        "step time over budget",
        "The estimated time of the step on the hardware profile is more than the budget of the target. The estimate "
        "is a roofline; foretrace run prints its uncertainty.",
        _RAISE,
        "time",
        True,
    ),
    Code(
        "T002",
        "step time grew",
        "The estimated time of the step on the hardware profile is more than the baseline says and 2 % on top, or "
        "what the target allows.",
        _ACCEPT,
        "time",
    ),
    Code(
        "F001",
        "compute grew",
        "The FLOPs of the step, forward, backward and optimizer, are more than the baseline says.",
        _ACCEPT,
        "flops",
    ),
    Code(
        "F002",
        "compute over budget",
        "The FLOPs of the step are more than the budget of the target.",
        _RAISE,
        "flops",
        True,
    ),
    Code(
        "C001",
        "an op is priced by assumption",
        "The step runs an op that no rule knows and that the baseline does not list: its FLOPs and its traffic are "
        "those of an elementwise op, so time and FLOPs are less sure. Its memory is exact.",
        "Register a rule for it (plugins in the configuration). " + _ACCEPT,
    ),
    Code(
        "C002",
        "the step depends on data in a new place",
        "A size or a branch depends on values that a trace does not have, and a default stands for them that the "
        "baseline does not list.",
        "Say what holds with assume in the configuration. " + _ACCEPT,
    ),
    Code(
        "B001",
        "the baseline does not know the target",
        "The target is configured and the baseline has no numbers for it, so that nothing can be compared.",
        "Run foretrace check --update and commit the baseline.",
    ),
)

CODES = {entry.code: entry for entry in _ALL}


def explain(code: str) -> str:
    """What a code means, as lines of at most 80 columns.

    >>> print(explain("M004"), end="")
    M004: largest batch fell
    <BLANKLINE>
    The largest batch that fits on the hardware profile is smaller than the baseline
    says.
    <BLANKLINE>
    To accept it, run foretrace check --update and commit the baseline.
    """
    from textwrap import fill

    entry = CODES[code]
    return "\n".join((f"{entry.code}: {entry.title}", "", fill(entry.meaning, 80), "", fill(entry.mend, 80), ""))


def listing() -> str:
    """All codes, a line each."""
    return "".join(f"  {entry.code}  {entry.title}\n" for entry in CODES.values())
