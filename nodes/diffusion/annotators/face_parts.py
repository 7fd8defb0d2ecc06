"""Parts of faces in colours, of the 68 points that poses have of a face (Sagonas et al. 2013, "300 Faces in-the-Wild Challenge")."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import cv2
import numpy as np
import torch
from PIL import ImageColor
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.annotators import keypoints
from nodes.diffusion.annotators.frames import Pixels

PARTS: Final[Mapping[str, tuple[int, ...]]] = {
    "skin": (*range(17), *range(26, 16, -1)),
    "left_eye": tuple(range(36, 42)),
    "right_eye": tuple(range(42, 48)),
    "nose": tuple(range(27, 36)),
    "upper_lip": (*range(48, 55), *range(64, 59, -1)),
    "inner_mouth": (*range(60, 65), *range(54, 47, -1)),
    "lower_lip": tuple(range(60, 68)),
}
"""The points around each part, in the order in which parts are painted over each other. Those of the mouth are as workflows know them:
what is called its inside is the upper lip once more, and the lower lip what is between both."""
_RADIUS: Final = 2


def coloured(poses: Any, colours: Mapping[str, str], *, filled: bool) -> Tensor:
    """The parts of all faces of pictures of one size on black, float32 [B,H,W,3]; where not ``filled``, their points alone.

    Raises InputError for poses that are none, and for a colour that is none, naming its part.
    """
    levels = {part: _levels(part, colours[part]) for part in PARTS}
    canvases = [_drawn(frame, levels, filled) for frame in keypoints.of_one_size(poses, "pose_kps")]
    return torch.from_numpy(np.stack(canvases)).float() / 255


def _levels(part: str, colour: str) -> tuple[int, ...]:
    try:
        return ImageColor.getrgb(colour.strip())[:3]
    except ValueError as error:
        raise InputError(
            f"expected a colour such as rgb(0, 153, 255), #0099ff or orange, found {colour[:60]!r}", input=part
        ) from error


def _drawn(frame: Mapping[str, Any], levels: Mapping[str, tuple[int, ...]], filled: bool) -> Pixels:
    height, width = int(frame["canvas_height"]), int(frame["canvas_width"])
    canvas = np.zeros((height, width, 3), np.uint8)
    for someone in frame.get("people") or ():
        points = keypoints.placed(someone.get(keypoints.FACE), width, height)
        for part, numbers in PARTS.items():
            there = _whole(points[number] for number in numbers if number < len(points))
            if filled and len(there) > 2:
                cv2.fillPoly(canvas, [np.array(there, np.int32)], levels[part])
            elif not filled:
                for place in there:
                    cv2.circle(canvas, place, _RADIUS, levels[part], thickness=-1)
    return canvas


def _whole(points: Iterable[keypoints.Point]) -> list[tuple[int, int]]:
    return [(int(point[0]), int(point[1])) for point in points if point]
