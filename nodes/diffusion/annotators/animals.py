"""Poses of animals by RTMPose (Jiang et al. 2023) trained on AP-10K (Yu et al. 2021), as an ONNX file; YOLOX or YOLO-NAS finds the animals.

What OpenPose's JSON has of people it has of animals here: ``animals``, each a list of AP-10K's 17 points [x, y, confidence] in pixels of
the canvas, all of them, however sure: eyes, nose, neck, root of the tail, then shoulder or hip, knee and paw of each leg, the front ones
first, the left one of each pair first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import cv2
import numpy as np
import torch
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.annotators import keypoints
from nodes.diffusion.annotators.dwpose import Sessions, boxes, look
from nodes.diffusion.annotators.frames import Pixels

KINDS: Final = tuple(range(14, 24))
"""The animals among COCO's classes: bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe."""
ANIMALS: Final = "animals"

_POINTS: Final = 17
_SEEN: Final = (256, 256)
_LIMBS: Final = (
    (0, 1), (1, 2), (0, 2), (2, 3), (3, 8), (8, 9), (9, 10), (3, 5), (5, 6), (6, 7), (3, 4), (4, 14), (14, 15), (15, 16), (4, 11),
    (11, 12), (12, 13),
)  # fmt: skip
_COLOURS: Final = (
    (255, 255, 255), (100, 255, 100), (150, 255, 255), (100, 50, 255), (50, 150, 200), (0, 255, 255), (0, 150, 0), (0, 0, 255),
    (0, 0, 150), (255, 50, 255), (255, 0, 255), (255, 0, 0), (150, 0, 0), (255, 255, 100), (0, 150, 0), (255, 255, 0), (150, 150, 150),
)  # fmt: skip
"""As the ControlNet for animals was trained to see them."""
_THICK: Final = 5
_FARTHEST: Final = 32_000


def animal_poses(sessions: Sessions, pixels: Pixels) -> dict[str, Any]:
    """The poses of the animals in a picture, in its pixels. None is no error."""
    height, width = pixels.shape[:2]
    whole = np.array([[0, 0, width, height]], np.float32)
    around = whole if sessions.people is None else boxes(sessions.people, pixels, KINDS)
    found = [look(sessions.pose, pixels, box, _POINTS, _SEEN) for box in around]
    animals = [np.column_stack([points[:, :2], points[:, 2].clip(0, 1)]).tolist() for points in found]
    return {"version": "ap10k", ANIMALS: animals, "canvas_height": height, "canvas_width": width}


def drawn(frame: Mapping[str, Any]) -> Pixels:
    """The animals of a picture on black, at its size. Raises InputError for points that are none."""
    canvas = np.zeros((int(frame["canvas_height"]), int(frame["canvas_width"]), 3), np.uint8)
    for animal in frame.get(ANIMALS) or ():
        places = _places(animal)
        for (one, other), colour in zip(_LIMBS, _COLOURS, strict=True):
            cv2.line(canvas, places[one], places[other], colour, _THICK)
    return canvas


def render(poses: Any) -> Tensor:
    """The animals of several pictures of one size, drawn: float32 [B,H,W,3]."""
    canvases = [drawn(frame) for frame in keypoints.of_one_size(poses)]
    return torch.from_numpy(np.stack(canvases)).float() / 255


def _places(animal: Any) -> Sequence[tuple[int, int]]:
    """Points in whole pixels: of a list of points, or of one in which they stand one behind the other."""
    try:
        table = np.asarray(animal, np.float64).reshape(_POINTS, 3)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"expected {_POINTS} points of an animal as x, y, confidence, found something else", input="kps"
        ) from error
    return [(int(x), int(y)) for x, y in np.nan_to_num(table[:, :2]).clip(-_FARTHEST, _FARTHEST)]
