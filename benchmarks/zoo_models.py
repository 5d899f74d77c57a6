"""The models of the scoreboard by suite: families of transformers, timm and torchvision at reduced size."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

import zoo_libraries
import zoo_optimizers
from foretrace.tracer import Step
from zoo_data import DATA
from zoo_oddities import BATCH, CLASSES, LENGTH, ODDITIES
from zoo_unusual import UNUSUAL

# -- transformers ---------------------------------------------------------------------------------

HEADS = {
    "causal": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "masked": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "seq2seq": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "vision": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
}

SIZES = {
    2: """num_experts_per_tok num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers
        num_encoder_layers num_decoder_layers num_hidden_groups""",
    4: "num_experts n_routed_experts num_local_experts moe_num_experts",
    512: "vocab_size",
    1: "pad_token_id n_group topk_group",
}
WIDTHS = {
    64: """hidden_size d_model n_embd dim emb_dim embed_dim embedding_size hidden_dim word_embed_proj_dim model_dim
        width attention_hidden_size lru_width""",
    128: """intermediate_size ffn_dim d_ff n_inner encoder_ffn_dim decoder_ffn_dim ffn_hidden_size mlp_dim inner_dim
        pooler_hidden_size max_position_embeddings n_positions n_ctx max_seq_len seq_length""",
    32: "moe_intermediate_size shared_expert_intermediate_size",
    16: "head_dim kv_channels d_kv attention_head_size",
    4: "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads",
    2: "num_key_value_heads num_kv_heads n_head_kv",
}
IMAGE = {"image_size": 64, "patch_size": 8}


def _by_key(table: dict[int, str]) -> dict[str, int]:
    return {key: size for size, keys in table.items() for key in keys.split()}


COUNTS = {**_by_key(SIZES), "bos_token_id": 2, "eos_token_id": 3}
ATTEMPTS: tuple[dict[str, int], ...] = (
    {**COUNTS, **_by_key(WIDTHS), **IMAGE},
    {**COUNTS, **_by_key(WIDTHS), **IMAGE, "use_cache": False},
    {**COUNTS, **_by_key(WIDTHS)},
    COUNTS,
)
"""Reductions of a config from strong to weak; the first with which the model runs is taken."""


def transformers_names(suite: str) -> Iterator[tuple[str, str]]:
    """Each model class of a head's table once, with its family (the model type)."""
    from transformers.models.auto import modeling_auto

    seen = set()
    for family, names in getattr(modeling_auto, HEADS[suite]).items():
        for name in [names] if isinstance(names, str) else names:
            if name not in seen:
                seen.add(name)
                yield name, family


def _family_of(suite: str, name: str) -> str:
    return next(family for found, family in transformers_names(suite) if found == name)


def reduced(config: Any, sizes: dict[str, int]) -> dict[str, Any]:
    """Arguments for the config's class: every number that it shares with `sizes` at the smaller value."""
    plain = config.to_dict()
    found: dict[str, Any] = {}
    for key, value in plain.items():
        wanted = sizes.get(config.attribute_map.get(key, key), sizes.get(key))
        unset = value is None and key in ("head_dim", "num_key_value_heads", "num_experts_per_tok")
        smaller = type(value) is int and wanted is not None and (value > wanted or key.endswith("token_id"))
        if wanted is not None and (smaller or unset or key == "use_cache"):
            found[key] = wanted
        elif key in config.sub_configs and hasattr(getattr(config, key, None), "to_dict"):
            inner = getattr(config, key)
            found[key] = {"model_type": inner.model_type, **reduced(inner, sizes)}
    if "num_key_value_heads" in found and plain.get("num_key_value_heads") == plain.get("num_attention_heads"):
        found["num_key_value_heads"] = found.get("num_attention_heads", found["num_key_value_heads"])
    return found


def transformers_step(suite: str, name: str, attempt: int) -> Step:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = getattr(transformers, name)
    config_class = kind.config_class or CONFIG_MAPPING[_family_of(suite, name)]
    config = config_class(**reduced(config_class(), ATTEMPTS[attempt]))
    if suite == "causal" and hasattr(config, "is_decoder"):
        config.is_decoder = True
    if suite == "seq2seq" and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = 1
    model = kind(config).train()
    accepted = inspect.signature(model.forward).parameters
    inputs = _image_inputs(config) if suite == "vision" else _text_inputs(config, model)
    inputs = {key: value for key, value in inputs.items() if key in accepted}
    return Step(model, inputs, None if "labels" in accepted else first_mean)


def _text_inputs(config: Any, model: Any) -> dict[str, torch.Tensor]:
    vocabulary = getattr(config.get_text_config(), "vocab_size", None) or 256
    ids = torch.randint(4, max(vocabulary, 8), (BATCH, LENGTH))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    if model.main_input_name not in inputs:
        inputs[model.main_input_name] = ids
    return inputs


def _image_inputs(config: Any) -> dict[str, torch.Tensor]:
    size = getattr(config, "image_size", None) or getattr(getattr(config, "vision_config", None), "image_size", 224)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    pixels = torch.randn(BATCH, getattr(config, "num_channels", 3), height, width)
    labels = torch.zeros(BATCH, dtype=torch.int64)
    return {"pixel_values": pixels, "inputs": pixels, "labels": labels}


def first_mean(output: Any) -> torch.Tensor:
    """A loss for outputs without one: the mean square of the first floating-point tensor."""
    values = output if isinstance(output, torch.Tensor) else None
    found = [values] if values is not None else output.values() if isinstance(output, dict) else output
    return next(v for v in found if isinstance(v, torch.Tensor) and v.is_floating_point()).float().square().mean()


# -- timm and torchvision -------------------------------------------------------------------------

SIZE_WORDS = "atto|femto|pico|nano|zepto|xxs|xxtiny|xs|xtiny|tiny|_t|_s|mini|small|050|_b|base|_m|_l"


def _smallness(name: str) -> tuple[int, int, str]:
    words = SIZE_WORDS.split("|")
    rank = next((place for place, word in enumerate(words) if word in name), len(words))
    numbers = [int(n) for n in re.findall(r"\d+", name)]
    return rank, sum(numbers), name


def timm_names() -> Iterator[tuple[str, str]]:
    import timm
    from timm.models import _registry

    families: dict[str, list[str]] = defaultdict(list)
    for name in timm.list_models():
        if not name.endswith("_enc") and not name.startswith("test_"):
            families[_registry._model_to_module[name]].append(name)
    for family, names in sorted(families.items()):
        yield min(names, key=_smallness), family


def timm_step(name: str, attempt: int) -> Step:
    import timm

    model = timm.create_model(name, num_classes=CLASSES).train()
    size = model.default_cfg.get("input_size", (3, 224, 224))
    return Step(model, torch.randn(BATCH, *size), _image_loss)


def _image_loss(output: Any) -> torch.Tensor:
    values = list(output.values()) if isinstance(output, dict) else output
    parts = values if isinstance(values, (tuple, list)) else [values]
    return sum(F.cross_entropy(part, torch.zeros(part.shape[0], dtype=torch.int64)) for part in parts)


def _torchvision_families(module: Any) -> Iterator[tuple[str, str]]:
    import torchvision

    families: dict[str, list[str]] = defaultdict(list)
    for name in torchvision.models.list_models(module=module):
        families[torchvision.models.get_model_builder(name).__module__.rpartition(".")[2]].append(name)
    for family, names in sorted(families.items()):
        yield min(names, key=_smallness), family


def torchvision_names() -> Iterator[tuple[str, str]]:
    import torchvision

    return _torchvision_families(torchvision.models)


def detection_names() -> Iterator[tuple[str, str]]:
    import torchvision

    return _torchvision_families(torchvision.models.detection)


def torchvision_step(name: str, attempt: int) -> Step:
    import torchvision

    model = torchvision.models.get_model(name, num_classes=CLASSES).train()
    size = 299 if "inception" in name else 224
    return Step(model, torch.randn(BATCH, 3, size, size), _image_loss)


def detection_step(name: str, attempt: int) -> Step:
    import torchvision

    sizes = {} if name.startswith("ssd") else {"min_size": 128, "max_size": 160}
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES, **sizes)
    images = [torch.rand(3, 128, 160) for _ in range(BATCH)]
    boxes = torch.tensor([[10.0, 10.0, 60.0, 70.0], [40.0, 30.0, 120.0, 100.0]])
    masks = torch.zeros(2, 128, 160, dtype=torch.uint8)
    masks[0, 10:70, 10:60] = masks[1, 30:100, 40:120] = 1
    points = torch.tensor([[[20.0, 20.0, 1.0]] * 17, [[50.0, 50.0, 1.0]] * 17])
    labels = torch.tensor([1, 1])
    targets = [{"boxes": boxes, "labels": labels, "masks": masks, "keypoints": points} for _ in range(BATCH)]
    return Step(model.train(), (images, targets), lambda losses: sum(losses.values()))


# -- suites ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Suite:
    """Models by name, each with its family, and how one is built; `attempts` reductions are tried."""

    library: str
    names: Callable[[], Iterator[tuple[str, str]]]
    step: Callable[[str, int], Step]
    attempts: int = 1


def _transformers_suite(suite: str) -> Suite:
    return Suite(
        "transformers",
        lambda: transformers_names(suite),
        lambda name, attempt: transformers_step(suite, name, attempt),
        len(ATTEMPTS),
    )


def _library_suite(library: str) -> Suite:
    return Suite(library, lambda: zoo_libraries.names(library), lambda name, attempt: zoo_libraries.step(library, name))


SUITES: dict[str, Suite] = {
    "oddities": Suite("torch", lambda: ((n, n) for n in ODDITIES), lambda name, attempt: ODDITIES[name]()),
    "data": Suite("torch", lambda: ((n, n) for n in DATA), lambda name, attempt: DATA[name]()),
    "unusual": Suite("torch", lambda: ((n, n) for n in UNUSUAL), lambda name, attempt: UNUSUAL[name]()),
    **{suite: _transformers_suite(suite) for suite in HEADS},
    "torchvision": Suite("torchvision", torchvision_names, torchvision_step),
    "detection": Suite("torchvision", detection_names, detection_step),
    "timm": Suite("timm", timm_names, timm_step),
    "torch-optimizers": Suite("torch", zoo_optimizers.torch_names, zoo_optimizers.torch_step),
    "timm-optimizers": Suite("timm", zoo_optimizers.timm_names, zoo_optimizers.timm_step),
    "pytorch-optimizer": Suite(
        "pytorch_optimizer", zoo_optimizers.pytorch_optimizer_names, zoo_optimizers.pytorch_optimizer_step
    ),
    "torch-optimizer": Suite(
        "torch_optimizer", zoo_optimizers.torch_optimizer_names, zoo_optimizers.torch_optimizer_step
    ),
    **{library: _library_suite(library) for library in zoo_libraries.LIBRARIES},
}


def build(suite: str, name: str, attempt: int) -> Step:
    torch.manual_seed(0)
    return SUITES[suite].step(name, attempt)
