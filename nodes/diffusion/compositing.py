"""One tensor laid over another: what the composite nodes of latents, masks and pictures share. Tensors are [B,C,h,w]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from nodes.diffusion.conditioning import for_batch
from nodes.diffusion.masks import resized


def pasted(destination: Tensor, source: Tensor, x: int, y: int, mask: Tensor | None = None) -> Tensor:
    """``destination`` with ``source`` laid over it, its upper left corner at column ``x`` and row ``y``.

    ``mask`` ([h,w] or [M,h,w], any size) is fitted to ``source`` and says how much of it shows, everything without. What lies
    outside is cut off. ``source`` and ``mask`` are repeated in turn, or cut, to the destination's batch.
    """
    height, width = visible(destination, source, x, y)
    result = destination.clone()
    if not height or not width:
        return result
    place = result[..., y : y + height, x : x + width]
    laid = for_batch(source, len(destination))[..., :height, :width]
    if mask is not None:
        share = for_batch(resized(mask, *source.shape[-2:])[:, None], len(destination))[..., :height, :width]
        laid = laid * share + place * (1 - share)
    place.copy_(laid)
    return result


def visible(destination: Tensor, source: Tensor, x: int, y: int) -> tuple[int, int]:
    """Height and width of what is seen of ``source`` at (x, y)."""
    return (
        max(0, min(source.shape[-2], destination.shape[-2] - y)),
        max(0, min(source.shape[-1], destination.shape[-1] - x)),
    )


def stretched_to(source: Tensor, destination: Tensor) -> Tensor:
    """``source`` at the destination's height and width, bilinear."""
    return interpolate(source, size=destination.shape[-2:], mode="bilinear")


def feathered(destination: Tensor, source: Tensor, x: int, y: int, feather: int) -> Tensor:
    """As ``pasted``, ``source`` fading in over ``feather`` cells at those of its edges that lie inside the destination.

    The outermost cell counts ``1 / feather``; at corners both edges multiply.
    """
    height, width = visible(destination, source, x, y)
    rows = _ramp(height, feather, before=y > 0, after=y + height < destination.shape[-2])
    columns = _ramp(width, feather, before=x > 0, after=x + width < destination.shape[-1])
    cut = source[..., :height, :width]
    return pasted(destination, cut, x, y, rows[:, None] * columns[None] if cut.numel() else None)


def _ramp(size: int, feather: int, *, before: bool, after: bool) -> Tensor:
    ramp = torch.ones(size)
    rise = (torch.arange(1, size + 1) / max(feather, 1)).clamp(max=1.0)
    if before:
        ramp *= rise
    if after:
        ramp *= rise.flip(0)
    return ramp
