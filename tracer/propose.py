"""A library's module that was given no inputs -> inputs that it takes, a loss, and the words that say so.

A *proposal* is read off the module: off its config (transformers), its default_cfg (timm) or its layers (torchvision).
Nothing is imported for it, and nothing is guessed for the modules of anybody else.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree

from .inputs import Given, Sizes
from .log import dtype_name

Loss = Callable[[Any], torch.Tensor]

SIZES = {"batch", "seq", "image"}
"""The sizes that proposals are made of."""
BATCH, DETECTION_BATCH, LENGTH, IMAGE = 8, 2, 1024, 224
SAMPLES = 160_000
"""Ten seconds of sound at 16 kHz."""
TRANSCRIPT = 32
"""Tokens that are said in them."""
CHOICES = 4
"""Answers of a question of multiple choice."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """Arguments for a module and, where its output holds no loss, a loss and its name."""

    given: Given
    loss: Loss | None = None
    loss_text: str = ""

    def inputs_text(self) -> str:
        """The arguments as specs: ``input_ids int64[8, 1024], labels int64[8, 1024]``."""
        named = [*(("", value) for value in self.given.args), *self.given.kwargs.items()]
        return ", ".join(f"{name} {_words(value)}".strip() for name, value in named)


def propose(model: nn.Module, sizes: Sizes, *, training: bool) -> Proposal | None:
    """Inputs for a module of transformers, timm or torchvision; labels and a loss only for `training`.

    None where the module is of another library, or of a kind whose inputs are not known.
    Raises `ForetraceError` for a size that is no whole number.
    """
    with torch.device("cpu"):
        if hasattr(model, "config") and hasattr(model, "main_input_name"):
            return _for_transformers(model, sizes, training)
        if isinstance(getattr(model, "default_cfg", None), Mapping):
            return _for_timm(model, sizes, training)
        return _for_torchvision(model, sizes, training) if "torchvision" in _libraries(type(model)) else None


def is_of_library(function: Any) -> bool:
    """Whether a callable is a library's own, whose ``**kwargs`` know no batch."""
    return str(getattr(function, "__module__", "")).partition(".")[0] in ("transformers", "timm", "torchvision")


def _libraries(kind: type) -> set[str]:
    return {base.__module__.partition(".")[0] for base in kind.__mro__}


def _words(value: Any) -> str:
    """What a value is, in a few words; equal items of a list stand once."""
    if isinstance(value, torch.Tensor):
        return f"{dtype_name(value.dtype)}{list(value.shape)}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(item)}" for name, item in value.items())
    if isinstance(value, list):
        return f"{len(value)} x ({_words(value[0])})" if value else "none"
    return str(value)


# -- losses ---------------------------------------------------------------------------------------


def _on_class_ids(output: Any) -> torch.Tensor:
    """Cross-entropy of every output (the auxiliary ones too), for class 0 everywhere."""
    logits = [leaf for leaf in _pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor) and leaf.dim() > 1]
    losses = [F.cross_entropy(one, one.new_zeros((len(one), *one.shape[2:]), dtype=torch.int64)) for one in logits]
    return torch.stack(losses).sum() if len(losses) > 1 else losses[0]


def _mean_square(output: Any) -> torch.Tensor:
    leaves = (leaf for leaf in _leaves(output) if isinstance(leaf, torch.Tensor))
    return next(leaf for leaf in leaves if leaf.is_floating_point()).float().square().mean()


def _leaves(output: Any) -> Iterator[Any]:
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else None
    if values is None:
        yield output
    else:
        for value in values:
            yield from _leaves(value)


def _sum_of_losses(output: Any) -> torch.Tensor:
    return torch.stack(list(output.values())).sum()


_CLASS_IDS: tuple[Loss, str] = (_on_class_ids, "cross-entropy on class ids")
_ANY: tuple[Loss, str] = (_mean_square, "mean square of the first output")


# -- timm -----------------------------------------------------------------------------------------


def _for_timm(model: Any, sizes: Sizes, training: bool) -> Proposal | None:
    shape = model.default_cfg.get("input_size")
    if not shape:
        return None
    channels, *image = shape
    image = getattr(getattr(model, "patch_embed", None), "img_size", None) or image
    channels = getattr(_first_convolution(model), "in_channels", channels)
    images = torch.rand(sizes.take("batch", BATCH), channels, *_sides(sizes, image))
    head = _CLASS_IDS if getattr(model, "num_classes", 0) else _ANY
    return Proposal(Given((images,), {}), *(head if training else ()))


def _first_convolution(model: nn.Module) -> nn.Module | None:
    name = model.default_cfg.get("first_conv")  # type: ignore[operator,union-attr]
    return dict(model.named_modules()).get(name) if isinstance(name, str) else None


def _sides(sizes: Sizes, known: Any) -> tuple[int, int]:
    """Height and width of an image: those set, or those known."""
    if isinstance(known, Mapping):
        known = known.get("height", known.get("shortest_edge")), known.get("width", known.get("shortest_edge"))
    height, width = known if isinstance(known, (tuple, list)) else (known, known)
    if "image" in sizes.values:
        return (sizes.take("image"),) * 2
    return int(height), int(width)


# -- torchvision ----------------------------------------------------------------------------------


def _for_torchvision(model: Any, sizes: Sizes, training: bool) -> Proposal | None:
    kinds = " ".join(base.__module__ for base in type(model).__mro__)
    if ".optical_flow" in kinds:
        return None
    if ".detection" in kinds:
        return _for_detection(model, sizes, training)
    known = getattr(model, "image_size", None) or (299 if type(model).__name__ == "Inception3" else IMAGE)
    shape: tuple[int, ...] = (sizes.take("batch", BATCH), 3, *_sides(sizes, known))
    if ".video" in kinds:
        known = 112 if "VideoResNet" in type(model).__name__ else IMAGE
        shape = (sizes.take("batch", BATCH), 3, 16, *_sides(sizes, known))
    return Proposal(Given((torch.rand(shape),), {}), *(_CLASS_IDS if training else ()))


def _for_detection(model: Any, sizes: Sizes, training: bool) -> Proposal | None:
    """Images of the size that the model scales to, each with one thing in its middle."""
    scale = model.transform.min_size
    height, width = _sides(sizes, model.transform.fixed_size or (scale[-1] if isinstance(scale, tuple) else scale))
    batch = sizes.take("batch", DETECTION_BATCH)
    images = [torch.rand(3, height, width) for _ in range(batch)]
    if not (training and model.training):
        return Proposal(Given((images,), {}))
    targets = [_thing(model, height, width) for _ in range(batch)]
    return Proposal(Given((images, targets), {}), _sum_of_losses, "sum of the losses returned")


def _thing(model: Any, height: int, width: int) -> dict[str, torch.Tensor]:
    box = [width / 4, height / 4, width * 3 / 4, height * 3 / 4]
    thing = {"boxes": torch.tensor([box]), "labels": torch.ones(1, dtype=torch.int64)}
    heads = getattr(model, "roi_heads", None)
    if getattr(heads, "mask_predictor", None) is not None:
        thing["masks"] = torch.ones(1, height, width, dtype=torch.uint8)
    points = getattr(heads, "keypoint_predictor", None)
    if points is not None:
        count = points.kps_score_lowres.out_channels
        thing["keypoints"] = torch.tensor([[[width / 2, height / 2, 1.0]] * count])
    return thing


# -- transformers ---------------------------------------------------------------------------------


@dataclass(slots=True)
class _Pretrained:
    """A module of transformers, and what its config says."""

    model: Any
    sizes: Sizes
    config: Any = field(init=False)
    text: Any = field(init=False)
    accepts: Mapping[str, inspect.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        self.config = self.model.config
        self.text = self.config.get_text_config() if hasattr(self.config, "get_text_config") else self.config
        self.accepts = inspect.signature(self.model.forward).parameters

    @property
    def batch(self) -> int:
        return self.sizes.take("batch", BATCH)

    @property
    def task(self) -> str:
        """``SequenceClassification`` of ``BertForSequenceClassification``, also where the class is derived from it."""
        found = (re.search(r"For([A-Z]\w+)$", base.__name__) for base in type(self.model).__mro__)
        return next((match[1] for match in found if match), "")

    @property
    def classifies(self) -> bool:
        """Whether an example has one label."""
        return self.task == "XVector" or (
            "Classification" in self.task and self.task not in ("TokenClassification", "AudioFrameClassification")
        )

    def length(self) -> int:
        """Positions of a sequence: 1,024, or as many as the module has."""
        names = ("max_position_embeddings", "n_positions", "max_target_positions")
        limits = [getattr(config, name, None) for config in (self.config, self.text) for name in names]
        for name, module in self.model.named_modules():
            # With a padding index, as in RoBERTa, positions are counted from behind it.
            if isinstance(module, nn.Embedding) and "position" in name and module.padding_idx is not None:
                limits.append(module.num_embeddings - module.padding_idx - 1)
        return self.sizes.take("seq", min([LENGTH, *(n for n in limits if isinstance(n, int) and n > 0)]))

    def tokens(self, *shape: int) -> torch.Tensor:
        """Ids from the widest range of the vocabulary without a special token."""
        vocabulary = getattr(self.text, "vocab_size", None) or 256
        fields = {**vars(self.config), **vars(self.text)}
        special = [fields[name] for name in fields if name.endswith(("_token_id", "_token_index"))]
        taken = {n for value in special for n in (value if isinstance(value, list) else [value]) if type(n) is int}
        edges = [-1, *sorted(n for n in taken if 0 <= n < vocabulary), vocabulary]
        before, after = max(pairwise(edges), key=lambda pair: pair[1] - pair[0])
        return torch.randint(before + 1, max(after, before + 2), shape)

    def classes(self, *shape: int) -> torch.Tensor:
        return torch.randint(0, max(getattr(self.config, "num_labels", 2), 1), shape)

    def sides(self) -> tuple[int, int]:
        return _sides(self.sizes, self.vision("image_size", IMAGE))

    def vision(self, name: str, default: int) -> Any:
        """A field of the config, or of that of its image part."""
        parts = [getattr(self.config, part, None) for part in ("vision_config", "encoder", "backbone_config")]
        return next((found for c in (self.config, *parts) if (found := getattr(c, name, None))), default)


def _for_transformers(model: Any, sizes: Sizes, training: bool) -> Proposal | None:
    pretrained = _Pretrained(model, sizes)
    main = model.main_input_name
    make = _MAIN.get(main) if isinstance(main, str) else None
    values = make(pretrained) if make is not None else None
    if values is None:
        return None
    inputs: dict[str, Any] = {main: values}
    if {"return_loss", "pixel_values"} <= set(pretrained.accepts):
        inputs |= {"pixel_values": _images(pretrained)} | ({"return_loss": True} if training else {})
    labels = _labels(pretrained, values) if training else {}
    inputs |= labels | _decoder_inputs(pretrained, labels)
    required = (p for p in pretrained.accepts.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD)
    if any(p.name not in inputs for p in required):
        return None
    has_loss = not training or labels or inputs.get("return_loss")
    return Proposal(Given((), inputs), *(() if has_loss else _ANY))


def _ids(of: _Pretrained) -> torch.Tensor:
    choices = (CHOICES,) if of.task == "MultipleChoice" else ()
    ids = of.tokens(of.batch, *choices, of.length())
    end = getattr(of.config, "eos_token_id", None)
    if of.classifies and getattr(of.config, "is_encoder_decoder", False) and isinstance(end, int):
        ids[:, -1] = end  # it is the end that is classified
    return ids


def _images(of: _Pretrained) -> torch.Tensor:
    frames = (of.config.num_frames,) if getattr(of.config, "num_frames", None) else ()
    return torch.rand(of.batch, *frames, of.vision("num_channels", 3), *of.sides())


def _waves(of: _Pretrained) -> torch.Tensor:
    bins = getattr(of.config, "num_mel_bins", None)
    if bins and hasattr(of.config, "max_length"):
        return torch.rand(of.batch, of.config.max_length, bins)
    return torch.rand(of.batch, of.sizes.take("seq", SAMPLES))


def _features(of: _Pretrained) -> torch.Tensor | None:
    """Frames of sound; as many as the encoder has positions for where it takes no other number."""
    positions, bins = getattr(of.config, "max_source_positions", None), getattr(of.config, "num_mel_bins", None)
    if positions and bins:
        return torch.rand(of.batch, bins, 2 * positions)
    names = ("feature_projection_input_dim", "input_feat_per_channel")
    width = next((getattr(of.config, name) for name in names if hasattr(of.config, name)), None)
    return torch.rand(of.batch, of.sizes.take("seq", LENGTH), width) if width else None


_MAIN: dict[str, Callable[[_Pretrained], torch.Tensor | None]] = {
    "input_ids": _ids,
    "pixel_values": _images,
    "input_values": _waves,
    "input_features": _features,
}
"""What a module takes first, by the name that it gives it."""


def _labels(of: _Pretrained, values: torch.Tensor) -> dict[str, Any]:
    if "start_positions" in of.accepts and "end_positions" in of.accepts:
        return {name: torch.randint(0, values.shape[-1], (of.batch,)) for name in ("start_positions", "end_positions")}
    if "labels" not in of.accepts:
        return {}
    others = {name: torch.randint(0, 2, (of.batch,)) for name in _SENTENCES if name in of.accepts}
    made = _labels_of_task(of, values)
    return {} if made is None else {"labels": made, **others}


_SENTENCES = ("next_sentence_label", "sentence_order_label")


def _labels_of_task(of: _Pretrained, values: torch.Tensor) -> Any:
    if of.classifies:
        return _class_labels(of)
    if of.task in ("MultipleChoice", "NextSentencePrediction"):
        return torch.randint(0, values.shape[1] if values.dim() == 3 else 2, (of.batch,))
    if of.task == "TokenClassification":
        return of.classes(*values.shape)
    if of.task.endswith("SemanticSegmentation"):
        return of.classes(of.batch, *values.shape[-2:])
    if of.task == "ObjectDetection":
        box = torch.tensor([[0.5, 0.5, 0.25, 0.25]])
        return [{"class_labels": of.classes(1), "boxes": box.clone()} for _ in range(of.batch)]
    if not values.is_floating_point():
        return values.clone()
    if of.task == "CTC":
        return of.tokens(of.batch, TRANSCRIPT)
    return of.tokens(of.batch, of.length()) if _decodes(of) else None


def _class_labels(of: _Pretrained) -> torch.Tensor:
    count, problem = getattr(of.config, "num_labels", 2), getattr(of.config, "problem_type", None)
    if problem == "multi_label_classification":
        return torch.zeros(of.batch, count)
    return torch.rand(of.batch) if problem == "regression" or count == 1 else of.classes(of.batch)


def _decodes(of: _Pretrained) -> bool:
    """Whether text comes out of what is no text."""
    return "decoder_input_ids" in of.accepts or bool(getattr(of.config, "is_encoder_decoder", False))


def _decoder_inputs(of: _Pretrained, labels: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What the decoder reads, where the module does not make it of the labels or of what it classifies."""
    starts = [getattr(config, "decoder_start_token_id", None) for config in (of.config, of.text)]
    shifts = "labels" in labels and any(start is not None for start in starts)
    if "decoder_input_ids" not in of.accepts or shifts or of.classifies or of.task == "QuestionAnswering":
        return {}
    return {"decoder_input_ids": of.tokens(of.batch, of.length())}
