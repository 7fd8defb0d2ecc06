"""Pictures resized, cropped and counted: the nodes of a widely used pack, under their names."""

from __future__ import annotations

from functools import reduce
from typing import Annotated, Any, Literal

from engine.errors import InputError
from engine.spec import Output, Range, Socket, node
from nodes import diffusion
from nodes.sockets import Image, Tensor

Side = Annotated[int, Range(0, 16384, step=1)]
Eighths = Annotated[int, Range(0, 16384, step=8)]
Offset = Annotated[int, Range(-99999, 99999, step=1)]

_IMAGE = [Output("IMAGE")]


@node(
    "ImageResize+",
    title="Image Resize",
    category="image/upscaling",
    outputs=[Output("IMAGE"), Output("INT", "width"), Output("INT", "height")],
    version=2,
)
def image_resize(
    *,
    image: Image,
    width: Side = 512,
    height: Side = 512,
    interpolation: Literal["nearest", "bilinear", "bicubic", "area", "nearest-exact", "lanczos"],
    method: Literal["stretch", "keep proportion", "fill / crop", "pad"],
    condition: Literal["always", "downscale if bigger", "upscale if smaller", "if bigger area", "if smaller area"],
    multiple_of: Annotated[int, Range(0, 512, step=1)] = 0,
) -> tuple[Tensor, int, int]:
    """The picture at another size, and what that came to: stretched, as large as fits, cut to cover, or on black.

    A side of 0 follows from the other, or stays. It may be done only where the picture is larger or smaller, and the sides may be cut
    to whole multiples of a number.
    """
    result = diffusion.fitting.resized(
        image,
        width,
        height,
        interpolation=interpolation,
        method=method,
        condition=condition,
        multiple=multiple_of,
    )
    return result, result.shape[2], result.shape[1]


@node(
    "ImageCrop+",
    title="Image Crop (Position)",
    category="image/transform",
    outputs=[Output("IMAGE"), Output("INT", "x"), Output("INT", "y")],
)
def image_crop_at(
    *,
    image: Image,
    width: Eighths = 256,
    height: Eighths = 256,
    position: Literal[
        "top-left",
        "top-center",
        "top-right",
        "right-center",
        "bottom-right",
        "bottom-center",
        "bottom-left",
        "left-center",
        "center",
    ],
    x_offset: Offset = 0,
    y_offset: Offset = 0,
) -> tuple[Tensor, int, int]:
    """A part of the picture at a position in it, moved by the offsets, and where it begins. It ends where the picture does."""
    result: tuple[Tensor, int, int] = diffusion.fitting.cropped(image, (width, height), position, (x_offset, y_offset))
    return result


@node("ImageFlip+", title="Image Flip (Axis)", category="image/transform", outputs=_IMAGE)
def image_flip_axis(image: Image, axis: Literal["x", "y", "xy"]) -> Tensor:
    """The picture mirrored: x from left to right, y from top to bottom."""
    return image.flip([dimension for name, dimension in (("y", 1), ("x", 2)) if name in axis])


@node(
    "GetImageSize+",
    title="Get Image Size (Count)",
    category="image",
    outputs=[Output("INT", "width"), Output("INT", "height"), Output("INT", "count")],
)
def get_image_size_plus(image: Image) -> tuple[int, int, int]:
    """Width, height and how many pictures there are."""
    return image.shape[2], image.shape[1], image.shape[0]


@node("ImageExpandBatch+", title="Image Expand Batch", category="image/batch", outputs=_IMAGE)
def image_expand_batch(
    image: Image,
    size: Annotated[int, Range(1, 4096, step=1)] = 16,
    *,
    method: Literal["expand", "repeat all", "repeat first", "repeat last"],
) -> Tensor:
    """So many pictures out of those there are: evenly from all, all in turn, or with the first or the last repeated."""
    return diffusion.fitting.extended(image, size, method)


@node("ImageListToBatch+", title="Image List To Batch", category="image/batch", outputs=_IMAGE, takes_lists=True)
def image_list_to_batch(image: Annotated[Any, Socket("IMAGE")]) -> Tensor:
    """All pictures of a list in one batch; they take the first's size."""
    if not image:
        raise InputError("expected at least one picture, found none", input="image")
    batch: Tensor = reduce(diffusion.pictures.join, image)
    return batch


@node("ImageDesaturate+", title="Image Desaturate", category="image/postprocessing", outputs=_IMAGE)
def image_desaturate(
    image: Image,
    factor: Annotated[float, Range(0.0, 1.0, step=0.05)] = 1.0,
    *,
    method: Literal["luminance (Rec.709)", "luminance (Rec.601)", "average", "lightness"],
) -> Tensor:
    """The picture in grey, or so much of the way there."""
    return diffusion.colours.desaturated(image, factor, method)
