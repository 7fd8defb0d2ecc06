"""What a model takes beside latent, time and text: pooled text and sizes, and pictures in further channels.

``inputs_of`` gives these for an entry of conditioning, by the names that ``nodes.diffusion.unet`` passes on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from engine.errors import InputError
from nodes.diffusion import unclip, upscaling
from nodes.diffusion.conditioning import Surroundings
from nodes.diffusion.configs import DiTConfig, PartConfig, UNetConfig
from nodes.diffusion.family import Family
from nodes.diffusion.resize import resize
from nodes.diffusion.unclip import Statistics

VECTOR: Final = "class_labels"
"""Name of the vector that is added to the time's embedding; diffusers' name, too."""
CONCAT: Final = "concat"
"""Name of what stands in further channels beside the latent."""
DEPTH: Final = "depth"
"""Option of an entry of conditioning: how near things are, float32 [B,H,W], in any unit."""
POOLED: Final = "pooled_projections"

_SINUSOIDS: Final = 256
_GREY: Final = (0.8223, -0.6876, 0.6364, 0.1380)
"""The latent of a grey picture, by channel: what an inpainting model sees where there is no picture."""
_SCORES: Final = {False: 6.0, True: 2.5}
"""The aesthetic score that the refiner is told on the positive and on the negative side."""


def inputs_of(
    config: PartConfig,
    family: Family,
    options: Mapping[str, Any],
    around: Surroundings,
    statistics: Statistics | None = None,
) -> Mapping[str, Tensor]:
    """Further inputs of a model for the ``options`` of an entry, float32, each [1 or B,...]. ``statistics`` are an unCLIP model's."""
    if isinstance(config, DiTConfig):
        return {POOLED: _pooled(options, config.pooled_dim)}
    assert isinstance(config, UNetConfig)
    found: dict[str, Tensor] = {}
    if config.vector_dim is not None and family.name == "sd2":
        told = options.get(unclip.OPTION) or ()
        found[VECTOR] = unclip.vector(told, config.vector_dim, statistics, around.seed, sinusoids)
    elif config.vector_dim is not None:
        found[VECTOR] = vector(options, config.vector_dim, family, around)
    extra = config.in_channels - config.out_channels
    if config.classes is not None:
        return upscaling.inputs(options, around, CONCAT)
    if extra:
        found[CONCAT] = concatenated(options, extra, family, around)
    return found


def _pooled(options: Mapping[str, Any], width: int) -> Tensor:
    pooled: Tensor | None = options.get("pooled_output")
    if pooled is None:
        return torch.zeros(1, width)
    found = pooled.float().reshape(-1, pooled.shape[-1])[..., :width]
    return torch.nn.functional.pad(found, (0, width - found.shape[-1]))


def vector(options: Mapping[str, Any], width: int, family: Family, around: Surroundings) -> Tensor:
    """SDXL's vector [1 or B, width]: the pooled text, and sinusoids of each size (Podell et al. 2023, section 2.2).

    Where pictures are told, what CLIP sees in them stands in the place of the pooled text: the towers of both agree. Sizes that the
    conditioning does not give are those of the picture that is made.
    """
    height, size = (8 * cells for cells in around.latent.shape[-2:])
    given: dict[str, float] = {"height": height, "width": size, "crop_h": 0, "crop_w": 0}
    given["aesthetic_score"] = _SCORES[around.is_negative]
    given |= {name: options[name] for name in given if name in options}
    given |= {"target_height": options.get("target_height", given["height"])}
    given |= {"target_width": options.get("target_width", given["width"])}
    sizes = torch.cat([sinusoids(float(given[name])) for name in family.sizes], -1) if family.sizes else torch.zeros(0)
    pooled = _seen_or_pooled(options, width - len(sizes), around.seed)
    return torch.cat([pooled, sizes.expand(len(pooled), -1)], -1)


def _seen_or_pooled(options: Mapping[str, Any], width: int, seed: int) -> Tensor:
    told = options.get(unclip.OPTION)
    if told is None:
        return _pooled(options, width)
    return unclip.vector(told, 2 * width, None, seed, sinusoids, merged=0.0)[:, :width]


def sinusoids(value: float, width: int = _SINUSOIDS) -> Tensor:
    """Cosines, then sines, of ``value`` at ``width / 2`` frequencies from 1 down to 1/10000 (Vaswani et al. 2017)."""
    half = width // 2
    angles = value * torch.exp(-math.log(10_000) * torch.arange(half) / half)
    return torch.cat([angles.cos(), angles.sin()])


def concatenated(options: Mapping[str, Any], channels: int, family: Family, around: Surroundings) -> Tensor:
    """What stands beside the latent: for inpainting the mask and the latent of what is kept, for image editing the latent of the picture.

    An inpainting model that is told nothing sees a mask of ones over a grey picture. Raises InputError for the latent of another VAE.
    """
    latent = around.latent
    picture: Tensor | None = options.get("concat_latent_image")
    if picture is not None and picture.shape[1] != latent.shape[1]:
        raise InputError(
            f"expected a latent of {latent.shape[1]} channels beside the sample, found one of {picture.shape[1]}; give the node that "
            "shows the model a picture the model's own VAE"
        )
    mask: Tensor | None = options.get("concat_mask", around.noise_mask)
    sized = (
        None
        if picture is None
        else resize(picture.float(), latent.shape[-1], latent.shape[-2], "bilinear", "center").to(latent.device)
    )
    if channels == latent.shape[1]:
        return torch.zeros_like(latent[:1]) if sized is None else sized
    if channels == 1:
        return _depth(options, around)
    if mask is None:
        grey = torch.tensor(_GREY, device=latent.device).reshape(1, -1, 1, 1).expand(1, -1, *latent.shape[-2:])
        return torch.cat([torch.ones_like(grey[:, :1]), grey], 1)
    pictures = mask.reshape(-1, 1, *mask.shape[-2:]).to(latent.device, torch.float32)
    rounded = interpolate(pictures, size=latent.shape[-2:], mode="bilinear").round()
    kept = latent if sized is None else (sized - family.shift) * family.scale
    count = max(len(rounded), len(kept))
    return torch.cat(
        [rounded.expand(count, -1, -1, -1) if len(rounded) == 1 else rounded, kept.expand(count, -1, -1, -1)], 1
    )


def _depth(options: Mapping[str, Any], around: Surroundings) -> Tensor:
    """How near things are [B,1,h,w], for a model that is shown that: from -1, the farthest of a picture, to 1, its nearest.

    Raises InputError where the conditioning does not say.
    """
    told: Tensor | None = options.get(DEPTH)
    if told is None:
        raise InputError(
            "expected a depth picture for this model, found none in its conditioning; put DepthConditioning behind the prompts",
            input="negative" if around.is_negative else "positive",
        )
    size = around.latent.shape[-2:]
    depth = interpolate(told[:, None].float().to(around.latent.device), size=size, mode="bicubic")
    low, high = depth.amin((1, 2, 3), keepdim=True), depth.amax((1, 2, 3), keepdim=True)
    return 2 * (depth - low) / (high - low).clamp(min=torch.finfo(depth.dtype).tiny) - 1
