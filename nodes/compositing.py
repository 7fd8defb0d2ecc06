"""Pictures over pictures, and their alpha."""

from __future__ import annotations

from typing import Annotated, Literal

from engine.spec import Output, Range, node
from nodes import diffusion
from nodes.sockets import Image, Mask, Tensor

Position = Annotated[int, Range(0, 16384, step=1)]
Mode = Literal[
    "ADD",
    "CLEAR",
    "DARKEN",
    "DST",
    "DST_ATOP",
    "DST_IN",
    "DST_OUT",
    "DST_OVER",
    "LIGHTEN",
    "MULTIPLY",
    "OVERLAY",
    "SCREEN",
    "SRC",
    "SRC_ATOP",
    "SRC_IN",
    "SRC_OUT",
    "SRC_OVER",
    "XOR",
]

_PICTURE_AND_MASK = [Output("IMAGE"), Output("MASK")]


@node("ImageCompositeMasked", category="image", outputs=[Output("IMAGE")])
def image_composite_masked(
    *,
    destination: Image,
    source: Image,
    x: Position = 0,
    y: Position = 0,
    resize_source: bool = False,
    mask: Mask | None = None,
) -> Tensor:
    """One picture laid over another as far as the mask says. With resize_source it is stretched over the whole of it."""
    return diffusion.layout.laid_over(destination, source, x, y, mask=mask, resize_source=resize_source)


@node(
    "PorterDuffImageComposite",
    title="Porter-Duff Image Composite",
    category="mask/compositing",
    outputs=_PICTURE_AND_MASK,
)
def porter_duff_image_composite(
    *, source: Image, source_alpha: Mask, destination: Image, destination_alpha: Mask, mode: Mode = "DST"
) -> tuple[Tensor, Tensor]:
    """Two pictures composed by their masks, which are 1 where a picture is transparent."""
    return diffusion.porter_duff.composed(source, source_alpha, destination, destination_alpha, mode)


@node("SplitImageWithAlpha", title="Split Image with Alpha", category="mask/compositing", outputs=_PICTURE_AND_MASK)
def split_image_with_alpha(image: Image) -> tuple[Tensor, Tensor]:
    """The colours of a picture, and 1 - alpha."""
    return diffusion.layout.split_alpha(image)


@node(
    "JoinImageWithAlpha",
    title="Join Image with Alpha",
    category="mask/compositing",
    outputs=[Output("IMAGE")],
    version=2,
)
def join_image_with_alpha(image: Image, alpha: Mask) -> Tensor:
    """The picture, transparent where the mask is 1."""
    return diffusion.layout.join_alpha(image, alpha)
