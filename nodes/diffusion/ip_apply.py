"""Pictures made into prompts of a model: seen by CLIP, joined, projected, weighed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from engine.errors import InputError
from engine.fileref import FileRef
from engine.models import ModelRef, ModelStore
from nodes.diffusion.configs import VisionConfig
from nodes.diffusion.ip_adapter import AdapterFile, check_model, check_vision
from nodes.diffusion.ip_attention import filled
from nodes.diffusion.ip_prompts import ImagePrompt, with_prompt
from nodes.diffusion.ip_weights import BOTH, STRONG_BOTH, Weighing
from nodes.diffusion.sources import open_source
from nodes.diffusion.vision import encode

Joining = Literal["concat", "add", "subtract", "average", "norm average", "max", "min"]

_SDXL_LAYERS: Final = 11
_COMPOSING: Final = 3
"""The transformer of SDXL's that composition comes from."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """An adapter with the CLIP vision model that sees for it, where there is one. The projection is done on ``device``."""

    adapter: AdapterFile
    vision: ModelRef | None
    store: ModelStore
    device: torch.device

    def see(self, pictures: Tensor, *, mask: Tensor | None = None, at_once: int = 0, name: str = "image") -> Tensor:
        """What CLIP sees in ``pictures`` [n,H,W,C], as the adapter reads it: [n,E] or [n,P,E]. ``at_once`` is how many are encoded in one
        call, 0 for all; ``name`` is the input that they come from.

        Raises InputError without a CLIP vision model, with another than the adapter's, or without pictures.
        """
        vision = self._eye()
        if not len(pictures):
            raise InputError("expected at least one picture, found none", input=name)
        with self.store.lease(vision) as loaded:
            parts = [encode(part, loaded, "center", mask) for part in pictures.split(at_once or len(pictures))]
        return torch.cat([part[self.adapter.output] for part in parts])

    def see_nothing(self, like: Tensor) -> Tensor:
        """What the negative side is told where it is given no picture: zeros in place of a projected state; the states of a black
        picture."""
        if not self.adapter.sees_patches:
            return torch.zeros_like(like)
        config = open_source(self._eye().location).part("clip_vision").config
        assert isinstance(config, VisionConfig)
        return self.see(torch.zeros(1, config.side, config.side, 3))

    def _eye(self) -> ModelRef:
        if self.vision is None:
            raise InputError(
                f"expected a CLIP vision model for {self.adapter.path.name}, found none; load {self.adapter.vision_title} with "
                "CLIPVisionLoader and link it, or take both from IPAdapterUnifiedLoader",
                input="clip_vision",
            )
        check_vision(self.adapter, self.vision)
        return self.vision


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What CLIP saw for one prompt: the picture and what the negative side is told, and perhaps another picture for the composition."""

    picture: Tensor
    nothing: Tensor
    composition: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Manner:
    """How a picture is followed: see ``ImagePrompt``. ``joining`` is how several pictures become one, where they are not kept ``apart``."""

    weighing: Weighing
    joining: Joining = "concat"
    start: float = 0.0
    end: float = 1.0
    scaling: str = "V only"
    apart: bool = False
    mask: Tensor | None = None


def prompted(model: ModelRef, file: FileRef, viewer: Viewer, seen: Seen, manner: Manner) -> ModelRef:
    """``model`` with a picture for a prompt. Raises InputError where the adapter in ``file`` is for another model."""
    adapter = viewer.adapter
    config = check_model(adapter, model)
    picture, nothing, composition = seen.picture, filled(seen.nothing, len(seen.picture)), seen.composition
    if not manner.apart and manner.joining != "concat" and len(picture) > 1:
        picture, nothing = joined(picture, manner.joining), nothing[:1]
        composition = None if composition is None else joined(composition, manner.joining)
    weights = manner.weighing.of(config)
    if composition is not None and len(weights) != _SDXL_LAYERS:
        raise InputError(
            "expected an SDXL model for a composition beside a style, found another; use IPAdapterAdvanced twice, with the weight types "
            "style transfer and composition",
            input="model",
        )
    prompt = ImagePrompt(
        toward=adapter.tokens(picture, viewer.device),
        away=adapter.tokens(nothing, viewer.device),
        weights=weights,
        start=manner.start,
        end=manner.end,
        scaling=manner.scaling,
        apart=manner.apart,
        mask=None if manner.mask is None else masks(manner.mask),
        reversed=manner.weighing.reversed(config),
        others={} if composition is None else {_COMPOSING: adapter.tokens(composition, viewer.device)},
    )
    return with_prompt(model, file.digest, str(file.path.resolve()), prompt)


def styled_and_composed(weight: Sequence[float], composition: float, *, strong: bool) -> Weighing:
    """The style of one picture, in most transformers with ``strong``, and the composition of another."""
    return Weighing(tuple(weight), STRONG_BOTH if strong else BOTH, composition=composition)


def masks(mask: Tensor) -> Tensor:
    """A MASK of any form as float32 [m,h,w] in contiguous memory of its own. Raises InputError for an empty one."""
    found = mask.float().reshape(-1, *mask.shape[-2:])
    if not found.numel():
        raise InputError(f"expected a mask of at least one pixel, found {list(mask.shape)}", input="attn_mask")
    return found.cpu().contiguous()


def joined(seen: Tensor, method: Joining) -> Tensor:
    """What was seen in several pictures [n,...] as one [1,...]; ``concat`` leaves them.

    ``subtract`` takes the mean of the others from the first; ``norm average`` divides each number by its norm over the pictures first.
    """
    match method:
        case "concat":
            return seen
        case "add":
            return seen.sum(0, keepdim=True)
        case "subtract":
            return seen[:1] - seen[1:].mean(0, keepdim=True) if len(seen) > 1 else seen
        case "average":
            return seen.mean(0, keepdim=True)
        case "norm average":
            norm: Tensor = torch.linalg.vector_norm(seen, dim=0, keepdim=True)
            return (seen / norm.clamp(min=torch.finfo(seen.dtype).tiny)).mean(0, keepdim=True)
        case "max":
            return seen.amax(0, keepdim=True)
        case "min":
            return seen.amin(0, keepdim=True)


def together(embeds: Sequence[Tensor], method: Joining) -> Tensor:
    """Embeddings of several nodes as one value. Raises InputError where they are of different CLIPs or kinds."""
    shapes = {tuple(it.shape[1:]) for it in embeds}
    if len(shapes) > 1:
        raise InputError(
            f"expected embeddings of one kind, found {' and '.join(str(list(shape)) for shape in sorted(shapes))}; encode all pictures "
            "with the same adapter and CLIP vision model",
            input="embed2",
        )
    return joined(torch.cat(list(embeds)), method)
