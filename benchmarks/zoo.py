"""The scoreboard: hundreds of real modules, the predicted bytes of a training step beside the measured ones.

    python benchmarks/zoo.py [--suite oddities --suite causal ...] [--only REGEX] [--scoreboard docs/scoreboard.md]

Every model is built at reduced size and takes two AdamW steps, twice: once for real on the CPU, where the
allocator's own events are read, and once under the tracer with ``device="cpu"``. Both runs have a process of their
own with limits on time and memory, and begin with the same seed. The results go to a JSON Lines file as they come,
and models that are already there are not run again; the scoreboard in Markdown is written from that file. A suite
needs its library: transformers (causal, masked, seq2seq, vision), timm, torchvision (torchvision, detection), or one
of those in ``zoo_libraries.py`` and ``zoo_optimizers.py``; suites whose library is missing are left out, and said.

A model that needs an assumption is run once more with what data decides noted, and traced with that: the scoreboard
says what is left then. A model counts as exact when its live bytes at the end of a phase are those measured; the peak
also holds what kernels take inside, above all oneDNN's convolutions and LSTMs, which a trace does not see.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import re
import signal
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from tqdm import tqdm

from zoo_models import SUITES, build

Record = dict[str, Any]
KIB = 1024


# -- one model, in a process of its own -----------------------------------------------------------


def measured_run(suite: str, name: str, attempt: int) -> Record:
    """The real step: live bytes at phase ends, the peak, and every allocation."""
    from foretrace.tracer.measure import measure

    error: Exception | None = None
    for tried in range(SUITES[suite].attempts):
        try:
            found = measure(build(suite, name, tried))
        except Exception as raised:
            # The strongest reduction that builds says most; a size that clashes is not the model's failure.
            error = raised
            continue
        blocks = [(block.bytes, block.address, block.ops, block.calls) for block in found.blocks]
        ends = {str(phase): end for phase, end in found.ends.items()}
        return {"attempt": tried, "ends": ends, "peak": found.peak_bytes, "blocks": blocks}
    return {"error": one_line(error)}


def traced_run(suite: str, name: str, attempt: int) -> Record:
    """The predicted step: the same figures, and every birth with its op."""
    return _traced(suite, name, attempt, None)


def set_run(suite: str, name: str, attempt: int) -> Record:
    """The predicted step with every assumption set to what data decided in a real run of its own."""
    from foretrace.tracer import observe

    try:
        outcomes = observe(build(suite, name, attempt))
    except Exception as error:
        return {"error": one_line(error)}
    return _traced(suite, name, attempt, outcomes)


def _traced(suite: str, name: str, attempt: int, outcomes: Any) -> Record:
    from foretrace.costmodels.timeline import timeline
    from foretrace.tracer import trace

    step = build(suite, name, attempt)
    how = {"loss": step.loss, "optimizer": step.optimizer, "step": step.step, "outcomes": outcomes}
    start = time.perf_counter()
    try:
        graph = trace(step.model, step.inputs, device="cpu", **how)
    except Exception as error:
        return {"error": one_line(error)}
    seconds = time.perf_counter() - start
    found = timeline(graph)
    births = [(graph.ops[e.op].name, e.bytes, graph.ops[e.op].module) for e in graph.events if e.bytes > 0]
    return {
        "seconds": round(seconds, 2),
        "ops": len(graph.ops),
        "start": found.start_bytes,
        "ends": {str(phase): memory.end_bytes - found.start_bytes for phase, memory in found.phases.items()},
        "peak": found.peak_bytes - found.start_bytes,
        "assumptions": [dict(a) for a in graph.facts.assumptions],
        "scratch": any(re.search("convolution|_rnn_|lstm", op.name) for op in graph.ops),
        "births": births,
    }


def one_line(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:400]


def _serve(pipe: Any, function: Callable[..., Record], args: tuple[Any, ...]) -> None:
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    pipe.send(function(*args))
    pipe.close()


def in_child(function: Callable[..., Record], args: tuple[Any, ...], seconds: float, memory: int) -> Record:
    """What `function` returns in a process of its own, or an ``error`` where it passes a limit or dies."""
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_serve, args=(there, function, args), daemon=True)
    child.start()
    there.close()
    deadline = time.monotonic() + seconds
    try:
        while not here.poll(0.1):
            if time.monotonic() > deadline:
                return {"error": f"takes more than {seconds:g} s"}
            if resident_bytes(child.pid) > memory:
                return {"error": f"takes more than {memory / 2**30:g} GiB"}
        return here.recv()
    except EOFError:
        child.join(5)
        code = child.exitcode or 0
        return {"error": f"died of {signal.Signals(-code).name}" if code < 0 else f"died with exit code {code}"}
    finally:
        child.kill()
        child.join()


def resident_bytes(pid: int | None) -> int:
    """Resident memory of a process; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


# -- predicted beside measured --------------------------------------------------------------------


def compare(suite: str, name: str, family: str, seconds: float, memory: int) -> Record:
    """Run one model both ways."""
    record: Record = {"suite": suite, "name": name, "family": family, "torch": torch.__version__}
    truth = in_child(measured_run, (suite, name, 0), seconds, memory)
    if "error" in truth:
        return {**record, "skipped": truth["error"]}
    record["attempt"] = truth["attempt"]
    told = in_child(traced_run, (suite, name, truth["attempt"]), seconds, memory)
    if "error" in told:
        return {**record, "error": told["error"]}
    keys = ("seconds", "ops", "start", "assumptions", "scratch")
    record.update({key: told[key] for key in keys})
    for phase in ("forward", "backward"):
        record[phase] = [told["ends"].get(phase), truth["ends"].get(phase)]
    record["peak"] = [told["peak"], truth["peak"]]
    if any(record[phase][0] != record[phase][1] for phase in ("forward", "backward")):
        record["difference"] = first_difference(told["births"], truth["blocks"])
    if record["assumptions"]:
        record["set"] = _as_run(in_child(set_run, (suite, name, truth["attempt"]), seconds, memory), truth)
    return record


def _as_run(told: Record, truth: Record) -> Record:
    """Predicted beside measured, once the assumptions are set to what a real run did."""
    if "error" in told:
        return told
    ends = {phase: [told["ends"].get(phase), truth["ends"].get(phase)] for phase in ("forward", "backward")}
    return {**ends, "peak": [told["peak"], truth["peak"]], "start": told["start"]}


def first_difference(births: list[Any], blocks: list[Any]) -> str:
    """The first predicted birth that did not happen, or the first allocation that lasts and was not predicted."""
    lasting = _lasting(blocks)
    at, unmatched = 0, ""
    groups = _grouped(births)
    for place, (size, _, ops, _) in enumerate(blocks):
        if size < 0:
            continue
        name, sizes, _ = groups[at] if at < len(groups) else ("", [], "")
        if name and "aten::" + name.split(".")[1] in ops and size in sizes:
            sizes.remove(size)
            at += not sizes
            continue
        if place in lasting and not unmatched:
            unmatched = f"measured {size:,} bytes in {' > '.join(ops) or 'no op'}, where no birth was predicted"
            unmatched += f" (next predicted: {name or 'none'} {sizes})"
    if at < len(groups):
        name, sizes, module = groups[at]
        return (
            f"predicted {', '.join(f'{s:,}' for s in sizes)} bytes in {name} at {module or 'top'} not met; {unmatched}"
        )
    return unmatched or "all births are as predicted; a storage is freed earlier or later"


def _grouped(births: list[Any]) -> list[tuple[str, list[int], str]]:
    return [(name, [size], module) for name, size, module in births]


def _lasting(blocks: list[Any]) -> set[int]:
    """Places of the allocations that outlive every op around them."""
    taken: dict[int, int] = {}
    found = {place for place, block in enumerate(blocks) if block[0] > 0}
    for place, (size, address, _, calls) in enumerate(blocks):
        if size > 0:
            taken[address] = place
        elif address in taken:
            birth = taken.pop(address)
            if set(blocks[birth][3]) & set(calls):
                found.discard(birth)
    return found


# -- the scoreboard -------------------------------------------------------------------------------


def verdict(pair: list[int | None]) -> str:
    predicted, measured = pair
    if predicted is None or measured is None:
        return "none" if predicted is measured else "off"
    gap = abs(predicted - measured)
    return "exact" if gap == 0 else "within 1 KiB" if gap <= KIB else f"off by {predicted - measured:+,}"


def peak_error(record: Record) -> float:
    """Predicted over measured peak, less one; both with what was live when the step began."""
    predicted, measured = (record["start"] + part for part in record["peak"])
    return predicted / measured - 1


def close(record: Record, phase: str) -> bool:
    return verdict(record[phase]) in ("exact", "within 1 KiB", "none")


def scoreboard(records: list[Record]) -> str:
    ran = [r for r in records if "skipped" not in r]
    traced = [r for r in ran if "error" not in r]
    parts = [
        "# Scoreboard",
        "Live bytes of one training step with AdamW on the CPU, predicted by a trace beside those that the allocator "
        "reported for a real run of the same step. Written by `python benchmarks/zoo.py`.",
        "## By suite",
        _summary(ran, "suite"),
        _unassuming([r for r in traced if not r["assumptions"]]),
        "## What was not traced",
        _reasons([(r["suite"], r["name"], r["error"]) for r in ran if "error" in r]),
        "## What needs an assumption",
        "Predicted less measured bytes: with the defaults, and with every assumption set to what data decided in a "
        "real run, as `foretrace measure` does.",
        _assuming(traced),
        "## Where predicted and measured part",
        _differences(traced),
        "## Every model",
        _every(traced),
        "## By family",
        _summary(ran, "family"),
        "## What does not run in plain PyTorch at this size",
        _reasons([(r["suite"], r["name"], r["skipped"]) for r in records if "skipped" in r]),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(records: list[Record], key: str) -> str:
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record[key]].append(record)
    rows = [_counts(name, found) for name, found in groups.items()]
    if key == "suite":
        rows.append(_counts("all", records))
    ends = ["after forward: exact", "within 1 KiB", "after backward: exact", "within 1 KiB"]
    head = [key, "models", "traced", "no assumption", *ends, "peak within 1 %"]
    return tabulate(rows, head, "github")


def _unassuming(records: list[Record]) -> str:
    """How those fare that need no assumption."""
    _, _, _, count, *ends, peaks = _counts("", records)
    return (
        f"Of the {count:,} that need no assumption {ends[0]:,} have the allocator's bytes after forward to the byte "
        f"and {ends[1]:,} to within 1 KiB; after backward {ends[2]:,} and {ends[3]:,}; and {peaks:,} have its peak "
        "within 1 %."
    )


def _counts(name: str, records: list[Record]) -> list[Any]:
    traced = [r for r in records if "error" not in r]
    return [
        name,
        len(records),
        len(traced),
        sum(not r["assumptions"] for r in traced),
        *(count for phase in ("forward", "backward") for count in _agreeing(traced, phase)),
        sum(abs(peak_error(r)) <= 0.01 for r in traced),
    ]


def _agreeing(traced: list[Record], phase: str) -> tuple[int, int]:
    """How many agree to the byte at the end of a phase, and how many within 1 KiB."""
    exact = sum(verdict(r[phase]) in ("exact", "none") for r in traced)
    return exact, sum(close(r, phase) for r in traced)


def _every(records: list[Record]) -> str:
    rows = [
        [r["suite"], r["name"], verdict(r["forward"]), verdict(r["backward"]), f"{100 * peak_error(r):+.2f}",
         len(r["assumptions"]), "yes" if r["scratch"] else ""]
        for r in records
    ]  # fmt: skip
    head = ["suite", "model", "after forward", "after backward", "peak error (%)", "assumptions", "conv or RNN"]
    return tabulate(rows, head, "github", disable_numparse=True)


def _assuming(records: list[Record]) -> str:
    """The models that need an assumption: what is off with the defaults, and once these are set."""
    found = [r for r in records if "set" in r]
    if not found:
        return "None."
    done = [r["set"] for r in found if "error" not in r["set"]]
    exact = sum(verdict(r["forward"]) == verdict(r["backward"]) == "exact" for r in done)
    peaks = sum(abs(peak_error(r)) <= 0.01 for r in done)
    said = (
        f"Once set, {exact} of {len(found)} have the allocator's bytes after forward and after backward to the byte, "
        f"and {peaks} its peak within 1 %."
    )
    columns = ["after forward", "after backward", "peak error (%)"]
    head = ["suite", "model", "assumptions", *columns, *(f"set: {column}" for column in columns)]
    rows = [[r["suite"], r["name"], len(r["assumptions"]), *_off(r), *_off(r["set"])] for r in found]
    return said + "\n\n" + tabulate(rows, head, "github", disable_numparse=True)


def _off(record: Record) -> list[str]:
    if "error" in record:
        return [record["error"].replace("|", "/"), "", ""]
    return [verdict(record["forward"]), verdict(record["backward"]), f"{100 * peak_error(record):+.2f}"]


def _differences(records: list[Record]) -> str:
    rows = [[r["suite"], r["name"], r["difference"].replace("|", "/")] for r in records if "difference" in r]
    return tabulate(rows, ["suite", "model", "first difference"], "github") if rows else "Nowhere."


def _reasons(rows: list[tuple[str, str, str]]) -> str:
    if not rows:
        return "None."
    return tabulate([[s, n, e.replace("|", "/")] for s, n, e in rows], ["suite", "model", "reason"], "github")


# -- the program ----------------------------------------------------------------------------------


def main() -> None:
    options = _options()
    done = _read(options.results)
    todo = [
        (suite, name, family)
        for suite in options.suite or _installed()
        for name, family in SUITES[suite].names()
        if (suite, name) not in done and re.search(options.only, name)
    ][: options.first]
    _preload({SUITES[suite].library for suite, _, _ in todo})
    with options.results.open("a") as file, tqdm(todo, unit="model", file=sys.stderr) as bar:
        for suite, name, family in bar:
            bar.set_postfix_str(f"{suite} {name}")
            record = compare(suite, name, family, options.seconds, options.gib << 30)
            file.write(json.dumps(record) + "\n")
            file.flush()
            done[suite, name] = record
    records = list(done.values())
    options.scoreboard.parent.mkdir(parents=True, exist_ok=True)
    options.scoreboard.write_text(narrow(scoreboard(records)))
    print(_summary([r for r in records if "skipped" not in r], "suite"))
    classes = Counter(r["error"].partition(":")[0] for r in records if "error" in r)
    print(*(f"{count:4} {kind}" for kind, count in classes.most_common()), sep="\n")


def narrow(text: str) -> str:
    """Markdown tables without the padding that lines them up."""
    return re.sub(r"-{4,}", "---", re.sub(r" {2,}", " ", text))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Predicted against measured bytes for hundreds of real modules.")
    parser.add_argument("--suite", action="append", choices=SUITES, help="may be repeated (default: all installed)")
    parser.add_argument("--only", default="", metavar="REGEX", help="only models whose name matches")
    parser.add_argument("--first", type=int, default=None, metavar="N", help="only the first N that remain")
    parser.add_argument("--results", type=Path, default=Path("zoo.jsonl"), help="results so far, one a line")
    parser.add_argument("--scoreboard", type=Path, default=Path("docs/scoreboard.md"))
    parser.add_argument("--seconds", type=float, default=60, help="time limit of each of a model's two runs")
    parser.add_argument("--gib", type=int, default=8, help="memory limit of each run")
    return parser.parse_args()


def _installed() -> list[str]:
    found = [name for name, suite in SUITES.items() if importlib.util.find_spec(suite.library)]
    if missing := [name for name in SUITES if name not in found]:
        print("left out, since not installed:", ", ".join(missing), file=sys.stderr)
    return found


def _read(path: Path) -> dict[tuple[str, str], Record]:
    lines = path.read_text().splitlines() if path.exists() else []
    return {(r["suite"], r["name"]): r for r in map(json.loads, lines)}


def _preload(libraries: set[str]) -> None:
    """Import once, in the process that the children are forked from, what all of them need."""
    modules = ["foretrace.costmodels.timeline", "foretrace.tracer.measure", *sorted(libraries)]
    if "transformers" in libraries:
        modules.append("transformers.modeling_utils")
    multiprocessing.set_forkserver_preload(modules)


if __name__ == "__main__":
    main()
