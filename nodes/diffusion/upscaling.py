"""What Stable Diffusion's x4 upscaler is told beside the prompt: a small picture with some noise, and how much noise (Ho et al. 2022,
"Cascaded Diffusion Models for High Fidelity Image Generation", section 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.conditioning import Surroundings
from nodes.diffusion.resize import resize
from nodes.diffusion.unclip import SEED_OFFSET

LEVEL: Final = "noise_level"
"""Name of the noise level among the network's inputs."""

HIGHEST: Final = 350
"""The noise level that a ``noise_augmentation`` of 1 means."""
_BETAS: Final = (0.0001, 0.02)
_STEPS: Final = 1000


@cache
def signal() -> Tensor:
    """The share of the signal's variance at each level, float32 [1000]: betas linear in their square roots."""
    first, last = (beta**0.5 for beta in _BETAS)
    betas = torch.linspace(first, last, _STEPS, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


def noised(pictures: Tensor, level: int, seed: int) -> Tensor:
    """``pictures`` [B,3,h,w] in -1..1 with the noise of ``level`` (0..999)."""
    noise = torch.randn(pictures.shape, generator=torch.Generator("cpu").manual_seed(seed)).to(pictures.device)
    kept = signal()[level]
    return kept.sqrt() * pictures + (1 - kept).sqrt() * noise


def inputs(options: Mapping[str, Any], around: Surroundings, concat: str) -> Mapping[str, Tensor]:
    """The picture [B,3,h,w] by the name ``concat``, at the latent's size, and its noise level [1,1].

    Raises InputError where the conditioning does not say.
    """
    told: Tensor | None = options.get("concat_image")
    if told is None:
        raise InputError(
            "expected the small picture for this model, found none in its conditioning; put SD_4XUpscale_Conditioning behind the prompts",
            input="negative" if around.is_negative else "positive",
        )
    augmentation = float(options.get("noise_augmentation", 0.0))
    level = round(HIGHEST * augmentation)
    height, width = around.latent.shape[-2:]
    small = resize(told.float(), width, height, "bilinear", "center").to(around.latent.device)
    seen = noised(small, level, around.seed + SEED_OFFSET) if augmentation > 0 else small
    return {concat: seen, LEVEL: torch.full((1, 1), float(level))}
