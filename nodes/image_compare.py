"""Pictures compared: shown one over the other, side by side, in grids, and their difference."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from engine.errors import InputError
from engine.run.results import OutputFile, Outputs
from engine.spec import Multiline, Optional, Output, Range, Socket, node
from nodes import diffusion
from nodes import image as picture_nodes
from nodes.lists import only
from nodes.sockets import Image, Tensor

_IMAGE = [Output("IMAGE")]
_HIDDEN = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}
OneInt = Annotated[Any, Socket("INT")]


@node("ImageCompare", title="Image Compare", category="image", output_node=True, experimental=True, hidden=_HIDDEN)
def image_compare(
    *,
    image_a: Image | None = None,
    image_b: Image | None = None,
    compare_view: Annotated[Any | None, Socket("IMAGECOMPARE", widget=True)] = None,
) -> Outputs:
    """Show two pictures, or two batches, one over the other, with a line between them that follows the pointer."""
    return Outputs(files=(*_side(image_a, "a_images"), *_side(image_b, "b_images")))


def _side(image: Tensor | None, ui: str) -> tuple[OutputFile, ...]:
    if image is None:
        return ()
    previews: Outputs = picture_nodes.preview_image(image)
    return tuple(replace(file, ui=ui) for file in previews.files)


@node(
    "ImageDifference",
    title="Image Difference",
    category="image",
    outputs=[
        Output("IMAGE", "difference"),
        Output("MASK", "mask"),
        Output("FLOAT", "mean"),
        Output("FLOAT", "psnr"),
    ],
)
def image_difference(
    *,
    image1: Image,
    image2: Image,
    gain: Annotated[float, Range(0.1, 100.0, step=0.1)] = 1.0,
    threshold: Annotated[float, Range(0.0, 1.0, step=0.01)] = 0.05,
) -> tuple[Tensor, Tensor, float, float]:
    """How far two pictures lie apart: as a picture (times gain), as a mask of what differs by more than the threshold, and as numbers.

    Mean is the average distance, 0 to 1; psnr is in decibels: 100 for equal pictures, above 40 hardly visible. The second takes the
    first's size.
    """
    result: tuple[Tensor, Tensor, float, float] = diffusion.comparing.difference(image1, image2, gain, threshold)
    return result


@node("ImageEnhanceDifference+", title="Image Enhance Difference", category="image", outputs=_IMAGE)
def image_enhance_difference(
    image1: Image, image2: Image, exponent: Annotated[float, Range(0.0, 1.0, step=0.05)] = 0.75
) -> Tensor:
    """What the first picture has more than the second; a small exponent brings out what is faint."""
    return diffusion.comparing.enhanced(image1, image2, exponent)


@node("ImageConcanate", title="Image Concatenate", category="image/transform", outputs=_IMAGE, version=2)
def image_concanate(
    image1: Image,
    image2: Image,
    direction: Literal["right", "down", "left", "up"] = "right",
    match_image_size: bool = True,
) -> Tensor:
    """Two pictures side by side, the second to this side of the first and, if that is wished, at its height or width."""
    return diffusion.layout.stitched(image1, image2, direction, match_size=match_image_size, spacing=0, colour="black")


@node("ImageConcatFromBatch", title="Image Concatenate From Batch", category="image/batch", outputs=_IMAGE, version=2)
def image_concat_from_batch(
    images: Image,
    num_columns: Annotated[int, Range(1, 255, step=1)] = 3,
    match_image_size: bool = False,
    max_resolution: Annotated[int, Range(8, 65536)] = 4096,
) -> Tensor:
    """The pictures of a batch as one, row by row. It is made smaller where a side would be longer than max_resolution.

    Pictures of a batch have one size already, whatever is said of it here.
    """
    return diffusion.comparing.sheet(images, num_columns, max_resolution)


@node("ImageGrid", title="Image Grid", category="image/batch", outputs=_IMAGE, takes_lists=True, version=2)
def image_grid(
    *,
    images: Annotated[Any, Socket("IMAGE")],
    columns: Annotated[OneInt, Range(1, 20)] = 4,
    cell_width: Annotated[OneInt, Range(32, 2048)] = 256,
    cell_height: Annotated[OneInt, Range(32, 2048)] = 256,
    padding: Annotated[OneInt, Range(0, 50)] = 4,
    labels: Annotated[Any, Socket("STRING"), Multiline(), Optional()] = "",
) -> Tensor:
    """All pictures of a list, of any sizes, as one: each as large as fits into its cell.

    A line of labels, or an element of a list of them, is written below each picture.
    """
    cell = (only(cell_width, "cell_width"), only(cell_height, "cell_height"))
    if any(0 in batch.shape for batch in images) or not images:
        raise InputError("expected at least one picture with pixels, found none", input="images")
    lines = [line for text in ([labels] if isinstance(labels, str) else labels) for line in text.splitlines() or [""]]
    return diffusion.comparing.grid(images, only(columns, "columns"), cell, only(padding, "padding"), lines)
