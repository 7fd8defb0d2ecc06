"""Masks: made, taken from pictures, changed, put together."""

from __future__ import annotations

from typing import Annotated, Literal

from engine.fileref import FileRef
from engine.run.results import Outputs
from engine.spec import FileChoice, Hint, Output, Range, node
from nodes import diffusion
from nodes import image as picture_nodes
from nodes.sockets import Image, Mask, Tensor

Pixels = Annotated[int, Range(0, 16384, step=1)]
Side = Annotated[int, Range(1, 16384, step=1)]

_MASK = [Output("MASK")]


@node("LoadImageMask", title="Load Image (as Mask)", category="mask", outputs=_MASK, version=2)
def load_image_mask(
    image: Annotated[FileRef, FileChoice("input", upload=True)], channel: Literal["alpha", "red", "green", "blue"]
) -> Tensor:
    """Read a channel of a picture of the input folder. Of alpha it is 1 - alpha."""
    return diffusion.masks.read(image.path, channel)


@node("MaskToImage", title="Convert Mask to Image", category="mask", outputs=[Output("IMAGE")])
def mask_to_image(mask: Mask) -> Tensor:
    """The mask as a grey picture."""
    return diffusion.masks.to_image(mask)


@node("ImageToMask", title="Convert Image to Mask", category="mask", outputs=_MASK)
def image_to_mask(image: Image, channel: Literal["red", "green", "blue", "alpha"]) -> Tensor:
    """A channel of the picture."""
    return diffusion.masks.of_channel(image, channel)


@node("ImageColorToMask", category="mask", outputs=_MASK)
def image_color_to_mask(
    image: Image, color: Annotated[int, Range(0, 0xFFFFFF, step=1), Hint(display="color")] = 0
) -> Tensor:
    """Masked is what has just this colour."""
    return diffusion.masks.of_colour(image, color)


@node("SolidMask", category="mask", outputs=_MASK)
def solid_mask(
    value: Annotated[float, Range(0.0, 1.0, step=0.01)] = 1.0, width: Side = 512, height: Side = 512
) -> Tensor:
    """The same everywhere."""
    return diffusion.masks.solid(value, width, height)


@node("InvertMask", category="mask", outputs=_MASK)
def invert_mask(mask: Mask) -> Tensor:
    """Masked is what was not."""
    return 1.0 - mask


@node("CropMask", category="mask", outputs=_MASK)
def crop_mask(*, mask: Mask, x: Pixels = 0, y: Pixels = 0, width: Side = 512, height: Side = 512) -> Tensor:
    """A part of the mask. It must begin inside, and ends where the mask does."""
    return diffusion.masks.cropped(mask, x=x, y=y, width=width, height=height)


@node("MaskComposite", category="mask", outputs=_MASK)
def mask_composite(
    *,
    destination: Mask,
    source: Mask,
    x: Pixels = 0,
    y: Pixels = 0,
    operation: Literal["multiply", "add", "subtract", "and", "or", "xor"],
) -> Tensor:
    """One mask joined with another that lies at x, y."""
    return diffusion.masks.combined(destination, source, x, y, operation)


@node("FeatherMask", category="mask", outputs=_MASK)
def feather_mask(*, mask: Mask, left: Pixels = 0, top: Pixels = 0, right: Pixels = 0, bottom: Pixels = 0) -> Tensor:
    """The mask fading out towards its sides, over so many pixels."""
    return diffusion.masks.feathered(mask, left=left, top=top, right=right, bottom=bottom)


@node("GrowMask", category="mask", outputs=_MASK)
def grow_mask(
    mask: Mask, expand: Annotated[int, Range(-16384, 16384, step=1)] = 0, tapered_corners: bool = True
) -> Tensor:
    """The mask larger by so many pixels, or smaller where negative. Tapered corners are cut."""
    return diffusion.masks.grown(mask, expand, tapered=tapered_corners)


@node("ThresholdMask", category="mask", outputs=_MASK)
def threshold_mask(mask: Mask, value: Annotated[float, Range(0.0, 1.0, step=0.01)] = 0.5) -> Tensor:
    """Masked is what is more than the value."""
    return (mask > value).float()


@node(
    "MaskPreview",
    title="MaskPreview",
    category="mask",
    output_node=True,
    hidden={"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
)
def mask_preview(mask: Mask) -> Outputs:
    """Write the mask as a picture into the temp folder."""
    outputs: Outputs = picture_nodes.preview_image(diffusion.masks.to_image(mask))
    return outputs
