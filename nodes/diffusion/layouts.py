"""Names in the original layout for the tensors of a built network: the way back from ``convert``.

Merges by block, saved checkpoints and LoRAs speak of modules by the names of the original latent diffusion code. They all read
the one table that a checkpoint is loaded with, so a family that has a table has these names too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from nodes.diffusion.configs import PartConfig, UNetConfig, VaeConfig
from nodes.diffusion.convert import Modules, rename, unet_modules, vae_modules

TEXT_TOWER: Final = "text_model."
"""transformers before version 5 keeps CLIP's layers below this; the names here are without it."""


def original_modules(config: PartConfig) -> Modules:
    """Original module path -> path in the network of ``config``; what is not in it has one name in both."""
    if isinstance(config, UNetConfig):
        return unet_modules(config)
    if isinstance(config, VaeConfig):
        return vae_modules(config)
    return {}


def original_names(config: PartConfig, names: Iterable[str]) -> Mapping[str, str]:
    """Name in the network of ``config`` -> name in the original layout, without the part's prefix."""
    back = {new: old for old, new in original_modules(config).items()}
    return {name: rename(name.removeprefix(TEXT_TOWER), back) for name in names}
