"""`Report` -> the screen that a person reads in a terminal, the answer first.

Does it fit, how large is it, how long does it take; then who holds the memory and who takes the time, each with its
line of code; then what is doubtful; then what to do next. Repeated modules stand in one row, with a ``*`` for the
index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..costmodels import Holder
from ..graph import Category, Phase
from .format import bar_text, bytes_text, bytes_texts, count_text, doubt_text, screen, seconds_text, share_text
from .json import portable
from .layout import WIDTH, Labelled, Paragraph, Part, Rows, laid_out
from .text_timeline import timeline_lines
from .words import line_text, phase_text, short

if TYPE_CHECKING:
    from ..hardware.replay import Failure
    from .result import Report

MOST_ROWS = 8
MOST_AT_FAILURE = 4
MOST_NAMES = 6

CATEGORY_WORDS = {
    Category.PARAMETER: "parameter",
    Category.BUFFER: "buffer",
    Category.GRADIENT: "gradient",
    Category.OPTIMIZER_STATE: "state",
    Category.SAVED: "saved",
    Category.TEMPORARY: "temporary",
    Category.INPUT: "input",
    Category.WORKSPACE: "workspace",
}

BOUND_WORDS = {
    "tensor": "matrix arithmetic",
    "vector": "other arithmetic",
    "memory": "memory traffic",
    "floor": "launching kernels",
    "host": "waiting for the host",
}

TIER_WORDS = {
    "measured": "measured ops",
    "tiles": "tiles and waves",
    "rate": "a usual rate",
    "bandwidth": "bandwidth",
    "floor": "a floor per kernel",
}


def to_table(report: Report, width: int = WIDTH) -> str:
    """The whole screen of `width` columns, as text that ends in a newline."""
    answer: list[Sequence[Part]] = [_header(report), _answer(report), timeline_lines(report, width)]
    held = [_holders_at_failure(report), _holders(report)]
    blocks = [*answer, *held, _takers(report), _doubt(report), _next(report, width)]
    return screen(laid_out(block, width) for block in blocks)


# --- the answer ---


def _header(report: Report) -> list[Part]:
    facts = report.trace.facts
    steps = f"step {facts.warmup + 1}" if facts.warmup else "the very first step"
    about = (report.device, facts.precision, _optimizer(report), steps)
    return [
        portable(facts.target) or "a training step",
        Paragraph(f"{', '.join(about)}; {_ops(len(report.trace.ops))}", "  "),
        Paragraph(f"on {report.profile.full_name} ({report.profile.name})", "  "),
    ]


def _optimizer(report: Report) -> str:
    facts = report.trace.facts.optimizer
    name, way = facts.get("class"), facts.get("implementation")
    return f"{name} ({way})" if name and way else str(name or "no optimizer")


def _answer(report: Report) -> list[Part]:
    return [
        *_fits(report),
        *_peak(report),
        *_labelled("  of which", _at_peak(report)),
        *_allocator(report),
        *_labelled("over the step", _over_the_step(report)),
        *_step_time(report),
        *_compute(report),
        *_parameters(report),
    ]


def _labelled(label: str, parts: Sequence[str]) -> list[Part]:
    return [Labelled(label, parts)]


def _fits(report: Report) -> list[Part]:
    if report.device_memory is None:
        return _labelled("fits", ["not asked: traced for the CPU, whose memory this is"])
    found = report.device_memory
    needed, available = bytes_texts(found.reserved_peak_bytes, report.available_bytes)
    share = share_text(found.reserved_peak_bytes, report.available_bytes)
    bar = bar_text(found.reserved_peak_bytes, report.available_bytes)
    missing = bytes_text(max(found.reserved_peak_bytes - report.available_bytes, 0))
    answer = f"{share}  {bar}" if report.fits else f"{missing} too much  {bar}"
    context = f"beside a CUDA context of {bytes_text(found.context_bytes)}"
    return [
        *_labelled("fits", [f"{'yes' if report.fits else 'no'}: {needed} of {available}", answer]),
        *_labelled("", [context]),
        *(_failure(found.failure) if found.failure else []),
    ]


def _failure(failure: Failure) -> list[Part]:
    """Where it would fail, and what PyTorch would say there."""
    op, step = failure.op, f"of step {failure.step + 1}"
    where = (
        (f"in {phase_text(op.phase)} {step}", failure.module, short(op.packet), line_text(op.source))
        if op
        else (f"at the start {step}",)
    )
    said = failure.message.partition(". GPU")[0]
    return _labelled("  fails", [*filter(None, where), f'"{said}"'])


def _allocator(report: Report) -> list[Part]:
    found = report.device_memory
    if found is None:
        return []
    shown = [
        f"allocated {bytes_text(found.allocated_peak_bytes)}",
        f"kernels' workspaces {bytes_text(report.workspace_bytes or 0)} of it",
        f"reserved {bytes_text(found.reserved_peak_bytes)}",
        f"{share_text(found.at_peak.unallocated_bytes, found.at_peak.reserved_bytes)} free at the peak",
        f"device total {bytes_text(found.device_peak_bytes)}",
    ]
    return _labelled("  as CUDA says", shown)


def _peak(report: Report) -> list[Part]:
    op = report.peak_op
    where = (
        (f"in {phase_text(op.phase)}", op.module, short(op.packet), line_text(op.source)) if op else ("at the start",)
    )
    return _labelled("peak memory", [bytes_text(report.memory.peak_bytes), *filter(None, where)])


def _at_peak(report: Report) -> list[str]:
    held = [(count, category) for category, count in report.memory.at_peak.items() if count]
    return [f"{phase_text(category)} {bytes_text(count)}" for count, category in sorted(held, reverse=True)]


def _over_the_step(report: Report) -> list[str]:
    memory = report.memory
    shown = [f"start {bytes_text(memory.start_bytes)}"]
    for phase, held in memory.phases.items():
        peak, end = bytes_text(held.peak_bytes), bytes_text(held.end_bytes)
        shown.append(f"{phase_text(phase)} {peak}" if peak == end else f"{phase_text(phase)} {peak} (then {end})")
    return shown


def _step_time(report: Report) -> list[Part]:
    time = report.time
    doubt = doubt_text(time.low_seconds, time.step_seconds, time.high_seconds)
    phases = (Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER)
    shown = [f"{phase} {seconds_text(time.phases[phase].seconds)}" for phase in phases if time.phases[phase].seconds]
    shares = sorted(((share, bound) for bound, share in time.bound_shares.items() if share), reverse=True)
    spent = [f"{share_text(share, 1)} {BOUND_WORDS.get(bound, bound)}" for share, bound in shares]
    return [
        *_labelled("step time", [f"~ {seconds_text(time.step_seconds)}  {doubt}".rstrip(), *shown]),
        *_labelled("", spent),
        *_labelled("", _launching(report)),
        *_labelled("", _rates(report)),
    ]


def _launching(report: Report) -> list[str]:
    """Who sets the pace, where it is the host."""
    time = report.time
    if not time.is_launch_bound:
        return []
    waits = f"launch-bound: the device waits {seconds_text(time.waiting_seconds)} for the host"
    return [waits, f"its kernels alone take {seconds_text(time.kernel_seconds)}"]


def _rates(report: Report) -> list[str]:
    rates = ((report.samples_per_second, "samples/s"), (report.tokens_per_second, "tokens/s"))
    shown = [f"{rate:,.4g} {name}" if rate < 1e4 else f"{rate:,.0f} {name}" for rate, name in rates if rate]
    return [*shown, f"at batch {report.batch:,}"] if shown and report.batch else shown


def _compute(report: Report) -> list[Part]:
    flops = report.flops
    phases = (("forward", flops.forward), ("backward", flops.backward), ("optimizer", flops.optimizer))
    shown = [f"{name} {count_text(count, 'FLOP')}" for name, count in phases if count]
    lines = _labelled("compute", [count_text(flops.total, "FLOP"), *shown])
    if flops.causal_total != flops.total:
        lines += _labelled("", [f"{count_text(flops.causal_total, 'FLOP')} without what the causal mask throws away"])
    if report.time.peak_unit:
        mfu, hfu = share_text(report.time.mfu, 1), share_text(report.time.hfu, 1)
        again = f", HFU {hfu} with what checkpointing recomputes" if report.time.recomputed_flops else ""
        lines += _labelled("", [f"MFU {mfu} of {_unit_peak(report)}{again}"])
    return lines


def _unit_peak(report: Report) -> str:
    return f"{count_text(report.time.peak_flops_per_second, 'FLOP/s')} ({report.time.peak_unit})"


def _parameters(report: Report) -> list[Part]:
    parameters = report.parameters
    frozen = parameters.total - parameters.trainable
    return _labelled(
        "parameters",
        [f"{parameters.total:,}", bytes_text(parameters.bytes), *([f"{frozen:,} of them frozen"] if frozen else [])],
    )


# --- who ---


def _holders(report: Report) -> list[Part]:
    return _held("who holds the peak", report.holders, report.memory.peak_bytes)


def _holders_at_failure(report: Report) -> list[Part]:
    """What PyTorch would print where memory runs out, and who has it then."""
    found = report.device_memory
    if found is None or found.failure is None:
        return []
    holders = found.failure.holders
    rows = _held("who holds the memory when it fails", holders, sum(row.bytes for row in holders), MOST_AT_FAILURE)
    return [*rows, Paragraph(found.failure.message.partition(" If reserved but")[0], "  ")]


def _held(title: str, holders: Sequence[Holder], total_bytes: int, most: int = MOST_ROWS) -> list[Part]:
    rows = [
        (
            _holder_name(row),
            CATEGORY_WORDS[row.category] if row.category else "",
            f"{row.count:,} x {bytes_text(row.bytes_each)}" if row.count > 1 else "",
            bytes_text(row.bytes),
            share_text(row.bytes, total_bytes),
            line_text(row.source),
        )
        for row in holders[:most]
    ]
    return [f"{title}{_rest(len(holders), most)}", Rows(rows, "llrrrl", spare=(2, 1))] if rows else []


def _holder_name(row: Holder) -> str:
    made = short(row.packet)
    if row.category in (Category.TEMPORARY, Category.SAVED) and not made:
        return "from the step before"
    if row.category is Category.WORKSPACE and not made:
        return "cuBLAS"  # which alone keeps what it takes
    return f"{row.module} {made}".strip() or "(no module)"


def _takers(report: Report) -> list[Part]:
    shown = report.takers[:MOST_ROWS]
    total = report.time.step_seconds
    rows = [
        (
            f"{row.module} {short(row.packet)}".strip(),
            _ops(row.count),
            seconds_text(row.seconds),
            share_text(row.seconds, total),
            line_text(row.source),
        )
        for row in shown
    ]
    return [f"who takes the time{_rest(len(report.takers))}", Rows(rows, "lrrrl", spare=(1,))] if rows else []


def _rest(count: int, most: int = MOST_ROWS) -> str:
    return f" ({most} largest of {count:,})" if count > most else ""


# --- what is doubtful, and what next ---


def _doubt(report: Report) -> list[Part]:
    coverage = report.coverage
    paragraphs = []
    if coverage.assumed:
        names = [f"{short(row.name)} x{row.count:,}" for row in coverage.assumed]
        share = share_text(coverage.assumed_seconds, report.time.step_seconds)
        count = sum(row.count for row in coverage.assumed)
        paragraphs.append(f"{_ops(count)} priced by assumption, {share} of the time: {_some(names)}")
    if coverage.assumptions:
        paragraphs.append(f"assumed of the data: {_some([_assumption(item) for item in coverage.assumptions])}")
    paragraphs += coverage.notes
    shares = sorted(((share, tier) for tier, share in report.time.tier_shares.items() if share), reverse=True)
    if shares:
        resting = ", ".join(f"{TIER_WORDS[tier]} {share_text(share, 1)}" for share, tier in shares)
        paragraphs.append(f"the kernels' time rests on {resting}")
    paragraphs.append(f"not modelled: {'; '.join(coverage.not_modelled)}")
    return [Paragraph(text) for text in paragraphs]


def _some(names: Sequence[str]) -> str:
    more = f", and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def _assumption(item: object) -> str:
    """One line of ``facts.assumptions``: what was assumed, of which op, where."""
    if not isinstance(item, Mapping):
        return str(item)
    op, what, place = item.get("op", ""), item.get("assumed", ""), item.get("at", "")
    return f"{what} ({short(str(op))}{f' at {place}' if place else ''})"


def _next(report: Report, width: int) -> list[str]:
    commands = (
        ("foretrace run TARGET --html step.html", "look at it in a browser"),
        ("foretrace run TARGET --save step.foretrace", "keep the trace"),
        ("foretrace run step.foretrace --on PROFILE", "price it on another device"),
        (f"foretrace explain {report.profile.name}", "where its numbers come from"),
    )
    heads = ("next:", *[""] * (len(commands) - 1))
    lines = [f"{head:<7}{command:<46}{why}" for head, (command, why) in zip(heads, commands, strict=True)]
    fits = all(len(line) <= width for line in lines)
    return lines if fits else [f"{head:<7}{command}" for head, (command, _) in zip(heads, commands, strict=True)]


# --- words ---


def _ops(count: int) -> str:
    return f"{count:,} op{'s' if count != 1 else ''}"
