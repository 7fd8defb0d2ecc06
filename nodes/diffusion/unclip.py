"""What an unCLIP model is told of pictures: noised CLIP embeddings (Ramesh et al. 2022, "Hierarchical Text-Conditional Image Generation
with CLIP Latents"), as Stable Diffusion 2.1 unCLIP was trained on them.

An embedding is brought to mean 0 and deviation 1, noised to a level, brought back, and stands beside sinusoids of the level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.vision import EMBEDS

Sinusoids = Callable[[float, int], Tensor]
"""Makes the embedding [n] of a number."""

OPTION: Final = "unclip_conditioning"
"""Option of an entry of conditioning: a list of dicts with ``clip_vision_output``, ``strength`` and ``noise_augmentation``."""

LEVELS: Final = 1000
MERGED: Final = 0.05
"""How much noise the sum of several embeddings is given, where the model was trained to know."""
SEED_OFFSET: Final = -10
"""From the seed of a sampling to that of this noise."""


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """Mean and deviation of CLIP's embeddings of pictures, each [1,D]."""

    mean: Tensor
    std: Tensor


@cache
def signal() -> Tensor:
    """The share of the signal's variance at each level, float32 [1000]: the cosine schedule of Nichol & Dhariwal 2021, eq. 17, with steps
    of no more than 0.999."""
    times = torch.arange(LEVELS + 1, dtype=torch.float64) / LEVELS
    curve = ((times + 0.008) / 1.008 * math.pi / 2).cos() ** 2
    steps = (1 - curve[1:] / curve[:-1]).clamp(max=0.999).float()
    return (1 - steps).cumprod(0)


def generator(seed: int) -> torch.Generator:
    """Of the noise of an embedding, for the seed of a sampling."""
    return torch.Generator("cpu").manual_seed(seed + SEED_OFFSET)


def noised(embeds: Tensor, level: int, statistics: Statistics | None, source: torch.Generator) -> Tensor:
    """``embeds`` [1,D] with the noise of ``level`` (0..999), float32 on the CPU."""
    mean, std = (0.0, 1.0) if statistics is None else (statistics.mean, statistics.std)
    noise = torch.randn(embeds.shape, generator=source)
    kept = signal()[level]
    plain = (embeds.float().cpu() - mean) / std
    return (kept.sqrt() * plain + (1 - kept).sqrt() * noise) * std + mean


def vector(
    told: Sequence[Mapping[str, Any]],
    width: int,
    statistics: Statistics | None,
    seed: int,
    sinusoids: Sinusoids,
    *,
    merged: float = MERGED,
) -> Tensor:
    """The vector [1,width] that is added to the time's embedding: zeros where nothing is told.

    Several embeddings, which all get the same noise, are added by their strengths; their sum is noised once more, by ``merged`` (0..1),
    with what the noise goes on with. Raises InputError for embeddings of another CLIP.
    """
    half = width // 2

    def with_level(embeds: Tensor, augmentation: float, source: torch.Generator) -> Tensor:
        level = round((LEVELS - 1) * augmentation)
        return torch.cat([noised(embeds, level, statistics, source), sinusoids(float(level), half)[None]], 1)

    found = []
    source = generator(seed)
    for one in told:
        embeds = one["clip_vision_output"][EMBEDS]
        if embeds.shape[-1] != half:
            raise InputError(
                f"expected CLIP vision embeddings of {half} numbers, as the model listens to, found {embeds.shape[-1]}; "
                "encode the picture with the CLIP vision model that belongs to it",
                input="clip_vision_output",
            )
        for row in embeds.split(1):
            source = generator(seed)
            found.append(with_level(row, one["noise_augmentation"], source) * one["strength"])
    if not found:
        return torch.zeros(1, width)
    return found[0] if len(found) == 1 else with_level(torch.stack(found).sum(0)[:, :half], merged, source)
