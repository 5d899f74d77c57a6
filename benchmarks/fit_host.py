"""Published step times of the fitted models -> the host's seconds by kind of op, and how fast each GPU's hosts are.

    python benchmarks/fit_host.py

Takes the rows of `validate_time.FITTED` alone, with the kernel times of the model as it is. The constants are those
of least mean error over the rows, each GPU, author and model counting as much as any other; the hosts of an A100 are
speed 1. They are moved one at a time by a few percent, up or down, for as long as that helps, and stay within a factor
of `FURTHEST` of where they start, so that what no row tells stays as it was. Prints what `hardware/kernels.toml` and
the profiles then hold; it writes no file.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log
from statistics import mean

import numpy as np

from foretrace.hardware import estimate
from foretrace.hardware.constants import constants
from foretrace.hardware.dispatch import KINDS, charges
from published_rows import Row, profile_named, rows, step_key
from validate_time import FITTED, PARTS, copy_seconds, host_storages, priced

FURTHEST = 4.0
STEPS = (1.3, 1.1, 1.03)
FEWEST = 2
"""A GPU's hosts are fitted where at least so many of its rows wait for them."""

SHARE = "host_share_without_autograd"
REFERENCE = ("a100", "a800")

Values = dict[str, float]


@dataclass(frozen=True)
class Launched:
    """A row as the queue sees it: for each op its kinds, once recorded by autograd and once not, and its kernels."""

    group: tuple[str, ...]
    profile: str
    measured: float
    recorded: np.ndarray
    alone: np.ndarray
    kernels: np.ndarray

    @property
    def waits(self) -> bool:
        """Is the host what decides, as the files have it now?"""
        return self.seconds(start([self.profile])) > 1.2 * float(self.kernels.sum())

    def seconds(self, values: Values) -> float:
        """How long it takes: the last kernel ends after the host's last op that it had to wait for."""
        each = np.array([values[kind] for kind in KINDS])
        host = np.cumsum(self.recorded @ each + values[SHARE] * (self.alone @ each))
        host /= values.get(self.profile, 1.0)
        left = np.cumsum(self.kernels[::-1])[::-1]
        return float(max(np.max(host + left), host[-1]))


def launched(row: Row) -> Launched:
    """The row with what its ops ask of the host."""
    profile = profile_named(row["profile"])
    assert profile is not None
    graph, ops = priced(row)
    timed = [p for p in ops if p.op.phase in PARTS[row["part"]]]
    tf32 = row["precision"] == "tfloat32"
    time = estimate(timed, profile, tf32=tf32, cudnn_tf32=tf32, host_storages=host_storages(graph))
    spent = list(charges([p.op for p in timed], (p.kind == "free" for p in timed)))
    both = np.zeros((2, len(timed), len(KINDS)), dtype=np.float32)
    for place, (charged, recorded) in enumerate(spent):
        for kind, times in charged:
            both[0 if recorded else 1, place, KINDS.index(kind)] += times
    kernels = np.array([t.seconds for t in time.ops])
    measured = float(row["seconds"]) - copy_seconds(row)
    group = (row["gpu"], row["source"].split("/")[0], row["model"])
    return Launched(group, row["profile"], measured, both[0], both[1], kernels)


def cost(found: Sequence[Launched], values: Values) -> float:
    """Mean distance, as a factor, of predicted and measured; every group counts as much."""
    groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for one in found:
        groups[one.group].append(abs(log(one.seconds(values) / one.measured)))
    return mean(mean(errors) for errors in groups.values())


def start(profiles: Iterable[str]) -> Values:
    """What the files hold now."""
    known = constants()
    values = {kind: known[f"host_seconds.{kind}"] for kind in KINDS} | {SHARE: known[SHARE]}
    for name in profiles:
        profile = profile_named(name)
        if profile is not None and not name.startswith(REFERENCE):
            values[name] = profile.host_speed
    return values


def fitted(found: Sequence[Launched], values: Values) -> Values:
    """The values of least cost near `values`."""
    first, best = dict(values), cost(found, values)
    for step in STEPS:
        moved = True
        while moved:
            moved = False
            for name in first:
                for factor in (step, 1 / step):
                    tried = {**values, name: values[name] * factor}
                    if not 1 / FURTHEST <= tried[name] / first[name] <= FURTHEST:
                        continue
                    now = cost(found, tried)
                    if now < best - 1e-5:
                        values, best, moved = tried, now, True
    return values


def main() -> int:
    chosen = [r for r in rows() if (r["family"], r["model"]) in FITTED and r["part"] != "kernels"]
    found = [launched(r) for r in sorted(chosen, key=step_key)]
    waiting = Counter(one.profile for one in found if one.waits)
    before = start({name for name, times in waiting.items() if times >= FEWEST})
    after = fitted(found, before)
    print(f"{len(found)} rows, mean error {cost(found, before):.3f} before, {cost(found, after):.3f} after")
    for name, value in after.items():
        print(f"{name:28} {before[name]:12.4g} -> {value:12.4g}   {waiting.get(name) or ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
