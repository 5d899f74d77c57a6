"""A row of published memory figures -> the training step that was measured, built without weights.

Every builder takes the row's columns and returns a `Step`; which library it needs stands in `NEEDS`. Names that the
published loop keeps from one iteration to the next are kept here too, since what they hold is alive in the peak. Where
a row does not say something, the builder's docstring says what was taken, and from what.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from foretrace.tracer import Step
from gpt_by_hand import SIZES, VOCABULARY, Size, Transformer, training_step
from memory_images import resnet_trace, timm_bench, timm_train
from opt_attention import write_out_opt_attention
from published_models import CHECKPOINTS

Row = Mapping[str, str]

NEEDS = {
    "course_gpt": ("einops",),
    "hf_attention": ("transformers",),
    "bert_trainer": ("transformers",),
    "resnet_trace": ("torchvision",),
    "timm_train": ("timm",),
    "timm_bench": ("timm",),
    "op": ("transformers",),
}
"""The libraries that a family of rows needs beside torch."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def missing(row: Row) -> str:
    """The first library that is not installed; empty where all are."""
    return next((name for name in NEEDS[row["family"]] if importlib.util.find_spec(name) is None), "")


def unbuilt(row: Row) -> str:
    """Why no step is built for that row; empty where one is."""
    if row["optimizer"] == "adam8bit":
        return "bert_trainer: the optimizer is that of bitsandbytes, whose kernels do not run without a GPU"
    if row["family"] == "timm_train" and not missing(row) and not without_weights(row["model"]).num_classes:
        return "timm_train: models without a classifier, which that script cannot train"
    return ""


def without_weights(name: str) -> Any:
    """What timm says of a model."""
    import timm

    return timm.get_pretrained_cfg(name)


def build(row: Row) -> Step:
    """The step of that row. Raises KeyError for a family that nobody knows."""
    return BUILDERS[row["family"]](row)


def _autocast(row: Row) -> torch.dtype | None:
    dtype, _, word = row["precision"].partition(" ")
    return DTYPES[dtype] if word else None


# -- the hand-written GPT of a course -------------------------------------------------------------


def course_gpt(row: Row) -> Step:
    """The GPT of `gpt_by_hand`, in the parts that were measured.

    ``own`` is the AdamW of the authors' repository, one parameter after the other, and its loss is written out and
    runs under autocast too; ``adamw`` is that of torch. Without an optimizer, gradients are dropped by ``zero_grad``.
    ``checkpoint`` is after how many layers activations are dropped.
    """
    size, batch, context = SIZES[row["model"]], int(row["batch"]), int(row["sequence"])
    ids, targets = (torch.randint(0, VOCABULARY, (batch, context)) for _ in range(2))
    if row["part"].endswith("inference"):
        return _course_inference(size, ids, _autocast(row))
    if row["optimizer"] == "adamw":
        return training_step(size, batch, context, _autocast(row))
    dtype, every = _autocast(row), int(row["checkpoint"] or 0)
    alone = row["part"] == "forward alone"

    def step(model: Transformer, optimizer: Any, inputs: tuple[Tensor, Tensor]) -> None:
        ids, targets = inputs
        if not alone:
            model.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype) if dtype else nullcontext():
            logits = _in_segments(model, ids, every) if every else model(ids)
            if alone:
                return
            loss = cross_entropy(logits, targets)
        loss.backward()
        if optimizer is not None:
            optimizer.step()

    optimizer = LoopedAdamW if row["optimizer"] == "own" else None
    return Step(Transformer(size, context), (ids, targets), step=step, optimizer=optimizer)


def _course_inference(size: Size, ids: Tensor, dtype: torch.dtype | None) -> Step:
    def step(model: nn.Module, optimizer: Any, inputs: Tensor) -> None:
        with torch.no_grad(), torch.autocast("cuda", dtype) if dtype else nullcontext():
            model(inputs)

    return Step(Transformer(size, ids.shape[1]), (ids,), step=step, optimizer=None)


def _in_segments(model: Transformer, ids: Tensor, every: int) -> Tensor:
    x = model.tokens(ids)
    for first in range(0, len(model.layers), every):
        segment = nn.Sequential(*model.layers[first : first + every])
        x = checkpoint(segment, x, use_reentrant=False)
    return model.head(model.norm(x))


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy with its logarithm of the softmax written out, as in the authors' repository."""
    shifted = logits - logits.max(dim=-1, keepdim=True)[0]
    logs = -(shifted - torch.log(torch.sum(torch.exp(shifted), dim=-1, keepdim=True)))
    return logs.gather(-1, targets.unsqueeze(-1)).mean()


class LoopedAdamW(torch.optim.Optimizer):
    """AdamW, one parameter after the other, with new moments for each step, as in the authors' repository.

    Its names outlive an iteration: of the parameter before, old and new moments stay alive until they are rebound.
    https://github.com/EnzoDing-rgb/cs336-assignment2-systems/blob/9cb4efb6db7b/cs336-basics/cs336_basics/optimizer.py
    """

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01})

    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            (first, second), rate, tiny = group["betas"], group["lr"], group["eps"]
            for parameter in group["params"]:
                grad, state = parameter.grad.data, self.state[parameter]
                count = state.get("t", 1)
                scaled = rate * sqrt(1 - second**count) / (1 - first**count)
                parameter.data -= rate * group["weight_decay"] * parameter.data
                old_m = state.get("m", torch.zeros_like(grad))
                old_v = state.get("v", torch.zeros_like(grad))
                m = first * old_m + (1 - first) * grad
                v = second * old_v + (1 - second) * torch.square(grad)
                parameter.data -= scaled * m / (torch.sqrt(v) + tiny)
                state["m"], state["v"], state["t"] = m, v, count + 1


# -- attention of transformers, eager and fused ---------------------------------------------------


def hf_attention(row: Row) -> Step:
    """Weights in half precision, training mode, no optimizer; the output of an iteration lives until the next one's.

    The loop is that of the benchmark from which these scripts descend (github.com/huggingface/optimum,
    tests/benchmark/benchmark_bettertransformer_training_minimal.py): zero_grad, forward with an attention mask of
    ones, the sum of the logits, backward. The ELECTRA rows are larger by two arrays of the size of the logits for each
    further token; that is what the model's own loss on labels takes, so that loss is taken for them.
    """
    import transformers

    config_name, model_name, arguments = CHECKPOINTS[row["model"]]
    config = getattr(transformers, config_name)(attn_implementation=row["attention"], **arguments)
    if "opt" in row["model"]:
        write_out_opt_attention()
    model = getattr(transformers, model_name)(config).to(DTYPES[row["precision"]]).train()
    shape = int(row["batch"]), int(row["sequence"])
    inputs = {"input_ids": torch.randint(0, 1000, shape), "attention_mask": torch.ones(shape, dtype=torch.int64)}
    if "electra" in row["model"]:
        inputs["labels"] = torch.randint(0, 1000, shape)
    kept: dict[str, Any] = {}

    def step(model: nn.Module, optimizer: Any, inputs: Mapping[str, Tensor]) -> None:
        model.zero_grad()
        kept["outputs"] = model(**inputs)
        kept["loss"] = kept["outputs"].loss if "labels" in inputs else kept["outputs"].logits.sum()
        kept["loss"].backward()

    return Step(model, inputs, step=step, optimizer=None)


# -- a trainer, by nvidia-smi ---------------------------------------------------------------------


def bert_trainer(row: Row) -> Step:
    """BERT-large with a classifier of two labels, several micro-batches a step, as the Trainer of 2022 ran it.

    Gradients are clipped, and filled with zeros rather than dropped; AdamW works one parameter after the other. The
    fused attention did not exist.
    """
    from transformers import BertConfig, BertForSequenceClassification
    from transformers.optimization import Adafactor

    sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    model = BertForSequenceClassification(BertConfig(**sizes, attn_implementation="eager")).train()
    if row["checkpoint"]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    shape, dtype = (int(row["batch"]), int(row["sequence"])), _autocast(row)
    count = int(row["part"].split()[0])
    inputs = {"input_ids": torch.randint(0, 1000, shape), "labels": torch.randint(0, 2, shape[:1])}

    def step(model: nn.Module, optimizer: Any, inputs: Mapping[str, Tensor]) -> None:
        for _ in range(count):
            with torch.autocast("cuda", dtype) if dtype else nullcontext():
                loss = model(**inputs).loss / count
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False)
        optimizer.step()
        model.zero_grad(set_to_none=False)

    optimizers = {
        "adamw": lambda parameters: torch.optim.AdamW(parameters, foreach=False),
        "adafactor": lambda parameters: Adafactor(parameters),
    }
    return Step(model, inputs, step=step, optimizer=optimizers[row["optimizer"]])


# -- single operations ----------------------------------------------------------------------------


def op(row: Row) -> Step:
    """One operation of an operator library's benchmark, in its eager form; its sizes stand in the row's note.

    Each call is a forward and a backward, which keeps its graph but for the linear loss; gradients are never dropped.
    """
    keep = row["model"] != "fused_linear_cross_entropy"
    sizes = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)\b", row["note"])}
    model, inputs, given = OPS[row["model"]](sizes, DTYPES[row["precision"]])
    gradient = [torch.empty_like(inputs[0])] if given else []

    def step(model: nn.Module, optimizer: Any, inputs: tuple[Tensor, ...]) -> None:
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        count = len(inputs) - len(gradient)
        model(*inputs[:count]).backward(*inputs[count:], retain_graph=keep)

    return Step(model, (*inputs, *gradient), step=step, optimizer=None)


class RMSNorm(nn.Module):
    """In float32, with a weight in float32: so the output is float32 too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * wide.to(x.dtype)


class LinearLoss(nn.Module):
    """A head without bias, and cross-entropy; beside it the head of the other implementation, which lies idle."""

    def __init__(self, width: int, vocabulary: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.head, self.idle = (nn.Linear(width, vocabulary, bias=False, dtype=dtype) for _ in range(2))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.head(x), labels)


class Divergence(nn.Module):
    """A divergence of two distributions, which are made once, before what was measured; the logits of one are kept."""

    def __init__(self, rows: int, vocabulary: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.logits = nn.Parameter(torch.empty(rows, vocabulary))
        self.made: Tensor | None = None

    def forward(self, target: Tensor) -> Tensor:
        if self.made is None:
            made = F.log_softmax if self.kind == "kl_div" else F.softmax
            self.made = made(self.logits, dim=-1)
        if self.kind == "kl_div":
            return F.kl_div(self.made, target, reduction="batchmean")
        return torch.sum(torch.abs(self.made - target) / 2.0) / target.shape[0]


Made = tuple[nn.Module, tuple[Tensor, ...], bool]
"""A module, its inputs, and whether its backward is given a gradient."""


def _rms_norm(sizes: Mapping[str, int], dtype: torch.dtype) -> Made:
    return RMSNorm(sizes["H"]), (torch.empty(sizes["M"], sizes["H"], dtype=dtype, requires_grad=True),), True


def _geglu(sizes: Mapping[str, int], dtype: torch.dtype) -> Made:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP

    config = LlamaConfig(
        hidden_size=sizes["hidden_size"], intermediate_size=sizes["intermediate_size"], hidden_act="gelu_pytorch_tanh"
    )
    shape = sizes["bsz"], sizes["T"], sizes["hidden_size"]
    return LlamaMLP(config).to(dtype), (torch.empty(shape, dtype=dtype, requires_grad=True),), True


def _linear_loss(sizes: Mapping[str, int], dtype: torch.dtype) -> Made:
    rows, width, vocabulary = sizes["BT"], sizes["H"], sizes["V"]
    x = torch.empty(rows, width, dtype=dtype, requires_grad=True)
    return LinearLoss(width, vocabulary, dtype), (x, torch.randint(0, vocabulary, (rows,))), False


def _divergence(kind: str) -> Callable[[Mapping[str, int], torch.dtype], Made]:
    def make(sizes: Mapping[str, int], dtype: torch.dtype) -> Made:
        rows, vocabulary = sizes["B"] * sizes["T"], sizes["V"]
        return Divergence(rows, vocabulary, kind), (torch.empty(rows, vocabulary),), False

    return make


OPS: dict[str, Callable[[Mapping[str, int], torch.dtype], Made]] = {
    "rms_norm": _rms_norm,
    "geglu": _geglu,
    "fused_linear_cross_entropy": _linear_loss,
    "kl_div": _divergence("kl_div"),
    "tvd": _divergence("tvd"),
}

BUILDERS: dict[str, Callable[[Row], Step]] = {
    "course_gpt": course_gpt,
    "hf_attention": hf_attention,
    "bert_trainer": bert_trainer,
    "resnet_trace": resnet_trace,
    "timm_train": timm_train,
    "timm_bench": timm_bench,
    "op": op,
}
