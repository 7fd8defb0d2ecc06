"""Maps of colours and brightness, and pictures with less in them."""

from __future__ import annotations

from typing import Final, Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from engine.errors import InputError
from nodes.diffusion.annotators.frames import Numbers, Pixels, check, fitted

_DISK: Final = 256
"""Pixels between the random points that a shuffle bends a picture by."""


def palette(pixels: Pixels, resolution: int) -> Numbers:
    """The picture with its shorter side ``resolution`` long, in squares of about 64 pixels of one colour."""
    frame = fitted(pixels, resolution, cv2.INTER_AREA)
    width, height = frame.width, frame.height
    whole = frame.pixels[:height, :width]
    squares = cv2.resize(whole, (max(width // 64, 1), max(height // 64, 1)), interpolation=cv2.INTER_CUBIC)
    return cv2.resize(squares, (width, height), interpolation=cv2.INTER_NEAREST)


def brightness(pixels: Pixels, kind: Literal["luminance", "intensity"], gamma: float) -> Numbers:
    """CIE's lightness, or the brightest channel, to the power of ``gamma``."""
    # red is taken for blue, as in the hints that recolouring models were trained on
    found = pixels.max(axis=2) if kind == "intensity" else cv2.cvtColor(pixels, cv2.COLOR_BGR2LAB)[..., 0]
    return ((found / 255.0) ** gamma * 255).clip(0, 255).astype(np.uint8)


def shuffled(pixels: Pixels, seed: int) -> Numbers:
    """The picture's colours where random, smooth paths lead from all its places (Zhang et al. 2023, ControlNet's "shuffle")."""
    height, width = pixels.shape[:2]
    random = np.random.default_rng(seed)
    paths = [_disk(random, height, width) * (side - 1) for side in (width, height)]
    across, down = (path.astype(np.float32) for path in paths)
    return cv2.remap(pixels, across, down, cv2.INTER_LINEAR)


def _disk(random: np.random.Generator, height: int, width: int) -> Numbers:
    """Smooth noise [H,W] in 0..1."""
    points = random.uniform(0, 1, size=(height // _DISK + 2, width // _DISK + 2))
    noise = cv2.resize(points, (width + 2 * _DISK, height + 2 * _DISK), interpolation=cv2.INTER_CUBIC)
    noise = noise[_DISK : _DISK + height, _DISK : _DISK + width]
    noise = noise - noise.min()
    return noise / max(float(noise.max()), 1e-12)


def tile(pixels: Pixels, times: int) -> Numbers:
    """The picture made smaller by a half so many times, and larger again in smooth steps."""
    height, width = (max(round(side / 64), 1) * 64 for side in pixels.shape[:2])
    size = max(width // 2**times, 1), max(height // 2**times, 1)
    found = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    for _ in range(times):
        found = cv2.pyrUp(found)
    return found


def tile_simple(pixels: Pixels, scale: float, blur: float) -> Numbers:
    """The picture at 1/``scale`` of its size and back, then blurred."""
    return _blurred(_coarse(pixels, scale, cv2.INTER_LANCZOS4), blur)


def tile_guided(pixels: Pixels, scale: float, blur: float, radius: int, eps: float) -> Numbers:
    """The picture blurred, its edges kept by a guided filter, at 1/``scale`` of its size and back."""
    smooth = _guided(_blurred(pixels, blur), radius, eps, scale)
    return _coarse(smooth, scale, cv2.INTER_CUBIC)


def _blurred(pixels: Pixels, strength: float) -> Pixels:
    side = int(strength) | 1
    return cv2.GaussianBlur(pixels, (side, side), sigmaX=strength / 2).astype(np.uint8)


def _coarse(pixels: Pixels, scale: float, back: int) -> Pixels:
    height, width = pixels.shape[:2]
    small = max(int(width / scale), 1), max(int(height / scale), 1)
    less = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(less, (width, height), interpolation=back).astype(np.uint8)


def _guided(pixels: Pixels, radius: int, eps: float, scale: float) -> Pixels:
    """The fast guided filter (He and Sun 2015, "Fast Guided Filter") of a picture by itself: a linear function of its colours in
    every window, worked out at 1/``scale`` of the size."""
    height, width = pixels.shape[:2]
    guide = pixels.astype(np.float32) / 255
    small = max(int(width / scale), 1), max(int(height / scale), 1)
    low = cv2.resize(guide, small, interpolation=cv2.INTER_NEAREST)
    reach = max(int(radius / scale), 1)

    def mean(values: Numbers) -> Numbers:
        side = 2 * reach + 1
        planes = values.reshape(*values.shape[:2], -1)
        return np.stack([cv2.blur(planes[..., c], (side, side)) for c in range(planes.shape[-1])], -1).reshape(
            values.shape
        )

    centre = mean(low)
    spread = mean(low[..., :, None] * low[..., None, :]) - centre[..., :, None] * centre[..., None, :]
    # the picture is its own guide, so what varies with its colours is what they vary by
    slope = np.linalg.solve(spread + eps * np.eye(3, dtype=np.float32), spread)
    offset = centre - np.einsum("hwc,hwcd->hwd", centre, slope)
    slope, offset = mean(slope), mean(offset)
    size = (width, height)
    slope = cv2.resize(slope.reshape(*slope.shape[:2], 9), size, interpolation=cv2.INTER_LINEAR)
    offset = cv2.resize(offset, size, interpolation=cv2.INTER_LINEAR)
    found = np.einsum("hwc,hwcd->hwd", guide, slope.reshape(height, width, 3, 3)) + offset
    levels: Pixels = (found * 255).clip(0, 255).astype(np.uint8)
    return levels


def inpainted(pictures: Tensor, mask: Tensor, masked: float) -> Tensor:
    """Pictures [B,H,W,C] with ``masked`` where the mask [B,h,w], at their size, is above a half: what inpainting ControlNets see."""
    check(pictures)
    wanted = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    if len(wanted) not in (1, len(pictures)):
        raise InputError(
            f"expected one mask, or as many as there are pictures ({len(pictures)}), found {len(wanted)}", input="mask"
        )
    wanted = interpolate(wanted, size=pictures.shape[1:3], mode="bilinear").movedim(1, -1)
    return torch.where(wanted.to(pictures.device) > 0.5, masked, pictures)
