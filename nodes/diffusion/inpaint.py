"""What inpainting is made of: masked pictures, grown masks, borders to paint on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from engine.errors import InputError
from nodes.diffusion.conditioning import for_batch
from nodes.diffusion.masks import resized
from nodes.diffusion.resize import resize
from nodes.diffusion.vae import centre_crop


def masked_picture(pictures: Tensor, mask: Tensor, multiple: int) -> tuple[Tensor, Tensor]:
    """Pictures with grey under the mask, and the mask, for an encoder that takes sides of ``multiple``.

    Args:
        pictures: [B,H,W,C] in 0..1.
        mask: [h,w] or [M,h,w] of any size; what rounds to 1 is masked. Fewer masks than pictures are taken in turn.
        multiple: both are cropped to multiples of it, in the centre.

    Returns:
        [B,H',W',C] with 0.5 where it is masked, and the mask as [M,1,H',W'], not rounded.
    """
    fitted = centre_crop(resized(mask, *pictures.shape[1:3])[..., None], multiple)
    cropped = centre_crop(pictures, multiple)
    kept = 1 - for_batch(fitted.round(), len(cropped))
    return (cropped - 0.5) * kept + 0.5, fitted.movedim(-1, 1)


def grown(mask: Tensor, by: int) -> Tensor:
    """What rounds to 1 in ``mask`` [M,1,H,W], grown with a square of ``by`` pixels; 0 and 1 only.

    Of an even square one pixel more lies after the middle than before it: 6 grows by 2 to the left and 3 to the right.
    """
    marked = mask.round()
    if by < 2:
        return marked
    before = by // 2
    return max_pool2d(pad(marked, (before, by - 1 - before, before, by - 1 - before)), by, stride=1)


def upscale_inputs(pictures: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """What a 4x upscaling model is given for pictures [B,H,W,C] that are to become ``ratio`` times larger.

    Returns:
        the picture at a quarter of the new size, [B,C,h,w] in -1..1, and an empty latent of that size.
    """
    height, width = (max(1, round(side * ratio)) // 4 for side in pictures.shape[1:3])
    if not height or not width:
        raise InputError(
            f"expected a picture of at least 4 x 4 pixels after scaling, found {pictures.shape[2]} x {pictures.shape[1]} "
            f"times {ratio:g}; choose a larger scale_ratio",
            input="scale_ratio",
        )
    small = resize(pictures.movedim(-1, 1) * 2 - 1, width, height, "bilinear", "center")
    return small, torch.zeros(len(pictures), 4, height, width)


def outpaint(
    pictures: Tensor, *, left: int, top: int, right: int, bottom: int, feathering: int
) -> tuple[Tensor, Tensor]:
    """Pictures [B,H,W,C] with a grey border of so many pixels, and a mask [1,H',W'] that is 1 on it.

    Into the picture the mask falls with the square of the distance, to 0 at ``feathering`` pixels from a side that has a border; not
    at all where the picture is not more than twice as wide and high as that.
    """
    sides = (left, right, top, bottom)
    height, width = pictures.shape[1:3]
    padded = pad(pictures, (0, 0, *sides), value=0.5)
    inside = torch.zeros(height, width)
    if 0 < 2 * feathering < min(height, width):
        distance = torch.minimum(
            _distance(height, before=top > 0, after=bottom > 0)[:, None],
            _distance(width, before=left > 0, after=right > 0)[None],
        )
        inside = ((feathering - distance) / feathering).clamp(min=0) ** 2
    return padded, pad(inside, sides, value=1.0)[None]


def _distance(size: int, *, before: bool, after: bool) -> Tensor:
    """How far each pixel is from the ends that count; the pixel next to the end is 1 away from the later one, 0 from the earlier."""
    index = torch.arange(size, dtype=torch.float32)
    ends = ([index] if before else []) + ([size - index] if after else [])
    return torch.stack(ends).amin(0) if ends else torch.full((size,), torch.inf)
