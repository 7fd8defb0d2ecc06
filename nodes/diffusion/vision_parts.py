"""CLIP's image encoder in a file: where it is, in which layout, and of which sizes."""

from __future__ import annotations

import math
from typing import Final

from engine.errors import ModelFileError
from nodes.diffusion.checkpoints import Tensors
from nodes.diffusion.configs import CLIP_HEAD_WIDTH, VisionConfig
from nodes.diffusion.convert import Names, Stored
from nodes.diffusion.infer import Metadata, count, override, shape_of
from nodes.diffusion.layouts import open_clip_layer

_TRANSFORMERS: Final = ("vision_model.", "")
_TRANSFORMERS_MARK: Final = "embeddings.patch_embedding.weight"
_OPEN_CLIP: Final = ("embedder.model.visual.", "visual.")
"""Where unCLIP checkpoints have it, and files of CLIP alone."""
_OPEN_CLIP_MARK: Final = "conv1.weight"

_OPEN_CLIP_NAMES: Final = {
    "class_embedding": "embeddings.class_embedding",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",  # transformers spells it so
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}

_HEADS: Final = 16
"""Of ViT-L, H and bigG alike; smaller ones have heads as wide as all of CLIP's text encoders."""
_LARGE: Final = 1024
"""Width of ViT-L, the widest that OpenAI trained, with a quicker GELU than wider ones have."""


def find_vision(tensors: Tensors, metadata: Metadata) -> tuple[VisionConfig, Names] | None:
    """The image encoder of a file, None where there is none. Raises ModelFileError for one of impossible shapes."""
    for prefix in _OPEN_CLIP:
        if prefix + _OPEN_CLIP_MARK in tensors and prefix + "transformer.resblocks.0.ln_1.weight" in tensors:
            return _found(tensors, _open_clip(tensors, prefix), metadata)
    for prefix in _TRANSFORMERS:
        if prefix + _TRANSFORMERS_MARK in tensors and prefix + "pre_layrnorm.weight" in tensors:
            return _found(tensors, _transformers(tensors, prefix), metadata)
    return None


def _transformers(tensors: Tensors, prefix: str) -> dict[str, Stored]:
    parts = ("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.")
    names = {
        f"vision.{name.removeprefix(prefix)}": Stored(name)
        for name in tensors
        if name.startswith(prefix) and name.removeprefix(prefix).startswith(parts)
    }
    projection = "visual_projection.weight"
    return names | ({"projection.weight": Stored(projection)} if projection in tensors else {})


def _open_clip(tensors: Tensors, prefix: str) -> dict[str, Stored]:
    names: dict[str, Stored] = {}
    for stored in tensors:
        name = stored.removeprefix(prefix)
        if not stored.startswith(prefix):
            continue
        if name == "proj":
            names["projection.weight"] = Stored(stored, transposed=True)
        elif name.startswith("transformer.resblocks."):
            names |= {f"vision.encoder.layers.{new}": where for new, where in open_clip_layer(stored, name)}
        else:
            names[f"vision.{_OPEN_CLIP_NAMES.get(name, name)}"] = Stored(stored)
    return names


def _found(tensors: Tensors, names: dict[str, Stored], metadata: Metadata) -> tuple[VisionConfig, Names]:
    own = {new: tensors[where.name] for new, where in names.items()}
    width, _, patch, _ = shape_of(own, "vision.embeddings.patch_embedding.weight", 4)
    places = shape_of(own, "vision.embeddings.position_embedding.weight", 2)[0] - 1
    if math.isqrt(places) ** 2 != places:
        raise ModelFileError(f"expected a CLIP vision model that sees a square of patches, found {places} patches")
    projection = names.get("projection.weight")
    config = VisionConfig(
        width=width,
        layers=count(own, "vision.encoder.layers.{}.layer_norm1.weight"),
        heads=_HEADS if width >= _LARGE else max(width // CLIP_HEAD_WIDTH, 1),
        patch=patch,
        side=math.isqrt(places) * patch,
        intermediate=shape_of(own, "vision.encoder.layers.0.mlp.fc1.weight", 2)[0],
        activation="quick_gelu" if width <= _LARGE else "gelu",
        projection=None if projection is None else projection.shape(tensors[projection.name].shape)[0],
    )
    config = override(config, "vision", metadata, {"heads": "heads", "act": "activation"})
    if config.width % config.heads:
        raise ModelFileError(f"expected a vision width divisible by {config.heads} heads, found {config.width}")
    return config, names
