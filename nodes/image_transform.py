"""Pictures cropped, turned, scaled to measure and put side by side."""

from __future__ import annotations

from typing import Annotated, Literal

from engine.spec import Choices, Output, Range, node
from nodes import diffusion
from nodes.image import ImageMethod
from nodes.latent_shape import Flip, Rotation, quarter_turns
from nodes.sockets import Image, Tensor

Side = Annotated[int, Range(1, 16384, step=1)]
Position = Annotated[int, Range(0, 16384, step=1)]

_IMAGE = [Output("IMAGE")]
_LARGEST_METHODS = ("area", "lanczos", "bilinear", "nearest-exact", "bilinear", "bicubic")
"""As editors know them: one of them twice."""


@node("ImageCrop", title="Image Crop", category="image/transform", outputs=_IMAGE)
def image_crop(*, image: Image, width: Side = 512, height: Side = 512, x: Position = 0, y: Position = 0) -> Tensor:
    """A part of the picture. It begins at the last pixel at the latest, and ends where the picture does."""
    return diffusion.layout.crop(image, x=x, y=y, width=width, height=height)


@node("ImageFlip", category="image/transform", outputs=_IMAGE)
def image_flip(image: Image, flip_method: Flip) -> Tensor:
    """The picture upside down or mirrored."""
    return image.flip(1 if flip_method.startswith("x") else 2)


@node("ImageRotate", category="image/transform", outputs=_IMAGE)
def image_rotate(image: Image, rotation: Rotation) -> Tensor:
    """The picture turned clockwise."""
    return image.rot90(quarter_turns(rotation), [2, 1])


@node("ImageStitch", title="Image Stitch", category="image/transform", outputs=_IMAGE, version=2)
def image_stitch(
    *,
    image1: Image,
    direction: Literal["right", "down", "left", "up"] = "right",
    match_image_size: bool = True,
    spacing_width: Annotated[int, Range(0, 1024, step=2)] = 0,
    spacing_color: Literal["white", "black", "red", "green", "blue"] = "white",
    image2: Image | None = None,
) -> Tensor:
    """Two pictures side by side, the second to this side of the first. Without a second the first alone."""
    if image2 is None:
        return image1
    return diffusion.layout.stitched(
        image1, image2, direction, match_size=match_image_size, spacing=spacing_width, colour=spacing_color
    )


@node("ResizeAndPadImage", category="image/transform", outputs=_IMAGE, version=2)
def resize_and_pad_image(
    *,
    image: Image,
    target_width: Side = 512,
    target_height: Side = 512,
    padding_color: Literal["white", "black"],
    interpolation: Literal["area", "bicubic", "nearest-exact", "bilinear", "lanczos"],
) -> Tensor:
    """The picture as large as fits, its aspect kept, on a ground of just this size."""
    return diffusion.layout.fitted_into(image, target_width, target_height, padding_color, interpolation)


@node("ImageScaleToTotalPixels", category="image/upscaling", outputs=_IMAGE, version=2)
def image_scale_to_total_pixels(
    image: Image, upscale_method: ImageMethod, megapixels: Annotated[float, Range(0.01, 16.0, step=0.01)] = 1.0
) -> Tensor:
    """The picture at so many times 1024 x 1024 pixels."""
    return diffusion.layout.to_total_pixels(image, megapixels, upscale_method)


@node("ImageScaleToMaxDimension", category="image/upscaling", outputs=_IMAGE, version=2)
def image_scale_to_max_dimension(
    image: Image, upscale_method: Annotated[str, Choices(_LARGEST_METHODS)], largest_size: Position = 512
) -> Tensor:
    """The picture with its longer side at so many pixels."""
    return diffusion.layout.to_largest_side(image, largest_size, upscale_method)
