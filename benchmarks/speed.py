"""What it costs to ask: whole training steps recorded, priced and replayed, beside bare PyTorch and peers, in one run.

    python benchmarks/speed.py [--model gpt2-xl ...] [--rounds 3] [--without-slow] [--without-depth]
                               [--page docs/performance.md]

Every contender runs in a process of its own, so that its peak resident memory is its own, and does its work once
before it is timed, so that imports and caches are paid for. Contenders take turns, ``--rounds`` times; the table has
medians, the smallest and largest ratio, and resident memory beyond ``import torch``. Times are of the processor, which
other programs on the machine disturb least.

- bare: one step (forward, backward, foreach AdamW) dispatched on meta tensors, with nobody looking;
- foretrace: two such steps traced, the second one lifted to a graph, priced, replayed on the allocator, and printed;
  its stages are building the module, tracing both steps, lifting what was recorded, the networkx graph, pricing, three
  steps on the allocator, and the report;
- unfolded: the same with every block of the model run, also those that repeat others;
- loaded: the trace read from a file, priced, replayed on the allocator, and printed;
- flop_counter: forward and backward under ``torch.utils.flop_counter.FlopCounterMode``, which knows no memory;
- make_fx: forward and backward traced by ``torch.fx.experimental.proxy_tensor.make_fx`` on meta tensors;
- mem_tracker: one step under ``torch.distributed._tools.MemTracker`` and ``FakeTensorMode`` (slow);
- fvcore, calflops: forward only, FLOPs, where they are installed and take the model;
- anyhow: PyTorch's part that no folding spares: foreach AdamW updates as many parameters twice, of 8 numbers each.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speed_curve import Curve, picture
from tabulate import tabulate

from speed_models import CASES, DEPTHS, case

Figures = dict[str, Any]
PROFILE = "a100-sxm4-80gb"
SLOW = ("mem_tracker", "make_fx")
STAGES = ("load", "build", "trace", "lift", "graph", "price", "allocator", "report")


def timed(work: Callable[[], Any], figures: Figures, name: str = "seconds") -> Any:
    """Do the work and note how long the processor took."""
    start = time.process_time()
    result = work()
    figures[name] = time.process_time() - start
    return result


def bare(name: str) -> Figures:
    import torch

    model, inputs, loss = case(name)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    inputs = tuple(x.to("meta") for x in inputs)

    def step() -> None:
        loss(model(*inputs)).backward()
        optimizer.step()
        optimizer.zero_grad()

    found: Figures = {}
    step()
    timed(step, found)
    return found


def anyhow(name: str) -> Figures:
    import torch

    count = len(list(case(name).model.parameters()))

    def work(found: Figures) -> None:
        parameters = [torch.nn.Parameter(torch.zeros(8)) for _ in range(count)]
        for parameter in parameters:
            parameter.grad = torch.zeros(8)
        optimizer = torch.optim.AdamW(parameters, foreach=True)
        timed(lambda: [optimizer.step() for _ in range(2)], found)

    gc.disable()  # as a trace does
    work({})
    found: Figures = {}
    work(found)
    return found


def foretrace(name: str, **options: Any) -> Figures:
    """`options` are those of ``foretrace.trace``."""

    def work(found: Figures) -> None:
        graph = traced(name, found, **options)
        timed(lambda: graph.graph, found, "graph")
        priced(graph, found)

    work({})
    found: Figures = {}
    timed(lambda: work(found), found)
    return found


def unfolded(name: str) -> Figures:
    return foretrace(name, fold=False)


def traced(name: str, found: Figures, **options: Any) -> Any:
    """The graph of a step, and the stages of making it."""
    from foretrace.tracer import Step, trace

    module = sys.modules["foretrace.tracer.trace"]
    lift = module.lift  # type: ignore[attr-defined]

    def built() -> Step:
        return timed(lambda: Step(*case(name)), found, "build")

    module.lift = lambda *given: timed(lambda: lift(*given), found, "lift")  # type: ignore[attr-defined]
    try:
        graph = timed(lambda: trace(built, device="cuda", **options), found, "trace")
    finally:
        module.lift = lift  # type: ignore[attr-defined]
    found["trace"] -= found["build"] + found["lift"]
    return graph


def priced(graph: Any, found: Figures) -> None:
    """All that is said of a graph."""
    from foretrace.report import price, to_table

    report = timed(lambda: price(graph, on=PROFILE), found, "price")
    timed(lambda: report.device_memory, found, "allocator")
    timed(lambda: to_table(report), found, "report")
    found |= {"ops": len(graph.ops), "peak_bytes": report.memory.peak_bytes, "flops": report.flops.total}


def loaded(name: str) -> Figures:
    from foretrace.graph import load, save

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.foretrace"
        save(traced(name, {}), path)

        def work(found: Figures) -> None:
            priced(timed(lambda: load(path), found, "load"), found)

        work({})
        found: Figures = {}
        timed(lambda: work(found), found)
    return found


def flop_counter(name: str) -> Figures:
    from torch.utils.flop_counter import FlopCounterMode

    model, inputs, loss = case(name)
    inputs = tuple(x.to("meta") for x in inputs)

    def step() -> int:
        with FlopCounterMode(display=False) as counter:
            loss(model(*inputs)).backward()
        return counter.get_total_flops()

    found: Figures = {}
    step()
    found["flops"] = timed(step, found)
    return found


def make_fx(name: str) -> Figures:
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx as traced

    model, inputs, loss = case(name)
    inputs = tuple(x.to("meta") for x in inputs)
    parameters = dict(model.named_parameters())

    def step(parameters: dict[str, Any], *inputs: Any) -> Any:
        result = loss(torch.func.functional_call(model, parameters, inputs))
        return torch.autograd.grad(result, list(parameters.values()))

    found: Figures = {}
    timed(lambda: traced(step)(parameters, *inputs), found)
    return found


def mem_tracker(name: str) -> Figures:
    import torch
    from torch._subclasses import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    with FakeTensorMode():
        model, inputs, loss = CASES[name]()
        optimizer = torch.optim.AdamW(model.parameters())
        tracker = MemTracker()
        tracker.track_external(model, optimizer, *inputs)

        def step() -> None:
            with tracker:
                loss(model(*inputs)).backward()
                optimizer.step()
                optimizer.zero_grad()

        found: Figures = {}
        timed(step, found)
    found["peak_bytes"] = sum(row["Total"] for row in tracker.get_tracker_snapshot("peak").values())
    return found


def fvcore(name: str) -> Figures:
    from fvcore.nn import FlopCountAnalysis

    model, inputs, _ = case(name)
    inputs = tuple(x.to("meta") for x in inputs)
    found: Figures = {}
    found["flops"] = timed(lambda: FlopCountAnalysis(model, inputs).unsupported_ops_warnings(False).total(), found)
    return found


def calflops(name: str) -> Figures:
    from calflops import calculate_flops

    model, inputs, _ = case(name)
    inputs = [x.to("meta") for x in inputs]
    found: Figures = {}
    timed(lambda: calculate_flops(model, args=inputs, print_results=False, output_as_string=False), found)
    return found


CONTENDERS: dict[str, Callable[[str], Figures]] = {
    "bare": bare,
    "foretrace": foretrace,
    "unfolded": unfolded,
    "loaded": loaded,
    "flop_counter": flop_counter,
    "make_fx": make_fx,
    "mem_tracker": mem_tracker,
    "fvcore": fvcore,
    "calflops": calflops,
    "anyhow": anyhow,
}


# -- processes ------------------------------------------------------------------------------------


def in_child(contender: str, model: str, seconds: float) -> Figures:
    """Run one contender in a process of its own and read what it found, or why it did not."""
    command = [sys.executable, __file__, "--child", contender, "--model", model]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"error": f"more than {seconds:g} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"error": lines[-1][:90] if lines else f"exit code {done.returncode}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def as_child(contender: str, model: str) -> None:
    import torch  # noqa: F401  (what importing torch takes is no contender's own)

    warnings.filterwarnings("ignore")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = CONTENDERS[contender](model)
    figures["resident_bytes"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(json.dumps(figures))


def rounds(model: str, names: list[str], count: int, seconds: float) -> dict[str, list[Figures]]:
    """The contenders in turns; one that fails is not asked again."""
    found: dict[str, list[Figures]] = {name: [] for name in names}
    for _ in range(count):
        for name in names:
            if not any("error" in figures for figures in found[name]):
                found[name].append(in_child(name, model, seconds))
    return found


# -- the page -------------------------------------------------------------------------------------


def table(found: dict[str, list[Figures]]) -> str:
    floor = [figures["seconds"] for figures in found["bare"] if "seconds" in figures]
    rows = []
    for name, runs in found.items():
        if runs and "error" in runs[-1]:
            rows.append([name, "", "", "", runs[-1]["error"]])
            continue
        times = [run["seconds"] for run in runs]
        ratios = [a / b for a, b in zip(times, floor, strict=False)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
        resident = max(run["resident_bytes"] for run in runs)
        rows.append([name, f"{statistics.median(times):.2f}", spread, f"{resident / 1e6:,.0f}", _said(runs[-1])])
    head = ["", "seconds", "x bare", "MB beyond torch", "says"]
    return tabulate(rows, head, tablefmt="github", disable_numparse=True, colalign=("left", *("right",) * 3, "left"))


def _said(figures: Figures) -> str:
    said = []
    if "peak_bytes" in figures:
        said.append(f"{figures['peak_bytes'] / 2**30:.2f} GiB")
    if figures.get("flops"):
        said.append(f"{figures['flops'] / 1e12:.2f} TFLOP")
    if "ops" in figures:
        stages = ", ".join(f"{name} {figures[name]:.2f}" for name in STAGES if name in figures)
        said.append(f"{figures['ops']:,} ops ({stages})")
    return ", ".join(said)


CURVES = "seconds_by_depth.svg"
"""The picture's name, in the folder ``pictures`` beside the page."""


def curves(names: list[str], count: int, seconds: float) -> tuple[dict[str, Curve], dict[str, Curve]]:
    """Median seconds by depth of each contender, and of each stage of foretrace."""
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in names}
    stages: dict[str, list[tuple[int, float]]] = {name: [] for name in STAGES}
    for layers in DEPTHS:
        for name, runs in rounds(f"gpt-{layers}", names, count, seconds).items():
            times = [run["seconds"] for run in runs if "seconds" in run]
            if times:
                found[name].append((layers, statistics.median(times)))
            for stage in STAGES if name == "foretrace" else ():
                parts = [run[stage] for run in runs if stage in run]
                stages[stage] += [(layers, statistics.median(parts))] if parts else []
    return {name: curve for name, curve in found.items() if curve}, {
        name: curve for name, curve in stages.items() if curve
    }


def depth_table(by_name: dict[str, Curve]) -> str:
    times = {name: dict(curve) for name, curve in by_name.items()}
    rows = [[layers, *(f"{t[layers]:.2f}" if layers in t else "" for t in times.values())] for layers in DEPTHS]
    return tabulate(rows, ["layers", *times], tablefmt="github", disable_numparse=True)


def each_layer(curve: Curve) -> float:
    """Milliseconds that a further layer takes: the slope of the straight line nearest to the curve."""
    return 1e3 * statistics.linear_regression(*zip(*curve, strict=True)).slope


def depth_section(by_name: dict[str, Curve], by_stage: dict[str, Curve]) -> str:
    slopes = ", ".join(f"{each_layer(curve):.1f} ms to {name}" for name, curve in by_name.items() if len(curve) > 1)
    stages = ", ".join(f"{name} {each_layer(curve):.1f}" for name, curve in by_stage.items() if len(curve) > 1)
    cost = f"""A further layer adds {slopes}. A folded layer is no free one: the module is built with it, the model
calls it, autograd has a node in its place, the optimizer (PyTorch's own code) goes through its parameters, and its
ops, storages and requests are written down, priced and replayed like all others: {stages} ms a layer."""
    said = "Blocks as GPT-2 XL has them, 8 sequences of 1,024 tokens; seconds of the processor.\n\n"
    said += textwrap.fill(" ".join(cost.split()), 120)
    drawn = f"![Seconds by number of layers](pictures/{CURVES})"
    return f"## Time against depth\n\n{said}\n\n{depth_table(by_name)}\n\n{drawn}"


def page(tables: dict[str, str], count: int) -> str:
    import torch

    made = f"torch {torch.__version__.partition('+')[0]}, Python {platform.python_version()}, {platform.machine()}"
    doc = __doc__.split("\n\n", 1)[1].rstrip()
    parts = [f"# What it costs to ask\n\n{doc}\n\nMade with {made}; rounds: {count}."]
    parts += [f"## {name}\n\n{text}" for name, text in tables.items()]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    depths = [f"gpt-{layers}" for layers in DEPTHS]
    parser.add_argument("--model", action="append", choices=[*CASES, *depths], help="may be repeated (default: most)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-slow", action="store_true", help=f"leave {' and '.join(SLOW)} out")
    parser.add_argument("--without-depth", action="store_true", help="leave the curves of time against depth out")
    parser.add_argument("--seconds", type=float, default=240, help="time limit of one contender")
    parser.add_argument("--page", type=Path, help="write the page, too")
    parser.add_argument("--child", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    models = options.model or list(CASES)
    if options.child:
        return as_child(options.child, models[0])
    peers = [n for n in ("fvcore", "calflops") if importlib.util.find_spec(n) is not None]
    own = ["bare", "foretrace", "unfolded"]
    names = [*own, "loaded", "flop_counter", *(() if options.without_slow else SLOW), *peers]
    tables = {}
    for model in models:
        tables[model] = table(rounds(model, names, options.rounds, options.seconds))
        print(f"{model}\n{tables[model]}\n", flush=True)
    deep = [*own, "anyhow"]
    by_name, by_stage = ({}, {}) if options.without_depth else curves(deep, options.rounds, options.seconds)
    if by_name:
        print(depth_table(by_name))
    if options.page:
        text = page(tables, options.rounds) + (f"\n{depth_section(by_name, by_stage)}\n" if by_name else "")
        options.page.write_text(text, encoding="utf-8")
    if options.page and by_name:
        drawn = picture("A training step by depth", by_name)
        (options.page.parent / "pictures").mkdir(exist_ok=True)
        (options.page.parent / "pictures" / CURVES).write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
