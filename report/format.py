"""Numbers -> the text that a person reads. Bytes are IEC (1 GiB = 2^30), everything else is decimal.

No other file turns a number into text with a unit, so that one quantity looks the same in every view.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_DECIMAL_UNITS = ("", "k", "M", "G", "T", "P", "E", "Z")


def bytes_text(count: int) -> str:
    """Three digits and an IEC unit.

    >>> bytes_text(41_231_686_144), bytes_text(264 * 2**20), bytes_text(512), bytes_text(1023 * 2**30)
    ('38.4 GiB', '264 MiB', '512 B', '1023 GiB')
    """
    power = next((p for p in range(len(_BYTE_UNITS) - 1) if abs(count) < 1023.5 * 1024**p), len(_BYTE_UNITS) - 1)
    return f"{count} B" if not power else f"{_three_digits(count / 1024**power)} {_BYTE_UNITS[power]}"


def bytes_texts(*counts: int) -> tuple[str, ...]:
    """The same for numbers that are compared: exact bytes for all where rounding would hide a difference.

    >>> bytes_texts(102_400, 102_401), bytes_texts(2**30, 2**31)
    (('102,400 B', '102,401 B'), ('1.00 GiB', '2.00 GiB'))
    """
    texts = tuple(bytes_text(count) for count in counts)
    return tuple(f"{count:,} B" for count in counts) if len(set(texts)) < len(set(counts)) else texts


def exact_bytes_text(count: int, signed: bool = False) -> str:
    """Every digit, for numbers that are to be equal; with a sign where it is a difference.

    >>> exact_bytes_text(102_401), exact_bytes_text(12, signed=True), exact_bytes_text(0, signed=True)
    ('102,401 B', '+12 B', '0 B')
    """
    return f"{count:+,} B" if signed and count else f"{count:,} B"


def count_text(count: float, unit: str) -> str:
    """Three digits, a decimal prefix and the unit.

    >>> count_text(11_203_004_125_184, "FLOP"), count_text(312e12, "FLOP/s"), count_text(999_999, "FLOP")
    ('11.2 TFLOP', '312 TFLOP/s', '1.00 MFLOP')
    """
    power = next((p for p in range(len(_DECIMAL_UNITS) - 1) if abs(count) < 999.5 * 1000**p), len(_DECIMAL_UNITS) - 1)
    number = f"{count:.0f}" if not power else _three_digits(count / 1000**power)
    return f"{number} {_DECIMAL_UNITS[power]}{unit}"


def seconds_text(seconds: float) -> str:
    """Three digits and the unit that suits them.

    >>> seconds_text(0.2123), seconds_text(1.5), seconds_text(4.2e-6), seconds_text(0), seconds_text(615)
    ('212 ms', '1.50 s', '4.20 us', '0 s', '615 s')
    """
    if not seconds:
        return "0 s"
    factor, unit = next(
        ((f, u) for f, u in ((1.0, "s"), (1e3, "ms"), (1e6, "us")) if seconds * f >= 0.9995), (1e9, "ns")
    )
    return f"{_three_digits(seconds * factor)} {unit}"


def share_text(part: float, whole: float) -> str:
    """Whole percent; what is there but less than one is said to be.

    >>> share_text(48, 100), share_text(1, 1000), share_text(0, 5), share_text(1, 0)
    ('48 %', '<1 %', '0 %', '-')
    """
    if not whole:
        return "-"
    percent = 100 * part / whole
    return "<1 %" if 0 < percent < 1 else f"{percent:.0f} %"


def doubt_text(low: float, typical: float, high: float) -> str:
    """An interval around a value: one number where it is even, two where it is not.

    >>> doubt_text(0.75, 1.0, 1.25), doubt_text(0.8, 1.0, 1.4), doubt_text(0, 0, 0)
    ('+-25 %', '-20 / +40 %', '')
    """
    if not typical:
        return ""
    below, above = round(100 * (typical - low) / typical), round(100 * (high - typical) / typical)
    return f"+-{above} %" if below == above else f"-{below} / +{above} %"


def bar_text(part: float, whole: float, width: int = 20) -> str:
    """A bar of ``#`` for the part and ``.`` for the rest; ``!`` at its end says that the part is more than the whole.

    >>> bar_text(48, 100), bar_text(150, 100)
    ('##########..........', '###################!')
    """
    if part > whole:
        return "#" * (width - 1) + "!"
    filled = round(width * part / whole) if whole else 0
    return "#" * filled + "." * (width - filled)


def _three_digits(number: float) -> str:
    places = 2 if abs(number) < 9.995 else 1 if abs(number) < 99.95 else 0
    return f"{number:.{places}f}"


MOST_LINE = 400
"""Letters of a line on a screen: only a name that nobody reads is longer."""


def visible(text: str) -> str:
    """A text that a terminal shows and does not obey: escapes, line breaks and the like are question marks.

    >>> visible("\\x1b[31mred\\nline")
    '?[31mred?line'
    """
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


def screen(blocks: Iterable[Sequence[str]]) -> str:
    """Blocks of lines as one text: an empty line between them, no spaces at line ends, a newline at the end.

    Names in a trace are untrusted: a line stays one line of reasonable length, and holds nothing but letters.
    """
    return "\n\n".join("\n".join(map(_shown, block)) for block in blocks if block) + "\n"


def _shown(line: str) -> str:
    cut = line if len(line) <= MOST_LINE else f"{line[: MOST_LINE - 2]}.."
    return visible(cut.rstrip())
