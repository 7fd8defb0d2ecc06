"""FreeU (Si et al. 2023, "FreeU: Free Lunch in Diffusion U-Net").

Of what a UNet's way up works with, more of what comes from below, less of what is handed over to it from the way down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from nodes.diffusion.alterations import Moment, Wiring
from nodes.diffusion.unet_blocks import output_blocks

_RADIUS: Final = 1
"""Frequencies below this are low."""


def low_frequencies_scaled(features: Tensor, scale: float) -> Tensor:
    """``features`` [B,C,h,w] with the lowest frequencies of each channel times ``scale`` (eq. 5 and 6)."""
    if scale == 1:
        return features
    spectrum = torch.fft.fftshift(torch.fft.fft2(features.float()), dim=(-2, -1))
    rows, columns = (slice(max(side // 2 - _RADIUS, 0), side // 2 + _RADIUS) for side in features.shape[-2:])
    gain = torch.ones(features.shape[-2:], device=features.device)
    gain[rows, columns] = scale
    changed: Tensor = torch.fft.ifft2(torch.fft.ifftshift(spectrum * gain, dim=(-2, -1))).real
    return changed.to(features.dtype)


def first_half_scaled(features: Tensor, scale: float, *, adaptive: bool) -> Tensor:
    """``features`` [B,C,h,w] with the first half of the channels times ``scale``.

    ``adaptive``: by the map of eq. 4 instead, 1 where the mean over channels is least in a sample and ``scale`` where it is largest.
    """
    factor: float | Tensor = scale
    if adaptive:
        mean = features.mean(1, keepdim=True)
        low, high = mean.amin((2, 3), keepdim=True), mean.amax((2, 3), keepdim=True)
        # a map that is even everywhere has no place to strengthen
        factor = (scale - 1) * ((mean - low) / (high - low).clamp(min=torch.finfo(mean.dtype).tiny)) + 1
    half = features.shape[1] // 2
    return torch.cat([features[:, :half] * factor, features[:, half:]], 1)


@dataclass(frozen=True, slots=True)
class FreeU:
    """Backbone scales ``b`` and skip scales ``s`` (0..10) for the blocks that get four and two times the model's channels from below.

    ``adaptive`` is the second version of the paper.
    """

    b1: float
    b2: float
    s1: float
    s2: float
    adaptive: bool

    def install(self, wiring: Wiring, moment: Moment) -> None:
        channels = wiring.network.config.block_out_channels[0]
        scales = {4 * channels: (self.b1, self.s1), 2 * channels: (self.b2, self.s2)}
        for block in output_blocks(wiring.network):
            if block.below in scales:
                self._change(wiring, block.resnet, block.below, *scales[block.below])

    def _change(self, wiring: Wiring, resnet: torch.nn.Module, below: int, backbone: float, skip: float) -> None:
        def changed(joined: Tensor) -> Tensor:
            ours, handed = joined[:, :below], joined[:, below:]
            if backbone != 1:
                ours = first_half_scaled(ours, backbone, adaptive=self.adaptive)
            return torch.cat([ours, low_frequencies_scaled(handed, skip)], 1)

        wiring.before(resnet, changed)
