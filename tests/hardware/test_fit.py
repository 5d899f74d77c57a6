from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from foretrace.hardware.fit import LARGEST, largest


@given(some.integers(0, 5000))
def test_the_largest_number_that_fits_is_found_with_few_questions(limit: int) -> None:
    asked: list[int] = []

    def fits(number: int) -> bool:
        asked.append(number)
        return number <= limit

    assert largest(fits) == limit
    assert len(asked) == len(set(asked)) <= 2 * limit.bit_length() + 1


def test_what_always_fits_has_no_largest() -> None:
    with pytest.raises(ValueError, match="and so may anything"):
        largest(lambda number: number <= LARGEST)
