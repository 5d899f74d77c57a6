"""Transformers' own GPT-2 at XL size, unmodified, with random weights on the meta device.

foretrace run examples/hf_gpt2_xl.py:hf_gpt2_xl -p batch=8 -p seq=1024
"""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def hf_gpt2_xl(batch: int = 8, seq: int = 1024, layers: int = 48, attention: str = "sdpa", dropout: float = 0.1):
    """`GPT2LMHeadModel` and a batch with labels, so that the model makes its own loss."""
    config = GPT2Config(
        n_embd=1600,
        n_layer=layers,
        n_head=25,
        n_positions=max(seq, 1024),
        attn_implementation=attention,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        use_cache=False,
    )
    with torch.device("meta"):
        model = GPT2LMHeadModel(config)
    model.train()
    ids = torch.randint(0, config.vocab_size, (batch, seq))
    return model, {"input_ids": ids, "labels": ids}
