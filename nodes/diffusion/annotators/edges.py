"""Edges, lines and normals that networks find. Each takes a network of ``networks`` and a picture whose sides are multiples of 64."""

from __future__ import annotations

from typing import Any, Final, Literal

import cv2
import numpy as np
import torch
from torch import nn

from nodes.diffusion.annotators.frames import Numbers, Pixels
from nodes.diffusion.annotators.lines import thinned
from nodes.diffusion.annotators.packaged import package, quiet

Style = Literal["soft", "safe", "scribble"]
"""Edges as they are, in three levels of brightness, or thinned to lines that could be drawn by hand."""

_MANGA: Final = 256
"""What the sides of a page for the network of manga lines are multiples of."""


def _detected(detector: Any, pixels: Pixels, **options: Any) -> Numbers:
    """What a detector of controlnet_aux makes of a picture that is as it wants it."""
    side = min(pixels.shape[:2])
    with quiet():
        found: Numbers = detector(pixels, detect_resolution=side, image_resolution=side, output_type="np", **options)
    return found


def hed(network: nn.Module, pixels: Pixels, style: Style) -> Numbers:
    """Soft edges (Xie and Tu 2015, "Holistically-Nested Edge Detection")."""
    found = _detected(package("hed").HEDdetector(network), pixels, safe=style == "safe")
    return thinned(found[..., 0]) if style == "scribble" else found


def pidinet(network: nn.Module, pixels: Pixels, style: Style, *, is_safe: bool = False) -> Numbers:
    """Soft edges (Su et al. 2021, "Pixel Difference Networks for Efficient Edge Detection"). Scribbles may be made of safe ones."""
    found = _detected(package("pidi").PidiNetDetector(network), pixels, safe=is_safe or style == "safe")
    return thinned(found[..., 0]) if style == "scribble" else found


def teed(network: nn.Module, pixels: Pixels, steps: int) -> Numbers:
    """Edges (Soria et al. 2023, "Tiny and Efficient Model for the Edge Detection Generalization") in ``steps`` levels, 0 for all."""
    height, width = pixels.shape[:2]
    given = torch.from_numpy(pixels).float().movedim(-1, 0)[None].to(_device(network))
    with torch.no_grad():
        maps = [level.float().cpu().numpy()[0, 0] for level in network(given)]
    mean = np.mean([cv2.resize(level, (width, height), interpolation=cv2.INTER_LINEAR) for level in maps], axis=0)
    edge = 1 / (1 + np.exp(-mean.astype(np.float64)))
    if steps:
        edge = (edge * (steps + 1)).astype(np.int32) / steps
    return (edge * 255).clip(0, 255).astype(np.uint8)


def lineart(network: nn.Module, pixels: Pixels) -> Numbers:
    """Lines of a photograph (Chan, Durand and Isola 2022, "Learning to generate line drawings")."""
    return _detected(package("lineart").LineartDetector(network, network), pixels)


def lineart_anime(network: nn.Module, pixels: Pixels) -> Numbers:
    """Lines of a drawing, by a U-Net that sees it in multiples of 256."""
    return _detected(package("lineart_anime").LineartAnimeDetector(network), pixels)


def manga_lines(network: nn.Module, pixels: Pixels) -> Numbers:
    """Lines of a manga page, its screentones left out."""
    grey = torch.from_numpy(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)).float()[None, None].to(_device(network))
    with torch.no_grad():
        found = network(grey)[0, 0].cpu().numpy()
    return 255 - found.clip(0, 255).astype(np.uint8)


def manga_resolution(resolution: int) -> int:
    """The resolution that the network of manga lines sees a page at, instead of ``resolution``."""
    return -(-resolution // _MANGA) * _MANGA


def mlsd(network: nn.Module, pixels: Pixels, score: float, distance: float) -> Numbers:
    """Straight lines (Gu et al. 2022, "Towards Light-weight and Real-time Line Segment Detection"); none of them where none is sure."""
    canvas = np.zeros(pixels.shape[:2], np.uint8)
    find = package("mlsd.utils").pred_lines
    with torch.no_grad(), quiet():
        try:
            segments = find(pixels, network, list(pixels.shape[:2]), score, distance)
        except IndexError:  # that is how it says that there are none
            return canvas
    for line in np.asarray(segments, np.float64).clip(-32_000, 32_000).astype(int).tolist():
        cv2.line(canvas, tuple(line[:2]), tuple(line[2:]), 255, 1)
    return canvas


def normal_bae(network: nn.Module, pixels: Pixels) -> Numbers:
    """Normals (Bae, Budvytis and Cipolla 2021, "Estimating and Exploiting the Aleatoric Uncertainty in Surface Normal Estimation")."""
    return _detected(package("normalbae").NormalBaeDetector(network), pixels)


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
