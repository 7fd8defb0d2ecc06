"""Depth, and normals made from it. Near is bright.

Networks of transformers see the picture as the folder of their weights says; what they find is brought back to the picture's size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nodes.diffusion.annotators.frames import Numbers, Pixels
from nodes.diffusion.annotators.packaged import package, quiet

_LEAST: Final = 1e-6
"""Of a difference in depth that is one."""


def seen(network: nn.Module, pixels: Pixels, folder: Path) -> Numbers:
    """What a network of transformers finds, [H,W] in its own units, float32."""
    from transformers import AutoImageProcessor, DPTImageProcessor

    # where the folder does not say how pictures are prepared, or there is none, it is as all depth networks of this kind have it
    told = (folder / "preprocessor_config.json").is_file()
    processor: Any = (
        AutoImageProcessor.from_pretrained(str(folder), local_files_only=True) if told else DPTImageProcessor(**_DINO)
    )
    given = processor(images=pixels, return_tensors="pt")["pixel_values"].to(next(network.parameters()).device)
    height, width = pixels.shape[:2]
    with torch.no_grad():
        outputs = network(pixel_values=given)
        if hasattr(processor, "post_process_depth_estimation") and hasattr(processor, "do_pad") and processor.do_pad:
            found = processor.post_process_depth_estimation(outputs, source_sizes=[(height, width)])[0][
                "predicted_depth"
            ]
        else:
            found = outputs.predicted_depth[0]
        whole: Tensor = interpolate(found[None, None].float(), size=(height, width), mode="bicubic")[0, 0]
    return whole.cpu().numpy()


_DINO: Final[dict[str, Any]] = {
    "size": {"height": 518, "width": 518},
    "keep_aspect_ratio": True,
    "ensure_multiple_of": 14,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
"""How pictures are prepared for Depth Anything."""


def midas(network: nn.Module, pixels: Pixels, folder: Path) -> Numbers:
    """Inverse depth (Ranftl et al. 2021, "Vision Transformers for Dense Prediction"), [H,W]."""
    if folder.is_dir():
        return seen(network, pixels, folder)
    given = torch.from_numpy(pixels).float().movedim(-1, 0)[None].to(next(network.parameters()).device)
    with torch.no_grad():
        found: Numbers = network(given / 127.5 - 1)[0].cpu().numpy()
    return found


def relief(depth: Numbers) -> Numbers:
    """Depth as levels, the nearest white and the farthest black. What is all as far away is black."""
    whole = np.nan_to_num(depth.astype(np.float64))
    spread = whole.max() - whole.min()
    if spread < _LEAST:
        return np.zeros(depth.shape, np.uint8)
    return ((whole - whole.min()) / spread * 255).clip(0, 255).astype(np.uint8)


def normals(depth: Numbers, strength: float, background: float) -> Numbers:
    """Normals of inverse depth, from its slopes; the smaller ``strength`` the steeper. What is nearer to the farthest than ``background``
    of the whole depth faces the viewer."""
    whole = np.nan_to_num(depth.astype(np.float32))
    spread = max(float(whole.max() - whole.min()), _LEAST)
    far = (whole - whole.min()) / spread < background
    x, y = (np.where(far, 0, cv2.Sobel(whole, cv2.CV_32F, dx, 1 - dx, ksize=3)) for dx in (1, 0))
    found = np.stack([x, y, np.full_like(whole, strength)], axis=2)
    found /= np.maximum(np.sqrt((found**2).sum(axis=2, keepdims=True)), _LEAST)
    return (found * 127.5 + 127.5).clip(0, 255).astype(np.uint8)[..., ::-1]


def zoe(network: nn.Module, pixels: Pixels, folder: Path) -> Numbers:
    """Metric depth (Bhat et al. 2023, "ZoeDepth") as levels, between its second and its eighty-fifth hundredth."""
    found = seen(network, pixels, folder)
    nearest, farthest = np.percentile(found, (2, 85))
    if farthest - nearest < _LEAST:
        return np.zeros(found.shape, np.uint8)
    return ((1 - (found - nearest) / (farthest - nearest)) * 255).clip(0, 255).astype(np.uint8)


def leres(
    network: nn.Module, pixels: Pixels, *, near: float, background: float, boost: nn.Module | None = None
) -> Numbers:
    """Depth (Yin et al. 2021, "Learning to Recover 3D Scene Shape"), with ``boost`` merged from several sizes (Miangoleh et al. 2021).

    ``near`` and ``background`` are percents: what is nearer, or farther, than that becomes black.
    """
    tools, height, width = package("leres.leres.depthmap"), *pixels.shape[:2]
    with torch.no_grad(), quiet():
        if boost is None:
            found = tools.estimateleres(pixels, network, width, height)
        else:
            found = tools.estimateboost(pixels, network, 0, _Merger(boost), max(width, height))
    levels = relief(found)
    if near:
        levels = cv2.threshold(levels, near / 100 * 255, 255, cv2.THRESH_TOZERO)[1]
    levels = 255 - levels
    if background:
        levels = cv2.threshold(levels, background / 100 * 255, 255, cv2.THRESH_TOZERO)[1]
    return levels


class _Merger:
    """The network that merges two estimates, as the package calls it."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._given: Tensor | None = None

    def set_input(self, outer: Numbers, inner: Numbers) -> None:
        pair = [torch.from_numpy(it).float() for it in (outer, inner)]
        spread = [(it - it.min()) / (it.max() - it.min()).clamp_min(_LEAST) * 2 - 1 for it in pair]
        self._given = torch.stack(spread)[None].to(next(self._network.parameters()).device)

    def test(self) -> None:
        """The package asks for this before the result."""

    def get_current_visuals(self) -> dict[str, Tensor]:
        assert self._given is not None
        return {"fake_B": self._network(self._given)}
