"""Lines of manga pages (Li, Liu and Wong 2017, "Deep Extraction of Manga Structural Lines"): residual blocks down four levels and up again.

Names of layers are those of the released weights.
"""

from __future__ import annotations

from torch import Tensor, nn

_WIDTHS = (24, 48, 96, 192, 384)
_DEPTHS = (2, 3, 5, 7, 12)


class _Step(nn.Module):
    """Normalised, bent, convolved; twice the size behind that where ``doubled``."""

    def __init__(self, inner: int, outer: int, *, side: int = 3, stride: int = 1, doubled: bool = False) -> None:
        super().__init__()
        convolution = nn.Conv2d(inner, outer, side, stride=stride, padding=side // 2)
        layers: list[nn.Module] = [nn.BatchNorm2d(inner, eps=1e-3), nn.LeakyReLU(0.2), convolution]
        self.model = nn.Sequential(*layers, *([nn.Upsample(scale_factor=2)] if doubled else []))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


class _Shortcut(nn.Module):
    """The way around a block, through a convolution of one pixel where the block changes sizes."""

    def __init__(self, inner: int, outer: int, *, stride: int = 1, doubled: bool = False) -> None:
        super().__init__()
        changes = inner != outer or stride != 1
        layers: list[nn.Module] = [nn.Conv2d(inner, outer, 1, stride=stride)] if changes else []
        self.model = nn.Sequential(*layers, *([nn.Upsample(scale_factor=2)] if doubled else []))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        around: Tensor = self.model(x)
        return around + y


class _Block(nn.Module):
    def __init__(self, inner: int, outer: int, *, stride: int = 1, doubled: bool = False) -> None:
        super().__init__()
        self.conv1 = _Step(inner, outer, stride=stride, doubled=doubled)
        self.residual = _Step(outer, outer)
        self.shortcut = _Shortcut(inner, outer, stride=stride, doubled=doubled)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.shortcut(x, self.residual(self.conv1(x)))
        return out


class _Level(nn.Module):
    """Blocks of one width. The last one halves the picture on the way down, the first one doubles it on the way up."""

    def __init__(self, inner: int, outer: int, count: int, *, halves: bool = False, doubles: bool = False) -> None:
        super().__init__()
        self.model = nn.Sequential(
            *(
                _Block(
                    inner if index == 0 else outer,
                    outer,
                    stride=2 if halves and index == count - 1 else 1,
                    doubled=doubles and index == 0,
                )
                for index in range(count)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


class MangaLines(nn.Module):
    """From a grey page [1,1,H,W], 0..255, to lines dark on white, about 0..255. Sides are multiples of 16."""

    def __init__(self) -> None:
        super().__init__()
        inner = 1
        for index, (width, depth) in enumerate(zip(_WIDTHS, _DEPTHS, strict=True)):
            self.add_module(f"block{index}", _Level(inner, width, depth, halves=index > 0))
            inner = width
        for index, (width, depth) in enumerate(zip(_WIDTHS[-2::-1], _DEPTHS[-2::-1], strict=True)):
            self.add_module(f"block{index + 5}", _Level(inner, width, depth, doubles=True))
            inner = width
        self.block9 = _Level(inner, 16, 2)
        self.conv15 = _Step(16, 1, side=1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for index in range(5):
            x = self.get_submodule(f"block{index}")(x)
            kept.append(x)
        for index, skipped in enumerate(kept[-2::-1]):
            x = self.get_submodule(f"block{index + 5}")(x) + skipped
        out: Tensor = self.conv15(self.block9(x))
        return out
