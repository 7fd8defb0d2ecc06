"""What a model is made of, in numbers: the configurations of its networks.

They say no more than is needed to build them: a UNet (Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion
Models") or a diffusion transformer, the autoencoder of the same paper, and text encoders. ``infer`` reads them off the shapes of
tensors, ``folders`` off the config.json files of a diffusers folder; ``library_arguments`` says them in the words of diffusers and
transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from nodes.diffusion.beside_configs import GligenConfig, StyleConfig
from nodes.diffusion.control_configs import AnyControl

Prediction = Literal["epsilon", "v_prediction", "flow"]
FamilyName = Literal["sd1", "sd2", "sdxl", "refiner", "sd3", "upscaler"]
Depths = tuple[tuple[int, ...], ...]

SD1_SCALE_FACTOR: Final = 0.18215
SD1_HEADS: Final = 8
CLIP_HEAD_WIDTH: Final = 64
DIT_HEAD_WIDTH: Final = 64
NORM_GROUPS: Final = 32


@dataclass(frozen=True, slots=True)
class UNetConfig:
    """A latent diffusion UNet, level by level from the finest to the coarsest.

    ``mid_depth`` is the number of transformer blocks in the middle: 0 for a middle of one residual block alone, None for none at all.
    """

    in_channels: int
    out_channels: int
    model_channels: int
    channel_mult: tuple[int, ...]
    down_depths: Depths
    """On the way down: transformer blocks behind every residual block of every level; 0 = no attention."""
    up_depths: Depths
    """On the way up, from the coarsest level to the finest; a level has one residual block more than on the way down."""
    mid_depth: int | None
    context_dim: int
    heads: tuple[int, ...]
    """Attention heads of every level."""
    vector_dim: int | None = None
    """Width of the vector that is added to the time's embedding: SDXL's pooled text and sizes."""
    norm_groups: int = NORM_GROUPS
    linear_projection: bool = False
    classes: int | None = None
    """How many noise levels of a picture beside the latent it tells apart."""
    text_alone: tuple[bool, ...] = ()
    """Levels whose attention looks at the text twice and at the picture not at all; empty for none."""

    @property
    def res_blocks(self) -> tuple[int, ...]:
        """Residual blocks of every level on the way down."""
        return tuple(map(len, self.down_depths))


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

    @property
    def widest(self) -> int:
        """Channels of the widest layer as large as the picture."""
        return self.channels * self.channel_mult[min(1, len(self.channel_mult) - 1)]


@dataclass(frozen=True, slots=True)
class TinyVaeConfig:
    """A tiny autoencoder as TAESD is: convolutions and blocks of one width. Its networks see scaled latents."""

    channels: int
    latent_channels: int
    encoder_blocks: tuple[int, ...]
    """Blocks of every level, from the finest."""
    decoder_blocks: tuple[int, ...]
    """Blocks of every level, from the coarsest."""
    scale_factor: float = SD1_SCALE_FACTOR
    shift: float = 0.0
    """``(latent - shift) * scale_factor`` is what the networks see of an unscaled latent."""
    is_scale_told: bool = False
    """Whether the scale is more than a guess from the number of channels."""

    @property
    def downscale(self) -> int:
        """Pixels of the picture per cell of the latent, along one side."""
        return 1 << (len(self.encoder_blocks) - 1)

    @property
    def widest(self) -> int:
        """Channels of the widest layer as large as the picture."""
        return self.channels


@dataclass(frozen=True, slots=True)
class PixelConfig:
    """A VAE whose latents are the pictures themselves."""

    latent_channels: int = 3
    downscale: int = 1
    widest: int = 3
    scale_factor: float = 1.0


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
    projection: int | None = None
    """Width of the projected pooled state; None for a tower without a projection."""
    cut: int = 0
    """Layers that were left out at its end: folders of Stable Diffusion 2 hold no last layer."""


@dataclass(frozen=True, slots=True)
class T5Config:
    """T5's encoder, version 1.1 (Raffel et al. 2020; gated GELU)."""

    width: int
    layers: int
    heads: int
    head_width: int
    vocabulary: int
    intermediate: int
    buckets: int = 32
    """Relative distances that attention tells apart."""


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """CLIP's image transformer."""

    width: int
    layers: int
    heads: int
    patch: int
    """Pixels along the side of a patch."""
    side: int
    """Pixels along the side of a picture."""
    intermediate: int
    activation: str = "quick_gelu"
    projection: int | None = None
    """Width of the projected pooled state; None for one without a projection."""


@dataclass(frozen=True, slots=True)
class PhotoMakerConfig:
    """PhotoMaker: CLIP's image encoder, with projections into the widths of both of SDXL's text encoders."""

    vision: VisionConfig
    second: int
    """Width of the second projection."""

    @property
    def text_width(self) -> int:
        return (self.vision.projection or 0) + self.second


Tower = Literal["l", "h", "g", "t5"]
"""CLIP ViT-L, OpenCLIP ViT-H and ViT-bigG, T5-XXL: names after the models that they have in released checkpoints."""


@dataclass(frozen=True, slots=True)
class TowersConfig:
    """The text encoders of a model, in the order in which they are named there."""

    kind: FamilyName
    towers: tuple[tuple[Tower, TextConfig | T5Config], ...]

    def __getitem__(self, name: Tower) -> TextConfig | T5Config:
        return dict(self.towers)[name]

    @property
    def names(self) -> tuple[Tower, ...]:
        return tuple(name for name, _ in self.towers)

    @property
    def width(self) -> int:
        """Of the first tower."""
        return self.towers[0][1].width


@dataclass(frozen=True, slots=True)
class DiTConfig:
    """A multimodal diffusion transformer (Esser et al. 2024, "Scaling Rectified Flow Transformers")."""

    channels: int
    patch: int
    layers: int
    heads: int
    head_width: int
    context_dim: int
    pooled_dim: int
    positions: int
    """Patches along one side that the position embedding covers."""
    dual_layers: tuple[int, ...] = ()
    """Layers with a second attention over the picture alone: Stable Diffusion 3.5 medium."""
    qk_norm: bool = False

    @property
    def width(self) -> int:
        return self.heads * self.head_width


@dataclass(frozen=True, slots=True)
class UpscalerConfig:
    """What one must know of an upscaler to use it. Its layers are its file's and its library's to know."""

    architecture: str
    purpose: str
    """SR, FaceSR or Restoration."""
    scale: int
    """How many times larger the picture becomes."""
    in_channels: int
    out_channels: int
    minimum: int = 0
    """Pixels that a side must have at least; smaller pictures are filled up, as are those below."""
    multiple: int = 1
    """What a side must be a multiple of."""
    square: bool = False
    tiling: Literal["fine", "discouraged", "internal"] = "fine"
    """Whether tiles give what the whole picture does: not where a network looks at all of it."""
    dtypes: tuple[str, ...] = ()
    """What it can compute in beside float32."""


AnyVae = VaeConfig | TinyVaeConfig | PixelConfig
PartConfig = (
    UNetConfig
    | DiTConfig
    | AnyVae
    | TowersConfig
    | VisionConfig
    | AnyControl
    | UpscalerConfig
    | PhotoMakerConfig
    | GligenConfig
    | StyleConfig
)


@dataclass(frozen=True, slots=True)
class AnnotatorConfig:
    """A network that says something of pictures, by its name in ``nodes.diffusion.annotators.networks``."""

    network: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """The noise a model was trained with: ``betas`` are the first and last of a schedule linear in sqrt(beta). ``flow_shift`` is that of a
    flow model."""

    prediction: Prediction = "epsilon"
    betas: tuple[float, float] = (0.00085, 0.012)
    steps: int = 1000
    zero_terminal_snr: bool = False
    flow_shift: float = 3.0
