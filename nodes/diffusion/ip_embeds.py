"""``.ipadpt`` files: what CLIP sees in pictures, as safetensors with the one tensor ``embeds``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from safetensors.torch import save
from torch import Tensor

from engine.errors import ModelFileError
from nodes.diffusion.checkpoints import WeightFile, is_pickle
from nodes.diffusion.instead import what_it_is

NAME: Final = "embeds"


def to_file(embeds: Tensor) -> bytes:
    """The bytes of an ``.ipadpt`` file."""
    return save({NAME: embeds.detach().cpu().contiguous()}, {"format": "pt"})


def from_file(path: Path) -> Tensor:
    """What an ``.ipadpt`` file holds. Raises ModelFileError for a pickle, as other programs write them, or for anything else."""
    with path.open("rb") as file:
        start = file.read(8)
    if is_pickle(start):
        raise ModelFileError(
            f"{path.name} is a pickle, and reading one can run code; encode the picture again with IPAdapterEncoder and save it with "
            "IPAdapterSaveEmbeds, which writes a file that is safe"
        )
    found = WeightFile(path)
    if NAME not in found or found[NAME].ndim not in (2, 3):
        raise ModelFileError(
            f"expected a tensor {NAME} [n,D] or [n,T,D] in {path.name}, found {what_it_is(path.name, found.header)}; "
            "give a file of IPAdapterSaveEmbeds"
        )
    return found[NAME].float().clone()
