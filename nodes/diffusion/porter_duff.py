"""Pictures composed by their alpha (Porter and Duff, "Compositing digital images", 1984)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.masks import checked
from nodes.diffusion.resize import resize

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""From source colour and alpha, destination colour and alpha, colours premultiplied, to colour and alpha of the result."""


def _union(sa: Tensor, da: Tensor) -> Tensor:
    return sa + da - sa * da


def _both(s: Tensor, sa: Tensor, d: Tensor, da: Tensor) -> Tensor:
    """What either shows where the other is transparent."""
    return s * (1 - da) + d * (1 - sa)


RULES: Final[dict[str, Rule]] = {
    "ADD": lambda s, sa, d, da: ((s + d).clamp(0, 1), (sa + da).clamp(0, 1)),
    "CLEAR": lambda s, sa, d, da: (torch.zeros_like(d), torch.zeros_like(da)),
    "DARKEN": lambda s, sa, d, da: (_both(s, sa, d, da) + torch.minimum(s, d), _union(sa, da)),
    "DST": lambda s, sa, d, da: (d, da),
    "DST_ATOP": lambda s, sa, d, da: (d * sa + s * (1 - da), sa),
    "DST_IN": lambda s, sa, d, da: (d * sa, sa * da),
    "DST_OUT": lambda s, sa, d, da: (d * (1 - sa), da * (1 - sa)),
    "DST_OVER": lambda s, sa, d, da: (d + s * (1 - da), da + sa * (1 - da)),
    "LIGHTEN": lambda s, sa, d, da: (_both(s, sa, d, da) + torch.maximum(s, d), _union(sa, da)),
    "MULTIPLY": lambda s, sa, d, da: (s * d, sa * da),
    "OVERLAY": lambda s, sa, d, da: (
        torch.where(2 * d < da, 2 * s * d, sa * da - 2 * (da - s) * (sa - d)),
        _union(sa, da),
    ),
    "SCREEN": lambda s, sa, d, da: (s + d - s * d, _union(sa, da)),
    "SRC": lambda s, sa, d, da: (s, sa),
    "SRC_ATOP": lambda s, sa, d, da: (s * da + d * (1 - sa), da),
    "SRC_IN": lambda s, sa, d, da: (s * da, sa * da),
    "SRC_OUT": lambda s, sa, d, da: (s * (1 - da), sa * (1 - da)),
    "SRC_OVER": lambda s, sa, d, da: (s + d * (1 - sa), sa + da * (1 - sa)),
    "XOR": lambda s, sa, d, da: (_both(s, sa, d, da), sa * (1 - da) + da * (1 - sa)),
}
"""The twelve operators of the paper, and the blend modes beside them as Android's ``PorterDuff.Mode`` documents them."""


def composed(
    source: Tensor, source_mask: Tensor, destination: Tensor, destination_mask: Tensor, mode: str
) -> tuple[Tensor, Tensor]:
    """Pictures [B,H,W,C] and masks [B,h,w] (1 - alpha) composed by a rule of ``RULES``.

    All take the destination's size, and of batches the smallest counts. Raises InputError where the pictures have different channels.
    """
    if source.shape[-1] != destination.shape[-1]:
        raise InputError(
            f"expected a source of {destination.shape[-1]} channels, as the destination has, found {source.shape[-1]}; "
            "take the alpha off with SplitImageWithAlpha",
            input="source",
        )
    masks = checked(source_mask, "source_alpha"), checked(destination_mask, "destination_alpha")
    count = min(len(source), len(destination), *(len(mask) for mask in masks))
    height, width = destination.shape[1:3]
    s = resize(source[:count].movedim(-1, 1), width, height, "bicubic", "center").movedim(1, -1)
    d = destination[:count]
    sa, da = (1 - resize(mask[:count, None], width, height, "bicubic", "center")[:, 0, ..., None] for mask in masks)
    colour, alpha = RULES[mode](s * sa, sa, d * da, da)
    plain = torch.where(alpha > 1e-5, colour / alpha, 0.0)
    return plain.clamp(0, 1), (1 - alpha[..., 0]).clamp(0, 1)
