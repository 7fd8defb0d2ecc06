"""Which family of models a LoRA is made for, told by the names and shapes of what it changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from nodes.diffusion.checkpoints import Tensors
from nodes.diffusion.lora_keys import Group

BY_WIDTH: Final[Mapping[int, str]] = {
    768: "Stable Diffusion 1",
    1024: "Stable Diffusion 2",
    1280: "the SDXL refiner",
    2048: "SDXL",
}
"""Width of the text that a UNet's cross attention reads -> family."""

_BY_NAME: Final = (
    ("joint_blocks", "Stable Diffusion 3"),
    ("double_blocks", "FLUX"),
    ("single_transformer_blocks", "FLUX"),
    ("attn_add_k_proj", "Stable Diffusion 3"),
    ("attn.add_k_proj", "Stable Diffusion 3"),
    ("lora_te2_", "SDXL"),
    ("text_encoder_2.", "SDXL"),
)
"""Parts of modules' names that only one family has, the more telling first."""

_CROSS_READERS: Final = ("attn2_to_k", "attn2_to_v", "attn2.to_k", "attn2.to_v", "attn2.processor.to_k")


_INPUT_SIDES: Final = (
    ("down",),
    ("hada_w1_b",),
    ("lokr_w1", "lokr_w2"),
    ("lokr_w1", "lokr_w2_b"),
    ("lokr_w1_b", "lokr_w2"),
    ("lokr_w1_b", "lokr_w2_b"),
    ("diff",),
)
"""Roles whose columns, multiplied, are the inputs of the layer they change."""


def context_width(groups: Mapping[str, Group], tensors: Tensors) -> int | None:
    """Width of the text that the cross attention reads which is changed; None where none is that tells."""
    readers = (group for spelled, group in groups.items() if spelled.endswith(_CROSS_READERS))
    return next((width for group in readers if (width := _inputs(group, tensors)) is not None), None)


def _inputs(group: Group, tensors: Tensors) -> int | None:
    """How many inputs a linear layer has that ``group`` changes, where its factors tell."""
    for roles in _INPUT_SIDES:
        shapes = [tensors[group[role]].shape for role in roles if role in group]
        if len(shapes) == len(roles) and all(len(shape) > 1 for shape in shapes):
            return math.prod(shape[1] for shape in shapes)
    return None


def marked_family(groups: Mapping[str, Group]) -> str | None:
    """The family that names of modules tell, if any do."""
    return next((family for mark, family in _BY_NAME if any(mark in spelled for spelled in groups)), None)


def family_of(groups: Mapping[str, Group], tensors: Tensors, metadata: Mapping[str, str]) -> str | None:
    """The family that the changes look made for, None where nothing tells."""
    if (width := context_width(groups, tensors)) is not None:
        return BY_WIDTH.get(width, f"a UNet that reads texts {width} wide")
    stated = metadata.get("modelspec.architecture", "").partition("/")[0]
    return marked_family(groups) or stated or None
