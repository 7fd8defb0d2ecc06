"""Painting a part of a picture at a size that a model likes: the part around a mask is cut out and scaled, and put back through the mask.

Where the mask is 0 the picture that comes out is the one that went in, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv1d, max_pool2d, pad

from engine.errors import InputError
from nodes.diffusion.conditioning import for_batch
from nodes.diffusion.masks import checked, resized
from nodes.diffusion.resize import MAX_SIDE
from nodes.diffusion.tiles import Box

_FILTERS: Final = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "bislerp": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
"""Pictures are not interpolated on a sphere: bislerp is taken for bicubic."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Names of the filters for making smaller and larger."""

    smaller: str
    larger: str

    def scaled(self, planes: Tensor, height: int, width: int) -> Tensor:
        """[B,C,h,w] at another size, in 0..1. A picture that has that size stays as it is."""
        if tuple(planes.shape[-2:]) == (height, width):
            return planes
        if max(height, width) > MAX_SIDE:
            raise InputError(
                f"expected at most {MAX_SIDE} pixels a side, found {width} x {height}; choose smaller sizes"
            )
        grows = height * width > planes.shape[-2] * planes.shape[-1]
        chosen = _FILTERS[self.larger if grows else self.smaller]
        made = [
            np.asarray(Image.fromarray(plane.numpy(), mode="F").resize((width, height), chosen))
            for plane in planes.float().cpu().flatten(0, 1)
        ]
        return torch.from_numpy(np.stack(made)).reshape(*planes.shape[:2], height, width).clamp(0, 1)


def with_holes_filled(mask: Tensor) -> Tensor:
    """[B,h,w]: what is enclosed by what is masked is masked, too."""
    from scipy.ndimage import binary_fill_holes

    holes = np.stack([binary_fill_holes(plane > 0) & ~(plane > 0) for plane in mask.cpu().numpy()])
    return torch.where(torch.from_numpy(holes), 1.0, mask)


def expanded(mask: Tensor, pixels: float) -> Tensor:
    """Grey dilation of [B,h,w] by a square about three eighths of ``pixels`` wide."""
    size = math.ceil(pixels / 4 * 1.5 + 1)
    if pixels <= 0 or size < 2:
        return mask
    size = min(size + (size % 2 == 0), 2 * max(mask.shape[-2:]) + 1)
    planes = max_pool2d(mask[:, None], (size, 1), 1, (size // 2, 0))
    return max_pool2d(planes, (1, size), 1, (0, size // 2))[:, 0]


def blurred(mask: Tensor, pixels: float) -> Tensor:
    """[B,h,w] blurred with a Gaussian whose sigma is a quarter of ``pixels``."""
    if pixels <= 0:
        return mask
    sigma = pixels / 4
    reach = int(4 * sigma + 0.5)
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = (bell / bell.sum())[None, None]
    planes = mask
    for _ in range(2):
        lines = planes.reshape(-1, 1, planes.shape[-1])
        smooth = conv1d(pad(lines, (reach, reach), mode="replicate"), kernel)
        planes = smooth.reshape(planes.shape).transpose(-2, -1)
    return planes.clamp(0, 1)


def fitted_mask(mask: Tensor | None, pictures: Tensor, input: str = "mask") -> Tensor:
    """A mask of any size as [B,H,W] over pictures [B,H,W,C]; none, or the empty one of a picture without alpha, is no mask."""
    height, width = pictures.shape[1:3]
    if mask is None or not bool(mask.any()):
        return torch.zeros(len(pictures), height, width)
    planes = resized(checked(mask).float(), height, width)
    if len(planes) not in (1, len(pictures)):
        raise InputError(
            f"expected one mask, or as many as there are pictures ({len(pictures)}), found {len(planes)}", input=input
        )
    return for_batch(planes, len(pictures))


def bounds(mask: Tensor) -> Box | None:
    """The bounding box of what is not 0 in a mask [h,w]."""
    rows, columns = (mask > 0).any(1).nonzero(), (mask > 0).any(0).nonzero()
    if len(rows) == 0:
        return None
    return Box(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)


def context_box(mask: Tensor, context: Tensor | None, *, factor: float = 1.0, pixels: int = 0) -> Box:
    """The part of a picture that is cut out for a mask [h,w]: its bounds ``factor`` times as large, ``pixels`` more on each side, and
    those of ``context``. All of the picture where both are empty."""
    height, width = mask.shape
    box, other = bounds(mask), None if context is None else bounds(context)
    if box is not None:
        down, across = (round(side * (factor - 1) / 2) + pixels for side in (box.height, box.width))
        box = Box(
            max(0, box.top - down), min(height, box.bottom + down),
            max(0, box.left - across), min(width, box.right + across),
        )  # fmt: skip
    found = [one for one in (box, other) if one is not None]
    if not found:
        return Box(0, height, 0, width)
    return Box(
        min(one.top for one in found), max(one.bottom for one in found),
        min(one.left for one in found), max(one.right for one in found),
    )  # fmt: skip


def in_proportion(box: Box, height: int, width: int, picture: tuple[int, int]) -> Box:
    """``box`` grown to the proportions of ``height`` and ``width``, inside the ``picture`` as far as it has room; beyond it else."""
    tall = max(box.height, math.ceil(box.width * height / width))
    broad = max(box.width, math.ceil(box.height * width / height))
    return Box(*_around(box.top, box.bottom, tall, picture[0]), *_around(box.left, box.right, broad, picture[1]))


def _around(start: int, end: int, wanted: int, size: int) -> tuple[int, int]:
    begin = start - (wanted - (end - start)) // 2
    begin = min(max(0, begin), size - wanted) if wanted <= size else (size - wanted) // 2
    return begin, begin + wanted


def up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple if multiple > 1 else size


@dataclass(frozen=True, slots=True)
class Piece:
    """What was cut out of a picture [1,H,W,C]: it and its mask [1,h,w] as they are to be painted, and how to put it back.

    ``blend`` has the size of the cut, so that no scaling spreads it. ``canvas`` is the picture, its edges repeated outwards where the cut
    reaches beyond; ``inside`` is where the picture is in it, ``cut`` where the piece.
    """

    picture: Tensor
    mask: Tensor
    blend: Tensor
    canvas: Tensor
    inside: Box
    cut: Box


def cut_out(picture: Tensor, mask: Tensor, blend: Tensor, box: Box, height: int, width: int, filters: Filters) -> Piece:
    """The part ``box`` of ``picture`` [1,H,W,C] at ``height`` x ``width``, with its ``mask`` and the one to blend it with, both [1,H,W]."""
    tall, broad = picture.shape[1:3]
    box = in_proportion(box, height, width, (tall, broad))
    left, top = max(0, -box.left), max(0, -box.top)
    more = (left, max(0, box.right - broad), top, max(0, box.bottom - tall))
    canvas = pad(picture.movedim(-1, 1), more, mode="replicate") if any(more) else picture.movedim(-1, 1)
    cut = Box(box.top + top, box.bottom + top, box.left + left, box.right + left)
    masks = [cut.of(pad(plane[:, None], more, mode="constant")) for plane in (mask, blend)]
    sized, through = filters.scaled(masks[0], height, width)[:, 0], masks[1][:, 0].clone()
    seen = filters.scaled(cut.of(canvas), height, width).movedim(1, -1)
    inside = Box(top, top + tall, left, left + broad)
    return Piece(seen.contiguous(), sized, through, canvas.movedim(1, -1).contiguous(), inside, cut)


def put_back(piece: Mapping[str, Any], painted: Tensor, filters: Filters) -> Tensor:
    """The whole picture [1,H,W,C] with ``painted`` [1,h,w,C] in it, through the mask it was cut with; ``piece`` as ``packed`` gives it."""
    canvas = piece["canvas_image"].movedim(-1, 1)
    cut, inside = (_box(piece, name) for name in ("cropped_to_canvas", "canvas_to_orig"))
    colours = painted[..., : canvas.shape[1]].movedim(-1, 1)
    sized = filters.scaled(colours, cut.height, cut.width)
    through = filters.scaled(piece["cropped_mask_for_blend"][:, None], cut.height, cut.width)
    result = canvas.clone()
    place = cut.of(result)[:, : colours.shape[1]]
    place.copy_(torch.lerp(place, sized, through))
    return inside.of(result).movedim(1, -1).contiguous()


def _box(piece: Mapping[str, Any], name: str) -> Box:
    x, y, wide, high = (piece[f"{name}_{side}"] for side in "xywh")
    return Box(y, y + high, x, x + wide)


def packed(pieces: Sequence[Piece], filters: Filters, blend_pixels: float) -> dict[str, Any]:
    """How to put ``pieces`` back: plain data and tensors, by the names that other nodes know."""
    found: dict[str, Any] = {
        "downscale_algorithm": filters.smaller,
        "upscale_algorithm": filters.larger,
        "blend_pixels": blend_pixels,
        "canvas_image": [piece.canvas for piece in pieces],
        "cropped_mask_for_blend": [piece.blend for piece in pieces],
    }
    for name, boxes in (
        ("canvas_to_orig", [it.inside for it in pieces]),
        ("cropped_to_canvas", [it.cut for it in pieces]),
    ):
        found[f"{name}_x"] = [box.left for box in boxes]
        found[f"{name}_y"] = [box.top for box in boxes]
        found[f"{name}_w"] = [box.width for box in boxes]
        found[f"{name}_h"] = [box.height for box in boxes]
    return found


def stitched(stitcher: Mapping[str, Any], painted: Tensor, filters: Filters | None = None) -> Tensor:
    """Pictures [B,H,W,C] with ``painted`` [B,h,w,C] put back into them, as ``packed`` says; one picture takes any number of paintings.

    Raises InputError where there are several pictures, and another number of paintings.
    """
    count = len(stitcher["canvas_image"])
    if count not in (1, len(painted)):
        raise InputError(
            f"expected {count} pictures for the {count} that were cropped, found {len(painted)}; crop and stitch the same batch",
            input="inpainted_image",
        )
    chosen = filters or Filters(stitcher["downscale_algorithm"], stitcher["upscale_algorithm"])
    results = []
    for index, one in enumerate(painted.split(1)):
        place = index if count > 1 else 0
        piece = {name: value[place] for name, value in stitcher.items() if isinstance(value, list)}
        results.append(put_back(piece, one, chosen))
    return torch.cat(results)


def together(pieces: Sequence[Piece]) -> tuple[Tensor, Tensor]:
    """The pieces and their masks in one batch. Raises InputError where their sizes differ."""
    sizes = {tuple(piece.picture.shape[1:3]) for piece in pieces}
    if len(sizes) > 1:
        raise InputError(
            f"expected crops of one size for a batch, found {len(sizes)}; resize them to a target size, or crop one picture at a time"
        )
    return torch.cat([piece.picture for piece in pieces]), torch.cat([piece.mask for piece in pieces])
