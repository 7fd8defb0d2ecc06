"""Poses as OpenPose's JSON has them, and drawn as ControlNets were trained to see them.

A POSE_KEYPOINT is a list with a picture's poses each: ``people``, each with ``pose_keypoints_2d`` (18 points), ``hand_left_keypoints_2d``
and ``hand_right_keypoints_2d`` (21 each) and ``face_keypoints_2d`` (up to 70), and ``canvas_height`` and ``canvas_width``. Points are
``x, y, confidence`` one behind the other, in pixels of the canvas or in 0..1 of its sides; a confidence of 0 is a point that is not there.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import cv2
import numpy as np
import torch
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.annotators.frames import Pixels

Point = tuple[float, float] | None
People = list[dict[str, Any]]

BODY: Final = "pose_keypoints_2d"
FACE: Final = "face_keypoints_2d"
LEFT: Final = "hand_left_keypoints_2d"
RIGHT: Final = "hand_right_keypoints_2d"

_LIMBS: Final = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16),
    (0, 15), (15, 17),
)  # fmt: skip
_COLOURS: Final = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85), (0, 255, 170),
    (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
)  # fmt: skip
_FINGERS: Final = tuple(
    (0 if joint == 0 else first + joint - 1, first + joint) for first in (1, 5, 9, 13, 17) for joint in range(4)
)
_STICK: Final = 4
_SPOT: Final = 4
_LONGEST: Final = 32_000


def compressed(points: Iterable[Point] | None) -> list[float] | None:
    """Points in the JSON's form; None where there are none."""
    if points is None:
        return None
    flat = [number for point in points for number in ((float(point[0]), float(point[1]), 1.0) if point else (0.0,) * 3)]
    return flat if any(flat) else None


def person(
    body: Sequence[Point], left: Sequence[Point] | None, right: Sequence[Point] | None, face: Sequence[Point] | None
) -> dict[str, Any]:
    """One of ``people``."""
    numbers = compressed(body) or [0.0] * 3 * len(body)
    return {BODY: numbers, FACE: compressed(face), LEFT: compressed(left), RIGHT: compressed(right)}


def poses(people: People, height: int, width: int) -> dict[str, Any]:
    """The poses of one picture."""
    return {"people": people, "canvas_height": height, "canvas_width": width}


def checked(poses: Any, input: str = "kps") -> list[dict[str, Any]]:
    """A POSE_KEYPOINT, if it is one. Raises InputError, naming the input that it came by."""
    frames = poses if isinstance(poses, list) else [poses]
    for frame in frames:
        sides = [frame.get(f"canvas_{side}") for side in ("height", "width")] if isinstance(frame, Mapping) else []
        if not sides or not all(isinstance(side, int) and 0 < side <= _LONGEST for side in sides):
            raise InputError("expected poses with canvas_width and canvas_height, found something else", input=input)
    if not frames:
        raise InputError("expected the poses of at least one picture, found none", input=input)
    return frames


def of_one_size(poses: Any, input: str = "kps") -> list[dict[str, Any]]:
    """The poses of pictures of one size. Raises InputError where they are of several."""
    frames = checked(poses, input)
    sizes = {(frame["canvas_height"], frame["canvas_width"]) for frame in frames}
    if len(sizes) > 1:
        raise InputError(f"expected poses on canvases of one size, found {len(sizes)} sizes", input=input)
    return frames


def drawn(
    frame: Mapping[str, Any], *, body: bool = True, hand: bool = True, face: bool = True, wide: bool = False
) -> Pixels:
    """The poses of a picture on black, at its size. ``wide`` draws the sticks that some SDXL models want, wider in larger pictures."""
    height, width = int(frame["canvas_height"]), int(frame["canvas_width"])
    canvas = np.zeros((height, width, 3), np.uint8)
    longest = max(height, width)
    stick = _STICK * (min(2 + longest // 1000, 7) if wide and longest >= 500 else 1)
    for someone in frame.get("people") or ():
        if body:
            _draw_body(canvas, placed(someone.get(BODY), width, height), stick)
        if hand:
            for side in (LEFT, RIGHT):
                _draw_hand(canvas, placed(someone.get(side), width, height))
        if face:
            _draw_points(canvas, placed(someone.get(FACE), width, height), 3, (255, 255, 255))
    return canvas


def render(poses: Any, *, body: bool, hand: bool, face: bool) -> Tensor:
    """The poses of several pictures of one size, drawn: float32 [B,H,W,3]."""
    canvases = [drawn(frame, body=body, hand=hand, face=face) for frame in of_one_size(poses)]
    return torch.from_numpy(np.stack(canvases)).float() / 255


def placed(numbers: Any, width: int, height: int) -> list[Point]:
    """Points in the JSON's form as points in pixels; those of 0..1 are parts of the canvas. Raises InputError for what is none."""
    if not numbers:
        return []
    try:
        table = np.asarray(numbers, np.float64).reshape(-1, 3)
    except (ValueError, TypeError) as error:
        raise InputError("expected points as x, y, confidence, found another number of numbers", input="kps") from error
    there = table[:, 2] > 0
    is_relative = bool((np.abs(table[there, :2]) <= 1).all())
    scale = (width, height) if is_relative else (1, 1)
    points = (table[:, :2] * scale).clip(-_LONGEST, _LONGEST)
    return [(float(x), float(y)) if seen else None for (x, y), seen in zip(points, there, strict=True)]


def _draw_body(canvas: Pixels, points: list[Point], stick: int) -> None:
    for (one, other), colour in zip(_LIMBS, _COLOURS, strict=False):
        if max(one, other) < len(points) and (a := points[one]) and (b := points[other]):
            length, angle = math.dist(a, b), math.degrees(math.atan2(a[1] - b[1], a[0] - b[0]))
            middle = int((a[0] + b[0]) / 2), int((a[1] + b[1]) / 2)
            outline: Any = cv2.ellipse2Poly(middle, (int(length / 2), stick), int(angle), 0, 360, 1)
            cv2.fillConvexPoly(canvas, outline, [int(level * 0.6) for level in colour])
    for point, colour in zip(points, _COLOURS, strict=False):
        if point:
            cv2.circle(canvas, (int(point[0]), int(point[1])), _SPOT, colour, thickness=-1)


def _draw_hand(canvas: Pixels, points: list[Point]) -> None:
    for index, (one, other) in enumerate(_FINGERS):
        if (
            max(one, other) < len(points)
            and (a := points[one])
            and (b := points[other])
            and _is_inside(a)
            and _is_inside(b)
        ):
            colour = [level * 255 for level in colorsys.hsv_to_rgb(index / len(_FINGERS), 1.0, 1.0)]
            cv2.line(canvas, (int(a[0]), int(a[1])), (int(b[0]), int(b[1])), colour, thickness=2)
    _draw_points(canvas, points, _SPOT, (0, 0, 255))


def _draw_points(canvas: Pixels, points: list[Point], radius: int, colour: tuple[int, int, int]) -> None:
    for point in points:
        if point and _is_inside(point):
            cv2.circle(canvas, (int(point[0]), int(point[1])), radius, colour, thickness=-1)


def _is_inside(point: tuple[float, float]) -> bool:
    """Detectors say of what they did not find that it is beyond the corner."""
    return int(point[0]) > 0 and int(point[1]) > 0
