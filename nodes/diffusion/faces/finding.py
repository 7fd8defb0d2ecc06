"""Where faces are in a picture, by RetinaFace.

At the cells of three maps stand squares of two sizes each. What the network says of a box is relative to its square, in the encoding of SSD
(Liu et al. 2016): offsets of the centre in a tenth of the side, logarithms of the sides in a fifth; of points too it is offsets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import nms

from engine.errors import InputError
from nodes.diffusion.annotators.frames import Pixels

Points = NDArray[np.float64]
"""[5,2] in pixels: the eyes, left one in the picture first, the tip of the nose, the corners of the mouth."""

STRIDES: Final = (8, 16, 32)
SIDES: Final = ((16, 32), (64, 128), (256, 512))
"""Pixels between the cells of each map, and along the squares at each cell."""
_OFFSET: Final = 0.1
_GROWTH: Final = 0.2
_MEAN: Final = (104.0, 117.0, 123.0)
"""Of the blue, green and red that the network was trained on."""

SURE: Final = 0.8
"""Scores above are faces."""
_SHARED: Final = 0.4
"""Of two boxes that share more, as a part of what they cover together, the better one counts."""
LEAST_EYES: Final = 5.0
"""Pixels between the eyes of the smallest face: of one smaller there is nothing to restore."""

_SHORTER: Final = 640
"""Pixels that the shorter side of a small picture gets, so that small faces are seen."""
_MOST: Final = 2**22
"""Pixels that are looked at: of a larger picture a smaller one."""
LONGEST: Final = 32_000
"""Pixels along a side that OpenCV can address."""
_BYTES: Final = 1024
"""For each pixel, about: the maps of the widest layers in float32."""


@dataclass(frozen=True, slots=True)
class Face:
    """A face: how sure it is, and its points in the picture's pixels."""

    score: float
    points: Points


@torch.inference_mode()
def find(network: nn.Module, pixels: Pixels) -> list[Face]:
    """The faces of a picture, the surest first. Raises InputError for a picture too long to work on."""
    height, width = pixels.shape[:2]
    if max(height, width) > LONGEST:
        raise InputError(
            f"expected a picture of at most {LONGEST} pixels a side, found {width} x {height}; crop it or scale it down",
            input="image",
        )
    looked_at = _sized(pixels)
    size = looked_at.shape[:2]
    device = next(network.parameters()).device
    scores, boxes, points = (said[0].float().cpu() for said in network(prepared(looked_at).to(device)))
    kept = chosen(scores, decoded_boxes(boxes, squares(*size)))
    found = decoded_points(points, squares(*size))[kept].double().numpy() * [width / size[1], height / size[0]]
    faces = [Face(float(score), each) for score, each in zip(scores[kept], found, strict=True)]
    return [face for face in faces if np.hypot(*(face.points[1] - face.points[0])) >= LEAST_EYES]


def working_bytes(height: int, width: int) -> int:
    """About what the network needs for a picture of this size."""
    looked_at = _size(height, width)
    return looked_at[0] * looked_at[1] * _BYTES


def prepared(pixels: Pixels) -> Tensor:
    """RGB levels [H,W,3] as the network takes them, float32 [1,3,H,W]: BGR, less their mean."""
    given = torch.from_numpy(np.ascontiguousarray(pixels[..., ::-1])).float() - torch.tensor(_MEAN)
    return given.movedim(-1, 0)[None].contiguous()


def squares(height: int, width: int) -> Tensor:
    """The squares of a picture, float32 [N,3]: x and y of the centre, and the side, in pixels, as the network goes through them."""
    found = []
    for stride, sides in zip(STRIDES, SIDES, strict=True):
        rows, columns = -(-height // stride), -(-width // stride)
        y, x, side = torch.meshgrid(
            (torch.arange(rows) + 0.5) * stride,
            (torch.arange(columns) + 0.5) * stride,
            torch.tensor(sides, dtype=torch.float32),
            indexing="ij",
        )
        found.append(torch.stack([x, y, side], -1).reshape(-1, 3))
    return torch.cat(found)


def decoded_boxes(said: Tensor, at: Tensor) -> Tensor:
    """What is said of boxes [N,4] at squares [N,3] as left, top, right and bottom in pixels."""
    centre = at[:, :2] + said[:, :2] * _OFFSET * at[:, 2:]
    half = at[:, 2:] * (said[:, 2:] * _GROWTH).exp() / 2
    return torch.cat([centre - half, centre + half], 1)


def decoded_points(said: Tensor, at: Tensor) -> Tensor:
    """What is said of points [N,10] at squares [N,3] as x and y in pixels, [N,5,2]."""
    return at[:, None, :2] + said.reshape(-1, 5, 2) * _OFFSET * at[:, None, 2:]


def chosen(scores: Tensor, boxes: Tensor) -> Tensor:
    """Which of the boxes are faces, the surest first: of those that share much only the best."""
    sure = torch.nonzero(scores > SURE)[:, 0]
    kept: Tensor = sure[nms(boxes[sure], scores[sure], _SHARED)]
    return kept


def _size(height: int, width: int) -> tuple[int, int]:
    scale = min(max(1.0, _SHORTER / min(height, width)), (_MOST / (height * width)) ** 0.5)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _sized(pixels: Pixels) -> Any:
    size = _size(*pixels.shape[:2])
    if size == pixels.shape[:2]:
        return pixels
    is_smaller = size[0] < pixels.shape[0]
    return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR)
