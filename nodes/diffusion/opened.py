"""A network and where its weights come from: put on a device, set to stream there, and taken off again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from engine.errors import ResourceError, is_out_of_memory
from engine.models import ModelRef, Part
from nodes.diffusion import networks, offload
from nodes.diffusion.annotators.source import AnnotatorSource, open_annotator
from nodes.diffusion.overlay import Overlaid
from nodes.diffusion.parts import PARTS
from nodes.diffusion.sources import Source, open_source
from nodes.diffusion.upscalers import UpscalerSource

State = Literal["stripped", "resident", "streamed"]

AnySource = Source | UpscalerSource | AnnotatorSource


@dataclass(slots=True)
class Opened:
    """A network, for now stripped of its weights. The tensors it was stripped to are in ``dtype``, as those that are put there will be."""

    source: AnySource
    module: nn.Module
    weights: Mapping[str, torch.Tensor]
    dtype: torch.dtype
    nbytes: int
    block_bytes: int
    state: State = "stripped"
    derived: dict[str, Any] = field(default_factory=dict)
    sent: Overlaid | None = None
    """What a streamed module takes its weights from."""
    owners: Mapping[str, nn.Module] = field(default_factory=dict)
    """Its modules by name, once they were asked for."""

    @property
    def device_bytes(self) -> int:
        return {"stripped": 0, "resident": self.nbytes, "streamed": self.block_bytes}[self.state]

    def trace(self) -> networks.Trace:
        """A streamed module changes its tensors with every call; only the rest of it can tell."""
        return networks.trace(self.module, tensors=self.state == "resident" and self.source.keeps_tensors)

    def exchanged(self, tensors: Mapping[str, nn.Parameter]) -> AbstractContextManager[None]:
        """See ``store.LoadedModel``."""
        if self.sent is not None:
            return self.sent.exchanged(tensors)
        self.owners = self.owners or dict(self.module.named_modules())
        return networks.exchanged(self.owners, tensors)

    def load(self, state: State, device: torch.device) -> None:
        """Bring the weights to ``device``, whole or to be streamed. Raises ResourceError where they find no room."""
        self.strip()
        if state == "streamed":
            self.sent = Overlaid({}, _held(self.weights, self.dtype))
            offload.stream(self.module, self.sent, device)
        else:
            self._upload(device)
        self.state = state

    def _upload(self, device: torch.device) -> None:
        """Put the weights on the device one after the other, so that never more than one is there in two dtypes."""
        module, weights, dtype = self.module, self.weights, self.dtype
        try:
            # outside of inference mode, so that a changed tensor can be told by its version
            with torch.inference_mode(False), torch.no_grad():
                moved = ((name, weights[name].to(device)) for name in weights)
                networks.assign(module, ((name, it.to(networks.dtype_in(it, dtype))) for name, it in moved))
                networks.assign(module, ((name, it.to(device)) for name, it in networks.computed_buffers(module)))
        except Exception as error:
            networks.strip(module, dtype)
            if not is_out_of_memory(error):
                raise
            raise ResourceError(
                f"expected room for {self.nbytes} bytes of weights on {device}, found too little; "
                "give a smaller --vram-budget, so that weights are streamed"
            ) from error

    def strip(self) -> None:
        """Take the weights off the device, if they are there."""
        if self.state == "stripped":
            return
        if self.state == "streamed":
            offload.stop_streaming(self.module)
            self.sent = None
        networks.strip(self.module, self.dtype)
        self.state = "stripped"


def _held(weights: Mapping[str, torch.Tensor], dtype: torch.dtype) -> Mapping[str, torch.Tensor]:
    """``weights`` for streaming, which asks for each of them in every step: what patches make is made once."""
    if not isinstance(weights, Overlaid):
        return weights
    return Overlaid({name: weights.above[name].to(dtype).cpu() for name in weights.above}, weights.below)


def new_source(ref: ModelRef) -> AnySource:
    """The file or folder of a recipe, opened. Raises MissingFile and ModelFileError."""
    match PARTS[ref.part].opened_as:
        case "annotator":
            return open_annotator(ref)
        case "upscaler":
            return UpscalerSource(Path(ref.location))
        case "model":
            return open_source(ref.location)


def are_opened_alike(one: Part, other: Part) -> bool:
    """Whether both parts can be of one source."""
    return PARTS[one].opened_as == PARTS[other].opened_as


def built(source: AnySource, part: Part) -> tuple[nn.Module, Mapping[str, torch.Tensor]]:
    """The network of ``part``, and its pristine weights."""
    if isinstance(source, AnnotatorSource):
        return source.build()
    module = source.network(part)
    return module, source.weights(part, networks.wanted_shapes(module))


def opened(source: AnySource, module: nn.Module, weights: Mapping[str, torch.Tensor], dtype: torch.dtype) -> Opened:
    """``module``, stripped, with ``weights`` to come."""
    networks.strip(module, dtype)
    size = networks.weight_bytes(module, dtype)
    return Opened(source, module, weights, dtype, size, offload.largest_block(module, dtype))
