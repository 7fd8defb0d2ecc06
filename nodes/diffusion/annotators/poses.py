"""Poses by OpenPose (Cao et al. 2019, "OpenPose: Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nodes.diffusion.annotators import keypoints
from nodes.diffusion.annotators.frames import Pixels
from nodes.diffusion.annotators.packaged import package, quiet


@dataclass(frozen=True, slots=True)
class Networks:
    """Of hands and faces only what is looked for."""

    body: nn.Module
    hand: nn.Module | None = None
    face: nn.Module | None = None


def openpose(networks: Networks, pixels: Pixels, height: int, width: int) -> dict[str, Any]:
    """The poses of a picture, relative to the ``height`` and ``width`` that it has without what was added to it. Nobody is no error."""
    module = package("open_pose")
    detector = module.OpenposeDetector(
        _around(module.Body, networks.body), _around(module.Hand, networks.hand), _around(module.Face, networks.face)
    )
    if networks.face is not None:
        detector.face_estimation.sigma, detector.face_estimation.threshold = 2.5, 0.1
    with torch.no_grad(), quiet():
        found = detector.detect_poses(
            pixels, include_hand=networks.hand is not None, include_face=networks.face is not None
        )
    scale = pixels.shape[1] / width, pixels.shape[0] / height
    people = [
        keypoints.person(
            [*_points(each.body.keypoints, scale)],
            *(_points(part, scale) if part else None for part in (each.left_hand, each.right_hand, each.face)),
        )
        for each in found
    ]
    return keypoints.poses(people, height, width)


def _around(kind: Any, network: nn.Module | None) -> Any:
    """A part of the detector without its way of loading, which unpickles."""
    if network is None:
        return None
    part = kind.__new__(kind)
    part.model = network
    return part


def _points(points: Sequence[Any], scale: tuple[float, float]) -> list[keypoints.Point]:
    """What the detector did not find it puts beyond the corner."""
    return [
        (float(point.x) * scale[0], float(point.y) * scale[1])
        if point is not None and point.x >= 0 and point.y >= 0
        else None
        for point in points
    ]
