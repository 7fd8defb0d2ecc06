"""Painting a part of a picture at a size that the model likes: crop, paint, stitch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from engine.spec import Optional, Output, Range, Socket, node
from nodes import diffusion
from nodes.sockets import Image, Mask, Tensor

CATEGORY = "inpaint"
MAX_SIDE = 16384

Stitcher = Annotated[dict[str, Any], Socket("STITCHER")]
Stitch = Annotated[dict[str, Any], Socket("STITCH")]
Filter = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
OldFilter = Literal["nearest", "bilinear", "bicubic", "bislerp", "lanczos", "box", "hamming"]
Side = Annotated[int, Range(0, MAX_SIDE, step=1)]
Target = Annotated[int, Range(64, MAX_SIDE, step=1)]
Extend = Annotated[float, Range(0.01, 100.0, step=0.01)]
Grow = Annotated[float, Range(1.0, 100.0, step=0.01)]

_LEAST = ("ensure minimum resolution", "ensure minimum and maximum resolution")
_MOST = ("ensure maximum resolution", "ensure minimum and maximum resolution")


@node(
    "InpaintCropImproved",
    title="✂️ Inpaint Crop",
    category=CATEGORY,
    outputs=[Output("STITCHER", "stitcher"), Output("IMAGE", "cropped_image"), Output("MASK", "cropped_mask")],
)
def inpaint_crop_improved(
    *,
    image: Image,
    downscale_algorithm: Filter = "bilinear",
    upscale_algorithm: Filter = "bicubic",
    preresize: bool = False,
    preresize_mode: Literal[
        "ensure minimum resolution", "ensure maximum resolution", "ensure minimum and maximum resolution"
    ] = "ensure minimum resolution",
    preresize_min_width: Side = 1024,
    preresize_min_height: Side = 1024,
    preresize_max_width: Side = MAX_SIDE,
    preresize_max_height: Side = MAX_SIDE,
    mask_fill_holes: bool = True,
    mask_expand_pixels: Side = 0,
    mask_invert: bool = False,
    mask_blend_pixels: Annotated[int, Range(0, 64, step=1)] = 32,
    mask_hipass_filter: Annotated[float, Range(0.0, 1.0, step=0.01)] = 0.1,
    extend_for_outpainting: bool = False,
    extend_up_factor: Extend = 1.0,
    extend_down_factor: Extend = 1.0,
    extend_left_factor: Extend = 1.0,
    extend_right_factor: Extend = 1.0,
    context_from_mask_extend_factor: Grow = 1.2,
    output_resize_to_target_size: bool = True,
    output_target_width: Target = 512,
    output_target_height: Target = 512,
    output_padding: Literal["0", "8", "16", "32", "64", "128", "256", "512"] = "32",
    mask: Mask | None = None,
    optional_context_mask: Mask | None = None,
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """The part of a picture around a mask, at a size for sampling, and how to put it back: for InpaintStitchImproved."""
    crops = diffusion.inpaint_crops
    least, most = (preresize_min_height, preresize_min_width), (preresize_max_height, preresize_max_width)
    sides = extend_up_factor, extend_down_factor, extend_left_factor, extend_right_factor
    return crops.improved(
        image,
        mask,
        optional_context_mask,
        filters=diffusion.stitching.Filters(downscale_algorithm, upscale_algorithm),
        marks=crops.Marks(mask_fill_holes, mask_expand_pixels, mask_invert, mask_blend_pixels, mask_hipass_filter),
        limits=crops.Limits(
            least if preresize and preresize_mode in _LEAST else None,
            most if preresize and preresize_mode in _MOST else None,
        ),
        extension=crops.Extension(*sides) if extend_for_outpainting else None,
        factor=context_from_mask_extend_factor,
        target=(output_target_height, output_target_width) if output_resize_to_target_size else None,
        padding=int(output_padding),
    )


@node("InpaintStitchImproved", title="✂️ Inpaint Stitch", category=CATEGORY, outputs=[Output("IMAGE", "image")])
def inpaint_stitch_improved(stitcher: Stitcher, inpainted_image: Image) -> Tensor:
    """What was cropped and painted, back in its picture; where nothing was masked that stays as it was."""
    return diffusion.stitching.stitched(stitcher, inpainted_image)


@node(
    "InpaintCrop",
    title="(OLD 💀, use the new ✂️ Inpaint Crop node)",
    category=CATEGORY,
    outputs=[Output("STITCH", "stitch"), Output("IMAGE", "cropped_image"), Output("MASK", "cropped_mask")],
    deprecated=True,
)
def inpaint_crop(
    *,
    image: Image,
    mask: Mask,
    context_expand_pixels: Side = 20,
    context_expand_factor: Grow = 1.0,
    fill_mask_holes: bool = True,
    blur_mask_pixels: Annotated[float, Range(0.0, 256.0, step=0.1), Optional()] = 16.0,
    invert_mask: bool = False,
    blend_pixels: Annotated[float, Range(0.0, 32.0, step=0.1), Optional()] = 16.0,
    rescale_algorithm: OldFilter = "bicubic",
    mode: Literal["ranged size", "forced size", "free size"] = "ranged size",
    force_width: Side = 1024,
    force_height: Side = 1024,
    rescale_factor: Annotated[float, Range(0.01, 100.0, step=0.01)] = 1.0,
    min_width: Annotated[int, Range(0, MAX_SIDE, step=1), Optional()] = 512,
    min_height: Annotated[int, Range(0, MAX_SIDE, step=1), Optional()] = 512,
    max_width: Annotated[int, Range(0, MAX_SIDE, step=1), Optional()] = 768,
    max_height: Annotated[int, Range(0, MAX_SIDE, step=1), Optional()] = 768,
    padding: Literal[8, 16, 32, 64, 128, 256, 512] = 32,
    optional_context_mask: Mask | None = None,
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """The part of a picture around a mask, and how to put it back: for InpaintStitch."""
    sizing = diffusion.inpaint_crops.Sizing(
        mode=mode,
        forced=(max(1, force_height), max(1, force_width)),
        factor=rescale_factor,
        least=(min_height, min_width),
        most=(max(1, max_height), max(1, max_width)),
        padding=padding,
    )
    return diffusion.inpaint_crops.older(
        image,
        mask,
        optional_context_mask,
        algorithm=rescale_algorithm,
        sizing=sizing,
        fills_holes=fill_mask_holes,
        inverts=invert_mask,
        blur=blur_mask_pixels,
        blend=blend_pixels,
        factor=context_expand_factor,
        pixels=context_expand_pixels,
    )


@node(
    "InpaintStitch",
    title="(OLD 💀, use the new ✂️ Inpaint Stitch node)",
    category=CATEGORY,
    outputs=[Output("IMAGE", "image")],
    deprecated=True,
)
def inpaint_stitch(stitch: Stitch, inpainted_image: Image, rescale_algorithm: OldFilter = "bislerp") -> Tensor:
    """What InpaintCrop cropped, painted and back in its picture."""
    filters = diffusion.stitching.Filters(rescale_algorithm, rescale_algorithm)
    return diffusion.stitching.stitched(stitch, inpainted_image, filters)
