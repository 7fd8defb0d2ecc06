"""The pictures that ControlNets and adapters are given, as they take them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.conditioning import for_batch
from nodes.diffusion.control_configs import AdapterConfig, AnyControl, TransformerControlConfig
from nodes.diffusion.resize import resize

CELL: Final = 8
"""Pixels along the side of a latent cell."""
_METHOD: Final = "nearest-exact"
_EDGES: Final = (127.5, 0.5)
"""Factor and offset of pictures of edges, for Stability's nets."""

Encode = Callable[[Tensor], Tensor]
"""Pictures [B,H,W,3] in 0..1 to latents of the VAE."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture [B,H,W,C] for a net of ``config``, cut and scaled for any size of latents.

    ``encode`` is the VAE's, for nets that see latents; ``scale`` and ``shift`` bring these into the model's space. ``kept`` [M,1,h,w] is
    what an inpainting keeps.
    """

    image: Tensor
    config: AnyControl
    encode: Encode | None = None
    scale: float = 1.0
    shift: float = 0.0
    kept: Tensor | None = None
    _known: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def sized(self, height: int, width: int) -> Tensor:
        """What the net is given for latents of so many cells, float32 on the CPU: a picture [B,C,H,W] or its latent [B,C,h,w]."""
        if (height, width) not in self._known:
            self._known[height, width] = self._made(height, width)
        return self._known[height, width]

    def _made(self, height: int, width: int) -> Tensor:
        config = self.config
        pixels = self.image.float().cpu().movedim(-1, 1)
        multiple = config.downscale if isinstance(config, AdapterConfig) else 1
        columns, rows = (-(-cells * CELL // multiple) * multiple for cells in (width, height))
        sized = resize(pixels, columns, rows, _METHOD, "center")
        if isinstance(config, TransformerControlConfig):
            return self._latent(sized, config)
        return with_channels(sized, config.in_channels if isinstance(config, AdapterConfig) else config.hint_channels)

    def _latent(self, pixels: Tensor, config: TransformerControlConfig) -> Tensor:
        assert self.encode is not None
        pixels = with_channels(pixels, 3)
        if config.takes == "edges":
            pixels = pixels * _EDGES[0] + _EDGES[1]
        elif config.takes == "depth":
            pixels = 1 - pixels
        latent = self.encode(pixels.movedim(1, -1))
        if latent.shape[1] != config.channels:
            raise InputError(
                f"expected a VAE with {config.channels} latent channels for the ControlNet, found one with {latent.shape[1]}; "
                "connect the model's VAE",
                input="vae",
            )
        latent = (latent - self.shift) * self.scale
        return torch.cat([latent, self._mask(latent)], 1) if config.mask_channels else latent

    def _mask(self, latent: Tensor) -> Tensor:
        """What is kept of the picture, in cells; without a mask all of it."""
        kept = torch.ones(1, 1, 1, 1) if self.kept is None else self.kept.float().cpu()
        height, width = latent.shape[-2:]
        return for_batch(resize(kept, width, height, _METHOD, "center"), len(latent))


def with_channels(pixels: Tensor, channels: int) -> Tensor:
    """``pixels`` [B,C,H,W] with so many channels: grey is repeated, colours are averaged where one is wanted, further ones left out."""
    found = pixels.shape[1]
    if found == channels:
        return pixels
    if channels == 1:
        return pixels[:, :3].mean(1, keepdim=True)
    if found == 1:
        return pixels.expand(-1, channels, -1, -1)
    if found > channels:
        return pixels[:, :channels]
    raise InputError(f"expected a picture of {channels} channels for the ControlNet, found {found}", input="image")
