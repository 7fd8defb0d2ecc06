"""Faces brought upright to one size, and put back.

The customary square is that of FFHQ (Karras et al. 2019) at 512 pixels, in which eyes, nose and mouth have their places. The way there is
the similarity that brings a face's points nearest to them in least squares (Umeyama 1991). In the plane, with points as complex numbers, it
is z -> a z + b, so that a is a regression: no mirror image can come of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from nodes.diffusion.faces.finding import Points

Picture = NDArray[np.float32]
"""[H,W,3] in 0..1."""
Matrix = NDArray[np.float64]
"""[2,3]: from pixels of one picture to those of another."""

SIDE: Final = 512
TEMPLATE: Final[Points] = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
"""Where facexlib, and those who trained restorers with it, have the points of a face."""
_BEYOND: Final = (132 / 255, 133 / 255, 135 / 255)
"""What the square shows beyond the picture's edges, as facexlib has it."""
FEATHER: Final = 0.1
"""The part of the square's side over which a face that is put back fades into the picture."""


def alignment(points: Points) -> Matrix:
    """The similarity from a picture's pixels to the square's, for a face whose points are not all in one place."""
    there, wanted = (each[:, 0] + 1j * each[:, 1] for each in (points, TEMPLATE))
    around, goal = there - there.mean(), wanted - wanted.mean()
    a = (around.conj() * goal).sum() / (around.conj() * around).sum()
    b = wanted.mean() - a * there.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def cut_out(picture: Picture, matrix: Matrix) -> Picture:
    """The square of a face [512,512,3], which ``matrix`` leads to."""
    box = _bounds(matrix, *picture.shape[:2])
    if box is None:
        return np.full((SIDE, SIDE, 3), _BEYOND, np.float32)
    part = picture[box.top : box.bottom, box.left : box.right]
    square: Picture = _warped(part, _moved(matrix, box), SIDE, SIDE, _BEYOND)
    return square


def put_back(picture: Picture, face: Picture, matrix: Matrix) -> None:
    """Paint a face [512,512,3] over ``picture`` where ``cut_out`` took it from. It fades towards the edges of its square; nothing beyond
    them changes.
    """
    box = _bounds(matrix, *picture.shape[:2])
    if box is None:
        return
    there = _moved(matrix, box)
    height, width = box.bottom - box.top, box.right - box.left
    shown = _warped(face, _inverse(there), height, width, (0.0, 0.0, 0.0))
    part = picture[box.top : box.bottom, box.left : box.right]
    part += _share(there, height, width)[..., None] * (shown - part)


@dataclass(frozen=True, slots=True)
class _Box:
    left: int
    top: int
    right: int
    bottom: int


def _bounds(matrix: Matrix, height: int, width: int) -> _Box | None:
    """The part of a picture that the square covers, and a pixel or two around it; None where it covers none."""
    corners = np.array([[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE]], np.float64)
    back = _inverse(matrix)
    there = corners @ back[:, :2].T + back[:, 2]
    margin = 2 + int(
        2 / _scale(matrix)
    )  # what a pixel of the square blends, where it is finer than the picture or coarser
    left, top = np.floor(there.min(0)).astype(int) - margin
    right, bottom = np.ceil(there.max(0)).astype(int) + margin + 1
    box = _Box(max(left, 0), max(top, 0), min(right, width), min(bottom, height))
    return box if box.left < box.right and box.top < box.bottom else None


def _moved(matrix: Matrix, box: _Box) -> Matrix:
    """The same way, from the pixels of a part of the picture."""
    return np.column_stack([matrix[:, :2], matrix[:, :2] @ [box.left, box.top] + matrix[:, 2]])


def _inverse(matrix: Matrix) -> Matrix:
    return np.asarray(cv2.invertAffineTransform(matrix), np.float64)


def _scale(matrix: Matrix) -> float:
    return float(np.hypot(matrix[0, 0], matrix[1, 0]))


def _warped(pixels: Any, matrix: Matrix, height: int, width: int, beyond: tuple[float, ...]) -> Any:
    """Pixels where ``matrix`` takes them. What becomes much smaller is averaged first: the warp looks at four pixels alone."""
    scale = _scale(matrix)
    if scale < 1:
        size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
        grown = np.array([pixels.shape[1] / size[0], pixels.shape[0] / size[1]])
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        # pixel i of the small one is at (i + 1/2) grown - 1/2 of the large one
        matrix = np.column_stack([matrix[:, :2] * grown, matrix[:, :2] @ ((grown - 1) / 2) + matrix[:, 2]])
    return cv2.warpAffine(
        pixels, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=beyond
    )


def _share(matrix: Matrix, height: int, width: int) -> NDArray[np.float32]:
    """How much of each pixel [height,width] the face is: 0 from the edge of the square on, 1 from a tenth of its side inwards."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    u, v = (row[0] * x + row[1] * y + row[2] for row in matrix)
    last = SIDE - 1
    inside = np.minimum.reduce([u, last - u, v, last - v]) / (FEATHER * SIDE)
    ramp = inside.clip(0, 1)
    share: NDArray[np.float32] = (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)
    return share
