"""The textbook questions on GPT-2 XL and AdamW, answered from traces of the model in `gpt2_xl.by_hand`.

    python examples/accounting.py

Prints the figures of docs/accounting.md: saved activations by the op that made them, the peak as a function of
the batch, the largest batch on an A100, AdamW's FLOPs, and the length of a training run.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import foretrace
from foretrace import costmodels
from foretrace.graph import Category, Phase, StepGraph

TARGET = f"{Path(__file__).with_name('gpt2_xl.py')}:by_hand"
ON = "a100-sxm4-80gb"
LAYERS, CONTEXT, WIDTH, HEADS, VOCABULARY = 48, 1024, 1600, 25, 50257


def traced(batch: int) -> StepGraph:
    """One steady-state step at a batch size."""
    return foretrace.trace_target(TARGET, {"batch": batch})


def saved_by_op(graph: StepGraph) -> list[tuple[str, str, int, int]]:
    """Rolled module path, op, count and bytes each of what autograd keeps, the largest share first."""
    found: Counter[tuple[str, str, int]] = Counter()
    for storage in graph.storages:
        on_device = storage.device == graph.facts.device
        if storage.category is Category.SAVED and on_device and storage.born is not None:
            op = graph.ops[storage.born]
            found[costmodels.roll(op.module), op.packet.removeprefix("aten."), storage.bytes] += 1
    rows = [(module, op, count, size) for (module, op, size), count in found.items()]
    return sorted(rows, key=lambda row: (-row[2] * row[3], row[0]))


def saved_formula(batch: int) -> int:
    """Bytes saved for backward, in closed form (float32; masks are bool, targets int64)."""
    b, t, d, h, v = batch, CONTEXT, WIDTH, HEADS, VOCABULARY
    layer = 16 * b * t * d + b * h * t * t + 2 * b * t
    targets = 8 * b * t if b > 1 else 0  # one sequence's targets are contiguous already
    return 4 * (LAYERS * layer + 2 * b * t * d + b * t + b * t * v) + LAYERS * t * t + 8 + targets


def memory(reports: dict[int, foretrace.Report]) -> None:
    """Print peak and saved bytes by batch, and the straight line through the peaks of backward."""
    print("batch  saved for backward      peak of backward     peak of optimizer  peak of the step  fits")
    for batch, report in reports.items():
        phases = report.memory.phases
        figures = (
            report.memory.saved_for_backward_bytes,
            phases[Phase.BACKWARD].peak_bytes,
            phases[Phase.OPTIMIZER].peak_bytes,
            report.memory.peak_bytes,
        )
        print(f"{batch:>5}  {figures[0]:>18,}  {figures[1]:>20,}  {figures[2]:>20,}  {figures[3]:>16,}", end="  ")
        print("yes" if report.fits else "no")
        assert report.memory.saved_for_backward_bytes == saved_formula(batch)
    peaks = [report.memory.phases[Phase.BACKWARD].peak_bytes for report in reports.values()]
    slope = peaks[2] - peaks[1]
    print(f"peak of backward = {slope:,} * batch + {peaks[1] - 2 * slope:,} bytes")
    assert all(peak == slope * batch + peaks[1] - 2 * slope for batch, peak in zip(reports, peaks, strict=True))


def adamw(report: foretrace.Report) -> None:
    """Print AdamW's FLOPs per parameter, term by term, beside the traced total."""
    terms = costmodels.adamw_flops_per_parameter()
    for name, flops in terms:
        print(f"{flops:>4}  {name}")
    print(f"{sum(flops for _, flops in terms):>4}  FLOPs per parameter")
    print(f"traced: {report.flops.optimizer:,} FLOPs for {report.parameters.total:,} parameters")


def run(report: foretrace.Report, batch: int, steps: int = 400_000) -> None:
    """Print how long a training run takes at half of the float32 peak, by the trace and by 6 N D."""
    flops_per_second = 0.5 * 19.5e12
    sequence = report.flops.forward + report.flops.backward
    by_trace = steps * (1024 * sequence // batch + report.flops.optimizer)
    by_rule = steps * 6 * report.parameters.total * 1024 * CONTEXT
    for name, total in (("the trace", by_trace), ("6 N D", by_rule)):
        days = total / flops_per_second / 86_400
        print(f"by {name}: {total:.4g} FLOPs, {days:,.0f} days at 9.75 TFLOP/s")


def main() -> None:
    """Print everything."""
    one = traced(1)
    print("saved for backward at batch 1")
    for module, op, count, size in saved_by_op(one):
        print(f"{count:>4} x {size:>11,} B  {module or 'loss':<12}  {op}")
    reports = {1: foretrace.price(one, on=ON)}
    reports.update({batch: foretrace.price(traced(batch), on=ON) for batch in range(2, 7)})
    print()
    memory(reports)
    print()
    adamw(reports[1])
    print()
    run(reports[1], 1)


if __name__ == "__main__":
    main()
