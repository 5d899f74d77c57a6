"""The main job against its peers: GPT-2 XL's whole training step, recorded, lifted and priced, in one run.

    python benchmarks/main_job.py [--batch 8] [--seq 1024] [--layers 48] [--without-memtracker]

Each contender runs in a process of its own, so that its peak resident memory is its own:

- bare: forward and backward dispatched on meta tensors, with nobody looking (the floor);
- flop_counter: the same under ``torch.utils.flop_counter.FlopCounterMode``, which knows no optimizer;
- mem_tracker: one step with AdamW under ``torch.distributed._tools.MemTracker`` and ``FakeTensorMode``;
- foretrace: two steps with AdamW, of which the second is recorded, lifted, and priced for an A100.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from tabulate import tabulate

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
Sizes = dict[str, int]


def built(sizes: Sizes, device: str = "meta"):
    import torch

    sys.path.insert(0, str(EXAMPLES))
    from gpt2_xl import GPT2

    with torch.device(device):
        model = GPT2(50257, max(sizes["seq"], 1024), sizes["layers"], 1600, 25)
    return model


def forward_and_backward(model, ids) -> None:
    import torch.nn.functional as F

    logits = model(ids)
    F.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()


def bare(sizes: Sizes) -> dict[str, float]:
    import torch

    model, ids = built(sizes), torch.zeros(sizes["batch"], sizes["seq"], dtype=torch.int64, device="meta")
    start = time.perf_counter()
    forward_and_backward(model, ids)
    return {"seconds": time.perf_counter() - start}


def flop_counter(sizes: Sizes) -> dict[str, float]:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model, ids = built(sizes), torch.zeros(sizes["batch"], sizes["seq"], dtype=torch.int64, device="meta")
    start = time.perf_counter()
    with FlopCounterMode(display=False) as counter:
        forward_and_backward(model, ids)
    return {"seconds": time.perf_counter() - start, "flops": counter.get_total_flops()}


def mem_tracker(sizes: Sizes) -> dict[str, float]:
    import torch
    from torch._subclasses import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    with FakeTensorMode():
        model = built(sizes, "cpu")
        ids = torch.zeros(sizes["batch"], sizes["seq"], dtype=torch.int64)
        optimizer = torch.optim.AdamW(model.parameters())
        tracker = MemTracker()
        tracker.track_external(model, optimizer, ids)
        start = time.perf_counter()
        with tracker:
            forward_and_backward(model, ids)
            optimizer.step()
            optimizer.zero_grad()
        seconds = time.perf_counter() - start
    peak = sum(row["Total"] for row in tracker.get_tracker_snapshot("peak").values())
    return {"seconds": seconds, "peak_bytes": peak}


def foretrace(sizes: Sizes) -> dict[str, float]:
    import torch  # noqa: F401  (the peers' clocks start after importing torch, too)

    from foretrace.report.result import price
    from foretrace.tracer import trace_target

    start = time.perf_counter()
    trace = trace_target(f"{EXAMPLES}/gpt2_xl.py:gpt2_xl", dict(sizes))
    traced = time.perf_counter()
    trace.graph.number_of_edges()
    lifted = time.perf_counter()
    report = price(trace, on="a100-sxm4-80gb")
    priced = time.perf_counter()
    return {
        "seconds": priced - start,
        "trace": traced - start,
        "graph": lifted - traced,
        "price": priced - lifted,
        "ops": len(trace.ops),
        "peak_bytes": report.memory.peak_bytes,
        "flops": report.flops.total,
    }


CONTENDERS: dict[str, Callable[[Sizes], dict[str, float]]] = {
    "bare": bare,
    "flop_counter": flop_counter,
    "mem_tracker": mem_tracker,
    "foretrace": foretrace,
}


def in_child(name: str, sizes: Sizes) -> dict[str, float]:
    """Run one contender in a process of its own and read what it found."""
    command = [sys.executable, __file__, "--child", name, *(f"--{k}={v}" for k, v in sizes.items())]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "failed"}  # type: ignore[dict-item]
    return json.loads(done.stdout.strip().splitlines()[-1])


def show(found: dict[str, dict[str, float]]) -> str:
    ours = found["foretrace"]["seconds"]
    rows = []
    for name, figures in found.items():
        if "error" in figures:
            rows.append([name, figures["error"]])
            continue
        rows.append(
            [
                name,
                f"{figures['seconds']:.2f}",
                f"{figures['seconds'] / ours:.2f}",
                f"{figures['resident_bytes'] / 1e6:,.0f}",
                f"{figures['peak_bytes'] / 2**30:.2f}" if "peak_bytes" in figures else "",
                f"{figures['flops'] / 1e12:.2f}" if "flops" in figures else "",
            ]
        )
    head = ["", "seconds", "x foretrace", "resident MB", "peak GiB", "TFLOP"]
    return tabulate(rows, head, tablefmt="github", disable_numparse=True, colalign=("left", *("right",) * 5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--without-memtracker", action="store_true", help="leave the slow peer out")
    parser.add_argument("--child", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = {"batch": options.batch, "seq": options.seq, "layers": options.layers}
    warnings.filterwarnings("ignore")
    if options.child:
        figures = CONTENDERS[options.child](sizes)
        figures["resident_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(figures))
        return
    names = [n for n in CONTENDERS if n != "mem_tracker" or not options.without_memtracker]
    found = {name: in_child(name, sizes) for name in names}
    print(f"GPT-2 XL shape: {sizes}, float32, AdamW")
    print(show(found))
    ours = found["foretrace"]
    print(
        f"foretrace: trace {ours['trace']:.2f} s, graph {ours['graph']:.2f} s, price {ours['price']:.2f} s, "
        f"{ours['ops']:,.0f} ops"
    )


if __name__ == "__main__":
    main()
