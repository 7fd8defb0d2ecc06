"""Masks blurred, cleaned, filled, cut out: the nodes of widely used packs, under their names."""

from __future__ import annotations

from typing import Annotated, Literal

from engine.run.results import Outputs
from engine.spec import Optional, Output, Range, node
from nodes import diffusion
from nodes import masks as mask_nodes
from nodes.image import Crop, ImageMethod
from nodes.image import Side as SideOrNone
from nodes.sockets import Image, Mask, Tensor

Amount = Annotated[int, Range(0, 256, step=1)]
Level = Annotated[int, Range(0, 255, step=1)]
Share = Annotated[float, Range(0.0, 1.0, step=0.01)]
Device = Literal["auto", "cpu", "gpu"]

_MASK = [Output("MASK")]
_MOST = 2**31 - 1


@node("MaskBlur+", title="Mask Blur", category="mask", outputs=_MASK)
def mask_blur(mask: Mask, amount: Amount = 6, device: Device = "auto") -> Tensor:
    """The mask smoothed by a Gaussian so many pixels wide, made odd. The device is chosen by the run, whatever is said here."""
    return diffusion.mask_shapes.blurred(mask, amount)


@node("MaskSmooth+", title="Mask Smooth", category="mask", outputs=_MASK)
def mask_smooth(mask: Mask, amount: Annotated[int, Range(0, 127, step=1)] = 0) -> Tensor:
    """What is more than half masked, smoothed by a Gaussian so many pixels wide."""
    return diffusion.mask_shapes.smoothed(mask, amount)


@node("MaskFlip+", title="Mask Flip", category="mask", outputs=_MASK)
def mask_flip(mask: Mask, axis: Literal["x", "y", "xy"]) -> Tensor:
    """The mask mirrored: x from left to right, y from top to bottom."""
    return diffusion.mask_shapes.flipped(mask, axis)


@node("MaskFromColor+", title="Mask From Color", category="mask", outputs=_MASK)
def mask_from_color(
    *,
    image: Image,
    red: Level = 255,
    green: Level = 255,
    blue: Level = 255,
    threshold: Annotated[int, Range(0, 127, step=1)] = 0,
) -> Tensor:
    """Masked is what has this colour, or in every channel one at most so many levels from it."""
    return diffusion.mask_shapes.of_colour(image, (red, green, blue), threshold)


@node(
    "MaskBoundingBox+",
    title="Mask Bounding Box",
    category="mask",
    outputs=[Output("MASK"), Output("IMAGE"), *(Output("INT", name) for name in ("x", "y", "width", "height"))],
)
def mask_bounding_box(
    *,
    mask: Mask,
    padding: Annotated[int, Range(0, 4096, step=1)] = 0,
    blur: Amount = 0,
    image_optional: Image | None = None,
) -> tuple[Tensor, Tensor, int, int, int, int]:
    """Mask and picture cut down to the rectangle that holds all that is masked, with so much padding, and where that lies.

    A mask in which nothing is masked is an error.
    """
    part, image, box = diffusion.mask_shapes.cut_out(mask, image_optional, padding=padding, blur=blur)
    return part, image, box.x, box.y, box.width, box.height


@node("MaskFix+", title="Mask Fix", category="mask", outputs=_MASK)
def mask_fix(
    *,
    mask: Mask,
    erode_dilate: Annotated[int, Range(-256, 256, step=1)] = 0,
    fill_holes: Annotated[int, Range(0, 128, step=1)] = 0,
    remove_isolated_pixels: Annotated[int, Range(0, 32, step=1)] = 0,
    smooth: Amount = 0,
    blur: Amount = 0,
) -> Tensor:
    """The mask grown or shrunk, rid of holes and of spots smaller than so many pixels, smoothed and blurred, in this order."""
    return diffusion.mask_shapes.repaired(
        mask, grow=erode_dilate, close=fill_holes, open_=remove_isolated_pixels, smooth=smooth, blur=blur
    )


@node("MaskBatch+", title="Mask Batch", category="mask", outputs=_MASK)
def mask_batch(mask1: Mask, mask2: Mask) -> Tensor:
    """Both in one batch; the second takes the first's size."""
    return diffusion.mask_shapes.joined(mask1, mask2)


@node("MaskFromBatch+", title="Mask From Batch", category="mask", outputs=_MASK)
def mask_from_batch(
    mask: Mask,
    start: Annotated[int, Range(0, _MOST, step=1)] = 0,
    length: Annotated[int, Range(1, _MOST, step=1)] = 1,
) -> Tensor:
    """Some masks of a batch, from the last at the latest, and no more than there are."""
    planes = diffusion.masks.checked(mask)
    first = min(start, len(planes) - 1)
    return planes[first : first + length].clone()


@node(
    "MaskPreview+",
    title="Mask Preview",
    category="mask",
    output_node=True,
    hidden={"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
)
def mask_preview_plus(mask: Mask) -> Outputs:
    """Write the mask as a picture into the temp folder."""
    outputs: Outputs = mask_nodes.mask_preview(mask)
    return outputs


@node("Mask Fill Holes", category="mask", outputs=[Output("MASK", "MASKS")])
def mask_fill_holes(masks: Mask) -> Tensor:
    """The mask without holes: what lies all around inside of what is masked is masked too."""
    return diffusion.mask_shapes.filled(masks)


@node(
    "GrowMaskWithBlur",
    title="Grow Mask With Blur",
    category="mask",
    outputs=[Output("MASK", "mask"), Output("MASK", "mask_inverted")],
)
def grow_mask_with_blur(
    *,
    mask: Mask,
    expand: Annotated[int, Range(-16384, 16384, step=1)] = 0,
    incremental_expandrate: Annotated[float, Range(0.0, 100.0, step=0.1)] = 0.0,
    tapered_corners: bool = True,
    flip_input: bool = False,
    blur_radius: Annotated[float, Range(0.0, 100.0, step=0.1)] = 0.0,
    lerp_alpha: Share = 1.0,
    decay_factor: Share = 1.0,
    fill_holes: Annotated[bool, Optional()] = False,
) -> tuple[Tensor, Tensor]:
    """The mask larger by so many pixels (smaller where negative), then blurred; and the same inverted.

    Of a batch each mask may grow by so much more than the one before, be mixed with it (lerp_alpha below 1), or have a share of it
    added (decay_factor below 1).
    """
    how = diffusion.mask_shapes.Growth(
        expand, incremental_expandrate, tapered_corners, lerp_alpha, decay_factor, fill_holes, blur_radius
    )
    result = diffusion.mask_shapes.grown_in_turn(1.0 - mask if flip_input else mask, how)
    return result, 1.0 - result


@node(
    "ResizeMask",
    title="Resize Mask",
    category="mask",
    outputs=[Output("MASK", "mask"), Output("INT", "width"), Output("INT", "height")],
    version=2,
)
def resize_mask(
    *,
    mask: Mask,
    width: SideOrNone = 512,
    height: SideOrNone = 512,
    keep_proportions: bool = False,
    upscale_method: ImageMethod,
    crop: Crop,
) -> tuple[Tensor, int, int]:
    """The mask at another size, and what that came to. A side of 0 follows from the other."""
    result = diffusion.mask_shapes.sized(
        mask, width, height, method=upscale_method, crop=crop, keep_aspect=keep_proportions
    )
    return result, result.shape[2], result.shape[1]
