"""Published memory figures beside predicted ones: every row of `data/memory.csv` whose model can be built here.

    python benchmarks/validate_memory.py [--only REGEX] [--family NAME ...] [--each] [--alone] [--page PAGE]

Each row's step is traced without a GPU (or loaded from the cache), replayed on the model of the caching allocator,
and compared with what was measured. What a figure measures stands beside it: ``allocated`` is PyTorch's
``max_memory_allocated``, or ``memory_allocated`` at the end of a part; ``reserved`` its ``memory_reserved``; ``device``
what nvidia-smi shows. Where it is known what ran before a step, that is replayed too (`memory_runs`), unless
``--alone``. Rows of the kind ``fits`` say that a step ran (1) or ran out of memory (0). ``--page`` writes the tables
between the markers of that page (docs/accuracy_memory.md); where libraries lie in several environments, ``--keep`` and
``--merge`` carry results from one to the next.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from tabulate import tabulate

from foretrace.graph import ForetraceError
from memory_rows import Prediction, Row, measured_bytes, rows, step_key, traced
from published_rows import DATA, profile_named

BEGIN, END = "<!-- validate_memory begins -->", "<!-- validate_memory ends -->"
OUTLIER = {"allocated": 0.05, "reserved": 0.05, "device": 0.15}
"""Errors above which a row is named."""


@dataclass(frozen=True)
class Result:
    """One row, measured and predicted; of the kind ``fits`` measured is 1 or 0 and `fits` is the answer."""

    row: Row
    measured: float
    predicted: float
    fits: bool = True
    fitted: bool = False
    """Whether the row had a part in fitting a number."""

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted / self.measured - 1

    @property
    def name(self) -> str:
        row = self.row
        words = [row["model"], row["batch"] and f"b{row['batch']}", row["sequence"] and f"s{row['sequence']}"]
        words += [row["precision"], row["attention"], row["optimizer"], row["note"] if row["family"] == "op" else ""]
        words += [f"checkpoint every {row['checkpoint']}" if row["checkpoint"] else "", row["part"]]
        return " ".join(filter(None, words))


# -- predicting -----------------------------------------------------------------------------------


def predict(row: Row, prediction: Prediction) -> Result:
    """The row's figure as the replay has it."""
    if row["kind"] == "fits":
        return Result(row, float(row["measured"]), 0.0, prediction.memory.fits)
    return Result(row, measured_bytes(row), prediction.bytes_of(row), prediction.memory.fits)


def results(chosen: Sequence[Row], *, alone: bool = False) -> tuple[list[Result], Counter[str]]:
    """Every row predicted, and how many were skipped for what reason."""
    from memory_models import missing, unbuilt

    found: list[Result] = []
    skipped: Counter[str] = Counter()
    key, prediction = None, None
    for row in sorted(chosen, key=lambda row: (step_key(row), row["profile"])):
        profile, library, reason = profile_named(row["profile"]), missing(row), unbuilt(row)
        if reason:
            skipped[reason] += 1
        elif profile is None:
            skipped[f"no profile for {row['gpu']}"] += 1
        elif library:
            skipped[f"{library} is not installed: {row['family']}"] += 1
        else:
            try:
                if (step_key(row), profile.name) != key or prediction is None:
                    key, prediction = (step_key(row), profile.name), Prediction(traced(row), profile, alone)
                found.append(predict(row, prediction))
                print(found[-1].name, file=sys.stderr, flush=True)
            except ForetraceError as error:
                skipped[f"not traced: {row['family']} {row['model']}: {error}"] += 1
    return found, skipped


def with_context(found: Sequence[Result]) -> list[Result]:
    """Rows whose context nobody measured get one for all: the median of what is missing, of every other model."""
    unknown = [r for r in found if r.row["context_mib"] == "fit"]
    names = sorted({r.row["model"] for r in unknown})[::2]
    missing = [r.measured - r.predicted for r in unknown if r.row["model"] in names and is_trusted(r)]
    if not missing:
        return list(found)
    return [
        replace(r, predicted=r.predicted + median(missing), fitted=r.row["model"] in names)
        if r.row["context_mib"] == "fit"
        else r
        for r in found
    ]


# -- what it says ---------------------------------------------------------------------------------

TITLES = {
    "course_gpt": "hand-written GPT of 3.4 billion parameters",
    "hf_attention": "ALBERT, BERT, ELECTRA, OPT: eager and fused attention",
    "bert_trainer": "BERT-large in a trainer",
    "resnet_trace": "ResNet-50, above the start of the step",
    "timm_train": "timm's training script",
    "op": "single operations",
    "fitted": "timm's training script, the half that the context is fitted to (not in all)",
}


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of `values` does not pass."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def is_trusted(result: Result) -> bool:
    """Has it bytes that can be compared? Not where the published figure is suspect by itself, or the step runs out."""
    row = result.row
    return row["kind"] != "fits" and "suspect" not in row["note"] and (result.fits or row["kind"] != "device")


def trusted(found: Sequence[Result]) -> list[Result]:
    return [r for r in found if is_trusted(r)]


def summary(found: Sequence[Result]) -> str:
    """One line a family and kind of figure."""
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in trusted(found):
        if result.fitted:
            groups[result.row["kind"], "fitted"].append(result)
            continue
        groups[result.row["kind"], "all"].append(result)
        groups[result.row["kind"], result.row["family"]].append(result)
    lines = [_line(kind, family, here) for (kind, family), here in sorted(groups.items())]
    header = ("measured", "rows", "number", "median", "90th percentile", "bias", "worst")
    return tabulate(lines, header, tablefmt="github", disable_numparse=True)


def _line(kind: str, family: str, here: Sequence[Result]) -> tuple[str, ...]:
    errors = [abs(r.error) for r in here]
    worst = max(here, key=lambda r: abs(r.error))
    return (
        kind, TITLES.get(family, family), str(len(here)), f"{100 * median(errors):.2f} %",
        f"{100 * quantile(errors, 0.9):.1f} %", f"{100 * median(r.error for r in here):+.2f} %",
        f"{worst.name}: {100 * worst.error:+.1f} %",
    )  # fmt: skip


def savings(found: Sequence[Result]) -> list[tuple[str, float, float]]:
    """Measured and predicted bytes that fused attention saves, of each pair of rows that differ in it only."""
    pairs: dict[tuple[str, ...], dict[str, Result]] = defaultdict(dict)
    for r in trusted(found):
        if r.row["family"] == "hf_attention":
            pairs[r.row["model"], r.row["batch"], r.row["sequence"]][r.row["attention"]] = r
    saved = []
    for (model, batch, sequence), pair in sorted(pairs.items()):
        if len(pair) == 2:
            eager, fused = pair["eager"], pair["sdpa"]
            name = f"{model} b{batch} s{sequence}"
            saved.append((name, eager.measured - fused.measured, eager.predicted - fused.predicted))
    return saved


def savings_text(found: Sequence[Result]) -> str:
    """How well savings are foretold, where something was saved (5 % of the memory and more)."""
    eager = {r.name: r for r in trusted(found)}
    large = [s for s in savings(found) if s[1] > 50e6]
    if not large or not eager:
        return ""
    errors = [abs(p / m - 1) for _, m, p in large]
    inside = sum(e <= 0.05 for e in errors)
    lines = [
        (n, f"{m / 1e6:,.0f}", f"{p / 1e6:,.0f}", f"{100 * (p / m - 1):+.1f} %")
        for n, m, p in large
    ]  # fmt: skip
    table = tabulate(lines, ("pair", "measured MB", "predicted MB", "error"), tablefmt="github", disable_numparse=True)
    head = (
        f"Of {len(large)} pairs that saved more than 50 MB the predicted saving is within 5 % in {inside}; "
        f"the median error is {100 * median(errors):.1f} %."
    )
    return f"{head}\n\n{table}"


def fits_text(found: Sequence[Result]) -> str:
    """Of the steps that ran out of memory, and of those that ran on a known GPU, how many are foretold."""
    told = [r for r in found if r.row["kind"] == "fits"]
    out = [r for r in told if not r.measured]
    lines = [f"Of {len(out)} steps that ran out of memory, {sum(not r.fits for r in out)} are predicted to."]
    lines += [f"- predicted to fit: {r.name} on {r.row['gpu']}" for r in out if r.fits]
    ran = [r for r in found if r.row["kind"] == "allocated" and r.row["part"] == "step"]
    ran = [r for r in ran if "not stated" not in r.row["gpu"] and "no profile" not in r.row["note"]]
    ran += [r for r in told if r.measured]
    lines += ["", f"Of {len(ran)} that ran, on a GPU that is known, {sum(r.fits for r in ran)} are predicted to."]
    lines += [f"- predicted to run out: {r.name} on {r.row['gpu']}" for r in ran if not r.fits]
    return "\n".join(lines)


def left_out_text(found: Sequence[Result], skipped: Counter[str]) -> str:
    """Rows that are in no figure above, and why."""
    lines = [f"- {count} rows: {why}" for why, count in sorted(skipped.items())]
    for r in found:
        if r.row["kind"] != "fits" and not is_trusted(r):
            why = r.row["note"] if "suspect" in r.row["note"] else "predicted to run out of memory there"
            figures = f"measured {r.measured / 2**20:,.0f} MiB, predicted {r.predicted / 2**20:,.0f}"
            lines.append(f"- {r.name}, {figures}: {why}")
    return "\n".join(lines) or "None."


def outliers(found: Sequence[Result]) -> str:
    """Rows further off than the limit of their kind, by name."""
    far = [r for r in trusted(found) if abs(r.error) > OUTLIER[r.row["kind"]]]
    return table_of(sorted(far, key=lambda r: -abs(r.error)))


def table_of(chosen: Sequence[Result]) -> str:
    lines = [
        (r.name, r.row["gpu"], r.row["kind"], f"{r.measured / 2**20:,.1f}", f"{r.predicted / 2**20:,.1f}",
         f"{100 * r.error:+.2f} %", r.row["note"] if r.row["family"] != "op" else "")
        for r in chosen
    ]  # fmt: skip
    head = ("row", "GPU", "measured as", "measured MiB", "predicted MiB", "error", "note")
    return tabulate(lines, head, tablefmt="github", disable_numparse=True)


def page(found: Sequence[Result], skipped: Counter[str]) -> str:
    """What stands between the markers."""
    parts = ["## Summary", summary(found), "## Out of memory", fits_text(found)]
    parts += ["## What fused attention saves", savings_text(found)]
    parts += ["## Outliers", "Rows off by more than 5 % (allocated, reserved) or 15 % (device total):", outliers(found)]
    parts += ["## Left out", left_out_text(found, skipped)]
    parts += ["## Every row"]
    for family, title in TITLES.items():
        here = [r for r in trusted(found) if r.row["family"] == family]
        if here:
            parts += [f"### {title[0].upper()}{title[1:]}", table_of(here)]
    return "\n\n".join(parts)


def write_between_markers(path: Path, text: str) -> None:
    old = path.read_text(encoding="utf-8")
    before, rest = old.split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def _keep(path: Path, found: Sequence[Result], skipped: Counter[str]) -> None:
    path.write_text(json.dumps({"found": [asdict(r) for r in found], "skipped": skipped}), encoding="utf-8")


def _merge(path: Path, found: list[Result], skipped: Counter[str]) -> None:
    kept = json.loads(path.read_text(encoding="utf-8"))
    known = {tuple(r.row.values()) for r in found}
    found += [Result(**r) for r in kept["found"] if tuple(r["row"].values()) not in known]
    for why, count in kept["skipped"].items():
        if "not installed" not in why:
            skipped[why] = max(skipped[why], count)
    families = {r.row["family"] for r in found}
    for why in [why for why in skipped if "not installed" in why and why.rpartition(": ")[2] in families]:
        del skipped[why]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="REGEX", help=f"rows of {DATA.name}/memory.csv that match")
    parser.add_argument("--family", action="append", help="rows of that family; may be given several times")
    parser.add_argument("--each", action="store_true", help="print every row")
    parser.add_argument("--page", type=Path, help="write the tables into that page, between its markers")
    parser.add_argument("--keep", type=Path, help="write the results into that file too")
    parser.add_argument("--merge", type=Path, nargs="+", help="take results for other rows from files of --keep")
    parser.add_argument("--alone", action="store_true", help="replay no step after those that ran before it")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    chosen = [r for r in rows() if not options.family or r["family"] in options.family]
    chosen = [r for r in chosen if re.search(options.only, " ".join(r.values()))]
    found, skipped = results(chosen, alone=options.alone)
    for kept in options.merge or ():
        _merge(kept, found, skipped)
    if options.keep:
        _keep(options.keep, found, skipped)
    found = with_context(found)
    if options.each:
        print(table_of([r for r in found if r.row["kind"] != "fits"]))
    print(summary(found), fits_text(found), sep="\n\n")
    for reason, count in sorted(skipped.items()):
        print(f"skipped {count}: {reason}")
    if options.page:
        write_between_markers(options.page, page(found, skipped))
    return 0


if __name__ == "__main__":
    sys.exit(main())
