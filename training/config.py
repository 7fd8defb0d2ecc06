"""Every number of the recipe, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class TextRecipe:
    """Teaching the text encoder; shares are of all captions drawn."""

    seed: int = 0
    steps: int = 1500
    batch: int = 48
    rate: float = 2e-3
    short_length: int = 32
    """Three steps in four look at the first 32 positions only; the encoder is causal, so nothing is lost."""
    placed_share: float = 0.35
    unknown_share: float = 0.5
    unknown_words: int = 4
    sized_share: float = 0.35
    hold: float = 20.0
    """When an encoder learns more words: weight of its old captions' states staying what they were."""
    nothing_share: float = 0.06
    """Empty captions and captions of unknown words only, as in a customary negative prompt."""
    junk_words: int = 24


@dataclass(frozen=True, slots=True)
class Phase:
    """So many steps on pictures of this side in pixels."""

    side: int
    batch: int
    steps: int


@dataclass(frozen=True, slots=True)
class VaeRecipe:
    """Encoder and decoder together. Small pictures first: they hold more outline per pixel."""

    seed: int = 0
    phases: tuple[Phase, ...] = (Phase(32, 16, 900), Phase(64, 8, 900), Phase(128, 2, 300))
    rate: float = 1e-3
    decay: float = 0.995
    noise: float = 0.4
    """Each picture's latents get noise of a strength drawn from 0 to this (latents have spread 1)."""
    edge: float = 0.5
    whiten_side: int = 128


@dataclass(frozen=True, slots=True)
class LatentSet:
    """Pictures encoded once for the denoiser: how wide in pixels, how many, and the shares whose place or size is named."""

    name: str
    side: int
    count: int
    seed: int
    placed: float = 0.0
    sized: float = 0.0
    scattered: float = 0.0
    """Share, of the scenes that name neither, that have their shape anywhere and in any size."""


@dataclass(frozen=True, slots=True)
class Share:
    """How often, relative to the others, a step uses this latent set, and its batch."""

    latents: str
    batch: int
    weight: float


@dataclass(frozen=True, slots=True)
class UnetPhase:
    """Steps of the denoiser; the rate goes from `rate` to `last_rate` along half a cosine."""

    name: str
    steps: int
    rate: float
    last_rate: float
    shares: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class UnetRecipe:
    """Training of the denoiser; shares are of all captions drawn."""

    seed: int = 0
    phases: tuple[UnetPhase, ...] = (
        UnetPhase("small", 2500, 1.5e-3, 1.2e-3, (Share("64", 32, 1.0),)),
        UnetPhase("main", 12000, 1.2e-3, 8e-4, (Share("128", 16, 0.9), Share("64", 32, 0.1))),
        UnetPhase("settle", 6000, 8e-4, 1e-5, (Share("128", 16, 0.94), Share("64", 32, 0.06))),
    )
    warm: int = 200
    decay: float = 0.999
    cap: float = 5.0
    """Min-SNR's gamma."""
    late: float = 1.0
    """Power that evenly spread times, as shares of all, are raised to; below 1 the noisy ones come oftener."""
    empty_share: float = 0.1
    junk_words: int = 24
    unknown_share: float = 0.15
    unknown_words: int = 4
    save_every: int = 250


ADDED_SETS = (
    LatentSet("64", 64, 4096, seed=11, placed=0.25, sized=0.25, scattered=0.5),
    LatentSet("128", 128, 1536, seed=12, placed=0.25, sized=0.25, scattered=0.5),
)
"""Scenes that the models beside the demo checkpoint are trained on."""

REFINING = UnetRecipe(
    phases=(UnetPhase("refine", 4000, 6e-4, 1e-5, (Share("128", 16, 0.85), Share("64", 32, 0.15))),), warm=100
)
"""Going on from a denoiser that draws already."""


@dataclass(frozen=True, slots=True)
class PolishRecipe:
    """The decoder's last training."""

    seed: int = 5
    side: int = 128
    steps: int = 800
    batch: int = 4
    rate: float = 3e-4
    decay: float = 0.995
    noise: float = 0.15
    edge: float = 0.5


@dataclass(frozen=True, slots=True)
class Recipe:
    text: TextRecipe = field(default_factory=TextRecipe)
    vae: VaeRecipe = field(default_factory=VaeRecipe)
    latents: tuple[LatentSet, ...] = (
        LatentSet("64", 64, 4096, seed=1, placed=0.2, sized=0.2),
        LatentSet("128", 128, 6144, seed=2, placed=0.3, sized=0.3),
    )
    unet: UnetRecipe = field(default_factory=UnetRecipe)
    polish: PolishRecipe = field(default_factory=PolishRecipe)


def _beside(
    small: int, large: int, rate: float, *, batch: int = 32, more: tuple[UnetPhase, ...] = (), **shares: Any
) -> UnetRecipe:
    """A recipe for what is trained beside the frozen denoiser: some steps at 64 px, then mostly 128 px down to a low rate."""
    phases = (
        UnetPhase("small", small, rate, rate * 0.8, (Share("64", batch, 1.0),)),
        UnetPhase("large", large, rate * 0.8, rate * 0.02, (Share("128", batch // 2, 0.85), Share("64", batch, 0.15))),
    )
    return UnetRecipe(phases=phases + more, decay=0.998, warm=50, **shares)


CONTROL = _beside(
    400, 300, 1e-3, more=(UnetPhase("more", 400, 8e-4, 1e-5, (Share("128", 16, 1.0),)),), empty_share=0.25
)
"""Captions are left out often, so that the hint alone says where the outlines are."""
DEPTH = _beside(120, 160, 8e-4, empty_share=0.25)
"""Going on from the net for edges."""


@dataclass(frozen=True, slots=True)
class UpscalerRecipe:
    """Training of the upscaler on drawings `side` pixels wide, of a quarter of that before."""

    seed: int = 3
    side: int = 160
    batch: int = 6
    steps: int = 2600
    rate: float = 1e-3
    decay: float = 0.995
    absolute: float = 0.01
    spoiled_share: float = 0.3


UPSCALER = UpscalerRecipe()


@dataclass(frozen=True, slots=True)
class Count:
    """So many of the first scenes of a latent set."""

    name: str
    count: int


@dataclass(frozen=True, slots=True)
class MaskRecipe:
    """Masks for inpainting: how many scenes get them, how many each, what share of them are boxes around the shape and boxes anywhere (the
    rest are strokes of a brush), and how often all is masked instead."""

    counts: tuple[Count, ...] = (Count("64", 2048), Count("128", 1536))
    rounds: int = 2
    around_share: float = 0.6
    anywhere_share: float = 0.2
    whole_share: float = 0.15


MASKED = MaskRecipe()
INPAINT = _beside(
    500, 320, 8e-4, more=(UnetPhase("more", 600, 6e-4, 1e-5, (Share("128", 16, 0.9), Share("64", 32, 0.1))),)
)
"""The whole denoiser goes on learning."""
INPAINT_MORE = UnetRecipe(phases=INPAINT.phases[-1:], decay=INPAINT.decay, warm=INPAINT.warm)
"""The last of that, going on from an inpainting checkpoint."""
PLACING = UnetRecipe(
    seed=1,
    phases=(UnetPhase("place", 500, 4e-4, 5e-6, (Share("128", 16, 1.0),)),),
    decay=0.998,
    warm=50,
    cap=0.5,
    late=0.5,
)
"""After it: where in its hole a shape stands is decided where there is little but noise, so such times come oftener and weigh more."""


@dataclass(frozen=True, slots=True)
class VisionRecipe:
    """Teaching the image encoder."""

    seed: int = 4
    steps: int = 1000
    batch: int = 32
    rate: float = 1.5e-3
    decay: float = 0.995
    spoiled_share: float = 0.3
    eased_share: float = 0.4
    """Share of the steps over which shapes spread from the middle to everywhere, and from one size to all."""
    told: float = 0.75
    """Share of shapes told right from which on they spread; after a third of the steps they do anyway."""
    map_weight: float = 5.0
    small: float = 1e-3
    """Weight of the embeddings' mean square, which keeps them near 1."""


VISION = VisionRecipe()
VISION_MORE = VisionRecipe(seed=6, steps=700, rate=1e-3)
"""Going on from it, with shapes where they like."""


@dataclass(frozen=True, slots=True)
class SharpenRecipe:
    """Teaching the image encoder to tell small shapes apart, on silhouettes drawn once and painted in new colours every time."""

    seed: int = 8
    pool: int = 16384
    placed: float = 0.4
    sized: float = 0.5
    """Shares of the silhouettes that have a place and a size as captions would name them; many of those are small."""
    steps: int = 2400
    ask: int = 100
    """First steps, in which the questions alone learn what to make of the embedding."""
    batch: int = 64
    rate: float = 1e-3
    asking_rate: float = 3e-3
    decay: float = 0.997
    spoiled_share: float = 0.3
    map_weight: float = 5.0
    code_weight: float = 20.0
    small: float = 1e-3


SHARPEN = SharpenRecipe()
ADAPTER = UnetRecipe(
    phases=(
        UnetPhase("small", 200, 2e-3, 1.6e-3, (Share("64", 32, 1.0),)),
        UnetPhase("large", 800, 1.6e-3, 2e-5, (Share("128", 16, 0.9), Share("64", 32, 0.1))),
    ),
    decay=0.997,
    warm=50,
    empty_share=0.7,
)
"""Most captions are left out, so that the picture alone says what to draw."""


@dataclass(frozen=True, slots=True)
class ShownRecipe:
    """Pictures that the adapter learns to take as prompts, drawn and embedded once."""

    seed: int = 41
    count: int = 12288
    placed: float = 0.3
    sized: float = 0.5
    sides: tuple[int, ...] = (64, 128)
    spoiled_share: float = 0.3


SHOWN = ShownRecipe()

STYLED = LatentSet("styled", 128, 1280, seed=51, placed=0.08, sized=0.1)
STYLED_MORE = ("star",)
"""Shapes that are drawn twice as often as the others: their lines are nearest to each other."""
STYLE = UnetRecipe(phases=(UnetPhase("only", 600, 1.5e-3, 2e-5, (Share("styled", 16, 1.0),)),), decay=0.99, warm=30)

CONCEPT_SCENES = (LatentSet("64", 64, 192, seed=31, sized=0.3),)
CONCEPT = UnetRecipe(phases=(UnetPhase("only", 300, 2e-2, 1e-3, (Share("64", 16, 1.0),)),), decay=0.98, warm=20)
