"""Lines of pictures that need no weights: Canny's edges, thresholds, differences of blurs. Lines are white on black."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import torch
from torch import Tensor

from nodes.diffusion.annotators.frames import Numbers, Pixels

_PYRAMID: Final = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def canny(pixels: Pixels, low: int, high: int) -> Numbers:
    """Edges (Canny 1986, "A Computational Approach to Edge Detection")."""
    return cv2.Canny(pixels, low, high)


def pyramid_canny(pixels: Pixels, low: int, high: int) -> Numbers:
    """Canny's edges of each channel at nine sizes, coarse ones first, each blended in with a quarter; stretched between the first and
    the last hundredth."""
    height, width = pixels.shape[:2]
    edges: Numbers | None = None
    for scale in _PYRAMID:
        size = max(int(width * scale), 1), max(int(height * scale), 1)
        small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        found = np.stack([cv2.Canny(np.ascontiguousarray(small[..., c]), low, high) for c in range(3)], axis=2) / 255.0
        before = None if edges is None else cv2.resize(edges, size, interpolation=cv2.INTER_LINEAR)
        edges = found if before is None else 0.75 * before + 0.25 * found
    assert edges is not None
    total = edges.sum(axis=2)
    lowest, highest = np.percentile(total, (1, 99))
    if highest <= lowest:
        lowest, highest = 0.0, max(total.max(), 1.0)
    return (255 * (total - lowest) / (highest - lowest)).clip(0, 255).astype(np.uint8)


def standard(pixels: Pixels, sigma: float, threshold: int) -> Numbers:
    """What is darker than its surroundings, blurred over ``sigma``: strokes of a drawing. Half of what is brighter than
    ``threshold`` becomes brighter than the middle."""
    drawn = pixels.astype(np.float32)
    around = cv2.GaussianBlur(drawn, (0, 0), sigma) if sigma > 0 else drawn
    depth = (around - drawn).min(axis=2).clip(0, 255)
    strong = depth[depth > threshold]
    return (depth * 127 / max(16.0, float(np.median(strong)) if strong.size else 0.0)).clip(0, 255).astype(np.uint8)


def binary(pixels: Pixels, threshold: int) -> Numbers:
    """White where it is brighter than ``threshold``; with 0 and 255 Otsu's, which parts the levels best."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    kind = cv2.THRESH_BINARY | (cv2.THRESH_OTSU if threshold in (0, 255) else 0)
    return cv2.threshold(grey, threshold, 255, kind)[1]


def scribble(pixels: Pixels) -> Numbers:
    """Black where a channel is dark, white elsewhere: a drawing on paper as it is."""
    return np.where(pixels.min(axis=2) < 127, 0, 255).astype(np.uint8)


def xdog(pixels: Pixels, threshold: int) -> Numbers:
    """Where a narrow blur is darker than a wide one (Winnemöller et al. 2012, "XDoG")."""
    drawn = pixels.astype(np.float32)
    narrow, wide = (cv2.GaussianBlur(drawn, (0, 0), sigma) for sigma in (0.5, 5.0))
    found = 255 - (255 - (wide - narrow).min(axis=2)).clip(0, 255).astype(np.uint8).astype(np.int32)
    return np.where(2 * found > threshold, 255, 0).astype(np.uint8)


def thinned(soft: Numbers) -> Numbers:
    """Soft edges as the lines that a hand would scribble: ridges of a blur, wide and without shades."""
    blurred = cv2.GaussianBlur(soft.astype(np.float32), (0, 0), 3.0)
    ridges = np.zeros_like(blurred)
    for kernel in _ALONG:
        np.putmask(ridges, cv2.dilate(blurred, kernel=kernel) == blurred, blurred)
    wide = cv2.GaussianBlur(np.where(ridges > 127, 255, 0).astype(np.uint8), (0, 0), 3.0)
    return np.where(wide > 4, 255, 0).astype(np.uint8)


_ALONG: Final = tuple(
    np.array(kernel, np.uint8)
    for kernel in (
        [[0, 0, 0], [1, 1, 1], [0, 0, 0]],
        [[0, 1, 0], [0, 1, 0], [0, 1, 0]],
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0, 0, 1], [0, 1, 0], [1, 0, 0]],
    )
)
"""Neighbours in a row, a column and the two diagonals."""


def with_strokes(soft: Numbers, strokes: Numbers, lower: float, upper: float, least: int, connectivity: int) -> Numbers:
    """Soft edges and strokes screened over them, which AnyLine draws: strokes between two brightnesses in 0..1, in pieces of at least
    ``least`` pixels.

    Both are levels [H,W]; pieces hang together over sides with a ``connectivity`` of 1, over corners too with more.
    """
    drawn = np.where((strokes >= lower * 255) & (strokes <= upper * 255), strokes, 0).astype(np.uint8)
    _, labels, facts, _ = cv2.connectedComponentsWithStats(
        (drawn > 0).astype(np.uint8), connectivity=4 if connectivity == 1 else 8
    )
    large = facts[:, cv2.CC_STAT_AREA] >= least
    top = np.where(large[labels], drawn, 0) / 255.0
    return (255 * (1 - (1 - top) * (1 - soft / 255.0))).clip(0, 255).astype(np.uint8)


def merged(soft: Tensor, strokes: Tensor, lower: float, upper: float, least: int, connectivity: int) -> Tensor:
    """``with_strokes`` of every picture of two batches [B,H,W,3] in 0..1."""
    pairs = zip(*((batch[..., 0] * 255).round().to(torch.uint8).numpy() for batch in (soft, strokes)), strict=True)
    maps = [with_strokes(below, above, lower, upper, least, connectivity) for below, above in pairs]
    return torch.from_numpy(np.stack(maps)).float()[..., None].expand(-1, -1, -1, 3) / 255
