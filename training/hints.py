"""Hints for ControlNets, drawn from what a scene covers: its edges, and how near its parts are."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from training.blur import blurred

SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))
NEIGHBOURS = ((0, 1), (1, 1), (1, 0), (1, -1))
"""Steps down and right along a slope of 0, 45, 90 and 135 degrees."""
BLUR = 1.0
THICK_SHARE = 0.2


def canny(pictures: Tensor, threshold: float = 0.2) -> Tensor:
    """Edges one pixel wide, 0 or 1, of (N, H, W) grey pictures in 0..1 (Canny, "A Computational Approach to Edge Detection", 1986).

    One threshold on the slope is enough: drawings have no weak edges, so nothing has to be followed from strong ones.
    """
    sobel = torch.tensor(SOBEL)
    padded = functional.pad(blurred(pictures, BLUR)[:, None], (1, 1, 1, 1), mode="replicate")
    x, y = functional.conv2d(padded, torch.stack([sobel, sobel.T])[:, None]).unbind(1)
    slope = torch.hypot(x, y)
    direction = (torch.atan2(y, x) / (math.pi / 4)).round().long() % 4
    around = functional.pad(slope, (1, 1, 1, 1))
    highest = torch.zeros_like(slope, dtype=torch.bool)
    height, width = slope.shape[1:]
    for number, (down, right) in enumerate(NEIGHBOURS):
        ahead = around[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]
        behind = around[:, 1 - down : 1 - down + height, 1 - right : 1 - right + width]
        highest |= (direction == number) & (slope >= ahead) & (slope > behind)
    return (highest & (slope > threshold)).float()


def edge_hints(cover: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """(N, 3, H, W) white edges on black of what shapes cover (N, H, W); with a generator some are drawn thicker."""
    lines = canny(cover)
    if generator:
        thick = torch.rand(len(lines), 1, 1, generator=generator) < THICK_SHARE
        lines = torch.where(thick, functional.max_pool2d(lines, 3, stride=1, padding=1), lines)
    return lines[:, None].expand(-1, 3, -1, -1)


def depth_hints(cover: Tensor, generator: torch.Generator) -> Tensor:
    """(N, 3, H, W) nearness in 0..1: the shape stands, evenly near, before a floor that comes nearer towards the bottom.

    How near both are, and how blurred the steps between them, is drawn for each scene.
    """
    count, side = cover.shape[:2]
    near, far, rise, soft = torch.rand(4, count, 1, 1, generator=generator)
    down = torch.linspace(0, 1, side)[:, None]
    ground = 0.25 * far + 0.35 * rise * down
    depth = torch.lerp(ground, 0.65 + 0.35 * near, cover)
    depth = torch.where(soft < 0.5, depth, blurred(depth, side / 96))
    return depth[:, None].expand(-1, 3, -1, -1)
