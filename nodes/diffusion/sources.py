"""A checkpoint file or a diffusers folder, opened: what it holds, and the pristine weights of each part.

Weights stay mapped. ``Weights`` gives them by the names of diffusers' or transformers' networks; nothing is read before
a tensor is used, and writing to one never reaches the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from engine.errors import MissingFile
from engine.models import Part
from nodes.diffusion.checkpoints import WeightFile
from nodes.diffusion.configs import SD1_SCALE_FACTOR, PartConfig, Schedule, VaeConfig
from nodes.diffusion.convert import Shapes, bind, old_folder_vae_modules, rename
from nodes.diffusion.families import PART_NAMES, Description, PartSource, describe
from nodes.diffusion.folders import (
    Json,
    part_folders,
    read_json,
    read_schedule,
    read_text,
    read_unet,
    read_vae,
    weight_files,
)

_READERS: Final[Mapping[Part, Callable[[Json], PartConfig]]] = {"unet": read_unet, "clip": read_text, "vae": read_vae}


@dataclass(frozen=True, slots=True)
class Facts:
    """What one must know of a model to use its latents and its UNet.

    ``scale_factor`` times an unscaled latent is what the UNet sees; ``downscale`` is pixels per latent cell.
    """

    latent_channels: int
    scale_factor: float
    downscale: int
    schedule: Schedule
    family: str = "sd1"


class Weights(Mapping[str, torch.Tensor]):
    """Pristine mapped tensors of one part, by the names and in the shapes of the network they go into."""

    def __init__(self, names: Mapping[str, str], shapes: Shapes, files: Sequence[WeightFile]) -> None:
        self._names = names
        self._shapes = shapes
        self._files = {name: file for file in files for name in file}

    def __getitem__(self, name: str) -> torch.Tensor:
        stored = self._names[name]
        return self._files[stored][stored].reshape(self._shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Source:
    """An opened checkpoint file or diffusers folder at ``path``.

    Raises MissingFile or ModelFileError, saying what was expected and what was found.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            folders = part_folders(path)
            self._files = {part: tuple(map(WeightFile, weight_files(folder))) for part, folder in folders.items()}
            self.description = describe_folder(path, folders, self._files)
        else:
            file = WeightFile(path)
            self.description = describe(path.name, file.header.tensors, file.header.metadata)
            self._files = dict.fromkeys(self.description.parts, (file,))

    @property
    def facts(self) -> Facts:
        """What the parts have in common; where the source has no VAE, Stable Diffusion 1's."""
        vae = self.description.parts.get("vae")
        schedule = self.description.schedule
        if vae is not None and isinstance(vae.config, VaeConfig):
            return Facts(vae.config.latent_channels, vae.config.scale_factor, vae.config.downscale, schedule)
        return Facts(latent_channels=4, scale_factor=SD1_SCALE_FACTOR, downscale=8, schedule=schedule)

    def part(self, part: Part) -> PartSource:
        return self.description.part(part, self.path.name)

    def shapes(self, part: Part) -> Shapes:
        """Shape of every tensor of ``part`` by its name in the network, as stored: a linear layer may be a 1x1 convolution."""
        stored = {name: info.shape for file in self._files[part] for name, info in file.header.tensors.items()}
        return {name: stored[old] for name, old in self.part(part).names.items()}

    def weights(self, part: Part, wanted: Shapes) -> Weights:
        """The weights of ``part`` for a network that wants tensors of the shapes ``wanted``, complete and fitting."""
        source, files = self.part(part), self._files[part]
        found = {name: info.shape for file in files for name, info in file.header.tensors.items()}
        what = f"{PART_NAMES[part]} of {self.path.name}"
        return Weights(bind(_as_wanted(source.names, wanted), found, wanted, what), wanted, files)


def _as_wanted(names: Mapping[str, str], wanted: Shapes) -> Mapping[str, str]:
    """transformers before version 5 keeps a text tower below ``text_model.``, later ones do not; files do either."""
    prefix = "text_model."
    bare = {name.removeprefix(prefix): stored for name, stored in names.items()}
    nested = any(name.startswith(prefix) for name in wanted)
    return {prefix + name: stored for name, stored in bare.items()} if nested else bare


def describe_folder(
    path: Path, folders: Mapping[Part, Path], files: Mapping[Part, Sequence[WeightFile]]
) -> Description:
    """What the diffusers folder ``path`` holds, read from its config files and the names of its tensors."""
    parts = {
        part: PartSource(_READERS[part](read_json(folder / "config.json")), _folder_names(part, files[part]))
        for part, folder in folders.items()
    }
    scheduler = path / "scheduler" / "scheduler_config.json"
    schedule = read_schedule(read_json(scheduler)) if scheduler.is_file() else Schedule()
    return Description(parts, schedule)


def _folder_names(part: Part, files: Sequence[WeightFile]) -> Mapping[str, str]:
    modules = old_folder_vae_modules() if part == "vae" else {}
    return {rename(name, modules): name for file in files for name in file}


def open_source(location: str) -> Source:
    """The source at ``location``; MissingFile when nothing is there."""
    path = Path(location)
    if not path.exists():
        raise MissingFile(f"expected a model at {path}, found nothing; it was moved or deleted since it was chosen")
    return Source(path)
