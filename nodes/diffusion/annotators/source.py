"""An annotator's weights as the model store takes them: a network, filled, and its tensors again whenever they have gone from the device.

Most annotators were released as pickles. They are read with torch's ``weights_only``, which builds nothing but tensors and plain
containers; a safetensors file made by ``mezzotint models convert`` does as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import nn

from engine.errors import MissingFile
from engine.models import ModelRef, Part
from nodes.diffusion.configs import AnnotatorConfig, Schedule
from nodes.diffusion.sources import Facts

NETWORK: Final = "network"
"""The setting of a recipe that names its network."""


class Weights(Mapping[str, torch.Tensor]):
    """The tensors of a network by its own names. They are read whole when they are iterated over, and not kept."""

    def __init__(self, source: AnnotatorSource, filled: nn.Module) -> None:
        self._source = source
        self._names = tuple(filled.state_dict())
        self._now: dict[str, torch.Tensor] | None = dict(filled.state_dict())

    def __getitem__(self, name: str) -> torch.Tensor:
        if self._now is None:
            self._now = dict(self._source.fill().state_dict())
        return self._now[name].detach()

    def __iter__(self) -> Iterator[str]:
        yield from self._names
        self._now = None

    def __len__(self) -> int:
        return len(self._names)


class AnnotatorSource:
    """The file or folder of an annotator's weights."""

    can_stream = False
    """Those who run these networks ask them where they are, so they are there whole."""
    keeps_tensors = True

    def __init__(self, network: str, path: Path) -> None:
        if not path.exists():
            raise MissingFile(f"expected a model at {path}, found nothing; it was moved or deleted since it was chosen")
        self._config = AnnotatorConfig(network)
        self.path = path

    @property
    def facts(self) -> Facts:
        """An annotator has no latents; these are those of nothing."""
        return Facts(latent_channels=0, scale_factor=1.0, downscale=1, schedule=Schedule())

    def config(self, part: Part) -> AnnotatorConfig:
        return self._config

    def fill(self) -> nn.Module:
        """The network with its weights in main memory. Raises ModelFileError where they are another's."""
        from nodes.diffusion.annotators.networks import load

        return load(self._config.network, self.path)

    def build(self) -> tuple[nn.Module, Mapping[str, torch.Tensor]]:
        """The network and its weights."""
        module = self.fill()
        return module, Weights(self, module)


def open_annotator(ref: ModelRef) -> AnnotatorSource:
    """The source of an annotator's recipe. Raises MissingFile when nothing is where it says."""
    return AnnotatorSource(str(ref.setting(NETWORK)), Path(ref.location))
