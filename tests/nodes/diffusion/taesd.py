"""TAESD as its author lays it out (Ollin Boer Bohan, "Tiny AutoEncoder for Stable Diffusion"), small, with random weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

WIDTH = 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        three = [nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(three[0], nn.ReLU(), three[1], nn.ReLU(), three[2])

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x) + x).relu()  # type: ignore[no-any-return]


class Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x / 3).tanh() * 3


def plain(before: int = WIDTH, after: int = WIDTH) -> nn.Module:
    return nn.Conv2d(before, after, 3, padding=1)


def halving() -> nn.Module:
    return nn.Conv2d(WIDTH, WIDTH, 3, padding=1, stride=2, bias=False)


def doubling() -> list[nn.Module]:
    return [nn.Upsample(scale_factor=2), nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)]


@dataclass(frozen=True)
class Taesd:
    """Its networks see latents as the diffusion model does, and pictures in 0..1."""

    encoder: nn.Sequential
    decoder: nn.Sequential

    def half(self, name: str) -> dict[str, Tensor]:
        return dict(getattr(self, name).state_dict())

    def original(self) -> dict[str, Tensor]:
        """Both halves in one file."""
        return {f"taesd_{half}.{name}": it for half in ("encoder", "decoder") for name, it in self.half(half).items()}

    def bare(self) -> dict[str, Tensor]:
        """As a module of both halves stores itself."""
        return {name.removeprefix("taesd_"): it for name, it in self.original().items()}

    def diffusers(self) -> dict[str, Tensor]:
        """As diffusers has them: without the clamp, one less for the decoder's layers."""
        renamed = {}
        for half, first in (("encoder", 0), ("decoder", 1)):
            for name, it in self.half(half).items():
                number, _, rest = name.partition(".")
                renamed[f"{half}.layers.{int(number) - first}.{rest}"] = it
        return renamed

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """[B,C,h,w] as the model sees them to [B,H,W,3]."""
        picture: Tensor = self.decoder(latents)
        return picture.clamp(0, 1).movedim(1, -1)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        found: Tensor = self.encoder(pictures.movedim(-1, 1))
        return found


def _three() -> list[nn.Module]:
    return [Block(), Block(), Block()]


def taesd(channels: int = 4, seed: int = 0) -> Taesd:
    torch.manual_seed(seed)
    encoder = nn.Sequential(
        plain(3), Block(), halving(), *_three(), halving(), *_three(), halving(), *_three(), plain(WIDTH, channels)
    )
    decoder = nn.Sequential(
        Clamp(), plain(channels), nn.ReLU(), *_three(), *doubling(), *_three(), *doubling(), *_three(), *doubling(), Block(),
        plain(WIDTH, 3),
    )  # fmt: skip
    return Taesd(encoder, decoder)
