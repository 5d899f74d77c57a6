"""Numbers as text: never wider than their column, never a unit too small or too large."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrace.report.format import bar_text, bytes_text, bytes_texts, count_text, doubt_text, seconds_text, share_text


@given(st.integers(0, 2**70))
def test_bytes_have_at_most_four_digits_up_to_pebibytes(count: int) -> None:
    text = bytes_text(count)
    assert re.fullmatch(r"\d+ B|(\d\.\d\d|\d\d\.\d|\d{3,}) [KMGTP]iB", text)
    assert count >= 1000 * 2**50 or len(text) <= 8


@given(st.integers(0, 2**50))
def test_bytes_are_right_to_three_digits(count: int) -> None:
    number, unit = bytes_text(count).split()
    size = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].index(unit)
    assert abs(float(number) * size - count) <= 0.0051 * max(count, 1)


@given(st.integers(0, 2**50), st.integers(0, 2**50))
def test_a_difference_is_never_hidden(one: int, other: int) -> None:
    texts = bytes_texts(one, other)
    assert (texts[0] == texts[1]) == (one == other)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (2**20 - 1, "1.00 MiB"), (10 * 2**30, "10.0 GiB")],
)
def test_bytes_at_the_borders(count: int, text: str) -> None:
    assert bytes_text(count) == text


@given(st.floats(1, 1e26))
def test_counts_have_three_digits(count: float) -> None:
    assert re.fullmatch(r"(\d{1,3}|\d\.\d\d|\d\d\.\d) [kMGTPEZ]?FLOP", count_text(count, "FLOP")) or count > 9.9e23


@given(st.floats(1e-9, 1e6))
def test_seconds_are_right_to_three_digits(seconds: float) -> None:
    number, unit = seconds_text(seconds).split()
    factor = {"s": 1, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}[unit]
    assert float(number) * factor == pytest.approx(seconds, rel=0.0051)


def test_shares_bars_and_doubt() -> None:
    assert [share_text(part, 200) for part in (0, 0.5, 1, 100, 300)] == ["0 %", "<1 %", "<1 %", "50 %", "150 %"]
    assert [bar_text(part, 4, width=4) for part in (0, 1, 4, 5)] == ["....", "#...", "####", "###!"]
    assert doubt_text(1, 1, 1) == "+-0 %"
