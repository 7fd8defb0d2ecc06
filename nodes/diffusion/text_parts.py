"""The text encoders in a file: which there are, in which layout, and which family they are of together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nodes.diffusion.checkpoints import Tensors
from nodes.diffusion.configs import FamilyName, T5Config, TextConfig, Tower, TowersConfig
from nodes.diffusion.convert import Names
from nodes.diffusion.family import FAMILIES
from nodes.diffusion.infer import Metadata, clip_config, open_clip_config, t5_config
from nodes.diffusion.layouts import TOWER_PREFIXES, clip_names, open_clip_names, t5_names

_MOST_SPECIAL_FIRST: Final[tuple[FamilyName, ...]] = ("sd3", "sdxl", "refiner", "sd2", "sd1")
"""The order in which a checkpoint's text encoders are held against the families'."""

_CLIP_MARK: Final = "embeddings.token_embedding.weight"
_OPEN_CLIP_MARK: Final = "transformer.resblocks.0.ln_1.weight"
_T5_MARK: Final = "encoder.block.0.layer.0.SelfAttention.q.weight"

Found = tuple[TextConfig | T5Config, Names]


def find_texts(tensors: Tensors, metadata: Metadata) -> tuple[TowersConfig, Names] | None:
    """The text encoders of a checkpoint, or the one that a file holds alone; None where there is none.

    Raises ModelFileError for one of impossible shapes.
    """
    for kind in _MOST_SPECIAL_FIRST:
        places = {tower: prefix for (family, tower), prefix in TOWER_PREFIXES.items() if family == kind}
        found = {
            tower: _at(tensors, start, tower, metadata)
            for tower, prefix in places.items()
            for start in (prefix, f"{prefix}text_model.")  # Stable Diffusion 1's from before 2023 lack the last name
            if _is_at(tensors, start)
        }
        if found and (kind == "sd3" or len(found) == len(places)):
            return together(kind, found)
    alone = find_tower(tensors, metadata)
    return None if alone is None else together(ALONE[alone[0]], {alone[0]: alone[1]})


def find_tower(tensors: Tensors, metadata: Metadata) -> tuple[Tower, Found] | None:
    """The one text encoder of a file that holds nothing else."""
    for prefix in ("text_model.", ""):
        if prefix + _CLIP_MARK in tensors:
            width = tensors[prefix + _CLIP_MARK].shape[-1]
            tower: Tower = BY_WIDTH.get(width, "l")
            return tower, _at(tensors, prefix, tower, metadata)
    for prefix in ("", "model."):
        if prefix + _OPEN_CLIP_MARK in tensors:
            tower = BY_WIDTH.get(tensors[prefix + "token_embedding.weight"].shape[-1], "g")
            return tower, _at(tensors, prefix, tower, metadata)
    return ("t5", _at(tensors, "", "t5", metadata)) if _T5_MARK in tensors else None


BY_WIDTH: Final[dict[int, Tower]] = {768: "l", 1024: "h", 1280: "g"}


ALONE: Final[dict[Tower, FamilyName]] = {"l": "sd1", "h": "sd2", "g": "refiner", "t5": "sd3"}
"""Whose only text encoder, or a part of whose, a tower is."""


def _is_at(tensors: Tensors, prefix: str) -> bool:
    return any(prefix + mark in tensors for mark in (_CLIP_MARK, _OPEN_CLIP_MARK, _T5_MARK))


def _at(tensors: Tensors, prefix: str, tower: Tower, metadata: Metadata) -> Found:
    if prefix + _T5_MARK in tensors:
        return t5_config(tensors, prefix), t5_names(tensors, prefix)
    if prefix + _OPEN_CLIP_MARK in tensors:
        return open_clip_config(tensors, prefix), open_clip_names(tensors, prefix, tower)
    activation = "quick_gelu" if tower == "l" else "gelu"
    config = clip_config(tensors, prefix, metadata, activation=activation)
    return config, clip_names(tensors, prefix, tower)


def together(kind: FamilyName, found: Mapping[Tower, Found]) -> tuple[TowersConfig, Names]:
    """Text encoders as one network's, in the order of their family."""
    order = [tower for tower in FAMILIES[kind].towers if tower in found]
    names = {name: stored for tower in order for name, stored in found[tower][1].items()}
    return TowersConfig(kind, tuple((tower, found[tower][0]) for tower in order)), names
