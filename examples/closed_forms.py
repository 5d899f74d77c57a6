"""The textbook questions on GPT-2 XL and AdamW answered in symbols, for eight ways to run the step.

    python examples/closed_forms.py                       # all eight, a few minutes
    python examples/closed_forms.py eager float32 foreach  # one

Prints the closed forms of docs/accounting.md: what is saved for backward, live bytes after forward, each candidate for
the peak that wins near the full size, the same over the batch alone, and the largest batch that fits on an A100 with
80 GB, by live bytes and by what the caching allocator reserves, each confirmed by a trace. The targets below are what
they are taken from:

    foretrace formula examples/closed_forms.py:textbook --over batch,seq,layers,width,heads,vocab
    foretrace formula examples/closed_forms.py:megatron --over batch,seq,layers,width,heads --of saved_for_backward \\
        --compare "L*T*B*d*(34 + 5*H*T/d)"
"""

from __future__ import annotations

import sys
from itertools import product

import torch
import torch.nn.functional as F
from gpt2_xl import VOCABULARY, ByHand, _with_batch
from torch import Tensor, nn

SIZES = "batch,seq,layers,width,heads,vocab"
ON = "a100-sxm4-80gb"


def textbook(
    batch: int = 8,
    seq: int = 1024,
    layers: int = 48,
    width: int = 1600,
    heads: int = 25,
    vocab: int = VOCABULARY,
    fused: bool = False,
):
    """The transformer of the hand counts, with attention written out or by PyTorch's fused function."""
    with torch.device("meta"):
        model = ByHand(vocab, layers, width, heads)
    for block in model.h:
        block.attn.fused = fused
    return _with_batch(model, batch, seq, vocab)


class MegatronLayer(nn.Module):
    """The layer that "Reducing Activation Recomputation in Large Transformer Models" counts (arXiv:2205.05198)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        scores = q @ k.transpose(-2, -1)
        mixed = F.dropout(scores.softmax(dim=-1), 0.1) @ v
        x = x + F.dropout(self.out(mixed.transpose(1, 2).flatten(2)), 0.1)
        return x + F.dropout(self.down(F.gelu(self.up(self.norm2(x)))), 0.1)


def megatron(batch: int = 8, seq: int = 2048, layers: int = 48, width: int = 6144, heads: int = 64):
    """A stack of such layers in bfloat16, from hidden states to the sum of the outputs."""
    with torch.device("meta"):
        model = nn.Sequential(*(MegatronLayer(width, heads) for _ in range(layers))).bfloat16()
    return model, (torch.empty(batch, seq, width, dtype=torch.bfloat16),), torch.sum


def show(attention: str, precision: str, optimizer: str) -> None:
    """Print the closed forms of one way to run the step."""
    import foretrace
    from foretrace.costmodels.formula import written

    how = {"optimizer": "adamw:fused"} if optimizer == "fused" else {}
    how |= {} if precision == "float32" else {"autocast": precision}
    fused = {"fused": attention == "fused"}
    target = f"{__file__}:textbook"
    found = foretrace.formula(target, SIZES, parameters=fused, **how)
    said = lambda polynomial: written(polynomial, found.letters, found.names)  # noqa: E731
    print(f"{attention} attention, {precision}, {optimizer} AdamW")
    for name in ("saved_for_backward", "after_forward"):
        print(f"  {found[name].title}\n    {said(found[name].polynomial)}")
    others = {name: size for name, size in found.full.items() if name != "batch"}
    for candidate in found.peak.winning:
        if candidate.share > 0.05:
            print(f"  live in {candidate.point}\n    {said(candidate.polynomial)}")
            print(f"    = {said(candidate.polynomial.subs(**others))}")

    def priced(batch: int):
        return foretrace.price(foretrace.trace_target(target, {**fused, **others, "batch": batch}, **how), on=ON)

    limit = foretrace.price(foretrace.trace_target(target, {**fused, "layers": 1}), on=ON).available_bytes
    best = max((n for n in range(2, 200) if found.at("peak", batch=n, **others) <= limit), default=1)
    report = priced(best)
    assert report.memory.peak_bytes == found.at("peak", batch=best, **others)
    print(f"  largest batch {best} by live bytes, with a peak of {report.memory.peak_bytes:,} bytes")
    real = best
    while not report.fits:
        real -= 1
        report = priced(real)
    print(f"  largest batch {real} by reserved bytes, with {report.reserved_peak_bytes:,} bytes reserved\n", flush=True)


if __name__ == "__main__":
    chosen = (
        [sys.argv[1:]]
        if len(sys.argv) == 4
        else product(("eager", "fused"), ("float32", "bfloat16"), ("foreach", "fused"))
    )
    for attention, precision, optimizer in chosen:
        show(attention, precision, optimizer)
