"""The automatic judge: which shape of which colour on which ground a picture shows, and how well it is drawn.

It knows nothing of the prompt. It finds the ground's colour at the rim, cuts the foreground half-way between both
colours, and compares the biggest blob with every shape of the world at the same area and centre of mass.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from training.grammar import Meaning
from training.world import COLOURS, OUTLINES, PALETTE, SHAPES

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Values = NDArray[np.float64]

APART = 60.0
"""Least distance in RGB between a foreground pixel and the ground."""
FAITHFUL = 70.0
"""A colour further than this from every colour of the palette has no name. Two of the palette are at least 75 apart."""
LEAST_SHARE = 0.01
"""A foreground smaller than this share of the picture does not count."""
CLEAN_OVERLAP = 0.85
CLEAN_SHARE = 0.98


@dataclass(frozen=True, slots=True)
class Finding:
    """What the judge sees in one picture.

    colour, shape, ground: numbers as in the world, None where nothing fits; overlap: intersection over union with the
    ideal shape of the same area and centre, 0 to 1; whole: share of the foreground in its biggest blob; wobble: root
    mean square distance in pixels of the outline from the ideal outline; softness: pixels of in-between colour per
    pixel of outline; unevenness: spread of the colour inside the shape and of the ground, in levels of 255.
    """

    colour: int | None
    shape: int | None
    ground: int | None
    overlap: float = 0.0
    whole: float = 0.0
    wobble: float = float("inf")
    softness: float = float("inf")
    unevenness: float = float("inf")
    centre: tuple[float, float] = (0.0, 0.0)
    area: float = 0.0

    @property
    def radius(self) -> float:
        """Of the ideal shape of the same area, in half sides; 0 where no shape was found."""
        return 0.0 if self.shape is None else (self.area / unit_moments(SHAPES[self.shape]).area) ** 0.5

    def agrees(self, meaning: Meaning) -> bool:
        """Whether shape, its colour and the ground's colour are what the caption says."""
        return (self.colour, self.shape, self.ground) == (meaning.colour, meaning.shape, meaning.ground)

    def clean(self) -> bool:
        """Whether a person would call it well drawn: one piece, and close to the ideal shape."""
        return self.overlap >= CLEAN_OVERLAP and self.whole >= CLEAN_SHARE


@dataclass(frozen=True, slots=True)
class Moments:
    area: float
    x: float
    y: float


def name_colour(rgb: NDArray[np.float64]) -> int | None:
    """The nearest colour of the palette, None if even that is far."""
    palette = np.array(list(PALETTE.values()), dtype=np.float64)
    distances = np.sqrt(((palette - rgb) ** 2).sum(1))
    nearest = int(distances.argmin())
    return nearest if distances[nearest] <= FAITHFUL else None


def _rim(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    wide = max(2, len(picture) // 24)
    inner = np.zeros(picture.shape[:2], dtype=bool)
    inner[wide:-wide, wide:-wide] = True
    return picture[~inner]


def _distance(shape: str, side: int, moments: Moments) -> NDArray[np.float64]:
    """Signed distance in pixels to the shape with this area and centre (in half sides), at each pixel's middle."""
    own = unit_moments(shape)
    radius = (moments.area / own.area) ** 0.5
    steps = (torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 - 1
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    x, y = (x - moments.x) / radius + own.x, (y - moments.y) / radius + own.y
    distance: NDArray[np.float64] = (OUTLINES[shape](x, y) * radius * side / 2).numpy()
    return distance


@cache
def unit_moments(shape: str) -> Moments:
    """Area and centre of the shape of radius 1."""
    side, reach = 512, 1.5
    steps = ((torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 - 1) * reach
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    inside = OUTLINES[shape](x, y) < 0
    return Moments(float(inside.double().mean()) * (2 * reach) ** 2, float(x[inside].mean()), float(y[inside].mean()))


def _moments(mask: Mask) -> Moments:
    side = len(mask)
    ys, xs = np.nonzero(mask)
    x, y = (float(places.mean() + 0.5) / side * 2 - 1 for places in (xs, ys))
    return Moments(4 * len(xs) / side**2, x, y)


def _overlap(mask: Mask, ideal: Mask) -> float:
    return float((mask & ideal).sum() / max(1, (mask | ideal).sum()))


def _outline(mask: Mask) -> Mask:
    """Pixels on either side of the mask's border."""
    outline: Mask = ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask)
    return outline


def _biggest(mask: Mask) -> tuple[Mask, float]:
    """The biggest connected blob and its share of the mask."""
    labels, count = ndimage.label(mask)
    sizes = ndimage.sum_labels(mask, labels, range(1, count + 1))
    return labels == 1 + int(np.argmax(sizes)), float(sizes.max() / mask.sum())


def _ink(picture: NDArray[np.float64], foreground: Mask) -> NDArray[np.float64]:
    """The foreground's colour: the median away from its border, where it is thick enough to have an inside."""
    inside = ndimage.binary_erosion(foreground)
    return np.median(picture[inside if inside.sum() > foreground.sum() / 4 else foreground], axis=0)


def _separate(values: Values) -> tuple[Values, Values | None, Values | None]:
    """The ground's colour, the foreground's, and how far each pixel is from the one to the other; None where there is none."""
    ground = np.median(_rim(values), axis=0)
    foreground = np.sqrt(((values - ground) ** 2).sum(-1)) > APART
    if foreground.mean() < LEAST_SHARE:
        return ground, None, None
    ink = _ink(values, foreground)
    axis = (ink - ground) / ((ink - ground) ** 2).sum()
    return ground, ink, (values - ground) @ axis


def cut_out(picture: Picture) -> Mask | None:
    """The pixels (H, W) of the foreground's biggest blob, None where there is no foreground."""
    level = _separate(picture.astype(np.float64))[2]
    return None if level is None else _biggest(level > 0.5)[0]


def look(picture: Picture) -> Finding:
    """Find ground, foreground and shape in a square RGB picture (H, W, 3)."""
    values = picture.astype(np.float64)
    ground, ink, level = _separate(values)
    if ink is None or level is None:
        return Finding(None, None, name_colour(ground))
    mask, whole = _biggest(level > 0.5)
    moments = _moments(mask)
    distances = {shape: _distance(shape, len(mask), moments) for shape in SHAPES}
    overlaps = {shape: _overlap(mask, distance < 0) for shape, distance in distances.items()}
    best = max(overlaps, key=lambda shape: overlaps[shape])
    outline = _outline(mask)
    return Finding(
        colour=name_colour(ink),
        shape=SHAPES.index(best),
        ground=name_colour(ground),
        overlap=overlaps[best],
        whole=whole,
        wobble=_wobble(mask, distances[best]),
        softness=float(((level > 0.15) & (level < 0.85)).sum() / max(1, outline.sum() / 2)),
        unevenness=_unevenness(values, mask),
        centre=(moments.x, moments.y),
        area=moments.area,
    )


def _wobble(mask: Mask, distance: NDArray[np.float64]) -> float:
    """Root mean square of the ideal distance over the outline's pixels, whose middles are half a pixel off by nature."""
    away = np.abs(distance[_outline(mask)])
    return float(np.sqrt((np.clip(away - 0.5, 0, None) ** 2).mean()))


def _unevenness(values: NDArray[np.float64], mask: Mask) -> float:
    """The larger spread of colour, inside the shape or on the ground, three pixels away from the outline."""
    parts = [ndimage.binary_erosion(mask, iterations=3), ~ndimage.binary_dilation(mask, iterations=3)]
    return max((float(values[part].std(axis=0).max()) for part in parts if part.any()), default=float("inf"))


def describe(finding: Finding) -> str:
    """A finding in words, such as "red circle on blue"."""
    colour = "?" if finding.colour is None else COLOURS[finding.colour]
    shape = "nothing" if finding.shape is None else SHAPES[finding.shape]
    ground = "?" if finding.ground is None else COLOURS[finding.ground]
    return f"{colour} {shape} on {ground}"
