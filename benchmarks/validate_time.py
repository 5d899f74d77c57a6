"""Published step times beside predicted ones: every row of `data/step_times.csv` whose model can be built here.

    python benchmarks/validate_time.py [--only REGEX] [--family NAME ...] [--each]
    python benchmarks/validate_time.py --page docs/accuracy.md --board docs/times.md

Each row's step is traced without a GPU (or loaded from the cache), priced for the GPU that was timed, and compared:
predicted seconds beside measured ones, the same under a plain roofline (peak FLOP/s of the type, peak bandwidth, no
host), what the prediction rests on, and which rows are far off, by name. Rows whose library is not installed, or whose
GPU has no profile, are skipped by name. ``--page`` writes the summary between the two markers of that page, ``--board``
a page with every row.

Which rows had a part in choosing constants is in `FITTED`: whole models, on all GPUs. Other constants of kernels come
from tables of single ops (`fit_kernels.py`). All other rows are held out.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean, median

from tabulate import tabulate

from foretrace.costmodels import Priced, price_ops
from foretrace.graph import ForetraceError, Phase, StepGraph
from foretrace.hardware import Profile, StepTime, Unit, estimate, host_storages
from foretrace.hardware.kernel_time import matmul_unit, vector_dtype
from published_rows import Row, profile_named, rows, step_key, traced

FITTED = {
    ("hf_sdpa", "bert-base-uncased"),
    ("hf_sdpa", "google/electra-base-generator"),
    ("hf_layer", "BertLayer"),
    ("hf_llama", "Llama-3.2-1B"),
    ("hand_gpt", "small"),
    ("torchvision", "resnet18"),
    ("torchvision", "resnet50"),
    ("torchvision", "vgg16_bn"),
    ("timm", "efficientnet_b0"),
    ("timm", "resnet50"),
    ("timm", "regnetx_064"),
    ("timm", "regnety_016"),
}
"""Family and model of the rows that had a part in choosing constants: all but timm's of the host's (`fit_host.py`),
resnet50 on traces and a GPU of batch norm's, images' turning and pooling's, vgg16_bn of batch norm's in pure half
precision, and timm's regnets of grouped convolutions'."""

FAR_OFF = 0.3
"""An outlier is further off than this."""

PARTS = {
    "forward": {Phase.FORWARD},
    "inference": {Phase.FORWARD},
    "backward": {Phase.BACKWARD},
    "forward+backward": {Phase.FORWARD, Phase.BACKWARD, Phase.ZERO_GRAD},
    "optimizer": {Phase.OPTIMIZER},
    "step": set(Phase),
    "kernels": set(Phase),
}
"""The phases that were timed. Of ``kernels`` only the time that the GPU is busy counts."""

BEGIN, END = "<!-- validate_time begins -->", "<!-- validate_time ends -->"


@dataclass(frozen=True)
class Result:
    """One row, predicted three ways."""

    row: Row
    measured: float
    predicted: float
    low: float
    high: float
    roofline: float
    time: StepTime

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted / self.measured - 1

    @property
    def roofline_error(self) -> float:
        return self.roofline / self.measured - 1

    @property
    def inside(self) -> bool:
        """Does the measured time lie in the predicted interval?"""
        return self.low <= self.measured <= self.high

    @property
    def fitted(self) -> bool:
        return (self.row["family"], self.row["model"]) in FITTED

    @property
    def name(self) -> str:
        row = self.row
        words = (
            row["model"],
            f"b{row['batch']}",
            f"s{row['sequence']}",
            row["precision"],
            row["attention"],
            row["part"],
        )
        return " ".join(filter(None, words))


# -- predicting -----------------------------------------------------------------------------------


_PRICED: dict[tuple[str, ...], tuple[StepGraph, tuple[Priced, ...]]] = {}


def priced(row: Row) -> tuple[StepGraph, tuple[Priced, ...]]:
    """The trace of a row, priced; the last one is kept, since rows of one step follow each other."""
    key = step_key(row)
    if key not in _PRICED:
        _PRICED.clear()
        graph = traced(row)
        _PRICED[key] = graph, price_ops(graph)
    return _PRICED[key]


def predict(row: Row, profile: Profile) -> Result:
    """The predicted time of the part of the step that was timed."""
    graph, ops = priced(row)
    timed = [p for p in ops if p.op.phase in PARTS[row["part"]]]
    tf32 = row["precision"] == "tfloat32"
    time = estimate(timed, profile, tf32=tf32, cudnn_tf32=tf32, host_storages=host_storages(graph))
    kernels = row["part"] == "kernels"
    before = copy_seconds(row)
    return Result(
        row,
        float(row["seconds"]) - before,
        time.kernel_seconds if kernels else time.step_seconds,
        sum(t.low_seconds for t in time.ops) if kernels else time.low_seconds,
        sum(t.high_seconds for t in time.ops) if kernels else time.high_seconds,
        roofline(timed, profile, tf32),
        time,
    )


def copy_seconds(row: Row) -> float:
    """How long the images take from pageable memory to the device, where that was timed too.

    2.4 GB/s is what explains the difference between float32 and float16 of one small model (resnet18, inference).
    """
    if row["note"] != "with the copy of the images to the device":
        return 0.0
    size = 2 if row["precision"] == "float16" else 4
    return int(row["batch"]) * 3 * int(row["sequence"]) ** 2 * size / 2.4e9


def roofline(ops: Iterable[Priced], profile: Profile, tf32: bool) -> float:
    """Seconds at peak FLOP/s or peak bandwidth, whichever is longer for each op: no efficiency, no floor, no host."""
    seconds = 0.0
    for p in ops:
        flops = p.work.vector_flops / profile.vector_flops_per_second[vector_dtype(p.op)]
        if p.work.tensor_flops:
            unit: Unit = matmul_unit(p.op, profile, tf32=tf32, cudnn_tf32=tf32)
            flops = max(flops, (p.work.tensor_flops - p.work.skippable_flops) / unit.peak(profile))
        if p.kind != "free":
            seconds += max(flops, p.work.bytes / profile.memory_bandwidth_bytes_per_second)
    return seconds


def results(chosen: Sequence[Row]) -> tuple[list[Result], Counter[str]]:
    """Every row predicted, and how many were skipped for what reason."""
    found: list[Result] = []
    skipped: Counter[str] = Counter()
    for row in sorted(chosen, key=step_key):
        from published_models import missing

        profile, library = profile_named(row["profile"]), missing(row["family"])
        if profile is None:
            skipped[f"no profile for {row['gpu']}"] += 1
        elif library:
            skipped[f"{library} is not installed: {row['family']} {row['model']}"] += 1
        else:
            try:
                found.append(predict(row, profile))
            except ForetraceError as error:
                skipped[f"not traced: {row['family']} {row['model']}: {error}"] += 1
    return found, skipped


# -- what it says ---------------------------------------------------------------------------------

Test = Callable[[Row], bool]


def is_a100(row: Row) -> bool:
    return row["profile"].startswith(("a100", "a800"))


def is_training(row: Row) -> bool:
    return row["part"] != "inference"


def is_image(row: Row) -> bool:
    return row["family"] in ("torchvision", "timm")


GROUPS: dict[str, Test] = {
    "A100, transformer training, fp32": lambda r: (
        is_a100(r) and is_training(r) and r["precision"] == "float32" and not is_image(r)
    ),
    "A100, training, fp16, bf16 and TF32": lambda r: is_a100(r) and is_training(r) and r["precision"] != "float32",
    "A100, of these transformers": lambda r: (
        is_a100(r) and is_training(r) and r["precision"] != "float32" and not is_image(r)
    ),
    "A100, of these convnets": lambda r: is_a100(r) and is_training(r) and r["precision"] != "float32" and is_image(r),
    "A100, inference": lambda r: is_a100(r) and not is_training(r),
    "H100": lambda r: r["profile"].startswith("h100"),
    "other GPUs": lambda r: not is_a100(r) and not r["profile"].startswith("h100"),
    "V100": lambda r: r["profile"].startswith("v100"),
    "T4": lambda r: r["profile"] == "t4",
    "L4, L20, L40S": lambda r: r["profile"] in ("l4", "l20", "l40s"),
    "RTX 3090, 3090 Ti, 4090": lambda r: r["profile"].startswith("rtx"),
    "B200": lambda r: r["profile"] == "b200",
    "MI250": lambda r: r["profile"] == "mi250",
    "H20": lambda r: r["profile"] == "h20",
    "all": lambda r: True,
}


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of `values` does not pass."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summary(found: Sequence[Result]) -> str:
    """One line a group: errors here and under a plain roofline, and how many lie in the interval."""
    lines = []
    for name, test in GROUPS.items():
        here = [r for r in found if test(r.row)]
        for held in (False, True):
            chosen = [r for r in here if not (held and r.fitted)]
            if chosen and (not held or len(chosen) != len(here)):
                lines.append(_line(f"{name}, held out" if held else name, chosen))
    plain = ("roofline mean", "roofline median")
    header = ("rows", "number", "mean", "median", "90th", "bias", "in interval", *plain, "rests on")
    return tabulate(lines, header, tablefmt="github", disable_numparse=True)


def _line(name: str, chosen: Sequence[Result]) -> tuple[str, ...]:
    errors, plain = ([abs(v) for v in vs] for vs in zip(*((r.error, r.roofline_error) for r in chosen), strict=True))
    share = mean(r.inside for r in chosen)
    figures = (mean(errors), median(errors), quantile(errors, 0.9))
    bias = f"{100 * median(r.error for r in chosen):+.1f} %"
    return (
        name, str(len(chosen)), *(f"{100 * v:.1f} %" for v in figures), bias, f"{100 * share:.0f} %",
        *(f"{100 * v:.1f} %" for v in (mean(plain), median(plain))), _mean_tiers(chosen),
    )  # fmt: skip


def _mean_tiers(chosen: Sequence[Result]) -> str:
    """What the time of the kernels rests on, each row counting as much as any other."""
    shares = {tier: mean(r.time.tier_shares[tier] for r in chosen) for tier in chosen[0].time.tier_shares}
    return ", ".join(f"{tier} {100 * s:.0f} %" for tier, s in sorted(shares.items(), key=lambda i: -i[1]) if s > 0.01)


def ranking(found: Sequence[Result]) -> tuple[int, int]:
    """Of the pairs on one GPU whose measured times differ by more than 15 %: how many, and how many in order."""
    by_gpu: dict[str, list[Result]] = defaultdict(list)
    for result in found:
        by_gpu[result.row["gpu"]].append(result)
    pairs = right = 0
    for here in by_gpu.values():
        for one, other in combinations(here, 2):
            if max(one.measured, other.measured) > 1.15 * min(one.measured, other.measured):
                pairs += 1
                right += (one.measured < other.measured) == (one.predicted < other.predicted)
    return pairs, right


def order(found: Sequence[Result]) -> str:
    """The ranking as a sentence."""
    pairs, right = ranking(found)
    share = f" ({100 * right / pairs:.1f} %)" if pairs else ""
    return (
        f"Of {pairs:,} pairs of rows on the same GPU whose measured times differ by more than 15 %, "
        f"the predicted ones are in the same order for {right:,}{share}."
    )


def outliers(found: Sequence[Result]) -> str:
    """The rows that are furthest off, by GPU, author and model."""
    groups: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
    for r in found:
        if abs(r.error) > FAR_OFF:
            groups[r.row["gpu"], author(r.row), f"{r.row['model']} {r.row['precision']}"].append(r)
    lines = [
        (gpu, who, what, str(len(here)), " ".join(f"{100 * r.error:+.0f}" for r in here[:6]))
        for (gpu, who, what), here in sorted(groups.items())
    ]
    many = sum(len(here) for here in groups.values())
    table = tabulate(lines, ("GPU", "author", "model", "rows", "error %"), tablefmt="github", disable_numparse=True)
    return f"Outliers, further off than {100 * FAR_OFF:.0f} %: {many} of {len(found)} rows.\n\n{table}"


def left_out(skipped: Counter[str]) -> str:
    """What was skipped and why."""
    return "\n".join(f"- {count}: {reason}" for reason, count in sorted(skipped.items())) or "- nothing"


BOARD = """# Published step times beside predicted ones

Written by `benchmarks/validate_time.py --board docs/times.md`; the sources are in `benchmarks/data/step_times.csv`.
Milliseconds; `roofline` is the error of peak FLOP/s or peak bandwidth, whichever is longer, without a host; `fit` marks
models that had a part in choosing constants."""


def each(found: Sequence[Result]) -> str:
    """Every row."""
    head = ("GPU", "source", "row", "measured ms", "predicted", "error", "roofline", "kernels", "host", "rests on", "")
    return tabulate(map(_cells, found), head, tablefmt="github", disable_numparse=True)


def _cells(r: Result) -> tuple[str, ...]:
    milliseconds = (r.measured, r.predicted, r.time.kernel_seconds, r.time.host_seconds)
    measured, predicted, kernels, host = (f"{1e3 * seconds:.1f}" for seconds in milliseconds)
    error, plain = f"{100 * r.error:+.0f} %", f"{100 * r.roofline_error:+.0f} %"
    fitted = "fit" if r.fitted else ""
    about = (r.row["profile"], author(r.row), r.name)
    return (*about, measured, predicted, error, plain, kernels, host, _tiers(r.time), fitted)


def author(row: Row) -> str:
    """Who published it, as far as the table has room."""
    return row["source"].split("/")[0][:14]


def _tiers(time: StepTime) -> str:
    total = sum(time.tier_seconds.values()) or 1.0
    shares = [(seconds / total, tier) for tier, seconds in time.tier_seconds.items() if seconds > 0.01 * total]
    return ", ".join(f"{tier} {100 * share:.0f} %" for share, tier in sorted(shares, reverse=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="REGEX", help="rows whose GPU, model and part match")
    parser.add_argument("--family", action="append", help="rows of that family; may be given several times")
    parser.add_argument("--each", action="store_true", help="print every row")
    parser.add_argument("--page", type=Path, help="write the summary into that page, between its markers")
    parser.add_argument("--board", type=Path, help="write a page with every row")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    chosen = [r for r in rows() if not options.family or r["family"] in options.family]
    chosen = [r for r in chosen if re.search(options.only, " ".join(r.values()))]
    found, skipped = results(chosen)
    if options.each:
        print(each(found))
    text = "\n\n".join([summary(found), order(found), "Skipped:\n\n" + left_out(skipped)])
    print(text)
    if options.page:
        page = options.page.read_text(encoding="utf-8")
        begin, end = page.index(BEGIN) + len(BEGIN), page.index(END)
        body = "\n\n".join([text, outliers(found)])
        options.page.write_text(f"{page[:begin]}\n\n{body}\n\n{page[end:]}", encoding="utf-8")
    if options.board:
        options.board.write_text(f"{BOARD}\n\n{each(found)}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
