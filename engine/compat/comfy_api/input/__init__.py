"""``comfy_api.input``: types of values, for annotations."""

from __future__ import annotations

from typing import Any, TypedDict

from engine.compat.missing import module_getattr

ImageInput = Any
"""A tensor [B,H,W,C]."""
MaskInput = Any
"""A tensor [B,H,W]."""


class LatentInput(TypedDict, total=False):
    """A latent."""

    samples: Any
    noise_mask: Any
    batch_index: list[int]


class AudioInput(TypedDict):
    """Sound: a tensor [B,channels,samples] and samples per second."""

    waveform: Any
    sample_rate: int


class VideoInput:
    """Base of videos: a VIDEO is what a pack makes one."""

    def get_components(self) -> Any:
        raise NotImplementedError

    def get_dimensions(self) -> tuple[int, int]:
        images = self.get_components().images
        return int(images.shape[2]), int(images.shape[1])

    def save_to(self, path: str, **kwargs: Any) -> None:
        raise NotImplementedError


__getattr__ = module_getattr(__name__)
