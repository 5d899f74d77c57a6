"""Modules of libraries beyond transformers and timm, for the scoreboard: one small step each.

A suite is one library and is skipped where that is not installed; nothing here is needed by the package itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from foretrace.tracer import Step
from zoo_oddities import Apply

Maker = Callable[[], Step]

LIBRARIES: dict[str, dict[str, Maker]] = {}
"""Library -> its models by name."""


def of(library: str) -> Callable[[Maker], Maker]:
    """Register a maker of a step under its library and its own name."""

    def register(maker: Maker) -> Maker:
        LIBRARIES.setdefault(library, {})[maker.__name__] = maker
        return maker

    return register


def floats(value: Any) -> Iterator[torch.Tensor]:
    """The floating-point tensors that a gradient reaches, wherever they are in an output."""
    if isinstance(value, torch.Tensor):
        if value.requires_grad:
            yield torch.view_as_real(value) if value.is_complex() else value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from floats(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from floats(item)
    elif hasattr(value, "__dict__"):
        yield from floats(vars(value))


def all_squares(output: Any) -> torch.Tensor:
    """The sum of the mean squares of all that comes out."""
    return sum((part.float().square().mean() for part in floats(output)), torch.zeros(()))


def fed(model: nn.Module, *inputs: Any, loss: Any = all_squares, **named: Any) -> Step:
    """A step of a model on these inputs, which are all positional or all named."""
    return Step(model.train(), named or inputs, loss)


def image(size: int = 64, channels: int = 3, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, channels, size, size)


def volume(size: int = 32, channels: int = 1, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, channels, size, size, size)


def ids(vocabulary: int = 100, length: int = 32, batch: int = 2) -> torch.Tensor:
    return torch.randint(0, vocabulary, (batch, length))


def values(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


# -- diffusers ------------------------------------------------------------------------------------


def _diffuser(name: str, config: dict[str, Any], **inputs: Any) -> None:
    def make() -> Step:
        import diffusers

        return fed(getattr(diffusers, name)(**config), **{k: v() if callable(v) else v for k, v in inputs.items()})

    LIBRARIES.setdefault("diffusers", {})[name] = make


def _noise(*shape: int) -> Callable[[], torch.Tensor]:
    return lambda: torch.randn(*shape)


def _when(*shape: int) -> Callable[[], torch.Tensor]:
    return lambda: torch.randint(0, 1000, shape or (2,))


_CROSS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
}
_diffuser(
    "UNet2DConditionModel",
    _CROSS,
    sample=_noise(2, 4, 16, 16),
    timestep=_when(),
    encoder_hidden_states=_noise(2, 8, 32),
)
_diffuser(
    "ControlNetModel",
    {**{k: v for k, v in _CROSS.items() if k != "up_block_types"}, "conditioning_embedding_out_channels": (16, 32)},
    sample=_noise(2, 4, 16, 16),
    timestep=_when(),
    encoder_hidden_states=_noise(2, 8, 32),
    controlnet_cond=_noise(2, 3, 32, 32),
)
_diffuser(
    "UNet2DModel",
    {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 8,
    },
    sample=_noise(2, 3, 32, 32),
    timestep=_when(),
)
_diffuser(
    "UNet1DModel",
    {"sample_size": 64, "in_channels": 4, "out_channels": 4, "extra_in_channels": 64},
    sample=_noise(2, 4, 64),
    timestep=_when(),
)
_diffuser(
    "UNet3DConditionModel",
    {
        **_CROSS,
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    },
    sample=_noise(1, 4, 4, 16, 16),
    timestep=_when(1),
    encoder_hidden_states=_noise(1, 8, 32),
)
_diffuser(
    "UNetSpatioTemporalConditionModel",
    {
        "block_out_channels": (32, 64),
        "cross_attention_dim": 32,
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        "layers_per_block": 1,
        "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        "num_frames": 2,
        "num_attention_heads": (4, 4),
        "addition_time_embed_dim": 32,
        "projection_class_embeddings_input_dim": 96,
    },
    sample=_noise(1, 2, 8, 16, 16),
    timestep=_when(1),
    encoder_hidden_states=_noise(1, 1, 32),
    added_time_ids=_noise(1, 3),
)
_diffuser(
    "AutoencoderKL",
    {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 8,
    },
    sample=_noise(2, 3, 32, 32),
    sample_posterior=True,
)
_diffuser(
    "VQModel",
    {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 8,
        "num_vq_embeddings": 64,
    },
    sample=_noise(2, 3, 32, 32),
)
_diffuser("AutoencoderTiny", {}, sample=_noise(2, 3, 32, 32))
_diffuser(
    "AutoencoderOobleck",
    {
        "encoder_hidden_size": 8,
        "decoder_channels": 8,
        "decoder_input_channels": 4,
        "downsampling_ratios": [2, 4],
        "channel_multiples": [1, 2],
    },
    sample=_noise(2, 2, 256),
)
_diffuser(
    "AutoencoderDC",
    {
        "latent_channels": 8,
        "attention_head_dim": 8,
        "encoder_block_out_channels": (16, 32),
        "decoder_block_out_channels": (16, 32),
        "encoder_layers_per_block": (1, 1),
        "decoder_layers_per_block": (1, 1),
        "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "encoder_qkv_multiscales": ((), (5,)),
        "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "decoder_qkv_multiscales": ((), (5,)),
    },
    sample=_noise(2, 3, 32, 32),
)
_diffuser(
    "AutoencoderKLWan",
    {
        "base_dim": 8,
        "z_dim": 4,
        "dim_mult": [1, 1],
        "num_res_blocks": 1,
        "temperal_downsample": [True],
        "latents_mean": [0.0] * 4,
        "latents_std": [1.0] * 4,
    },
    sample=_noise(1, 3, 5, 16, 16),
)
_HEADS = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2}
_diffuser(
    "DiTTransformer2DModel",
    {**_HEADS, "sample_size": 8, "norm_num_groups": 8, "num_embeds_ada_norm": 10},
    hidden_states=_noise(2, 4, 8, 8),
    timestep=_when(),
    class_labels=lambda: torch.tensor([1, 2]),
)
_diffuser(
    "SD3Transformer2DModel",
    {
        **_HEADS,
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "joint_attention_dim": 32,
        "caption_projection_dim": 32,
        "pooled_projection_dim": 32,
        "pos_embed_max_size": 16,
        "dual_attention_layers": (0,),
        "qk_norm": "rms_norm",
    },
    hidden_states=_noise(2, 4, 16, 16),
    encoder_hidden_states=_noise(2, 8, 32),
    pooled_projections=_noise(2, 32),
    timestep=_when(),
)
_diffuser(
    "FluxTransformer2DModel",
    {
        **_HEADS,
        "num_single_layers": 2,
        "in_channels": 4,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "axes_dims_rope": (4, 4, 8),
        "guidance_embeds": True,
    },
    hidden_states=_noise(2, 16, 4),
    encoder_hidden_states=_noise(2, 8, 32),
    pooled_projections=_noise(2, 32),
    timestep=_noise(2),
    img_ids=lambda: torch.zeros(16, 3),
    txt_ids=lambda: torch.zeros(8, 3),
    guidance=_noise(2),
)
_diffuser(
    "PixArtTransformer2DModel",
    {
        **_HEADS,
        "sample_size": 8,
        "norm_num_groups": 8,
        "cross_attention_dim": 32,
        "caption_channels": 32,
        "use_additional_conditions": False,
    },
    hidden_states=_noise(2, 4, 8, 8),
    encoder_hidden_states=_noise(2, 8, 32),
    timestep=_when(),
)
_diffuser(
    "PriorTransformer",
    {**_HEADS, "embedding_dim": 32, "num_embeddings": 7},
    hidden_states=_noise(2, 32),
    timestep=_when(),
    proj_embedding=_noise(2, 32),
    encoder_hidden_states=_noise(2, 7, 32),
)
_diffuser(
    "SanaTransformer2DModel",
    {
        **_HEADS,
        "in_channels": 4,
        "out_channels": 4,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 16,
        "cross_attention_dim": 32,
        "caption_channels": 32,
        "sample_size": 8,
    },
    hidden_states=_noise(2, 4, 8, 8),
    encoder_hidden_states=_noise(2, 8, 32),
    timestep=_when(),
)
_diffuser(
    "CogVideoXTransformer3DModel",
    {
        **_HEADS,
        "in_channels": 4,
        "out_channels": 4,
        "time_embed_dim": 16,
        "text_embed_dim": 32,
        "sample_width": 8,
        "sample_height": 8,
        "sample_frames": 5,
        "max_text_seq_length": 8,
    },
    hidden_states=_noise(1, 2, 4, 8, 8),
    encoder_hidden_states=_noise(1, 8, 32),
    timestep=_when(1),
)
_diffuser(
    "WanTransformer3DModel",
    {
        **_HEADS,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 32,
        "freq_dim": 32,
        "ffn_dim": 64,
        "rope_max_seq_len": 32,
    },
    hidden_states=_noise(1, 4, 2, 8, 8),
    timestep=_when(1),
    encoder_hidden_states=_noise(1, 8, 32),
)
_diffuser(
    "LTXVideoTransformer3DModel",
    {**_HEADS, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 32, "caption_channels": 32},
    hidden_states=_noise(1, 32, 4),
    encoder_hidden_states=_noise(1, 8, 32),
    timestep=_when(1),
    encoder_attention_mask=lambda: torch.ones(1, 8),
    num_frames=2,
    height=4,
    width=4,
)
_diffuser(
    "AuraFlowTransformer2DModel",
    {
        "sample_size": 8,
        "num_mmdit_layers": 1,
        "num_single_dit_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "caption_projection_dim": 32,
        "pos_embed_max_size": 16,
    },
    hidden_states=_noise(2, 4, 8, 8),
    encoder_hidden_states=_noise(2, 8, 32),
    timestep=_noise(2),
)
_diffuser(
    "Lumina2Transformer2DModel",
    {
        "sample_size": 16,
        "in_channels": 4,
        "hidden_size": 24,
        "num_layers": 1,
        "num_refiner_layers": 1,
        "num_attention_heads": 3,
        "num_kv_heads": 1,
        "multiple_of": 2,
        "cap_feat_dim": 32,
        "axes_dim_rope": (4, 2, 2),
        "axes_lens": (128, 128, 128),
    },
    hidden_states=_noise(2, 4, 16, 16),
    timestep=_noise(2),
    encoder_hidden_states=_noise(2, 8, 32),
    encoder_attention_mask=lambda: torch.ones(2, 8, dtype=torch.bool),
)
_diffuser(
    "HunyuanVideoTransformer3DModel",
    {
        **_HEADS,
        "in_channels": 4,
        "out_channels": 4,
        "num_single_layers": 1,
        "num_refiner_layers": 1,
        "text_embed_dim": 32,
        "pooled_projection_dim": 32,
        "rope_axes_dim": (4, 6, 6),
    },
    hidden_states=_noise(1, 4, 2, 8, 8),
    timestep=_when(1),
    encoder_hidden_states=_noise(1, 8, 32),
    encoder_attention_mask=lambda: torch.ones(1, 8),
    pooled_projections=_noise(1, 32),
    guidance=lambda: torch.ones(1) * 1000,
)
_diffuser(
    "UVit2DModel",
    {
        "hidden_size": 32,
        "cond_embed_dim": 32,
        "micro_cond_encode_dim": 16,
        "micro_cond_embed_dim": 80,
        "encoder_hidden_size": 32,
        "vocab_size": 64,
        "codebook_size": 60,
        "in_channels": 32,
        "block_out_channels": 32,
        "num_res_blocks": 1,
        "block_num_heads": 2,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
    input_ids=lambda: ids(60, 64).view(2, 8, 8),
    encoder_hidden_states=_noise(2, 8, 32),
    pooled_text_emb=_noise(2, 32),
    micro_conds=_noise(2, 5),
)
_diffuser(
    "StableAudioDiTModel",
    {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "num_key_value_attention_heads": 2,
        "cross_attention_dim": 32,
        "time_proj_dim": 16,
        "global_states_input_dim": 32,
        "cross_attention_input_dim": 32,
    },
    hidden_states=_noise(2, 4, 16),
    timestep=_noise(2),
    encoder_hidden_states=_noise(2, 8, 32),
    global_hidden_states=_noise(2, 1, 32),
)


# -- x-transformers, vit-pytorch and others by the same author ------------------------------------


def _decoder(**options: Any) -> Any:
    from x_transformers import Decoder, TransformerWrapper

    layers = Decoder(dim=64, depth=2, heads=4, attn_dim_head=16, **options)
    return TransformerWrapper(num_tokens=100, max_seq_len=64, attn_layers=layers)


_X = {
    "plain": {},
    "rotary": {"rotary_pos_emb": True},
    "alibi": {"alibi_pos_bias": True},
    "rel_pos_bias": {"rel_pos_bias": True},
    "dynamic_pos_bias": {"dynamic_pos_bias": True},
    "rmsnorm_swiglu": {"use_rmsnorm": True, "ff_glu": True, "ff_swish": True},
    "flash": {"attn_flash": True},
    "qk_norm": {"attn_qk_norm": True},
    "one_kv_head": {"attn_one_kv_head": True},
    "macaron": {"macaron": True},
    "residual_attention": {"residual_attn": True},
    "memory_key_values": {"attn_num_mem_kv": 4},
    "topk_attention": {"attn_sparse_topk": 8},
    "sandwich": {"sandwich_coef": 1},
    "shift_tokens": {"shift_tokens": 1},
    "hyper_connections": {"num_residual_streams": 4},
    "deepnorm": {"scale_residual": True, "pre_norm": False},
    "gate_residual": {"gate_residual": True},
    "layer_dropout": {"layer_dropout": 0.2},
    "head_scale": {"attn_head_scale": True},
    "relu_squared": {"ff_relu_squared": True},
}


def _x_transformer(options: dict[str, Any]) -> Maker:
    def make() -> Step:
        from x_transformers import AutoregressiveWrapper

        return fed(AutoregressiveWrapper(_decoder(**options)), ids())

    return make


for _name, _options in _X.items():
    LIBRARIES.setdefault("x_transformers", {})[_name] = _x_transformer(_options)


@of("x_transformers")
def encoder_decoder() -> Step:
    from x_transformers import XTransformer

    model = XTransformer(
        dim=64,
        enc_num_tokens=100,
        enc_depth=2,
        enc_heads=4,
        enc_max_seq_len=32,
        dec_num_tokens=100,
        dec_depth=2,
        dec_heads=4,
        dec_max_seq_len=32,
        tie_token_emb=True,
    )
    return fed(model, ids(), ids())


@of("x_transformers")
def vision_encoder() -> Step:
    from x_transformers import Encoder, ViTransformerWrapper

    return fed(
        ViTransformerWrapper(
            image_size=64, patch_size=16, num_classes=10, attn_layers=Encoder(dim=64, depth=2, heads=4)
        ),
        image(),
    )


@of("x_transformers")
def continuous_values() -> Step:
    from x_transformers import ContinuousTransformerWrapper, Decoder

    model = ContinuousTransformerWrapper(
        dim_in=32, dim_out=8, max_seq_len=64, attn_layers=Decoder(dim=64, depth=2, heads=4)
    )
    return fed(model, values(2, 32, 32))


_VIT = {"image_size": 64, "num_classes": 10, "dim": 64, "depth": 2, "heads": 4, "mlp_dim": 128}
_PATCHED = {**_VIT, "patch_size": 16}
_VITS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit.ViT": ("", _PATCHED),
    "simple_vit.SimpleViT": ("", _PATCHED),
    "deepvit.DeepViT": ("", _PATCHED),
    "cait.CaiT": ("", {**_PATCHED, "cls_depth": 1}),
    "cct.CCT": (
        "",
        {"img_size": 64, "embedding_dim": 64, "n_conv_layers": 2, "num_layers": 2, "num_heads": 4, "num_classes": 10},
    ),
    "cvt.CvT": (
        "",
        {
            "num_classes": 10,
            "s1_depth": 1,
            "s2_depth": 1,
            "s3_depth": 1,
            "s1_emb_dim": 32,
            "s2_emb_dim": 32,
            "s3_emb_dim": 32,
        },
    ),
    "crossformer.CrossFormer": ("224", {"num_classes": 10, "dim": (32, 64, 64, 64), "depth": (1, 1, 1, 1)}),
    "levit.LeViT": (
        "224",
        {
            "image_size": 224,
            "num_classes": 10,
            "stages": 3,
            "dim": (32, 48, 64),
            "depth": 1,
            "heads": (2, 2, 2),
            "mlp_mult": 2,
        },
    ),
    "max_vit.MaxViT": (
        "224",
        {"num_classes": 10, "dim_conv_stem": 16, "dim": 16, "dim_head": 16, "depth": (1, 1, 1, 1), "window_size": 7},
    ),
    "mobile_vit.MobileViT": (
        "256",
        {
            "image_size": (256, 256),
            "dims": [32, 40, 48],
            "channels": [16, 16, 24, 24, 32, 32, 32, 32, 48, 48, 64],
            "num_classes": 10,
        },
    ),
    "nest.NesT": (
        "",
        {
            "image_size": 64,
            "patch_size": 4,
            "dim": 32,
            "heads": 2,
            "num_hierarchies": 2,
            "block_repeats": (1, 1),
            "num_classes": 10,
        },
    ),
    "parallel_vit.ViT": ("", _PATCHED),
    "pit.PiT": ("", {**_PATCHED, "depth": (1, 1)}),
    "regionvit.RegionViT": ("224", {"dim": (16, 32, 32, 32), "depth": (1, 1, 1, 1), "num_classes": 10}),
    "rvt.RvT": ("", _PATCHED),
    "scalable_vit.ScalableViT": (
        "256",
        {
            "num_classes": 10,
            "dim": 16,
            "heads": (1, 2, 2, 2),
            "depth": (1, 1, 1, 1),
            "ssa_dim_key": (8, 8, 8, 8),
            "reduction_factor": (8, 4, 2, 1),
            "window_size": (32, 16, None, None),
        },
    ),
    "sep_vit.SepViT": (
        "224",
        {"num_classes": 10, "dim": 16, "dim_head": 16, "heads": (1, 2, 2, 2), "depth": (1, 1, 1, 1), "window_size": 7},
    ),
    "t2t.T2TViT": (
        "",
        {
            "image_size": 64,
            "dim": 64,
            "depth": 1,
            "heads": 4,
            "mlp_dim": 64,
            "num_classes": 10,
            "t2t_layers": ((7, 4), (3, 2)),
        },
    ),
    "twins_svt.TwinsSVT": (
        "224",
        {
            "num_classes": 10,
            "s1_emb_dim": 16,
            "s2_emb_dim": 16,
            "s3_emb_dim": 16,
            "s4_emb_dim": 16,
            "s3_depth": 1,
            "s4_depth": 1,
        },
    ),
    "vit_for_small_dataset.ViT": ("", _PATCHED),
    "vit_with_patch_merger.ViT": ("", {**_PATCHED, "depth": 4, "patch_merge_layer": 2, "patch_merge_num_tokens": 4}),
    "vit_with_patch_dropout.ViT": ("", {**_PATCHED, "patch_dropout": 0.25}),
    "xcit.XCiT": ("", {**_PATCHED, "cls_depth": 1}),
    "ats_vit.ViT": ("", {**_PATCHED, "max_tokens_per_depth": (12, 8)}),
    "cross_vit.CrossViT": (
        "",
        {
            "image_size": 64,
            "num_classes": 10,
            "sm_dim": 32,
            "lg_dim": 64,
            "sm_patch_size": 8,
            "lg_patch_size": 16,
            "sm_enc_depth": 1,
            "lg_enc_depth": 1,
            "depth": 1,
        },
    ),
    "learnable_memory_vit.ViT": ("", _PATCHED),
    "simple_vit_with_fft.SimpleViT": ("", {**_PATCHED, "freq_patch_size": 8}),
    "simple_vit_with_register_tokens.SimpleViT": ("", _PATCHED),
    "simple_vit_with_qk_norm.SimpleViT": ("", _PATCHED),
    "simple_vit_with_hyper_connections.SimpleViT": ("", {**_PATCHED, "num_residual_streams": 2}),
    "simple_vit_with_value_residual.SimpleViT": ("", _PATCHED),
    "normalized_vit.nViT": ("", _PATCHED),
    "look_vit.LookViT": (
        "",
        {
            "dim": 64,
            "image_size": 64,
            "num_classes": 10,
            "depth": 1,
            "patch_size": 8,
            "heads": 4,
            "highres_patch_size": 16,
        },
    ),
    "jumbo_vit.JumboViT": ("", {**_PATCHED, "num_jumbo_cls": 1, "jumbo_cls_k": 4, "jumbo_ff_mult": 2}),
    "vit_with_decorr.ViT": ("", _PATCHED),
}


def _vit_maker(name: str, size: str, options: dict[str, Any]) -> Maker:
    def make() -> Step:
        import importlib

        module, _, kind = name.rpartition(".")
        model = getattr(importlib.import_module(f"vit_pytorch.{module}"), kind)(**options)
        return fed(model, image(int(size or 64)))

    return make


for _name, (_size, _options) in _VITS.items():
    LIBRARIES.setdefault("vit_pytorch", {})[_name] = _vit_maker(_name, _size, _options)


@of("vit_pytorch")
def navit_packed() -> Step:
    from vit_pytorch.na_vit import NaViT

    model = NaViT(**_PATCHED, token_dropout_prob=0.1)
    images = [[torch.randn(3, 32, 64), torch.randn(3, 64, 48)], [torch.randn(3, 16, 32), torch.randn(3, 64, 16)]]
    return fed(model, images)


@of("vit_pytorch")
def dino() -> Step:
    from vit_pytorch import Dino, ViT

    return fed(
        Dino(
            ViT(**_PATCHED),
            image_size=64,
            hidden_layer="to_latent",
            projection_hidden_size=32,
            projection_layers=2,
            num_classes_K=64,
        ),
        image(),
    )


@of("vit_pytorch")
def distilled() -> Step:
    from vit_pytorch.distill import DistillableViT, DistillWrapper

    teacher = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    return fed(DistillWrapper(student=DistillableViT(**_PATCHED), teacher=teacher), image(), torch.tensor([1, 2]))


@of("denoising_diffusion_pytorch")
def gaussian_diffusion() -> Step:
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    return fed(GaussianDiffusion(Unet(dim=16, dim_mults=(1, 2)), image_size=32, timesteps=100), image(32).sigmoid())


@of("denoising_diffusion_pytorch")
def flash_diffusion() -> Step:
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    return fed(
        GaussianDiffusion(
            Unet(dim=16, dim_mults=(1, 2), flash_attn=True),
            image_size=32,
            timesteps=100,
            objective="pred_v",
            min_snr_loss_weight=True,
        ),
        image(32).sigmoid(),
    )


@of("denoising_diffusion_pytorch")
def diffusion_1d() -> Step:
    from denoising_diffusion_pytorch import GaussianDiffusion1D, Unet1D

    return fed(
        GaussianDiffusion1D(Unet1D(dim=16, dim_mults=(1, 2), channels=8), seq_length=32, timesteps=100),
        values(2, 8, 32).sigmoid(),
    )


@of("denoising_diffusion_pytorch")
def karras_unet() -> Step:
    from denoising_diffusion_pytorch.karras_unet import KarrasUnet

    return fed(
        KarrasUnet(
            image_size=32,
            dim=16,
            dim_max=32,
            num_downsamples=1,
            num_blocks_per_stage=1,
            attn_res=(16,),
            attn_dim_head=8,
        ),
        image(32, 4),
        values(2),
    )


@of("performer_pytorch")
def performer() -> Step:
    from performer_pytorch import PerformerLM

    return fed(
        PerformerLM(num_tokens=100, max_seq_len=64, dim=64, depth=2, heads=4, causal=False, nb_features=16),
        ids(100, 64),
    )


@of("performer_pytorch")
def performer_reversible() -> Step:
    from performer_pytorch import PerformerLM

    return fed(
        PerformerLM(
            num_tokens=100,
            max_seq_len=64,
            dim=64,
            depth=2,
            heads=4,
            causal=False,
            reversible=True,
            generalized_attention=True,
        ),
        ids(100, 64),
    )


@of("perceiver_pytorch")
def perceiver() -> Step:
    from perceiver_pytorch import Perceiver

    return fed(
        Perceiver(
            input_channels=3,
            input_axis=2,
            num_freq_bands=4,
            max_freq=10.0,
            depth=2,
            num_latents=16,
            latent_dim=32,
            num_classes=10,
        ),
        torch.randn(2, 16, 16, 3),
    )


@of("perceiver_pytorch")
def perceiver_io() -> Step:
    from perceiver_pytorch import PerceiverIO

    model = PerceiverIO(dim=32, queries_dim=16, logits_dim=10, depth=2, num_latents=16, latent_dim=32, latent_heads=4)
    return fed(Apply(lambda m, x, q: m.io(x, queries=q), io=model), values(2, 32, 32), values(8, 16))


@of("routing_transformer")
def routing_transformer() -> Step:
    from routing_transformer import RoutingTransformerLM

    model = RoutingTransformerLM(num_tokens=100, dim=64, heads=4, depth=2, max_seq_len=128, window_size=32, causal=True)
    return fed(model, ids(100, 128))


@of("reformer_pytorch")
def reformer() -> Step:
    from reformer_pytorch import ReformerLM

    model = ReformerLM(num_tokens=100, dim=64, depth=2, heads=4, max_seq_len=128, bucket_size=16, causal=True)
    return fed(model, ids(100, 128))


_QUANTISERS: dict[str, dict[str, Any]] = {
    "VectorQuantize": {"dim": 32, "codebook_size": 64},
    "VectorQuantize:cosine": {"dim": 32, "codebook_size": 64, "use_cosine_sim": True},
    "VectorQuantize:learnable": {"dim": 32, "codebook_size": 64, "learnable_codebook": True, "ema_update": False},
    "VectorQuantize:expiring": {"dim": 32, "codebook_size": 64, "threshold_ema_dead_code": 2},
    "VectorQuantize:kmeans": {"dim": 32, "codebook_size": 16, "kmeans_init": True, "kmeans_iters": 2},
    "VectorQuantize:rotation": {"dim": 32, "codebook_size": 64, "rotation_trick": True},
    "VectorQuantize:heads": {"dim": 32, "codebook_size": 64, "heads": 4, "separate_codebook_per_head": True},
    "ResidualVQ": {"dim": 32, "codebook_size": 64, "num_quantizers": 3},
    "ResidualVQ:dropout": {"dim": 32, "codebook_size": 64, "num_quantizers": 3, "quantize_dropout": True},
    "GroupedResidualVQ": {"dim": 32, "codebook_size": 64, "num_quantizers": 2, "groups": 2},
    "FSQ": {"levels": [8, 5, 5], "dim": 32},
    "ResidualFSQ": {"levels": [5, 5], "dim": 32, "num_quantizers": 2},
    "LFQ": {"dim": 32, "codebook_size": 64},
    "ResidualLFQ": {"dim": 32, "codebook_size": 64, "num_quantizers": 2},
    "SimVQ": {"dim": 32, "codebook_size": 64},
}


def _quantiser(name: str, options: dict[str, Any]) -> Maker:
    def make() -> Step:
        import vector_quantize_pytorch as library

        kind = getattr(library, name.partition(":")[0])
        return fed(Apply(lambda m, x: m.vq(m.inner(x)), inner=nn.Linear(32, 32), vq=kind(**options)), values(2, 48, 32))

    return make


for _name, _options in _QUANTISERS.items():
    LIBRARIES.setdefault("vector_quantize_pytorch", {})[_name] = _quantiser(_name, _options)


@of("soft_moe_pytorch")
def soft_experts() -> Step:
    from soft_moe_pytorch import SoftMoE

    return fed(SoftMoE(dim=32, seq_len=32, num_experts=4), values(2, 32, 32))


@of("soft_moe_pytorch")
def soft_experts_dynamic() -> Step:
    from soft_moe_pytorch import DynamicSlotsSoftMoE

    return fed(DynamicSlotsSoftMoE(dim=32, num_experts=4), values(2, 32, 32))


@of("mixture_of_experts")
def sparse_experts() -> Step:
    from mixture_of_experts import MoE

    return fed(MoE(dim=32, num_experts=4), values(2, 32, 32))


@of("mixture_of_experts")
def hierarchical_experts() -> Step:
    from mixture_of_experts import HeirarchicalMoE

    return fed(HeirarchicalMoE(dim=32, num_experts=(2, 2)), values(2, 32, 32))


@of("egnn_pytorch")
def equivariant_graph() -> Step:
    from egnn_pytorch import EGNN_Network

    model = EGNN_Network(
        num_tokens=21, num_positions=32, dim=32, depth=2, num_nearest_neighbors=8, coor_weights_clamp_value=2.0
    )
    return fed(model, torch.randint(0, 21, (2, 32)), torch.randn(2, 32, 3))


@of("titans_pytorch")
def neural_memory() -> Step:
    from titans_pytorch import NeuralMemory

    return fed(NeuralMemory(dim=32, chunk_size=16), values(2, 64, 32))


@of("titans_pytorch")
def memory_as_context() -> Step:
    from titans_pytorch import MemoryAsContextTransformer

    model = MemoryAsContextTransformer(
        num_tokens=100,
        dim=32,
        depth=2,
        segment_len=16,
        num_persist_mem_tokens=2,
        num_longterm_mem_tokens=4,
        heads=2,
        dim_head=16,
    )
    return fed(Apply(lambda m, x: m.net(x, return_loss=True), net=model), ids(100, 65))


@of("colt5_attention")
def conditional_feed_forward() -> Step:
    from colt5_attention import ConditionalRoutedFeedForward

    return fed(ConditionalRoutedFeedForward(32, num_heavy_tokens=8), values(2, 32, 32))


@of("colt5_attention")
def conditional_attention() -> Step:
    from colt5_attention import ConditionalRoutedAttention

    return fed(
        ConditionalRoutedAttention(
            dim=32,
            light_dim_head=16,
            light_heads=2,
            light_window_size=8,
            heavy_dim_head=16,
            heavy_heads=2,
            num_heavy_tokens_q=8,
            num_heavy_tokens_kv=8,
        ),
        values(2, 32, 32),
    )


@of("product_key_memory")
def product_keys() -> Step:
    from product_key_memory import PKM

    return fed(PKM(dim=32, heads=2, num_keys=16, topk=4, dim_head=16), values(2, 32, 32))


@of("local_attention")
def local_transformer() -> Step:
    from local_attention import LocalTransformer

    model = LocalTransformer(num_tokens=100, dim=32, depth=2, max_seq_len=64, local_attn_window_size=16)
    return fed(Apply(lambda m, x: m.net(x, return_loss=True), net=model), ids(100, 65))


# -- graphs ---------------------------------------------------------------------------------------


def _graph(nodes: int = 40, edges: int = 160, width: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(nodes, width), torch.randint(0, nodes, (2, edges))


_CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "GCNConv": {},
    "GCNConv:cached": {"cached": True},
    "ChebConv": {"K": 3},
    "SAGEConv": {},
    "SAGEConv:max": {"aggr": "max"},
    "SAGEConv:lstm": {"aggr": "lstm"},
    "GraphConv": {},
    "GATConv": {"heads": 2},
    "GATv2Conv": {"heads": 2},
    "TransformerConv": {"heads": 2},
    "TAGConv": {},
    "ARMAConv": {},
    "SGConv": {"K": 2},
    "SSGConv": {"alpha": 0.1, "K": 2},
    "MFConv": {},
    "ClusterGCNConv": {},
    "GENConv": {},
    "FiLMConv": {},
    "SuperGATConv": {"heads": 2},
    "EGConv": {"num_heads": 4},
    "GeneralConv": {},
    "ResGatedGraphConv": {},
    "LEConv": {},
    "FeaStConv": {"heads": 2},
    "MixHopConv": {},
    "PDNConv": {"edge_dim": 4, "hidden_channels": 8},
    "HypergraphConv": {},
    "RGCNConv": {"num_relations": 3},
    "FastRGCNConv": {"num_relations": 3},
}


def _convolution(name: str, options: dict[str, Any]) -> Maker:
    def make() -> Step:
        import torch_geometric.nn as library

        kind = getattr(library, name.partition(":")[0])
        x, edges = _graph()
        if "lstm" in name:
            edges = edges[:, edges[1].argsort()]
        given: list[Any] = [x, edges]
        if "RGCN" in name:
            given.append(torch.randint(0, 3, (edges.shape[1],)))
        if "PDN" in name:
            given.append(torch.randn(edges.shape[1], 4))
        return fed(kind(16, 16, **options), *given)

    return make


for _name, _options in _CONVOLUTIONS.items():
    LIBRARIES.setdefault("torch_geometric", {})[_name] = _convolution(_name, _options)


@of("torch_geometric")
def graph_classifier() -> Step:
    import torch_geometric.nn as gnn

    def forward(m: Any, x: torch.Tensor, edges: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        h = m.b(m.a(x, edges).relu(), edges)
        return m.head(gnn.global_mean_pool(h, batch))

    x, edges = _graph()
    return fed(
        Apply(forward, a=gnn.GCNConv(16, 32), b=gnn.GINConv(nn.Linear(32, 32)), head=nn.Linear(32, 10)),
        x,
        edges,
        torch.arange(40) // 10,
    )


@of("torch_geometric")
def graph_u_net() -> Step:
    import torch_geometric.nn as gnn

    x, edges = _graph()
    return fed(gnn.GraphUNet(16, 16, 10, depth=2), x, edges)


@of("torch_geometric")
def top_k_pooling() -> Step:
    import torch_geometric.nn as gnn

    def forward(m: Any, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        x, edges, _, batch, _, _ = m.pool(m.a(x, edges), edges)
        return gnn.global_max_pool(m.b(x, edges), batch)

    x, edges = _graph()
    return fed(Apply(forward, a=gnn.GCNConv(16, 16), pool=gnn.TopKPooling(16, 0.5), b=gnn.GCNConv(16, 16)), x, edges)


@of("torch_geometric")
def molecules_schnet() -> Step:
    import torch_geometric.nn as gnn

    places = torch.randn(20, 3)
    near = torch.cdist(places, places).topk(6, largest=False).indices[:, 1:]
    edges = torch.stack([near.flatten(), torch.arange(20).repeat_interleave(5)])

    def graph(pos: torch.Tensor, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return edges, (pos[edges[0]] - pos[edges[1]]).norm(dim=-1)

    model = gnn.SchNet(hidden_channels=32, num_filters=32, num_interactions=2, interaction_graph=graph)
    return fed(model, torch.randint(1, 10, (20,)), places)


@of("torch_geometric")
def graph_attention_and_edges() -> Step:
    import torch_geometric.nn as gnn

    x, edges = _graph()
    return fed(
        gnn.AttentiveFP(16, 32, 1, edge_dim=4, num_layers=2, num_timesteps=2),
        x,
        edges,
        torch.randn(160, 4),
        torch.arange(40) // 10,
    )


@of("torch_geometric")
def graph_transformer() -> Step:
    import torch_geometric.nn as gnn

    x, edges = _graph()
    model = gnn.GPSConv(16, gnn.GINConv(nn.Linear(16, 16)), heads=2)
    return fed(model, x, edges, torch.arange(40) // 10)


@of("torch_geometric")
def many_aggregations() -> Step:
    import torch_geometric.nn as gnn

    kinds = ["mean", "min", "max", "std", "sum", "softmax", "median"]
    model = Apply(
        lambda m, x, index: m.head(m.gather(x, index)),
        gather=gnn.MultiAggregation(kinds, mode="cat"),
        head=nn.Linear(7 * 16, 4),
    )
    return fed(model, torch.randn(40, 16), torch.arange(40) // 10)


@of("torch_geometric")
def jumping_knowledge() -> Step:
    import torch_geometric.nn as gnn

    x, edges = _graph()
    return fed(gnn.GraphSAGE(16, 32, 3, 10, jk="lstm", norm="batch_norm", dropout=0.1), x, edges)


@of("torch_geometric")
def heterogeneous() -> Step:
    import torch_geometric.nn as gnn

    def forward(m: Any, a: torch.Tensor, b: torch.Tensor, edges: torch.Tensor) -> Any:
        return m.net({"a": a, "b": b}, {("a", "to", "b"): edges, ("b", "to", "a"): edges.flip(0)})

    net = gnn.HeteroConv(
        {("a", "to", "b"): gnn.SAGEConv((16, 16), 8), ("b", "to", "a"): gnn.GATConv((16, 16), 8, add_self_loops=False)}
    )
    return fed(Apply(forward, net=net), torch.randn(40, 16), torch.randn(40, 16), torch.randint(0, 40, (2, 100)))


# -- medical images, segmentation, contrast -------------------------------------------------------

_MONAI: dict[str, tuple[dict[str, Any], Callable[[], tuple[Any, ...]]]] = {
    "UNet": (
        {
            "spatial_dims": 3,
            "in_channels": 1,
            "out_channels": 2,
            "channels": (8, 16, 32),
            "strides": (2, 2),
            "num_res_units": 1,
        },
        lambda: (volume(),),
    ),
    "AttentionUnet": (
        {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": (8, 16, 32), "strides": (2, 2)},
        lambda: (image(64, 1),),
    ),
    "BasicUNet": ({"spatial_dims": 3, "in_channels": 1, "features": (8, 8, 16, 16, 32, 8)}, lambda: (volume(),)),
    "BasicUNetPlusPlus": ({"spatial_dims": 2, "features": (8, 8, 16, 16, 32, 8)}, lambda: (image(64, 1),)),
    "DynUNet": (
        {
            "spatial_dims": 3,
            "in_channels": 1,
            "out_channels": 2,
            "kernel_size": [3, 3, 3],
            "strides": [1, 2, 2],
            "upsample_kernel_size": [2, 2],
            "filters": [8, 16, 32],
            "deep_supervision": True,
            "deep_supr_num": 1,
        },
        lambda: (volume(),),
    ),
    "SegResNet": ({"spatial_dims": 3, "init_filters": 8}, lambda: (volume(),)),
    "SegResNetVAE": ({"input_image_size": (32, 32, 32), "init_filters": 8, "vae_nz": 16}, lambda: (volume(),)),
    "SegResNetDS": (
        {"spatial_dims": 3, "init_filters": 8, "blocks_down": (1, 1, 1), "dsdepth": 2},
        lambda: (volume(),),
    ),
    "VNet": ({}, lambda: (volume(),)),
    "HighResNet": ({"spatial_dims": 3, "in_channels": 1, "out_channels": 2}, lambda: (volume(16),)),
    "UNETR": (
        {
            "in_channels": 1,
            "out_channels": 2,
            "img_size": 32,
            "feature_size": 8,
            "hidden_size": 48,
            "mlp_dim": 64,
            "num_heads": 4,
        },
        lambda: (volume(),),
    ),
    "SwinUNETR": ({"in_channels": 1, "out_channels": 2, "feature_size": 12, "spatial_dims": 3}, lambda: (volume(64),)),
    "SwinUNETR:checkpoint": (
        {"in_channels": 1, "out_channels": 2, "feature_size": 12, "spatial_dims": 3, "use_checkpoint": True},
        lambda: (volume(64),),
    ),
    "ViT": (
        {
            "in_channels": 1,
            "img_size": 32,
            "patch_size": 8,
            "hidden_size": 48,
            "mlp_dim": 64,
            "num_layers": 2,
            "num_heads": 4,
            "classification": True,
        },
        lambda: (volume(),),
    ),
    "ViTAutoEnc": (
        {
            "in_channels": 1,
            "img_size": 32,
            "patch_size": 4,
            "hidden_size": 48,
            "mlp_dim": 64,
            "num_layers": 2,
            "num_heads": 4,
        },
        lambda: (volume(),),
    ),
    "DenseNet121": ({"spatial_dims": 2, "in_channels": 1, "out_channels": 2}, lambda: (image(64, 1),)),
    "SEResNet50": ({"spatial_dims": 2, "in_channels": 1, "num_classes": 2}, lambda: (image(64, 1),)),
    "EfficientNetBN": (
        {"model_name": "efficientnet-b0", "pretrained": False, "spatial_dims": 2, "in_channels": 1, "num_classes": 2},
        lambda: (image(64, 1),),
    ),
    "FlexibleUNet": ({"in_channels": 3, "out_channels": 2, "backbone": "efficientnet-b0"}, lambda: (image(64, 3),)),
    "AutoencoderKL": (
        {
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 1,
            "num_res_blocks": (1, 1),
            "channels": (8, 16),
            "attention_levels": (False, True),
            "latent_channels": 4,
            "norm_num_groups": 4,
        },
        lambda: (image(32, 1),),
    ),
    "VQVAE": (
        {
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 1,
            "channels": (8, 16),
            "num_res_layers": 1,
            "num_res_channels": (8, 16),
            "downsample_parameters": ((2, 4, 1, 1),) * 2,
            "upsample_parameters": ((2, 4, 1, 1, 0),) * 2,
            "num_embeddings": 32,
            "embedding_dim": 8,
        },
        lambda: (image(32, 1),),
    ),
    "DiffusionModelUNet": (
        {
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 1,
            "num_res_blocks": (1, 1),
            "channels": (8, 16),
            "attention_levels": (False, True),
            "norm_num_groups": 4,
            "num_head_channels": 8,
        },
        lambda: (image(32, 1), torch.tensor([3, 7])),
    ),
    "MILModel": (
        {"num_classes": 2, "mil_mode": "att_trans", "pretrained": False},
        lambda: (torch.randn(1, 3, 3, 64, 64),),
    ),
    "MedNeXtSmall": ({"spatial_dims": 2, "in_channels": 1, "out_channels": 2}, lambda: (image(64, 1),)),
    "VoxelMorphUNet": (
        {
            "spatial_dims": 3,
            "in_channels": 2,
            "unet_out_channels": 8,
            "channels": (8, 8, 8, 8, 8, 8),
            "final_conv_channels": (8, 8),
        },
        lambda: (volume(32, 2),),
    ),
    "GlobalNet": (
        {"image_size": (32, 32, 32), "spatial_dims": 3, "in_channels": 2, "num_channel_initial": 4, "depth": 2},
        lambda: (volume(32, 2),),
    ),
    "AHNet": ({"spatial_dims": 3, "psp_block_num": 2, "pretrained": False}, lambda: (volume(64),)),
    "DecoderOnlyTransformer": (
        {"num_tokens": 100, "max_seq_len": 32, "attn_layers_dim": 32, "attn_layers_depth": 2, "attn_layers_heads": 2},
        lambda: (ids(),),
    ),
    "PatchDiscriminator": ({"spatial_dims": 2, "channels": 8, "in_channels": 1}, lambda: (image(64, 1),)),
}


def _monai(name: str, options: dict[str, Any], inputs: Callable[[], tuple[Any, ...]]) -> Maker:
    def make() -> Step:
        import monai.networks.nets as nets

        return fed(getattr(nets, name.partition(":")[0])(**options), *inputs())

    return make


for _name, (_options, _inputs) in _MONAI.items():
    LIBRARIES.setdefault("monai", {})[_name] = _monai(_name, _options, _inputs)

_LOSSES = (
    "DiceLoss",
    "DiceCELoss",
    "FocalLoss",
    "TverskyLoss",
    "GeneralizedDiceLoss",
    "DiceFocalLoss",
    "SSIMLoss",
    "BendingEnergyLoss",
    "LocalNormalizedCrossCorrelationLoss",
    "GlobalMutualInformationLoss",
    "SoftclDiceLoss",
    "JukeboxLoss",
    "HausdorffDTLoss",
)


def _segmentation_loss(name: str) -> Maker:
    def make() -> Step:
        import monai.losses

        options: dict[str, Any] = {"SSIMLoss": {"spatial_dims": 2}, "JukeboxLoss": {"spatial_dims": 2}}.get(name, {})
        options = {"LocalNormalizedCrossCorrelationLoss": {"spatial_dims": 2}}.get(name, options)
        criterion = getattr(monai.losses, name)(**options)
        one = name in ("BendingEnergyLoss",)

        def forward(m: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            made = m.net(x).sigmoid()
            return criterion(made) if one else criterion(made, y)

        target = torch.randint(0, 2, (2, 2, 32, 32)).float()
        return fed(Apply(forward, net=nn.Conv2d(1, 2, 3, padding=1)), image(32, 1), target)

    return make


for _name in _LOSSES:
    LIBRARIES["monai"][f"loss {_name}"] = _segmentation_loss(_name)

_SEGMENTERS = (
    "Unet",
    "UnetPlusPlus",
    "MAnet",
    "Linknet",
    "FPN",
    "PSPNet",
    "PAN",
    "DeepLabV3",
    "DeepLabV3Plus",
    "UPerNet",
    "Segformer",
)


def _segmenter(name: str, encoder: str) -> Maker:
    def make() -> Step:
        import segmentation_models_pytorch as library

        return fed(getattr(library, name)(encoder, encoder_weights=None, classes=3), image(128))

    return make


for _name in _SEGMENTERS:
    LIBRARIES.setdefault("segmentation_models_pytorch", {})[_name] = _segmenter(_name, "resnet18")
for _name in (
    "mobilenet_v2",
    "efficientnet-b0",
    "mit_b0",
    "mobileone_s0",
    "timm-regnetx_002",
    "densenet121",
    "vgg11_bn",
    "dpn68",
    "xception",
    "se_resnet50",
):
    LIBRARIES["segmentation_models_pytorch"][f"Unet of {_name}"] = _segmenter("Unet", _name)


@of("segmentation_models_pytorch")
def segmentation_losses() -> Step:
    import segmentation_models_pytorch as library

    losses = library.losses
    all_of_them = [
        losses.DiceLoss("multiclass"),
        losses.JaccardLoss("multiclass"),
        losses.LovaszLoss("multiclass"),
        losses.FocalLoss("multiclass"),
        losses.SoftCrossEntropyLoss(smooth_factor=0.1),
    ]

    def forward(m: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        made = m.net(x)
        return sum(loss(made, y) for loss in all_of_them)

    return fed(Apply(forward, net=nn.Conv2d(3, 4, 3, padding=1)), image(32), torch.randint(0, 4, (2, 32, 32)))


@of("open_clip")
def clip() -> Step:
    from open_clip import ClipLoss
    from open_clip.model import CLIP

    model = CLIP(
        embed_dim=32,
        vision_cfg={"layers": 2, "width": 64, "patch_size": 16, "image_size": 64, "head_width": 16},
        text_cfg={"context_length": 16, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2},
    )
    criterion = ClipLoss()
    return fed(model, torch.randn(4, 3, 64, 64), ids(100, 16, 4), loss=lambda out: criterion(*out))


_METRIC_LOSSES = """TripletMarginLoss ContrastiveLoss NTXentLoss SupConLoss MultiSimilarityLoss CircleLoss AngularLoss
    LiftedStructureLoss NPairsLoss FastAPLoss SignalToNoiseRatioContrastiveLoss TupletMarginLoss IntraPairVarianceLoss
    MarginLoss GeneralizedLiftedStructureLoss RankedListLoss SmoothAPLoss VICRegLoss"""
_PROXY_LOSSES = """ArcFaceLoss CosFaceLoss ProxyAnchorLoss ProxyNCALoss NormalizedSoftmaxLoss SphereFaceLoss
    SoftTripleLoss SubCenterArcFaceLoss"""


def _metric_loss(name: str, options: dict[str, Any]) -> Maker:
    def make() -> Step:
        from pytorch_metric_learning import losses

        criterion = getattr(losses, name)(**options)

        def forward(m: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            made = m.net(x)
            return m.criterion(made, ref_emb=m.net(x.flip(0))) if name == "VICRegLoss" else m.criterion(made, y)

        return fed(Apply(forward, net=nn.Linear(32, 16), criterion=criterion), values(16, 32), torch.arange(16) % 4)

    return make


for _name in _METRIC_LOSSES.split():
    _options = {"margin": 1.0, "Tn": 0.0} if _name == "RankedListLoss" else {}
    LIBRARIES.setdefault("pytorch_metric_learning", {})[_name] = _metric_loss(_name, _options)
for _name in _PROXY_LOSSES.split():
    LIBRARIES["pytorch_metric_learning"][_name] = _metric_loss(_name, {"num_classes": 4, "embedding_size": 16})


@of("pytorch_metric_learning")
def mined_triplets() -> Step:
    from pytorch_metric_learning import losses, miners

    miner, criterion = miners.MultiSimilarityMiner(), losses.TripletMarginLoss()

    def forward(m: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        made = m.net(x)
        return criterion(made, y, miner(made, y))

    return fed(Apply(forward, net=nn.Linear(32, 16)), values(16, 32), torch.arange(16) % 4)


_SELF_SUPERVISED = (
    "NTXentLoss",
    "BarlowTwinsLoss",
    "VICRegLoss",
    "NegativeCosineSimilarity",
    "DCLLoss",
    "SwaVLoss",
    "DINOLoss",
    "TiCoLoss",
)


def _self_supervised(name: str) -> Maker:
    def make() -> Step:
        import lightly.loss

        options: dict[str, Any] = {"DINOLoss": {"output_dim": 16}}.get(name, {})
        criterion = getattr(lightly.loss, name)(**options)

        def forward(m: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            a, b = m.net(x), m.net(y)
            if name == "SwaVLoss":
                return criterion([a, b], [a, b])
            if name == "DINOLoss":
                return criterion([a.detach(), b.detach()], [a, b], epoch=1)
            return criterion(a, b)

        return fed(Apply(forward, net=nn.Linear(32, 16)), values(8, 32), values(8, 32))

    return make


for _name in _SELF_SUPERVISED:
    LIBRARIES.setdefault("lightly", {})[_name] = _self_supervised(_name)


# -- science --------------------------------------------------------------------------------------


@of("kornia")
def augmented_and_filtered() -> Step:
    import kornia

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = kornia.filters.gaussian_blur2d(m.a(x), (5, 5), (1.5, 1.5))
        h = kornia.geometry.transform.rotate(h, torch.tensor([10.0, 20.0]))
        return kornia.filters.sobel(m.b(kornia.color.rgb_to_hsv(h.sigmoid())))

    return fed(Apply(forward, a=nn.Conv2d(3, 3, 3), b=nn.Conv2d(3, 3, 3)), image())


@of("kornia")
def augmentation_pipeline() -> Step:
    import kornia.augmentation as K

    augment = K.AugmentationSequential(
        K.RandomHorizontalFlip(p=0.5), K.ColorJitter(0.1, 0.1, 0.1, 0.1, p=1.0), K.RandomAffine(10.0, p=1.0)
    )
    return fed(Apply(lambda m, x: m.net(augment(x)), net=nn.Conv2d(3, 8, 3)), image().sigmoid())


@of("kornia")
def homography() -> Step:
    import kornia

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        matrix = torch.eye(3).expand(2, 3, 3) + 0.01 * m.net(x.mean((2, 3))).view(2, 3, 3)
        return kornia.geometry.transform.warp_perspective(x, matrix, (64, 64))

    return fed(Apply(forward, net=nn.Linear(3, 9)), image())


@of("kornia")
def image_losses() -> Step:
    import kornia.losses as losses

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        made = m.net(x)
        return (
            losses.ssim_loss(made, x, 5)
            + losses.total_variation(made).mean()
            + losses.charbonnier_loss(made, x, "mean")
        )

    return fed(Apply(forward, net=nn.Conv2d(3, 3, 3, padding=1)), image())


@of("e3nn")
def equivariant_product() -> Step:
    from e3nn import o3

    product = o3.FullyConnectedTensorProduct("8x0e + 4x1o", "1x0e + 1x1o", "8x0e + 4x1o")
    return fed(product, values(10, 20), values(10, 4))


@of("e3nn")
def equivariant_convolution() -> Step:
    from e3nn import nn as enn
    from e3nn import o3

    sh = o3.Irreps.spherical_harmonics(2)
    product = o3.FullyConnectedTensorProduct("16x0e", sh, "8x0e + 4x1o", shared_weights=False)
    radial = enn.FullyConnectedNet([8, 16, product.weight_numel], torch.relu)

    def forward(m: Any, x: torch.Tensor, places: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        source, target = edges
        arrows = places[target] - places[source]
        harmonics = o3.spherical_harmonics(sh, arrows, True, normalization="component")
        weights = m.radial(torch.exp(-(arrows.norm(dim=1, keepdim=True) - torch.linspace(0, 3, 8)).square()))
        sent = m.product(x[source], harmonics, weights)
        return torch.zeros(x.shape[0], sent.shape[1]).index_add(0, target, sent)

    return fed(
        Apply(forward, product=product, radial=radial), values(20, 16), values(20, 3), torch.randint(0, 20, (2, 60))
    )


@of("e3nn")
def gated_network() -> Step:
    from e3nn import nn as enn
    from e3nn import o3

    gate = enn.Gate("8x0e", [torch.relu], "4x0e", [torch.sigmoid], "4x1o")
    model = nn.Sequential(
        o3.Linear("8x0e + 2x1o", gate.irreps_in),
        gate,
        enn.BatchNorm(gate.irreps_out),
        enn.NormActivation(gate.irreps_out, torch.sigmoid),
    )
    return fed(model, values(10, 14))


@of("gpytorch")
def exact_gaussian_process() -> Step:
    import gpytorch

    x, y = torch.linspace(0, 1, 40), torch.sin(torch.linspace(0, 6, 40))
    likelihood = gpytorch.likelihoods.GaussianLikelihood()

    class Process(gpytorch.models.ExactGP):
        def __init__(self) -> None:
            super().__init__(x, y, likelihood)
            self.mean_module = gpytorch.means.ConstantMean()
            self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

        def forward(self, x: torch.Tensor) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    process = Process()
    marginal = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, process)
    return Step(process.train(), (x,), lambda out: -marginal(out, y))


@of("gpytorch")
def variational_gaussian_process() -> Step:
    import gpytorch

    class Process(gpytorch.models.ApproximateGP):
        def __init__(self) -> None:
            points = torch.linspace(0, 1, 16).unsqueeze(-1)
            distribution = gpytorch.variational.CholeskyVariationalDistribution(16)
            super().__init__(gpytorch.variational.VariationalStrategy(self, points, distribution))
            self.mean_module = gpytorch.means.ConstantMean()
            self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel())

        def forward(self, x: torch.Tensor) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    process, likelihood = Process(), gpytorch.likelihoods.GaussianLikelihood()
    bound = gpytorch.mlls.VariationalELBO(likelihood, process, num_data=64)
    x = torch.rand(64, 1)
    return Step(process.train(), (x,), lambda out: -bound(out, x.squeeze(-1)))


def _solved(method: str, adjoint: bool) -> Maker:
    def make() -> Step:
        from torchdiffeq import odeint, odeint_adjoint

        class Field(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8))

            def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
                return self.net(x)

        solve = odeint_adjoint if adjoint else odeint
        options = {"step_size": 0.25} if method in ("rk4", "euler") else None
        times = torch.linspace(0, 1, 3)
        model = Apply(lambda m, x: solve(m.field, x, times, method=method, options=options), field=Field())
        return fed(model, values(16, 8))

    return make


for _name in ("euler", "rk4", "dopri5"):
    LIBRARIES.setdefault("torchdiffeq", {})[_name] = _solved(_name, False)
    LIBRARIES["torchdiffeq"][f"{_name} adjoint"] = _solved(_name, True)


@of("torchsde")
def stochastic_equation() -> Step:
    import torchsde

    class Equation(nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def __init__(self) -> None:
            super().__init__()
            self.drift, self.spread = nn.Linear(8, 8), nn.Linear(8, 8)

        def f(self, t: Any, y: torch.Tensor) -> torch.Tensor:
            return self.drift(y)

        def g(self, t: Any, y: torch.Tensor) -> torch.Tensor:
            return self.spread(y).sigmoid()

    times = torch.linspace(0, 1, 3)
    return fed(
        Apply(lambda m, x: torchsde.sdeint(m.equation, x, times, dt=0.25, method="euler"), equation=Equation()),
        values(16, 8),
    )


@of("normflows")
def real_nvp() -> Step:
    import normflows as nf

    flows: list[Any] = []
    for _ in range(3):
        flows += [
            nf.flows.AffineCouplingBlock(nf.nets.MLP([1, 32, 32, 2], init_zeros=True)),
            nf.flows.Permute(2, mode="swap"),
        ]
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(2), flows)
    return Step(Apply(lambda m, x: m.flow.forward_kld(x), flow=model), (values(64, 2),))


@of("normflows")
def neural_spline() -> Step:
    import normflows as nf

    flows = [nf.flows.AutoregressiveRationalQuadraticSpline(2, 1, 16), nf.flows.LULinearPermute(2)]
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(2, trainable=False), flows)
    return Step(Apply(lambda m, x: m.flow.forward_kld(x), flow=model), (values(64, 2),))


@of("normflows")
def residual_flow() -> Step:
    import normflows as nf

    flows = [
        nf.flows.Residual(nf.nets.LipschitzMLP([2, 16, 2], init_zeros=True, lipschitz_const=0.9)),
        nf.flows.ActNorm(2),
    ]
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(2), flows)
    return Step(Apply(lambda m, x: m.flow.forward_kld(x), flow=model), (values(64, 2),))


@of("normflows")
def glow() -> Step:
    import normflows as nf

    blocks = [nf.flows.GlowBlock(12, 16, split_mode="channel", scale=True) for _ in range(2)]
    model = nf.MultiscaleFlow([nf.distributions.DiagGaussian((12, 8, 8))], [[*blocks, nf.flows.Squeeze()]], [])
    return Step(Apply(lambda m, x: m.flow.forward_kld(x), flow=model), (values(4, 3, 16, 16),))


@of("nflows")
def masked_autoregressive_flow() -> Step:
    from nflows.distributions.normal import StandardNormal
    from nflows.flows.base import Flow
    from nflows.transforms.autoregressive import MaskedAffineAutoregressiveTransform
    from nflows.transforms.base import CompositeTransform
    from nflows.transforms.permutations import ReversePermutation

    layers = [
        part
        for _ in range(2)
        for part in (
            ReversePermutation(features=4),
            MaskedAffineAutoregressiveTransform(features=4, hidden_features=16),
        )
    ]
    return Step(
        Apply(lambda m, x: -m.flow.log_prob(x).mean(), flow=Flow(CompositeTransform(layers), StandardNormal([4]))),
        (values(32, 4),),
    )


@of("pyro")
def variational_inference() -> Step:
    import pyro
    import pyro.distributions as dist
    from pyro.infer import Trace_ELBO
    from pyro.infer.autoguide import AutoNormal
    from pyro.nn import PyroModule, PyroSample

    pyro.clear_param_store()

    class Regression(PyroModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.linear = PyroModule[nn.Linear](4, 1)
            self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 4]).to_event(2))

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            mean = self.linear(x).squeeze(-1)
            with pyro.plate("data", x.shape[0]):
                pyro.sample("obs", dist.Normal(mean, 0.1), obs=y)
            return mean

    model = Regression()
    guide = AutoNormal(model)
    x, y = values(32, 4), values(32)
    guide(x, y)
    bound = Trace_ELBO().differentiable_loss
    return Step(Apply(lambda m, x, y: bound(m.model, m.guide, x, y), model=model, guide=guide), (x, y))


@of("neuralop")
def fourier_operator() -> Step:
    from neuralop.models import FNO

    return fed(FNO(n_modes=(8, 8), in_channels=1, out_channels=1, hidden_channels=16, n_layers=2), image(32, 1))


@of("neuralop")
def tucker_operator() -> Step:
    from neuralop.models import TFNO

    return fed(
        TFNO(
            n_modes=(8, 8),
            in_channels=1,
            out_channels=1,
            hidden_channels=16,
            n_layers=2,
            factorization="tucker",
            rank=0.3,
        ),
        image(32, 1),
    )


@of("kan")
def kolmogorov_arnold() -> Step:
    from kan import KAN

    return fed(KAN(width=[4, 5, 1], grid=5, k=3, auto_save=False), values(32, 4))


# -- spikes, tables, recurrences ------------------------------------------------------------------


@of("snntorch")
def leaky_neurons() -> Step:
    import snntorch

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        memory, out = m.spike.init_leaky(), []
        for _ in range(5):
            spikes, memory = m.spike(m.a(x), memory)
            out.append(m.b(spikes))
        return torch.stack(out)

    return fed(
        Apply(forward, a=nn.Linear(32, 64), b=nn.Linear(64, 10), spike=snntorch.Leaky(beta=0.9, learn_beta=True)),
        values(8, 32),
    )


@of("snntorch")
def synaptic_convolutions() -> Step:
    import snntorch
    from snntorch import surrogate

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        synapse, memory = m.spike.init_synaptic()
        out = []
        for _ in range(4):
            spikes, synapse, memory = m.spike(m.a(x), synapse, memory)
            out.append(spikes)
        return torch.stack(out)

    spike = snntorch.Synaptic(alpha=0.9, beta=0.8, spike_grad=surrogate.fast_sigmoid())
    return fed(Apply(forward, a=nn.Conv2d(3, 8, 3), spike=spike), image(32))


@of("spikingjelly")
def integrate_and_fire() -> Step:
    from spikingjelly.activation_based import functional, layer, neuron

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        functional.reset_net(m)
        return torch.stack([m.net(x) for _ in range(4)]).mean(0)

    net = nn.Sequential(
        layer.Conv2d(3, 8, 3),
        layer.BatchNorm2d(8),
        neuron.LIFNode(),
        nn.Flatten(),
        layer.Linear(8 * 900, 10),
        neuron.IFNode(),
    )
    return fed(Apply(forward, net=net), image(32))


@of("rtdl_revisiting_models")
def tabular_transformer() -> Step:
    from rtdl_revisiting_models import FTTransformer

    model = FTTransformer(n_cont_features=4, cat_cardinalities=[3, 5], d_out=1, **FTTransformer.get_default_kwargs(1))
    return fed(model, values(16, 4), torch.stack([torch.arange(16) % 3, torch.arange(16) % 5], 1))


@of("mambapy")
def selective_scan() -> Step:
    from mambapy.mamba import Mamba, MambaConfig

    return fed(Mamba(MambaConfig(d_model=32, n_layers=2)), values(2, 32, 32))


@of("mambapy")
def selective_loop() -> Step:
    from mambapy.mamba import Mamba, MambaConfig

    return fed(Mamba(MambaConfig(d_model=32, n_layers=2, pscan=False)), values(2, 32, 32))


@of("xlstm")
def matrix_memory() -> Step:
    from xlstm import mLSTMBlockConfig, mLSTMLayerConfig, xLSTMBlockStack, xLSTMBlockStackConfig

    config = xLSTMBlockStackConfig(
        mlstm_block=mLSTMBlockConfig(mlstm=mLSTMLayerConfig(conv1d_kernel_size=4, qkv_proj_blocksize=4, num_heads=4)),
        context_length=32,
        num_blocks=2,
        embedding_dim=64,
    )
    return fed(xLSTMBlockStack(config), values(2, 32, 64))


@of("xlstm")
def scalar_memory() -> Step:
    from xlstm import FeedForwardConfig, sLSTMBlockConfig, sLSTMLayerConfig, xLSTMBlockStack, xLSTMBlockStackConfig

    config = xLSTMBlockStackConfig(
        slstm_block=sLSTMBlockConfig(
            slstm=sLSTMLayerConfig(backend="vanilla", num_heads=4, conv1d_kernel_size=4),
            feedforward=FeedForwardConfig(proj_factor=1.3, act_fn="gelu"),
        ),
        context_length=16,
        num_blocks=1,
        embedding_dim=64,
        slstm_at=[0],
    )
    return fed(xLSTMBlockStack(config), values(2, 16, 64))


# -- training frameworks --------------------------------------------------------------------------


def _adapted(name: str, **options: Any) -> Maker:
    def make() -> Step:
        import peft
        import transformers

        config = transformers.GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=100, n_positions=64)
        model = peft.get_peft_model(
            transformers.GPT2LMHeadModel(config), getattr(peft, name)(task_type="CAUSAL_LM", **options)
        )
        words = ids()
        return Step(model.train(), {"input_ids": words, "labels": words})

    return make


_TARGETS = {"target_modules": ["c_attn"]}
_ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA": ("LoraConfig", {**_TARGETS, "r": 4, "lora_dropout": 0.1, "fan_in_fan_out": True}),
    "DoRA": ("LoraConfig", {**_TARGETS, "r": 4, "use_dora": True, "fan_in_fan_out": True}),
    "rsLoRA": ("LoraConfig", {**_TARGETS, "r": 4, "use_rslora": True, "fan_in_fan_out": True}),
    "PiSSA": ("LoraConfig", {**_TARGETS, "r": 4, "init_lora_weights": "pissa", "fan_in_fan_out": True}),
    "AdaLoRA": ("AdaLoraConfig", {**_TARGETS, "init_r": 4, "target_r": 2, "total_step": 10, "fan_in_fan_out": True}),
    "IA3": (
        "IA3Config",
        {"target_modules": ["c_attn", "c_fc"], "feedforward_modules": ["c_fc"], "fan_in_fan_out": True},
    ),
    "prefix": ("PrefixTuningConfig", {"num_virtual_tokens": 4}),
    "prompt": ("PromptTuningConfig", {"num_virtual_tokens": 4}),
    "p-tuning": ("PromptEncoderConfig", {"num_virtual_tokens": 4, "encoder_hidden_size": 32}),
    "VeRA": ("VeraConfig", {**_TARGETS, "r": 4, "fan_in_fan_out": True}),
    "LayerNorms": ("LNTuningConfig", {"target_modules": ["ln_1", "ln_2"]}),
    "FourierFT": ("FourierFTConfig", {**_TARGETS, "n_frequency": 50, "fan_in_fan_out": True}),
}
for _name, (_kind, _options) in _ADAPTERS.items():
    LIBRARIES.setdefault("peft", {})[_name] = _adapted(_kind, **_options)


@of("pytorch_lightning")
def lightning_module() -> Step:
    import pytorch_lightning as pl

    class Classifier(pl.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            x, y = batch
            loss = nn.functional.cross_entropy(self.net(x), y)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return nn.functional.cross_entropy(self.net(x), y)

    return Step(Classifier(), (values(8, 32), torch.arange(8)))


@of("tensordict")
def module_on_dictionaries() -> Step:
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule, TensorDictSequential

    net = TensorDictSequential(
        TensorDictModule(nn.Linear(8, 32), ["x"], ["h"]), TensorDictModule(nn.Linear(32, 4), ["h"], ["y"])
    )
    return fed(Apply(lambda m, x: m.net(TensorDict({"x": x}, batch_size=[16]))["y"], net=net), values(16, 8))


@of("torchrl")
def policy_of_torchrl() -> Step:
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from tensordict.nn.distributions import NormalParamExtractor
    from torchrl.modules import ProbabilisticActor, TanhNormal, ValueOperator
    from torchrl.objectives import ClipPPOLoss

    net = TensorDictModule(
        nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4), NormalParamExtractor()),
        ["observation"],
        ["loc", "scale"],
    )
    actor = ProbabilisticActor(net, in_keys=["loc", "scale"], distribution_class=TanhNormal, return_log_prob=True)
    critic = ValueOperator(nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1)), in_keys=["observation"])
    loss = ClipPPOLoss(actor, critic)

    def forward(m: Any, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        batch = TensorDict(
            {
                "observation": observation,
                "action": action,
                "action_log_prob": torch.zeros(16),
                "advantage": torch.ones(16, 1),
                "value_target": torch.zeros(16, 1),
            },
            batch_size=[16],
        )
        found = m.loss(batch)
        return found["loss_objective"] + found["loss_critic"] + found["loss_entropy"]

    return Step(Apply(forward, loss=loss), (values(16, 4), values(16, 2).tanh() * 0.5))


@of("torchmetrics")
def metric_in_the_loss() -> Step:
    import torchmetrics
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=10)

    def forward(m: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        made = m.net(x)
        logits = m.head(made.mean((2, 3)))
        m.accuracy(logits, y)
        return nn.functional.cross_entropy(logits, y) + 1 - ssim(made, x, data_range=1.0)

    return Step(
        Apply(forward, net=nn.Conv2d(3, 3, 3, padding=1), head=nn.Linear(3, 10), accuracy=accuracy),
        (image(32), torch.tensor([1, 2])),
    )


@of("sentence_transformers")
def sentence_pairs() -> Step:
    from sentence_transformers.models import Pooling

    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)

    def forward(m: Any, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        h = m.encoder(m.table(x), src_key_padding_mask=mask == 0)
        return m.pool({"token_embeddings": h, "attention_mask": mask})["sentence_embedding"]

    return fed(
        Apply(forward, table=nn.Embedding(100, 32), encoder=layer, pool=Pooling(32)),
        ids(),
        torch.ones(2, 32, dtype=torch.int64),
    )


@of("geotorch")
def weights_on_manifolds() -> Step:
    import geotorch

    net = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16))
    geotorch.orthogonal(net[0], "weight")
    geotorch.low_rank(net[1], "weight", 4)
    geotorch.positive_definite(net[2], "weight")
    return fed(net, values(8, 16))


def names(library: str) -> Iterator[tuple[str, str]]:
    """The models of a library, all of one family."""
    return ((name, library) for name in LIBRARIES[library])


def step(library: str, name: str) -> Step:
    return LIBRARIES[library][name]()
