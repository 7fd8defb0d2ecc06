"""Configurations of the networks that steer others: ControlNets (Zhang et al. 2023, "Adding Conditional Control to Text-to-Image
Diffusion Models"), of UNets and of transformers, and T2I-Adapters (Mou et al. 2023).

The ``*_arguments`` functions say the same in the words of diffusers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

Form = Literal["whole", "difference", "low_rank"]
"""How a file holds a ControlNet: all of it, as a difference to the model's own encoder, or so with factors of low rank."""

AdapterKind = Literal["full_adapter", "full_adapter_xl", "light_adapter"]

UNION_TYPES: Final = ("openpose", "depth", "hed/pidi/scribble/ted", "canny/lineart/anime_lineart/mlsd", "normal", "segment",
                      "tile", "repaint")  # fmt: skip
"""The kinds of pictures that a union net tells apart, in the order in which it numbers them; some know the first six alone."""

_TYPE_SINUSOIDS: Final = 256


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """A ControlNet of a UNet: a copy of its encoder, level by level from the finest, behind a stack of convolutions for the picture."""

    in_channels: int
    model_channels: int
    channel_mult: tuple[int, ...]
    blocks: int
    """Residual blocks of every level."""
    depths: tuple[int, ...]
    """Transformer blocks behind each residual block, by level; 0 = no attention."""
    mid_depth: int
    context_dim: int | None
    """None where it has no attention to a text."""
    heads: tuple[int, ...]
    hint_channels: int
    """Of the picture."""
    hint_widths: tuple[int, ...]
    vector_dim: int | None = None
    norm_groups: int = 32
    linear_projection: bool = False
    union_types: int = 0
    """How many kinds of pictures a union net tells apart; 0 for a net for one kind."""
    union_width: int = 0
    union_layers: int = 0
    form: Form = "whole"
    is_pooled: bool = False
    """Whether what it gives is averaged over the picture: those for shuffled pictures."""
    is_bgr: bool = False
    """Whether it takes its picture's channels the other way round."""

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.model_channels * mult for mult in self.channel_mult)

    @property
    def residuals(self) -> tuple[int, ...]:
        """Channels of what it gives to each block that is handed over to the way up."""
        return handed_over(self.model_channels, self.widths, (self.blocks,) * len(self.widths))


@dataclass(frozen=True, slots=True)
class TransformerControlConfig:
    """A ControlNet of Stable Diffusion 3: some of its transformer's layers, beside an embedding of the picture's latent."""

    channels: int
    patch: int
    layers: int
    heads: int
    head_width: int
    context_dim: int | None
    """None for one that reads no text, and begins with the model's own embedding of the latent."""
    pooled_dim: int
    positions: int | None
    """Patches along one side that its position embedding covers; None where it has none of its own."""
    mask_channels: int = 0
    """Channels beside those of the picture's latent: 1 for the mask of an inpainting."""
    dual_layers: tuple[int, ...] = ()
    qk_norm: bool = False
    takes: Literal["picture", "edges", "depth"] = "picture"
    """What is done to the picture before it is encoded: edges are scaled by 127.5, depths are turned round."""

    @property
    def width(self) -> int:
        return self.heads * self.head_width


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """A T2I-Adapter: features of a picture at the resolutions of a UNet's levels."""

    kind: AdapterKind
    in_channels: int
    channels: tuple[int, ...]
    res_blocks: int
    downscale: int
    """Pixels along the side of a cell of its first features."""


AnyControl = ControlConfig | TransformerControlConfig | AdapterConfig


def handed_over(first: int, widths: tuple[int, ...], blocks: tuple[int, ...]) -> tuple[int, ...]:
    """Channels of what a UNet's way down hands over to its way up: the first convolution's, each block's, each downsampler's."""
    found = [first]
    for level, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        found += [width] * (count + (level < len(widths) - 1))
    return tuple(found)


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
        "addition_time_embed_dim": _TYPE_SINUSOIDS,
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
        "pos_embed_type": "sincos" if has_positions else None,
        "use_pos_embed": has_positions,
        "extra_conditioning_channels": config.mask_channels,
        "dual_attention_layers": config.dual_layers,
        "qk_norm": "rms_norm" if config.qk_norm else None,
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
