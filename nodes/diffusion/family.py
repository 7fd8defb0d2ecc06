"""The families of models: a row of facts for each. What a family needs beside its weights follows from its row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from nodes.diffusion.configs import CLIP_HEAD_WIDTH, SD1_SCALE_FACTOR, FamilyName, Prediction, Tower


@dataclass(frozen=True, slots=True)
class TowerRule:
    """How a text encoder is used in a family."""

    layer: int = -1
    """The layer whose states are taken, counted from the end."""
    final_norm: bool = True
    """Whether the final layer norm is applied to the states of an earlier layer too."""
    padding: int | None = None
    """The token that follows the end of a text; None is the end token itself."""
    projects: bool = True
    """Whether the pooled state is projected, where the tower has a projection."""


@dataclass(frozen=True, slots=True)
class Family:
    """One family."""

    name: FamilyName
    title: str
    towers: Mapping[Tower, TowerRule]
    """In the order in which their states stand beside each other."""
    context: int
    """Width of the states that released models of the family listen to."""
    scale: float = SD1_SCALE_FACTOR
    """``(latent - shift) * scale`` is what the model sees of a latent of its VAE."""
    shift: float = 0.0
    channels: int = 4
    prediction: Prediction = "epsilon"
    betas: tuple[float, float] = (0.00085, 0.012)
    """The first and last of its noise schedule."""
    flow_shift: float | None = None
    """Of a flow model: how far its noise levels are moved towards noise (Esser et al. 2024, section 5.3.2)."""
    head_width: int | None = None
    """Channels of an attention head; None where all levels have as many heads."""
    sizes: tuple[str, ...] = ()
    """Numbers that are embedded beside the pooled state, by their names in conditioning."""


_PENULTIMATE: Final = TowerRule(layer=-2, final_norm=False)

FAMILIES: Final[Mapping[FamilyName, Family]] = {
    family.name: family
    for family in (
        Family("sd1", "Stable Diffusion 1", {"l": TowerRule()}, context=768),
        Family(
            "sd2",
            "Stable Diffusion 2",
            {"h": TowerRule(layer=-2, padding=0)},
            context=1024,
            head_width=CLIP_HEAD_WIDTH,
        ),
        Family(
            "sdxl",
            "Stable Diffusion XL",
            {"l": _PENULTIMATE, "g": TowerRule(layer=-2, final_norm=False, padding=0)},
            context=2048,
            scale=0.13025,
            head_width=CLIP_HEAD_WIDTH,
            sizes=("height", "width", "crop_h", "crop_w", "target_height", "target_width"),
        ),
        Family(
            "refiner",
            "Stable Diffusion XL refiner",
            {"g": TowerRule(layer=-2, final_norm=False, padding=0)},
            context=1280,
            scale=0.13025,
            head_width=CLIP_HEAD_WIDTH,
            sizes=("height", "width", "crop_h", "crop_w", "aesthetic_score"),
        ),
        Family(
            "sd3",
            "Stable Diffusion 3",
            {
                "l": TowerRule(layer=-2, final_norm=False, projects=False),
                "g": TowerRule(layer=-2, final_norm=False, padding=0),
                "t5": TowerRule(padding=0),
            },
            context=4096,
            scale=1.5305,
            shift=0.0609,
            channels=16,
            prediction="flow",
            flow_shift=3.0,
        ),
        Family(
            "upscaler",
            "Stable Diffusion x4 upscaler",
            {"h": TowerRule(layer=-2, padding=0)},
            context=1024,
            scale=0.08333,
            prediction="v_prediction",
            betas=(0.0001, 0.02),
        ),
    )
}
