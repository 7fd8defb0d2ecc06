"""What there is to know of every part of a model, whatever is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from engine.models import Part


@dataclass(frozen=True, slots=True)
class PartKind:
    """``noun`` is what messages call it; ``folder`` is where it belongs when it is alone in its file."""

    noun: str
    folder: str
    precision: Literal["main", "own", "full"] = "main"
    """What it computes in: what the others do, what it is given itself (a VAE), or float32 always."""
    opened_as: Literal["model", "upscaler", "annotator"] = "model"
    """Which way its file is opened: parts of one file are opened in the same."""
    can_stream: bool = True
    """Whether its weights may come to the device block by block: not where its modules are called one by one, from elsewhere."""


PARTS: Final[Mapping[Part, PartKind]] = {
    "unet": PartKind("UNet", "diffusion_models"),
    "clip": PartKind("text encoder", "text_encoders"),
    "vae": PartKind("VAE", "vae", precision="own"),
    "clip_vision": PartKind("CLIP vision model", "clip_vision"),
    "control": PartKind("ControlNet", "controlnet"),
    "upscaler": PartKind("upscaler", "upscale_models", opened_as="upscaler"),
    "gligen": PartKind("GLIGEN model", "gligen", can_stream=False),
    "style_model": PartKind("style model", "style_models"),
    "photomaker": PartKind("PhotoMaker model", "photomaker"),
    # what annotators say is rounded to 256 levels and compared with thresholds; some work in numbers up to 255
    "annotator": PartKind("annotator", "annotators", precision="full", opened_as="annotator"),
}
