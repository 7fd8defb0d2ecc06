"""A VAE that is none: its latents are the pictures themselves, of three channels in -1..1 and as large as they are."""

from __future__ import annotations

from torch import Tensor, nn


class PixelSpace(nn.Module):
    """It is called as diffusers' autoencoders are, and has no weights."""

    def encode(self, pictures: Tensor, *, return_dict: bool) -> tuple[Tensor]:
        return (pictures,)

    def decode(self, latents: Tensor, *, return_dict: bool) -> tuple[Tensor]:
        return (latents,)
