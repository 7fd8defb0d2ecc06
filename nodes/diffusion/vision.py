"""CLIP's view of pictures (Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from engine.errors import InputError
from nodes.diffusion.configs import VisionConfig
from nodes.diffusion.observing import kept_output

if TYPE_CHECKING:
    from nodes.diffusion.store import LoadedModel

Crop = Literal["center", "none"]

MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
STD: Final = (0.26862954, 0.26130258, 0.27577711)
"""Of the colours of the pictures that CLIP was trained on."""

EMBEDS: Final = "image_embeds"
LAST: Final = "last_hidden_state"
PENULTIMATE: Final = "penultimate_hidden_states"


def prepared(pictures: Tensor, side: int, crop: Crop) -> Tensor:
    """Pictures as CLIP takes them.

    Args:
        pictures: [B,H,W,C] in 0..1; channels beyond the third are left out, a single one is taken as grey.
        side: pixels along the side of the square that CLIP looks at.
        crop: ``center`` scales the shorter side to it and cuts the middle out, ``none`` stretches the picture.

    Returns:
        float32 [B,3,side,side], rounded to 256 levels, of the mean and the deviation that CLIP is used to.
    """
    pixels = pictures[..., :3].movedim(-1, 1).float()
    pixels = pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels
    height, width = pixels.shape[-2:]
    if (height, width) != (side, side):
        scale = side / min(height, width)
        size = (round(scale * height), round(scale * width)) if crop == "center" else (side, side)
        pixels = interpolate(pixels, size=size, mode="bicubic", antialias=True)
        top, left = (pixels.shape[-2] - side) // 2, (pixels.shape[-1] - side) // 2
        pixels = pixels[..., top : top + side, left : left + side]
    levels = (255 * pixels).clamp(0, 255).round() / 255
    mean, std = (torch.tensor(numbers, device=levels.device).reshape(3, 1, 1) for numbers in (MEAN, STD))
    return (levels - mean) / std


def _squared(mask: Tensor, side: int) -> Tensor:
    """The middle square of a mask [1 or B,h,w], [1 or B,1,side,side]."""
    least = min(mask.shape[-2:])
    top, left = ((length - least) // 2 for length in mask.shape[-2:])
    middle = mask[:, None, top : top + least, left : left + least].float()
    return middle if least == side else interpolate(middle, size=(side, side), mode="bicubic", antialias=True)


@torch.inference_mode()
def encode(pictures: Tensor, loaded: LoadedModel, crop: Crop, mask: Tensor | None = None) -> dict[str, Tensor]:
    """What CLIP sees in ``pictures`` [B,H,W,C], or of them where ``mask`` [1 or B,h,w] is 1; it sees the mask's middle square.

    Returns:
        float32 on the CPU: ``image_embeds`` [B,P], in the space that texts are projected into; the states of the last layer
        ``last_hidden_state`` [B,T,D] and of the one before it ``penultimate_hidden_states``, for the whole picture and for each patch.

    Raises InputError for an empty batch.
    """
    config: Any = loaded.config
    assert isinstance(config, VisionConfig)
    if not len(pictures):
        raise InputError("expected at least one picture, found none", input="image")
    module: Any = loaded.module
    pixels = prepared(pictures, config.side, crop)
    if mask is not None:
        pixels = pixels * _squared(mask, config.side).to(pixels.device)
    pixels = pixels.to(loaded.device, loaded.dtype)
    layers = module.vision.encoder.layers
    with kept_output(layers[-2] if len(layers) > 1 else module.vision.pre_layrnorm) as kept:
        embeds, last = module(pixels)
    return {name: it.float().cpu() for name, it in ((EMBEDS, embeds), (LAST, last), (PENULTIMATE, kept[0]))}
