"""Published times of single products and of steps: the data is whole, and the shipped profiles meet what is claimed."""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import median

import pytest
from fit_kernels import Timed, errors, products

from foretrace.hardware import load, names
from foretrace.hardware.constants import constants

DATA = Path(__file__).parents[2] / "benchmarks" / "data"
LARGEST_TOTAL = 3_000_000


@pytest.fixture(scope="module")
def timed() -> list[Timed]:
    return products()


@pytest.mark.parametrize(
    ("profile", "dtype", "kind", "most"),
    [
        ("a100-pcie-80gb", "float32", "matrix", 0.08),
        ("a100-pcie-80gb", "float32", "batched", 0.04),
        ("a100-pcie-80gb", "bfloat16", "matrix", 0.06),
        ("a100-pcie-40gb", "float32", "matrix", 0.09),
        ("a100-pcie-40gb", "float32", "batched", 0.06),
        ("h100-sxm5-80gb", "float32", "matrix", 0.07),
        ("v100-pcie-32gb", "float32", "matrix", 0.07),
    ],
)
def test_median_error_of_products_that_nothing_was_fitted_to(
    timed: list[Timed], profile: str, dtype: str, kind: str, most: float
) -> None:
    one = load(profile)
    held = [t for t in timed if (t.profile, t.dtype, t.problem.kind) == (profile, dtype, kind) and not t.is_fitted]
    found = errors(held, one, one.matmul_efficiency[dtype].typical, constants())
    assert len(found) > 100
    assert median(found) < most


def test_shapes_are_split_whole(timed: list[Timed]) -> None:
    sides: dict[tuple[int, int], set[bool]] = {}
    for one in timed:
        sides.setdefault((one.problem.n, one.problem.k), set()).add(one.is_fitted)
    assert all(len(found) == 1 for found in sides.values())
    assert {True, False} == set.union(*sides.values())


def test_every_step_time_has_a_source_and_a_profile() -> None:
    with open(DATA / "step_times.csv", newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) > 500
    for row in rows:
        assert row["profile"] in names() and float(row["seconds"]) > 0
        assert len(row["source"]) > 20
        assert int(row["batch"]) > 0 and int(row["sequence"]) > 0


def test_the_data_stays_small() -> None:
    assert sum(path.stat().st_size for path in DATA.iterdir()) < LARGEST_TOTAL
