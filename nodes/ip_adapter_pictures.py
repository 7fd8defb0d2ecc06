"""Pictures for IP-Adapters."""

from __future__ import annotations

from typing import Annotated, Literal

from engine.spec import Output, Range, node
from nodes import diffusion
from nodes.sockets import Image, Tensor

CATEGORY = "ipadapter/utils"


@node(
    "PrepImageForClipVision", title="Prep Image For ClipVision", category=CATEGORY, outputs=[Output("IMAGE")], version=2
)
def prep_image_for_clip_vision(
    image: Image,
    interpolation: Literal["LANCZOS", "BICUBIC", "HAMMING", "BILINEAR", "BOX", "NEAREST"],
    crop_position: Literal["top", "bottom", "left", "right", "center", "pad"],
    sharpening: Annotated[float, Range(0, 1, step=0.05)] = 0.0,
) -> Tensor:
    """A square of 224 pixels, as large as what CLIP sees: the part of the picture at this position, or all of it between black bars."""
    return diffusion.ip_pictures.squared(image, interpolation, crop_position, sharpening)


@node("IPAdapterNoise", title="IPAdapter Noise", category=CATEGORY, outputs=[Output("IMAGE")])
def ip_adapter_noise(
    *,
    type: Literal["fade", "dissolve", "gaussian", "shuffle"],
    strength: Annotated[float, Range(0, 1, step=0.05)] = 1.0,
    blur: Annotated[int, Range(0, 32, step=1)] = 0,
    image_optional: Image | None = None,
) -> Tensor:
    """A picture of noise, or one under noise, for image_negative. The noise follows from the picture."""
    return diffusion.ip_pictures.noise(type, strength, blur, image_optional)
