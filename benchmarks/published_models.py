"""A row of published timings -> the training step that was timed, built without weights.

Every builder takes the row's columns and returns a `Step`; which library it needs stands in `NEEDS`. Where a row does
not say something (a head, a loss), the builder's docstring says what was taken.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from foretrace.tracer import Step
from gpt_by_hand import SIZES, TextbookAdamW, training_step
from gpt_by_heads import timed_step
from opt_attention import write_out_opt_attention

Row = Mapping[str, str]

NEEDS = {
    "hand_gpt": ("einops",),
    "hf_pretraining": ("transformers",),
    "hf_sdpa": ("transformers",),
    "hf_layer": ("transformers",),
    "hf_llama": ("transformers",),
    "torchvision": ("torchvision",),
    "timm": ("timm",),
}
"""The libraries that a family of rows needs beside torch."""

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def missing(family: str) -> str:
    """The first library that is not installed; empty where all are."""
    return next((name for name in NEEDS[family] if importlib.util.find_spec(name) is None), "")


def build(row: Row) -> Step:
    """The step of that row. Raises KeyError for a family that nobody knows."""
    return BUILDERS[row["family"]](row)


def _dtype(row: Row) -> torch.dtype:
    return DTYPES.get(row["precision"], torch.float32)


def _autocast(row: Row) -> torch.dtype | None:
    dtype, _, word = row["precision"].partition(" ")
    return DTYPES[dtype] if word == "autocast" else None


def hand_gpt(row: Row) -> Step:
    """The hand-written GPT; the optimizer is AdamW written out (``textbook``) or that of torch.

    One author's turns positions head by head (``head by head`` in the column of attention), without an optimizer.
    """
    if row["attention"] == "head by head":
        return timed_step(SIZES[row["model"]], int(row["batch"]), int(row["sequence"]), _autocast(row))
    optimizer = TextbookAdamW if row["optimizer"] == "textbook" else "adamw"
    return training_step(SIZES[row["model"]], int(row["batch"]), int(row["sequence"]), _autocast(row), optimizer)


def hf_pretraining(row: Row) -> Step:
    """Forward and backward of a model with its pretraining heads; the loss is the sum of the logits."""
    from transformers import BertConfig, BertForPreTraining, GPT2Config, GPT2LMHeadModel

    common: dict[str, Any] = {"attn_implementation": row["attention"], "use_cache": False}
    length = int(row["sequence"])
    model: nn.Module
    if row["model"] == "bert_large":
        sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
        model = BertForPreTraining(BertConfig(**sizes, **common))
    else:
        layers, width, heads = {"gpt3_xl": (24, 3072, 24), "gpt3_27": (32, 2560, 32)}[row["model"]]
        model = GPT2LMHeadModel(
            GPT2Config(n_layer=layers, n_embd=width, n_head=heads, n_positions=max(length, 1024), **common)
        )
    return _language_step(model, row)


CHECKPOINTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "albert/albert-base-v2": ("AlbertConfig", "AlbertForMaskedLM", {
        "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}),
    "bert-base-uncased": ("BertConfig", "BertForMaskedLM", {}),
    "facebook/opt-350m": (
        "OPTConfig",
        "OPTForCausalLM",
        {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "ffn_dim": 4096,
            "word_embed_proj_dim": 512,
            "do_layer_norm_before": False,
            "vocab_size": 50272,
        },
    ),
    "google/electra-base-discriminator": ("ElectraConfig", "ElectraForMaskedLM", {
        "embedding_size": 768, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}),
    "google/electra-base-generator": ("ElectraConfig", "ElectraForMaskedLM", {
        "embedding_size": 768, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}),
}  # fmt: skip
"""Class and configuration of each checkpoint: huggingface.co/NAME/blob/main/config.json where it is not the default."""


def hf_sdpa(row: Row) -> Step:
    """Weights in half precision, training mode; zero_grad, forward, sum of the logits, backward, as published."""
    import transformers

    config_name, model_name, arguments = CHECKPOINTS[row["model"]]
    config = getattr(transformers, config_name)(attn_implementation=row["attention"], use_cache=False, **arguments)
    if "opt" in row["model"]:
        write_out_opt_attention()
    if int(row["sequence"]) > config.max_position_embeddings:
        config.max_position_embeddings = int(row["sequence"])
    return _language_step(getattr(transformers, model_name)(config), row)


def _language_step(model: nn.Module, row: Row) -> Step:
    model = model.to(_dtype(row))
    ids = torch.randint(0, 1000, (int(row["batch"]), int(row["sequence"])))
    if row["part"] == "inference":
        return Step(model.eval(), {"input_ids": ids}, step="inference")

    def step(model: nn.Module, optimizer: Any, inputs: Mapping[str, Any]) -> None:
        model.zero_grad()
        output = model(**inputs)
        logits = output.prediction_logits if hasattr(output, "prediction_logits") else output.logits
        logits.sum().backward()

    return Step(model.train(), {"input_ids": ids}, step=step, optimizer=None)


class Alone(nn.Module):
    """One layer of a model, called with what it needs."""

    def __init__(self, layer: nn.Module, **given: Any) -> None:
        super().__init__()
        self.layer, self.given = layer, given

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        given = dict(self.given)
        if other is not None:
            given["encoder_hidden_states"] = other
        output = self.layer(x, **given)
        return output[0] if isinstance(output, tuple) else output


def hf_layer(row: Row) -> Step:
    """One layer of bert-large, gpt2-medium or t5-large in half precision; the loss is the sum of its output."""
    from transformers import BertConfig, GPT2Config, T5Config
    from transformers.models.bert.modeling_bert import BertLayer
    from transformers.models.gpt2.modeling_gpt2 import GPT2Block
    from transformers.models.t5.modeling_t5 import T5Block

    batch, length = int(row["batch"]), int(row["sequence"])
    inputs = {"x": torch.randn(batch, length, 1024, dtype=torch.float16)}
    if row["model"] == "BertLayer":
        sizes = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}
        layer = Alone(BertLayer(BertConfig(**sizes, attn_implementation="eager")))
    elif row["model"] == "GPT2Block":
        layer = Alone(GPT2Block(GPT2Config(n_embd=1024, n_head=16, attn_implementation="eager"), layer_idx=0))
    else:
        decoder = row["model"] == "T5Decoder"
        config = T5Config(d_model=1024, d_ff=4096, num_heads=16, d_kv=64, is_decoder=decoder, use_cache=False)
        if decoder:
            inputs["other"] = torch.randn(batch, length, 1024, dtype=torch.float16)
        layer = Alone(T5Block(config, layer_idx=0))

    def step(model: nn.Module, optimizer: Any, inputs: Mapping[str, torch.Tensor]) -> None:
        model(**inputs).sum().backward()

    return Step(layer.half().train(), inputs, step=step, optimizer=None)


def hf_llama(row: Row) -> Step:
    """Llama in bfloat16 with its own loss; the rows with a backward checkpoint every layer, as published."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {
        "Llama-3.2-1B": {
            "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
            "num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": True,
        },
        "Llama-3.1-8B": {
            "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 8,
        },
    }[row["model"]]  # fmt: skip
    config = LlamaConfig(
        vocab_size=128256,
        max_position_embeddings=131072,
        attn_implementation=row["attention"],
        use_cache=False,
        **sizes,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    ids = torch.randint(0, 1000, (int(row["batch"]), int(row["sequence"])))
    if row["part"] == "inference":
        return Step(model.eval(), {"input_ids": ids}, step="inference")
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return Step(model.train(), {"input_ids": ids, "labels": ids}, optimizer=row["optimizer"] or None)


def torchvision(row: Row) -> Step:
    """An image classifier, cross-entropy, SGD with momentum where the row has an optimizer.

    All these rows are of PyTorch before 2.0, whose `zero_grad` fills gradients with zeros.
    """
    import torchvision.models

    extra = {"aux_logits": False} if row["model"] in ("inception_v3", "googlenet") else {}
    return _image_step(getattr(torchvision.models, row["model"])(weights=None, **extra), row)


def timm(row: Row) -> Step:
    """The same for a model of timm, in the memory format of the row's note.

    These rows are of PyTorch 1.12, which had no fused attention.
    """
    import timm
    from timm.layers import set_fused_attn

    set_fused_attn(False)
    return _image_step(timm.create_model(row["model"]), row)


def _image_step(model: nn.Module, row: Row) -> Step:
    batch, size = int(row["batch"]), int(row["sequence"])
    images = torch.randn(batch, 3, size, size, dtype=_dtype(row))
    model = model.to(_dtype(row))
    if row["note"] == "channels_last":
        model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    if row["part"] == "inference":
        return Step(model.eval(), (images,), step="inference")
    labels = torch.randint(0, 1000, (batch,))
    autocast = _autocast(row)

    def step(model: nn.Module, optimizer: Any, inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
        images, labels = inputs
        model.zero_grad(set_to_none=row["family"] == "timm")
        with torch.autocast("cuda", autocast or torch.float16, enabled=autocast is not None):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        if optimizer is not None:
            optimizer.step()

    def momentum(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)

    return Step(model.train(), (images, labels), step=step, optimizer=momentum if row["optimizer"] else None)


BUILDERS: dict[str, Callable[[Row], Step]] = {
    "hand_gpt": hand_gpt,
    "hf_pretraining": hf_pretraining,
    "hf_sdpa": hf_sdpa,
    "hf_layer": hf_layer,
    "hf_llama": hf_llama,
    "torchvision": torchvision,
    "timm": timm,
}
