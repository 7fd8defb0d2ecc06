"""What a model is made of, in numbers: the configurations of the three parts of Stable Diffusion 1.

They say no more than is needed to build the networks: a UNet (Rombach et al. 2022, "High-Resolution Image Synthesis with
Latent Diffusion Models"), the autoencoder of the same paper, and CLIP's text tower (Radford et al. 2021). ``infer`` reads
them off the shapes of tensors, ``folders`` off the config.json files of a diffusers folder. The ``*_arguments`` functions
say the same in the words of diffusers and transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

Prediction = Literal["epsilon", "v_prediction"]

SD1_SCALE_FACTOR: Final = 0.18215
SD1_HEADS: Final = 8
CLIP_HEAD_WIDTH: Final = 64
NORM_GROUPS: Final = 32


@dataclass(frozen=True, slots=True)
class UNetConfig:
    """A latent diffusion UNet, level by level from the finest to the coarsest.

    ``mid_depth`` is the number of transformer blocks in the middle, None for a distilled UNet without a middle.
    """

    in_channels: int
    out_channels: int
    model_channels: int
    channel_mult: tuple[int, ...]
    res_blocks: tuple[int, ...]
    depths: tuple[int, ...]
    """Transformer blocks behind every residual block of a level; 0 = a level without attention."""
    mid_depth: int | None
    context_dim: int
    heads: int = SD1_HEADS
    norm_groups: int = NORM_GROUPS
    linear_projection: bool = False


@dataclass(frozen=True, slots=True)
class VaeConfig:
    """The autoencoder; a latent is ``2 ** (levels - 1)`` times smaller than the picture."""

    channels: int
    channel_mult: tuple[int, ...]
    res_blocks: int
    latent_channels: int
    norm_groups: int = NORM_GROUPS
    scale_factor: float = SD1_SCALE_FACTOR
    quant_convs: bool = True
    """Whether 1x1 convolutions stand between the networks and the latent."""

    @property
    def downscale(self) -> int:
        """Pixels of the picture per cell of the latent, along one side."""
        return 1 << (len(self.channel_mult) - 1)


@dataclass(frozen=True, slots=True)
class TextConfig:
    """CLIP's text transformer."""

    width: int
    layers: int
    heads: int
    positions: int
    vocabulary: int
    intermediate: int
    activation: str = "quick_gelu"


PartConfig = UNetConfig | VaeConfig | TextConfig


@dataclass(frozen=True, slots=True)
class Schedule:
    """The noise a UNet was trained with: ``betas`` are the first and last of a schedule linear in sqrt(beta)."""

    prediction: Prediction = "epsilon"
    betas: tuple[float, float] = (0.00085, 0.012)
    steps: int = 1000
    zero_terminal_snr: bool = False


def unet_arguments(config: UNetConfig) -> dict[str, Any]:
    """Arguments of diffusers' ``UNet2DConditionModel`` for ``config``."""
    down = tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in config.depths)
    up = tuple("CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(config.depths))
    # diffusers takes the depth of the middle from the last level's; a last level without attention ignores its own
    depths = (*(max(depth, 1) for depth in config.depths[:-1]), config.depths[-1] or config.mid_depth or 1)
    return {
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "down_block_types": down,
        "up_block_types": up,
        "mid_block_type": None if config.mid_depth is None else "UNetMidBlock2DCrossAttn",
        "block_out_channels": tuple(config.model_channels * mult for mult in config.channel_mult),
        "layers_per_block": config.res_blocks,
        "transformer_layers_per_block": depths,
        "cross_attention_dim": config.context_dim,
        "attention_head_dim": config.heads,  # diffusers means the number of heads by this name
        "norm_num_groups": config.norm_groups,
        "use_linear_projection": config.linear_projection,
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
