"""RetinaFace (Deng et al. 2020, "RetinaFace: Single-Shot Multi-Level Face Localisation in the Wild"): where faces, eyes, noses, mouths are.

A backbone gives maps of every 8th, 16th and 32nd pixel; a pyramid (Lin et al. 2017) adds the coarse to the fine; context modules (Najibi
et al. 2017, "SSH") look 3, 5 and 7 cells wide; three heads say for two squares at each cell whether a face is there, where its box is,
and where its points are. Names of layers are those of the released weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nodes.diffusion.annotators.networks import filled, read_tensors, without_prefix
from nodes.diffusion.faces.files import FINDERS

SQUARES: Final = 2
"""Squares that each cell answers for."""
_LEAK: Final = 0.1
"""Slope of the narrow network below zero; the wide one has none there."""


def _step(inner: int, outer: int, side: int = 3, *, stride: int = 1, leak: float = 0.0) -> nn.Sequential:
    convolution = nn.Conv2d(inner, outer, side, stride, side // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outer), nn.LeakyReLU(leak))


def _flat_step(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer))


def _separable(inner: int, outer: int, stride: int = 1) -> nn.Sequential:
    """A convolution within each channel, and one across them (Howard et al. 2017)."""
    within = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
    across = nn.Conv2d(inner, outer, 1, bias=False)
    return nn.Sequential(
        within, nn.BatchNorm2d(inner), nn.LeakyReLU(_LEAK), across, nn.BatchNorm2d(outer), nn.LeakyReLU(_LEAK)
    )


class _MobileNet(nn.Module):
    """MobileNet at a quarter of its width."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(
            _step(3, 8, stride=2, leak=_LEAK),
            _separable(8, 16),
            _separable(16, 32, 2),
            _separable(32, 32),
            _separable(32, 64, 2),
            _separable(64, 64),
        )
        self.stage2 = nn.Sequential(_separable(64, 128, 2), *(_separable(128, 128) for _ in range(5)))
        self.stage3 = nn.Sequential(_separable(128, 256, 2), _separable(256, 256))

    def forward(self, pictures: Tensor) -> list[Tensor]:
        fine = self.stage1(pictures)
        middle = self.stage2(fine)
        return [fine, middle, self.stage3(middle)]


class _ResNet(nn.Module):
    """ResNet-50 (He et al. 2016) without what it names things with."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet50

        whole: Any = resnet50(weights=None)
        self.conv1, self.bn1 = whole.conv1, whole.bn1
        self.relu, self.maxpool = whole.relu, whole.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = whole.layer1, whole.layer2, whole.layer3, whole.layer4

    def forward(self, pictures: Tensor) -> list[Tensor]:
        x = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(pictures)))))
        fine = self.layer2(x)
        middle = self.layer3(fine)
        return [fine, middle, self.layer4(middle)]


class _Pyramid(nn.Module):
    def __init__(self, inner: tuple[int, int, int], outer: int, leak: float) -> None:
        super().__init__()
        self.output1, self.output2, self.output3 = (_step(width, outer, 1, leak=leak) for width in inner)
        self.merge1, self.merge2 = (_step(outer, outer, leak=leak) for _ in range(2))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        fine, middle, coarse = self.output1(maps[0]), self.output2(maps[1]), self.output3(maps[2])
        middle = self.merge2(middle + interpolate(coarse, size=middle.shape[-2:]))
        fine = self.merge1(fine + interpolate(middle, size=fine.shape[-2:]))
        return [fine, middle, coarse]


class _Context(nn.Module):
    def __init__(self, width: int, leak: float) -> None:
        super().__init__()
        self.conv3X3 = _flat_step(width, width // 2)  # as in the files
        self.conv5X5_1 = _step(width, width // 4, leak=leak)
        self.conv5X5_2 = _flat_step(width // 4, width // 4)
        self.conv7X7_2 = _step(width // 4, width // 4, leak=leak)
        self.conv7x7_3 = _flat_step(width // 4, width // 4)

    def forward(self, x: Tensor) -> Tensor:
        near = self.conv5X5_1(x)
        seen = [self.conv3X3(x), self.conv5X5_2(near), self.conv7x7_3(self.conv7X7_2(near))]
        return torch.cat(seen, 1).relu()


class _Head(nn.Module):
    """``numbers`` for each square, [1,cells*squares,numbers], row by row."""

    def __init__(self, width: int, numbers: int) -> None:
        super().__init__()
        self.numbers = numbers
        self.conv1x1 = nn.Conv2d(width, SQUARES * numbers, 1)

    def forward(self, x: Tensor) -> Tensor:
        said: Tensor = self.conv1x1(x)
        return said.permute(0, 2, 3, 1).reshape(len(x), -1, self.numbers)


@dataclass(frozen=True, slots=True)
class _Kind:
    backbone: Callable[[], nn.Module]
    widths: tuple[int, int, int]
    """Of the backbone's three maps."""
    width: int
    """Of all that follows."""


_KINDS: Final[Mapping[str, _Kind]] = {
    "retinaface_resnet50": _Kind(_ResNet, (512, 1024, 2048), 256),
    "retinaface_mobile0.25": _Kind(_MobileNet, (64, 128, 256), 64),
}


class RetinaFace(nn.Module):
    """Pictures [B,3,H,W] as ``finding`` prepares them to what all squares say of them, the fine ones first.

    Returns scores [B,N] in 0..1 that a face is there, and of boxes [B,N,4] and points [B,N,10] how they differ from the squares.
    """

    def __init__(self, finder: str) -> None:
        super().__init__()
        kind = _KINDS[finder]
        leak = _LEAK if kind.width <= 64 else 0.0
        self.body = kind.backbone()
        self.fpn = _Pyramid(kind.widths, kind.width, leak)
        self.ssh1, self.ssh2, self.ssh3 = (_Context(kind.width, leak) for _ in range(3))
        self.ClassHead, self.BboxHead, self.LandmarkHead = (
            nn.ModuleList(_Head(kind.width, numbers) for _ in range(3)) for numbers in (2, 4, 10)
        )

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = self.fpn(self.body(pictures))
        seen = [context(x) for context, x in zip((self.ssh1, self.ssh2, self.ssh3), maps, strict=True)]
        classes, boxes, points = (
            torch.cat([head(x) for head, x in zip(heads, seen, strict=True)], 1)
            for heads in (self.ClassHead, self.BboxHead, self.LandmarkHead)
        )
        return classes.softmax(-1)[..., 1], boxes, points


def load_retinaface(finder: str, path: Path) -> nn.Module:
    """The network called ``finder``, one of ``FINDERS``, with the weights at ``path``. Raises ModelFileError where they are another's."""
    with torch.device("meta"):
        module = RetinaFace(finder)
    return filled(module, without_prefix(read_tensors(path)), path, FINDERS[finder].label)
