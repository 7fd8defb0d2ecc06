"""The configurations of networks in the words of the libraries that build them: diffusers and transformers."""

from __future__ import annotations

from typing import Any

from nodes.diffusion.configs import DiTConfig, T5Config, TextConfig, TinyVaeConfig, UNetConfig, VaeConfig, VisionConfig
from nodes.diffusion.control_configs import TYPE_SINUSOIDS, AdapterConfig, ControlConfig, TransformerControlConfig


def unet_arguments(config: UNetConfig) -> dict[str, Any]:
    """Arguments of diffusers' ``UNet2DConditionModel`` for ``config``."""
    # a middle with attention takes its depth from the last level, which ignores its own where it has no attention
    down = [
        *config.down_depths[:-1],
        config.down_depths[-1] if any(config.down_depths[-1]) else (config.mid_depth or 1,),
    ]
    middle = {None: None, 0: "UNetMidBlock2D"}.get(config.mid_depth, "UNetMidBlock2DCrossAttn")
    vector = {} if config.vector_dim is None else {
        "class_embed_type": "projection", "projection_class_embeddings_input_dim": config.vector_dim
    }  # fmt: skip
    return {
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "down_block_types": tuple(
            "CrossAttnDownBlock2D" if any(level) else "DownBlock2D" for level in config.down_depths
        ),
        "up_block_types": tuple("CrossAttnUpBlock2D" if any(level) else "UpBlock2D" for level in config.up_depths),
        "mid_block_type": middle,
        "block_out_channels": tuple(config.model_channels * mult for mult in config.channel_mult),
        "layers_per_block": config.res_blocks,
        "transformer_layers_per_block": tuple(down),
        "reverse_transformer_layers_per_block": config.up_depths,
        "cross_attention_dim": config.context_dim,
        "attention_head_dim": config.heads,  # diffusers means the number of heads by this name
        "norm_num_groups": config.norm_groups,
        "use_linear_projection": config.linear_projection,
        "num_class_embeds": config.classes,
        "only_cross_attention": config.text_alone or False,
        **vector,
    }


def dit_arguments(config: DiTConfig | TransformerControlConfig) -> dict[str, Any]:
    """Arguments of diffusers' ``SD3Transformer2DModel`` for ``config``, which its ControlNets have too."""
    return {
        "sample_size": 128,
        "patch_size": config.patch,
        "in_channels": config.channels,
        "out_channels": config.channels,
        "num_layers": config.layers,
        "attention_head_dim": config.head_width,
        "num_attention_heads": config.heads,
        "joint_attention_dim": config.context_dim,
        "caption_projection_dim": config.width,
        "pooled_projection_dim": config.pooled_dim,
        "pos_embed_max_size": config.positions,
        "dual_attention_layers": config.dual_layers,
        "qk_norm": "rms_norm" if config.qk_norm else None,
    }


def vae_arguments(config: VaeConfig) -> dict[str, Any]:
    """Arguments of diffusers' ``AutoencoderKL`` for ``config``."""
    levels = len(config.channel_mult)
    return {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": tuple(config.channels * mult for mult in config.channel_mult),
        "layers_per_block": config.res_blocks,
        "latent_channels": config.latent_channels,
        "norm_num_groups": config.norm_groups,
        "scaling_factor": config.scale_factor,
        "use_quant_conv": config.quant_convs,
        "use_post_quant_conv": config.quant_convs,
        "sample_size": 512,
    }


def tiny_arguments(config: TinyVaeConfig) -> dict[str, Any]:
    """Arguments of diffusers' ``AutoencoderTiny`` for ``config``."""
    return {
        "encoder_block_out_channels": (config.channels,) * len(config.encoder_blocks),
        "decoder_block_out_channels": (config.channels,) * len(config.decoder_blocks),
        "num_encoder_blocks": config.encoder_blocks,
        "num_decoder_blocks": config.decoder_blocks,
        "latent_channels": config.latent_channels,
    }


def text_arguments(config: TextConfig) -> dict[str, Any]:
    """Arguments of transformers' ``CLIPTextConfig`` for ``config``."""
    return {
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.positions,
        "hidden_act": config.activation,
        "projection_dim": config.width,
        "bos_token_id": config.vocabulary - 2,
        "eos_token_id": config.vocabulary - 1,
        "pad_token_id": config.vocabulary - 1,
    }


def vision_arguments(config: VisionConfig) -> dict[str, Any]:
    """Arguments of transformers' ``CLIPVisionConfig`` for ``config``."""
    return {
        "hidden_size": config.width,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "image_size": config.side,
        "patch_size": config.patch,
        "hidden_act": config.activation,
        "projection_dim": config.projection or config.width,
    }


def t5_arguments(config: T5Config) -> dict[str, Any]:
    """Arguments of transformers' ``T5Config`` for ``config``."""
    return {
        "vocab_size": config.vocabulary,
        "d_model": config.width,
        "d_kv": config.head_width,
        "d_ff": config.intermediate,
        "num_layers": config.layers,
        "num_heads": config.heads,
        "relative_attention_num_buckets": config.buckets,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": False,
        "use_cache": False,
    }


def control_arguments(config: ControlConfig) -> dict[str, Any]:
    """Arguments of diffusers' ``ControlNetModel``, or of its ``ControlNetUnionModel``, for ``config``."""
    # a middle with attention takes its depth from the last level, which ignores its own where it has no attention
    depths = (*config.depths[:-1], config.depths[-1] or config.mid_depth or 1)
    vector = {} if config.vector_dim is None else {
        "class_embed_type": "projection", "projection_class_embeddings_input_dim": config.vector_dim
    }  # fmt: skip
    union = {} if not config.union_types else {
        "num_control_type": config.union_types,
        "num_trans_channel": config.union_width,
        "num_trans_layer": config.union_layers,
        "num_proj_channel": config.model_channels,
        "addition_time_embed_dim": TYPE_SINUSOIDS,
    }  # fmt: skip
    middle = {} if union else {"mid_block_type": "UNetMidBlock2DCrossAttn" if config.mid_depth else "UNetMidBlock2D"}
    return {
        "in_channels": config.in_channels,
        "conditioning_channels": config.hint_channels,
        "down_block_types": tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in config.depths),
        "block_out_channels": config.widths,
        "layers_per_block": config.blocks,
        "norm_num_groups": config.norm_groups,
        "cross_attention_dim": config.context_dim or config.model_channels,
        "transformer_layers_per_block": depths,
        "attention_head_dim": config.heads,  # diffusers means the number of heads by this name
        "use_linear_projection": config.linear_projection,
        "conditioning_embedding_out_channels": config.hint_widths,
        **middle,
        **vector,
        **union,
    }


def transformer_control_arguments(config: TransformerControlConfig) -> dict[str, Any]:
    """Arguments of diffusers' ``SD3ControlNetModel`` for ``config``."""
    has_positions = config.positions is not None
    return {
        **dit_arguments(config),
        "pos_embed_type": "sincos" if has_positions else None,
        "use_pos_embed": has_positions,
        "extra_conditioning_channels": config.mask_channels,
    }


def adapter_arguments(config: AdapterConfig) -> dict[str, Any]:
    """Arguments of diffusers' ``T2IAdapter`` for ``config``."""
    # the light one names its last width, which occurs twice, once
    channels = config.channels[:-1] if config.kind == "light_adapter" else config.channels
    return {
        "in_channels": config.in_channels,
        "channels": list(channels),
        "num_res_blocks": config.res_blocks,
        "downscale_factor": config.downscale,
        "adapter_type": config.kind,
    }
