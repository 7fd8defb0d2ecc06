"""``comfy_extras.nodes_mask``: pasting through a mask."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from engine.compat.missing import refuse

if TYPE_CHECKING:
    from torch import Tensor


def composite(
    destination: Tensor,
    source: Tensor,
    x: int,
    y: int,
    mask: Tensor | None = None,
    multiplier: int = 8,
    resize_source: bool = False,
) -> Tensor:
    """``destination`` [B,C,h,w] with ``source`` on it at (x, y), which are ``multiplier`` a cell; what hangs over is cut off.

    ``mask`` [B,H,W], of any size, says how much of the source is seen.
    """
    from torch.nn.functional import interpolate

    from engine.compat.comfy.utils import repeat_to_batch_size

    result = destination.clone()
    count = result.shape[0]
    if resize_source:
        source = interpolate(source, size=result.shape[-2:], mode="bilinear")
    source = repeat_to_batch_size(source.to(result), count)
    height, width = source.shape[-2:]
    if mask is None:
        share = source.new_ones(count, 1, height, width)
    else:
        sized = interpolate(mask.to(result).reshape(-1, 1, *mask.shape[-2:]), size=(height, width), mode="bilinear")
        share = repeat_to_batch_size(sized, count)
    across, there_x = _overlap(x // multiplier, width, result.shape[-1])
    down, there_y = _overlap(y // multiplier, height, result.shape[-2])
    share = share[..., down, across]
    result[..., there_y, there_x] = share * source[..., down, across] + (1 - share) * result[..., there_y, there_x]
    return result


def _overlap(start: int, length: int, room: int) -> tuple[slice, slice]:
    """Which part of ``length`` cells at ``start`` lies within ``room``: counted from its own beginning, and from the room's."""
    first, last = max(start, 0), max(min(start + length, room), max(start, 0))
    first = min(first, last)
    return slice(first - start, last - start), slice(first, last)


def __getattr__(name: str) -> Any:
    from engine.compat.core_nodes import NODE_CLASS_MAPPINGS

    if not name.startswith("__") and name in NODE_CLASS_MAPPINGS:
        return NODE_CLASS_MAPPINGS[name]
    return refuse(__name__, name, sys._getframe(1))
