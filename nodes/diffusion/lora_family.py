"""Which family of models a LoRA is made for, told by the names and shapes of what it changes."""

from __future__ import annotations

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


def context_width(groups: Mapping[str, Group], tensors: Tensors) -> int | None:
    """Width of the text that the cross attention reads which is changed; None where none is that tells."""
    for spelled, group in groups.items():
        role = next((role for role in ("down", "hada_w1_b", "diff") if role in group), None)
        if spelled.endswith(_CROSS_READERS) and role and len(shape := tensors[group[role]].shape) > 1:
            return shape[1]
    return None


def family_of(groups: Mapping[str, Group], tensors: Tensors) -> str | None:
    """The family that the changes look made for, None where nothing tells."""
    if (width := context_width(groups, tensors)) is not None:
        return BY_WIDTH.get(width, f"a UNet that reads texts {width} wide")
    return next((family for mark, family in _BY_NAME if any(mark in spelled for spelled in groups)), None)
