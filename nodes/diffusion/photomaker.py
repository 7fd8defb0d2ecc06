"""A person's looks as a word (Li et al. 2024, "PhotoMaker: Customizing Realistic Human Photos via Stacked ID Embedding", section 3.2):
what CLIP sees of a picture of them is fused with the word before the trigger word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.errors import InputError
from nodes.diffusion.configs import PhotoMakerConfig
from nodes.diffusion.towers import VisionTower
from nodes.diffusion.vision import prepared

if TYPE_CHECKING:
    from nodes.diffusion.store import LoadedModel

TRIGGER: Final = "photomaker"
"""The word whose place in a prompt says which word means the person: the one before it."""


class _Mlp(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(before)
        self.fc1, self.fc2 = nn.Linear(before, after), nn.Linear(after, after)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.fc2(functional.gelu(self.fc1(self.layernorm(x))))
        return changed


class _Fuse(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp1, self.mlp2 = _Mlp(2 * width, width), _Mlp(width, width)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, word: Tensor, person: Tensor) -> Tensor:
        """``word`` and ``person``, each [N,D], as one [N,D]."""
        x = self.mlp1(torch.cat([word, person], -1)) + word
        fused: Tensor = self.layer_norm(self.mlp2(x) + x)
        return fused


class PhotoMaker(nn.Module):
    """CLIP's image encoder with a projection for each of the two text encoders, and what fuses a word with a person."""

    def __init__(self, config: PhotoMakerConfig) -> None:
        super().__init__()
        self.tower = VisionTower(config.vision)
        self.second = nn.Linear(config.vision.width, config.second, bias=False)
        self.fuse = _Fuse(config.text_width)

    def forward(self, pixels: Tensor, word: Tensor) -> Tensor:
        """The fused word [N,D] of pictures [N,3,side,side] and the word's state [N,D]."""
        tower: Any = self.tower
        pooled = tower.vision(pixel_values=pixels).pooler_output
        return self.fuse(word, torch.cat([tower.projection(pooled), self.second(pooled)], -1))  # type: ignore[no-any-return]


def split(text: str) -> tuple[str, int | None]:
    """The prompt without its first trigger word, and that word's number among the words; None where it has none."""
    words = text.split(" ")
    if TRIGGER not in words:
        return text, None
    place = words.index(TRIGGER)
    return " ".join(words[:place] + words[place + 1 :]), place


@torch.inference_mode()
def told(entry: tuple[Tensor, Mapping[str, Any]], place: int, pictures: Tensor, maker: LoadedModel) -> list[Any]:
    """``entry`` with the token number ``place`` of its text fused with the person in the first of ``pictures`` [B,H,W,C].

    Raises InputError for text of another width, no picture, or a trigger word beyond the first tokens.
    """
    text, options = entry
    config = maker.config
    assert isinstance(config, PhotoMakerConfig)
    if text.shape[-1] != config.text_width:
        raise InputError(
            f"expected text {config.text_width} wide, for which the PhotoMaker model is made, found {text.shape[-1]}; "
            "connect the CLIP of a Stable Diffusion XL model",
            input="clip",
        )
    if not len(pictures):
        raise InputError("expected a picture of a person, found none", input="image")
    if place >= text.shape[1]:
        raise InputError(
            f"expected the word {TRIGGER} among the first {text.shape[1]}, found it behind them", input="text"
        )
    pixels = prepared(pictures[:1], config.vision.side, "center").to(maker.device, maker.dtype)
    fused = maker.module(pixels, text[:, place].to(maker.device, maker.dtype))
    changed = text.clone()
    changed[:, place] = fused.float().cpu()
    return [changed, dict(options)]
