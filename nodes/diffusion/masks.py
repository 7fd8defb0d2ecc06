"""MASK tensors: [B,h,w] float32, 1 = masked."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate

from engine.errors import InputError


def checked(mask: Tensor, input: str = "mask") -> Tensor:
    """A mask ([h,w], [B,h,w] or [B,1,h,w]) as [B,h,w]. Raises InputError for one without pixels."""
    if 0 in mask.shape:
        raise InputError(f"expected a mask with pixels, found one of shape {list(mask.shape)}", input=input)
    return mask.reshape(-1, *mask.shape[-2:])


def resized(mask: Tensor, height: int, width: int) -> Tensor:
    """A mask of any of these shapes at [B,height,width], bilinear."""
    planes = checked(mask)
    if planes.shape[1:] == (height, width):
        return planes
    return interpolate(planes[:, None], size=(height, width), mode="bilinear")[:, 0]
