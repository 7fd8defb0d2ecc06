"""Poses by DWPose (Yang et al. 2023, "Effective Whole-body Pose Estimation with Two-stages Distillation"), as ONNX files.

People are found by YOLOX (Ge et al. 2021) or YOLO-NAS; each is then looked at alone, upright and at one size. The files are run by
onnxruntime, which is an extra of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from engine.errors import ModelFileError, UsageError
from nodes.diffusion.annotators import keypoints
from nodes.diffusion.annotators.frames import Numbers, Pixels

_SIDE: Final = 640
_GREY: Final = 114
_STRIDES: Final = (8, 16, 32)
_OVERLAP: Final = 0.45
_LIKELY: Final = 0.3
_MEAN: Final = np.array((123.675, 116.28, 103.53), np.float32)
_STD: Final = np.array((58.395, 57.12, 57.375), np.float32)
_PADDING: Final = 1.25
_PLACES: Final = 2
"""Places along a side for each pixel that the network sees."""
_POINTS: Final = 133
_SEEN: Final = (384, 288)
_PEOPLE: Final = (0,)
"""Those of COCO's classes that are people."""
_NECK: Final = 17
_FROM_COCO: Final = (
    (17, 1), (6, 2), (8, 3), (10, 4), (7, 6), (9, 7), (12, 8), (14, 9), (16, 10), (13, 12), (15, 13), (2, 14), (1, 15), (4, 16), (3, 17),
)  # fmt: skip
"""Where a point of COCO's, the neck behind them, is among OpenPose's; the points 0, 5 and 11 are where they were."""


@dataclass(frozen=True, slots=True)
class Sessions:
    """``people`` is None where a picture is taken for one person."""

    pose: Any
    people: Any = None


def open_sessions(pose: Path, people: Path | None, device: str) -> Sessions:
    """Raises UsageError where onnxruntime is not installed, ModelFileError for a file that it cannot read."""
    return Sessions(_opened(pose, device), None if people is None else _opened(people, device))


def _opened(path: Path, device: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            "expected the package onnxruntime, which the files of poses run on, found none; install mezzotint[pose]"
        ) from error
    there = onnxruntime.get_available_providers()
    wanted = [] if device.startswith("cpu") else ["CUDAExecutionProvider"]
    providers = [name for name in (*wanted, "CPUExecutionProvider") if name in there]
    try:
        return onnxruntime.InferenceSession(str(path), providers=providers)
    except Exception as error:  # its exceptions have no common base
        raise ModelFileError(
            f"expected an ONNX network in {path.name}, found one that cannot be read: {str(error)[:200]}"
        ) from error


def dwpose(sessions: Sessions, pixels: Pixels) -> dict[str, Any]:
    """The poses of a picture of any size, in its pixels. Nobody is no error."""
    height, width = pixels.shape[:2]
    whole = np.array([[0, 0, width, height]], np.float32)
    boxes = whole if sessions.people is None else people(sessions.people, pixels)
    found = [_person(_in_openpose_order(look(sessions.pose, pixels, box))) for box in boxes]
    return keypoints.poses(found, height, width)


def people(session: Any, pixels: Pixels) -> Numbers:
    """Boxes [n,4] around people: left, top, right, bottom in pixels."""
    return boxes(session, pixels, _PEOPLE)


def boxes(session: Any, pixels: Pixels, classes: Sequence[int]) -> Numbers:
    """Boxes [n,4] around what is of some of COCO's classes: left, top, right, bottom in pixels."""
    scale = _SIDE / max(pixels.shape[:2])
    height, width = (max(int(side * scale), 1) for side in pixels.shape[:2])
    canvas = np.full((_SIDE, _SIDE, 3), _GREY, np.uint8)
    canvas[:height, :width] = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    told = session.get_inputs()[0]
    kind = np.uint8 if "uint8" in told.type else np.float32
    outputs = session.run(None, {told.name: canvas.transpose(2, 0, 1)[None].astype(kind)})
    found = _of_nas(outputs, classes) if len(outputs) == 4 else _of_yolox(outputs[0], classes)
    return (found / scale).astype(np.float32)


def _of_nas(outputs: list[Numbers], wanted: Sequence[int]) -> Numbers:
    """Of a network that chooses by itself: how many boxes, the boxes, their scores, their classes."""
    count = int(outputs[0].reshape(-1)[0])
    boxes, classes = outputs[1].reshape(-1, 4)[:count], outputs[3].reshape(-1)[:count]
    return boxes[np.isin(classes.astype(int), wanted)].astype(np.float32)


def _of_yolox(output: Numbers, wanted: Sequence[int]) -> Numbers:
    """The likely ones of all boxes [1,n,5+classes] that are said as steps from a grid, those that overlap a likelier one left out."""
    if (
        output.ndim != 3
        or output.shape[1] != sum((_SIDE // stride) ** 2 for stride in _STRIDES)
        or output.shape[2] < 6 + max(wanted)
    ):
        raise ModelFileError(
            f"expected a network that finds what COCO has classes for with YOLOX, found one that says {output.shape}"
        )
    grids, strides = [], []
    for stride in _STRIDES:
        side = _SIDE // stride
        x, y = np.meshgrid(np.arange(side), np.arange(side))
        grids.append(np.stack((x, y), 2).reshape(-1, 2))
        strides.append(np.full((side * side, 1), stride))
    step = np.concatenate(strides)
    centre = (output[0, :, :2] + np.concatenate(grids)) * step
    size = np.exp(output[0, :, 2:4]) * step
    scores = output[0, :, 4] * output[0][:, [5 + kind for kind in wanted]].max(axis=1)
    chosen = scores > _LIKELY
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)[chosen]
    return boxes[_apart(boxes, scores[chosen])]


def _apart(boxes: Numbers, scores: Numbers) -> list[int]:
    """Which boxes stay, the likeliest first, if each takes away those that overlap it."""
    kept: list[int] = []
    area = (boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1)
    waiting = scores.argsort()[::-1]
    while waiting.size:
        first, rest = int(waiting[0]), waiting[1:]
        kept.append(first)
        top = np.maximum(boxes[first, :2], boxes[rest, :2])
        bottom = np.minimum(boxes[first, 2:], boxes[rest, 2:])
        common = np.maximum(bottom - top + 1, 0).prod(axis=1)
        waiting = rest[common / (area[first] + area[rest] - common) <= _OVERLAP]
    return kept


def look(session: Any, pixels: Pixels, box: Numbers, count: int = _POINTS, usual: tuple[int, int] = _SEEN) -> Numbers:
    """The ``count`` points [count,3] of whoever is in ``box``: x and y in pixels, and how sure they are.

    A network that takes any size is shown the ``usual`` one, height and width.
    """
    told = session.get_inputs()[0]
    height, width = _seen(told.shape, usual)
    centre = (box[:2] + box[2:]) / 2
    extent = (box[2:] - box[:2]) * _PADDING
    scale = max(extent[0] / width, extent[1] / height, 1e-6)  # picture pixels for one that the network sees
    move = np.array(
        [[1 / scale, 0, width / 2 - centre[0] / scale], [0, 1 / scale, height / 2 - centre[1] / scale]], np.float32
    )
    seen = (cv2.warpAffine(pixels, move, (width, height), flags=cv2.INTER_LINEAR) - _MEAN) / _STD
    x, y = session.run(None, {told.name: seen.transpose(2, 0, 1)[None].astype(np.float32)})[:2]
    if x.ndim != 3 or x.shape[1] != count or y.shape[1] != count:
        raise ModelFileError(f"expected a network that finds {count} points of a body, found one that says {x.shape}")
    place = np.stack([x[0].argmax(1), y[0].argmax(1)], axis=1) / _PLACES
    sure = np.minimum(x[0].max(1), y[0].max(1))
    where = (place - (width / 2, height / 2)) * scale + centre
    return np.concatenate([where, sure[:, None]], axis=1)


def _seen(shape: list[Any], usual: tuple[int, int]) -> tuple[int, int]:
    """Height and width of what a network of poses sees."""
    sides = [
        side if isinstance(side, int) and side > 0 else other for side, other in zip(shape[2:], usual, strict=True)
    ]
    return sides[0], sides[1]


def _in_openpose_order(points: Numbers) -> Numbers:
    """The points [133,3] in COCO's order, as [134,3] in OpenPose's, the neck between the shoulders."""
    neck = points[[5, 6]].mean(axis=0)
    neck[2] = float((points[[5, 6], 2] > _LIKELY).all())
    longer = np.insert(points, _NECK, neck, axis=0)
    ordered = longer.copy()
    for source, target in _FROM_COCO:
        ordered[target] = longer[source]
    return ordered


def _person(points: Numbers) -> dict[str, Any]:
    found: list[keypoints.Point] = [(float(x), float(y)) if sure >= _LIKELY else None for x, y, sure in points]
    body, face = found[:18], found[24:92]
    return keypoints.person(body, found[92:113], found[113:134], [*face, *body[14:16]] if any(face) else None)
