"""The colours of pictures [B,H,W,C] changed: brightness, contrast, saturation, hue, gamma, levels. A fourth channel stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from engine.errors import InputError

GREY: Final = (0.299, 0.587, 0.114)
"""ITU-R BT.601."""


def _on_colours(image: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """``change`` done to the three colours, or to a single grey channel spread to three."""
    colours = image[..., :3] if image.shape[-1] >= 3 else image[..., :1].expand(*image.shape[:3], 3)
    return torch.cat([change(colours.clamp(0, 1)).clamp(0, 1), image[..., 3:]], dim=-1)


@dataclass(frozen=True, slots=True)
class Correction:
    """What ``corrected`` does, in its order; by default nothing."""

    brightness: float = 1.0
    """A factor."""
    contrast: float = 1.0
    """A factor of the distance from the picture's mean grey."""
    temperature: float = 0.0
    """Above 0 red grows by as much and green by 0.4 of it, below 0 blue."""
    gamma: float = 1.0
    """A power; above 1 the picture gets darker."""
    saturation: float = 1.0
    """A factor of the saturation of HSL."""
    hue: float = 0.0
    """Degrees."""


def corrected(image: Tensor, how: Correction) -> Tensor:
    """The colours under ``how``; after each step they are cut to 0..1."""

    def change(colours: Tensor) -> Tensor:
        bright = (colours * how.brightness).clamp(0, 1)
        mean = (bright * torch.tensor(GREY)).sum(-1).mean((1, 2))[:, None, None, None]
        contrasted = (mean + (bright - mean) * how.contrast).clamp(0, 1)
        warm = (contrasted * _warmth(how.temperature)).clamp(0, 1)
        return turned(saturated(warm**how.gamma, how.saturation), how.hue)

    return _on_colours(image, change)


def _warmth(temperature: float) -> Tensor:
    if temperature >= 0:
        return torch.tensor([1 + temperature, 1 + 0.4 * temperature, 1.0])
    return torch.tensor([1.0, 1.0, 1 - temperature])


def saturated(colours: Tensor, factor: float) -> Tensor:
    """[...,3] with the saturation of HSL times ``factor``, at most 1; lightness and hue stay (Joblove and Greenberg, "Color spaces for
    computer graphics", 1978)."""
    if factor == 1:
        return colours
    high, low = colours.amax(-1, keepdim=True), colours.amin(-1, keepdim=True)
    light, chroma = (high + low) / 2, high - low
    room = 1 - (2 * light - 1).abs()
    # at one lightness and hue the distance from grey is proportional to saturation
    stretch = torch.where(chroma > 0, (room / chroma.clamp(min=1e-12)).clamp(max=factor), 1.0)
    return light + (colours - light) * stretch


def turned(colours: Tensor, degrees: float) -> Tensor:
    """[...,3] with the hue of HSV turned; value and saturation stay (Smith, "Color gamut transform pairs", 1978)."""
    if degrees % 360 == 0:
        return colours
    high, low = colours.amax(-1), colours.amin(-1)
    chroma = high - low
    safe = chroma.clamp(min=1e-12)
    red, green, blue = colours.unbind(-1)
    sector = torch.where(
        high == red,
        ((green - blue) / safe) % 6,
        torch.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sector = (sector + degrees / 60) % 6
    # each channel is the highest within 60 degrees of its own hue and the lowest within 60 of the opposite one
    places = torch.stack([(sector + offset) % 6 for offset in (5, 3, 1)], dim=-1)
    share = torch.minimum(places, 4 - places).clamp(0, 1)
    return high[..., None] - chroma[..., None] * share


_GREYS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "luminance (Rec.709)": lambda colours: (colours * torch.tensor([0.2126, 0.7152, 0.0722])).sum(-1, keepdim=True),
    "luminance (Rec.601)": lambda colours: (colours * torch.tensor(GREY)).sum(-1, keepdim=True),
    "average": lambda colours: colours.mean(-1, keepdim=True),
    "lightness": lambda colours: (colours.amax(-1, keepdim=True) + colours.amin(-1, keepdim=True)) / 2,
}


def desaturated(image: Tensor, factor: float, method: str) -> Tensor:
    """``factor`` of the way to grey, which is one of ``_GREYS``."""
    return _on_colours(image, lambda colours: colours + factor * (_GREYS[method](colours) - colours))


@dataclass(frozen=True, slots=True)
class Levels:
    """Input levels to output levels, all in 0..255; ``gamma`` is the usual one of level tools, above 1 for lighter middles."""

    black: int = 0
    white: int = 255
    gamma: float = 1.0
    output_black: int = 0
    output_white: int = 255


CHANNELS: Final = {"RGB": slice(0, 3), "red": slice(0, 1), "green": slice(1, 2), "blue": slice(2, 3)}


def levelled(image: Tensor, channel: str, levels: Levels) -> Tensor:
    """A channel, or all three, with ``black`` and ``white`` stretched to the output's ends and the middle bent by a power.

    Raises InputError where white is not above black.
    """
    if levels.white <= levels.black:
        raise InputError(
            f"expected a white_point above the black_point {levels.black}, found {levels.white}", input="white_point"
        )

    def change(colours: Tensor) -> Tensor:
        result = colours.clone()
        part = result[..., CHANNELS[channel]]
        share = ((part * 255 - levels.black) / (levels.white - levels.black)).clamp(0, 1) ** (1 / levels.gamma)
        part.copy_((levels.output_black + share * (levels.output_white - levels.output_black)) / 255)
        return result

    return _on_colours(image, change)
