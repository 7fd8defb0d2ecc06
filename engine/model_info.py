"""What a model file is, in words and numbers: what the node packages find out, for whoever asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class PartInfo:
    """A network in a model file."""

    name: str
    parameters: int
    """How many numbers its weights are."""
    summary: str
    """Its sizes in a line."""
    sizes: Mapping[str, Any]
    """The same for programs, as plain data."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a file or a diffusers folder holds, told by the names and shapes of its tensors."""

    what: str
    """A phrase, such as ``Stable Diffusion XL: UNet, text encoder, VAE`` or ``a LoRA for SDXL``."""
    family: str | None = None
    parts: tuple[PartInfo, ...] = ()
    prediction: str | None = None
    """What its UNet predicts: ``epsilon``, ``v_prediction`` or ``flow``."""
    tensors: int = 0
    dtypes: Mapping[str, int] = field(default_factory=dict)
    """Tensors by dtype, as safetensors names dtypes."""
    folder: str | None = None
    """The key of the model folder where such a file is looked for."""

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "family": self.family,
            "parts": {part.name: {"parameters": part.parameters, "sizes": dict(part.sizes)} for part in self.parts},
            "prediction": self.prediction,
            "tensors": self.tensors,
            "dtypes": dict(self.dtypes),
        }
