"""Pictures of a sample while it is made, by a linear map from latent channels to colour instead of the VAE.

A VAE's decoder is nearly linear in the mean colour of each cell. The map is fitted to the VAE at hand by least squares
on a few decoded latents; applying it costs one small matrix product."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from nodes.diffusion.configs import FamilyName
from nodes.diffusion.family import Family

LONGEST_SIDE: Final = 512
"""Previews are scaled so that their longer side has as many pixels."""

Decode = Callable[[Tensor], Tensor]
"""A VAE's decoder: latents [B,C,h,w] in VAE space to pictures [B,3,H,W], -1..1."""


@dataclass(frozen=True, slots=True, eq=False)
class PreviewMap:
    """``rgb = latent . weight + bias``, with ``weight`` [C,3] and ``bias`` [3]; latents in VAE space, colours 0..1."""

    weight: Tensor
    bias: Tensor

    def picture(self, latent: Tensor) -> Tensor:
        """The picture [h,w,3] of one latent [C,h,w], uint8 on the CPU."""
        weight, bias = self.weight.to(latent.device), self.bias.to(latent.device)
        colours = torch.einsum("chw,cr->hwr", latent.float(), weight) + bias
        return (colours.clamp(0, 1) * 255).round().to(torch.uint8).cpu()


_SD1: Final = (
    (0.3512, 0.2297, 0.3227), (0.3250, 0.4974, 0.2350), (-0.2829, 0.1762, 0.2721), (-0.2120, -0.2616, -0.7177),
)  # fmt: skip
_SDXL: Final = (
    (0.3651, 0.4232, 0.4341), (-0.2533, -0.0042, 0.1068), (0.1076, 0.1111, -0.0362), (-0.3165, -0.2492, -0.2188),
)  # fmt: skip
_SD3: Final = (
    (-0.0922, -0.0175, 0.0749), (0.0311, 0.0633, 0.0954), (0.1994, 0.0927, 0.0458), (0.0856, 0.0339, 0.0902),
    (0.0587, 0.0272, -0.0496), (-0.0006, 0.1104, 0.0309), (0.0978, 0.0306, 0.0427), (-0.0042, 0.1038, 0.1358),
    (-0.0194, 0.0020, 0.0669), (-0.0488, 0.0130, -0.0268), (0.0922, 0.0988, 0.0951), (-0.0278, 0.0524, -0.0542),
    (0.0332, 0.0456, 0.0895), (-0.0069, -0.0030, -0.0810), (-0.0596, -0.0465, -0.0293), (-0.1448, -0.1463, -0.1189),
)  # fmt: skip
_COLOURS: Final[Mapping[FamilyName, tuple[tuple[float, ...], ...]]] = {
    "sd1": _SD1, "sd2": _SD1, "sdxl": _SDXL, "refiner": _SDXL, "sd3": _SD3, "upscaler": _SD1,
}  # fmt: skip
"""Colours, -1..1, of a family's latents as its model sees them, by channel: as they are commonly given for the released VAEs."""


def usual(family: Family) -> PreviewMap:
    """The map for models that come without a VAE, by that of their family."""
    weight = torch.tensor(_COLOURS[family.name]) * family.scale / 2
    return PreviewMap(weight, 0.5 - family.shift * weight.sum(0))


def fit(
    decode: Decode, channels: int, scale: float, *, device: torch.device | str = "cpu", size: int = 16
) -> PreviewMap:
    """The map that explains the decoder best, on smooth random latents of the spread that pictures have (``1 /
    scale``).

    It decodes four latents of ``size`` cells, with noise of its own: the random state of the process is not touched.
    """
    latents = _smooth_latents(channels, size).to(device) / scale
    with torch.no_grad():
        pictures = (decode(latents).float() + 1) / 2
    # One sample per cell: the cell's channels, and the mean colour of the pixels it became.
    colours = adaptive_avg_pool2d(pictures, size).permute(0, 2, 3, 1).reshape(-1, 3).cpu()
    cells = latents.float().permute(0, 2, 3, 1).reshape(-1, channels).cpu()
    design = torch.cat([cells, torch.ones(len(cells), 1)], dim=1)
    solution = torch.linalg.lstsq(design, colours).solution
    return PreviewMap(solution[:-1], solution[-1])


def _smooth_latents(channels: int, size: int) -> Tensor:
    """Four latents [4,C,size,size] of unit variance, random at scales of 1, 2, 4 and 8 cells: pictures hold flat areas,
    and decoders answer to them otherwise than to noise."""
    generator = torch.Generator("cpu").manual_seed(0)
    layers = []
    for cell in (1, 2, 4, 8):
        coarse = torch.randn(channels, -(-size // cell), -(-size // cell), generator=generator)
        layers.append(coarse.repeat_interleave(cell, -1).repeat_interleave(cell, -2)[:, :size, :size])
    return torch.stack(layers)


def preview_size(width: int, height: int, longest: int = LONGEST_SIDE) -> tuple[int, int]:
    """Width and height with the same proportions and the longer side ``longest``; no side is below one pixel."""
    factor = longest / max(width, height)
    return max(1, round(width * factor)), max(1, round(height * factor))


def preview_image(latent: Tensor, mapping: PreviewMap) -> Image.Image:
    """A picture of one latent [C,h,w] in VAE space, RGB, fitted to the preview's size."""
    picture = Image.fromarray(mapping.picture(latent).numpy())
    return picture.resize(preview_size(*picture.size), Image.Resampling.BILINEAR)


def preview_jpeg(latent: Tensor, mapping: PreviewMap, quality: int = 90) -> bytes:
    """The preview of one latent [C,h,w] in VAE space as a JPEG file."""
    buffer = BytesIO()
    preview_image(latent, mapping).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()
