"""Batches of pictures taken apart, repeated, counted."""

from __future__ import annotations

from typing import Annotated, Any

from engine.run.context import NodeContext
from engine.spec import Output, Range, Socket, node
from nodes import diffusion
from nodes.lists import only
from nodes.sockets import Image, Tensor

_IMAGE = [Output("IMAGE")]


@node("ImageFromBatch", category="image/batch", outputs=_IMAGE)
def image_from_batch(
    image: Image, batch_index: Annotated[int, Range(0, 4095)] = 0, length: Annotated[int, Range(1, 4096)] = 1
) -> Tensor:
    """Some pictures of a batch, from the last at the latest, and no more than there are."""
    start = min(batch_index, len(image) - 1)
    return image[start : start + length].clone()


@node("RepeatImageBatch", category="image/batch", outputs=_IMAGE)
def repeat_image_batch(image: Image, amount: Annotated[int, Range(1, 4096)] = 1) -> Tensor:
    """The batch so many times over."""
    return image.repeat(amount, 1, 1, 1)


@node(
    "RebatchImages",
    title="Rebatch Images",
    category="image/batch",
    outputs=[Output("IMAGE", is_list=True)],
    takes_lists=True,
    version=2,
)
def rebatch_images(
    images: Annotated[Any, Socket("IMAGE")], batch_size: Annotated[Any, Socket("INT"), Range(1, 4096)] = 1
) -> list[Tensor]:
    """All pictures of a list as a list of batches of this size."""
    return diffusion.pictures.rebatched(images, only(batch_size, "batch_size"))


@node(
    "GetImageSize",
    title="Get Image Size",
    category="image",
    outputs=[Output("INT", "width"), Output("INT", "height"), Output("INT", "batch_size")],
    hidden={"unique_id": "UNIQUE_ID"},
)
def get_image_size(ctx: NodeContext, image: Image) -> tuple[int, int, int]:
    """Width, height and how many pictures there are, which the node also shows."""
    count, height, width = image.shape[:3]
    text = f"width: {width}, height: {height}\n batch size: {count}"
    ctx.send("progress_text", {"node": ctx.node, "text": text}, ctx.client)
    return width, height, count
