"""Text <-> the whole numbers that are compared: ``"24 GiB"``, ``"250 ms"``, ``"+2 %"``.

A *fact* is one number of a step that a baseline holds and a limit may be set on. Each has a unit, says which direction
is worse, and how much worse it may get where nothing else is configured: nothing, as traces repeat exactly; the time is
an estimate whose model moves, and gets 2 %.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..graph import ForetraceError
from ..report.format import bytes_text, bytes_texts, count_text, seconds_text

_BYTES = {"B": 1, **{f"{p}iB": 1024 ** (i + 1) for i, p in enumerate("KMGTP")}}
_BYTES |= {f"{p}B": 1000 ** (i + 1) for i, p in enumerate("kMGTP")} | {"KB": 1000}
_SECONDS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
_FLOPS = {"FLOP": 1, **{f"{p}FLOP": 1000 ** (i + 1) for i, p in enumerate("kMGTPE")}}
_PLAIN = {"": 1}
_TEXT = re.compile(r"([-+]?)\s*([0-9][0-9_,]*(?:\.[0-9]+)?)\s*([A-Za-z%]*)")


@dataclass(frozen=True, slots=True)
class Fact:
    """What is known of a fact beside its number. ``allow`` is what it may get worse by where nothing is configured."""

    words: str
    units: dict[str, int]
    example: str
    allow: str | None = "+0"
    less_is_worse: bool = False


FACTS = {
    "peak": Fact("peak memory", _BYTES, "24 GiB"),
    "reserved": Fact("reserved memory", _BYTES, "24 GiB"),
    "saved": Fact("memory saved for backward", _BYTES, "12 GiB"),
    "kept": Fact("memory kept after the step", _BYTES, "0 B"),
    "flops": Fact("compute", _FLOPS, "11 TFLOP"),
    "time": Fact("step time", _SECONDS, "250 ms", allow="+2%"),
    "max-batch": Fact("the largest batch", _PLAIN, "16", allow="-0", less_is_worse=True),
    "parameters": Fact("parameters", _PLAIN, "1_000_000", allow=None),
}
"""By the name that they have in the configuration and in a baseline; in the order in which they are said."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much worse a fact may get: a number of its units, or a share of what it was."""

    count: int = 0
    percent: float = 0.0

    def of(self, before: int) -> int:
        """The allowance in units, for a fact that was `before`."""
        return self.count + int(before * self.percent / 100)

    def __str__(self) -> str:
        return f"{self.percent:g} %" if self.percent else f"{self.count:,}"


def quantity(fact: str, text: object) -> int:
    """A limit of `fact` in its unit: bytes, nanoseconds, FLOPs, a count.

    >>> quantity("peak", "24 GiB"), quantity("time", "250 ms"), quantity("max-batch", 16), quantity("flops", "2 FLOP")
    (25769803776, 250000000, 16, 2)
    """
    known = FACTS[fact]
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    found = _TEXT.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None or found[1] or found[3] not in {**known.units, "": 1}:
        raise ForetraceError(f"{text!r} is no limit for {fact}", f'Write for example {fact} = "{known.example}".')
    return _scaled(found[2], known.units.get(found[3], 1))


def allowance(fact: str, text: object) -> Allowance:
    """What `fact` may get worse by: ``"+0"``, ``"+100 MiB"``, ``"+2 %"``.

    >>> allowance("time", "+2%"), allowance("peak", "+100 MiB"), allowance("max-batch", "-1")
    (Allowance(count=0, percent=2.0), Allowance(count=104857600, percent=0.0), Allowance(count=1, percent=0.0))
    """
    known = FACTS[fact]
    sign = "-" if known.less_is_worse else "+"
    if isinstance(text, int) and not isinstance(text, bool):
        text = f"{sign}{abs(text)}" if text == 0 or (text < 0) == known.less_is_worse else f"{text}"
    found = _TEXT.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None or found[1] not in (sign, "") or found[3] not in {**known.units, "": 1, "%": 1}:
        raise ForetraceError(f"{text!r} is no allowance for {fact}", f'Write for example {fact} = "{sign}2 %".')
    if found[3] == "%":
        return Allowance(percent=float(found[2].replace("_", "").replace(",", "")))
    return Allowance(count=_scaled(found[2], known.units.get(found[3], 1)))


def _scaled(digits: str, unit: int) -> int:
    whole, _, part = digits.replace("_", "").replace(",", "").partition(".")
    return int(whole) * unit + (int(part) * unit // 10 ** len(part) if part else 0)


def text(fact: str, value: int) -> str:
    """A value of `fact` with three digits and a unit.

    >>> text("peak", 2**30), text("time", 212_000_000), text("flops", 11_203_004_125_184), text("max-batch", 1700)
    ('1.00 GiB', '212 ms', '11.2 TFLOP', '1,700')
    """
    units = FACTS[fact].units if fact in FACTS else _BYTES
    if units is _BYTES:
        return bytes_text(value)
    if units is _SECONDS:
        return f"-{seconds_text(-value / 1e9)}" if value < 0 else seconds_text(value / 1e9)
    return count_text(value, "FLOP") if units is _FLOPS else f"{value:,}"


def texts(fact: str, *values: int) -> tuple[str, ...]:
    """The same for values that are compared: exact where rounding would hide a difference.

    >>> texts("peak", 102_400, 102_401), texts("flops", 10_000_001, 10_000_002)
    (('102,400 B', '102,401 B'), ('10,000,001 FLOP', '10,000,002 FLOP'))
    """
    units = FACTS[fact].units if fact in FACTS else _BYTES
    if units is _BYTES:
        return bytes_texts(*values)
    short = tuple(text(fact, value) for value in values)
    if len(set(short)) == len(set(values)):
        return short
    unit = " ns" if units is _SECONDS else " FLOP" if units is _FLOPS else ""
    return tuple(f"{value:,}{unit}" for value in values)


def change_text(fact: str, before: int, after: int) -> str:
    """By how much, with its sign, and its share of what it was.

    >>> change_text("peak", 38 * 2**30, 41 * 2**30), change_text("kept", 0, 4096), change_text("peak", 5, 5)
    ('+3.00 GiB (+7.9 %)', '+4.00 KiB', '0')
    """
    delta = after - before
    if not delta:
        return "0"
    share = f" ({100 * delta / before:+.1f} %)" if before and abs(delta) * 1000 >= before else ""
    share = share or (f" ({'+' if delta > 0 else '-'}<0.1 %)" if before else "")
    return f"{'+' if delta > 0 else '-'}{text(fact, abs(delta))}{share}"
