"""Configurations of the networks that steer others: ControlNets (Zhang et al. 2023, "Adding Conditional Control to Text-to-Image
Diffusion Models"), of UNets and of transformers, and T2I-Adapters (Mou et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Form = Literal["whole", "difference", "low_rank"]
"""How a file holds a ControlNet: all of it, as a difference to the model's own encoder, or so with factors of low rank."""

AdapterKind = Literal["full_adapter", "full_adapter_xl", "light_adapter"]

UNION_TYPES: Final = ("openpose", "depth", "hed/pidi/scribble/ted", "canny/lineart/anime_lineart/mlsd", "normal", "segment",
                      "tile", "repaint")  # fmt: skip
"""The kinds of pictures that a union net tells apart, in the order in which it numbers them; some know the first six alone."""

TYPE_SINUSOIDS: Final = 256


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
