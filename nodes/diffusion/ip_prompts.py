"""Pictures as prompts of a model: patches of its recipe that leave the weights as they are.

Such a patch names an adapter's file and holds the tokens that its projection made of a picture. Whoever samples the model puts them
beside the text in cross attention (``ip_attention``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from torch import Tensor

from engine.models import Digest, ModelRef, Patch
from nodes.diffusion.ip_weights import Weights
from nodes.diffusion.packed import packed, unpacked

KIND: Final = "ip_adapter"
"""Of these patches."""

_OPTION: Final = "prompt"

SCALINGS: Final = ("V only", "K+V", "K+V w/ C penalty", "K+mean(V) w/ C penalty")
"""What a weight multiplies: what is found in the picture; keys and values; these times the part that the width is of 1280; or of the
values their mean alone."""


@dataclass(frozen=True, slots=True, eq=False)
class ImagePrompt:
    """What a UNet is told of a picture.

    ``toward`` and ``away`` are the tokens [n,T,D] for the positive and for the negative side. Of several pictures all samples see all,
    or with ``apart`` each its own, the last one those beyond. ``weights`` are for the transformers, in the order in which they compute;
    those numbered in ``reversed`` are led away from the picture, and those in ``others`` see other tokens instead.

    ``mask`` [m,h,w] lies over the whole picture, 1 where the prompt is to be followed; one for each sample, the last for those beyond.
    It holds between the parts ``start`` and ``end`` of a run.
    """

    toward: Tensor
    away: Tensor
    weights: Weights
    start: float = 0.0
    end: float = 1.0
    scaling: str = SCALINGS[0]
    apart: bool = False
    mask: Tensor | None = None
    reversed: list[int] = field(default_factory=list)
    others: Mapping[int, Tensor] = field(default_factory=dict)


def with_prompt(model: ModelRef, digest: Digest, location: str, prompt: ImagePrompt) -> ModelRef:
    """``model`` with a picture for a prompt, seen through the adapter at ``location`` of that content, beside those it has."""
    values = {entry.name: getattr(prompt, entry.name) for entry in fields(prompt)}
    return model.with_patches(Patch(KIND, digest, 1.0, location, ((_OPTION, packed(values)),)))


def prompts_of(model: ModelRef) -> list[tuple[str, ImagePrompt]]:
    """The pictures of a model, each with the place of its adapter's file, in the order in which they were given."""
    return [
        (patch.location, ImagePrompt(**_values(dict(patch.options)))) for patch in model.patches if patch.kind == KIND
    ]


def _values(options: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = unpacked(str(options[_OPTION]))
    return values
