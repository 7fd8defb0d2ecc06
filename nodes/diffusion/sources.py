"""A checkpoint file or a diffusers folder, opened: what it holds, and the pristine weights of each part.

Weights stay mapped. ``Weights`` gives them by the names of diffusers' or transformers' networks; nothing is read before
a tensor is used, and writing to one never reaches the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

import torch
from torch import nn

from engine.errors import MissingFile, ModelFileError
from engine.fileref import PIXEL_SPACE
from engine.models import Part
from nodes.diffusion import networks
from nodes.diffusion.checkpoints import WeightFile
from nodes.diffusion.configs import AnyVae, FamilyName, PartConfig, PixelConfig, Schedule, TinyVaeConfig, Tower
from nodes.diffusion.control_configs import ControlConfig, TransformerControlConfig
from nodes.diffusion.control_find import TYPE_MARK
from nodes.diffusion.control_weights import LowRank, check_low_rank
from nodes.diffusion.convert import Names, Shapes, bind
from nodes.diffusion.families import Description, PartSource, describe
from nodes.diffusion.family import FAMILIES, Family
from nodes.diffusion.folder_parts import Shelf, components, describe_folder, shelves_of
from nodes.diffusion.gguf_file import SUFFIX, GgufFile
from nodes.diffusion.instead import what_it_is
from nodes.diffusion.layouts import UNET_PREFIX
from nodes.diffusion.parts import PARTS
from nodes.diffusion.text_parts import Found as FoundTower
from nodes.diffusion.text_parts import find_tower, together
from nodes.diffusion.tiny import HALVES, SCALE, SHIFT, half_names, half_of, tiny_config
from nodes.diffusion.unclip import Statistics


@dataclass(frozen=True, slots=True)
class Facts:
    """What one must know of a model to use its latents and its UNet.

    ``(latent - shift) * scale_factor`` is what the UNet sees of an unscaled latent; ``downscale`` is pixels per latent cell.
    """

    latent_channels: int
    scale_factor: float
    downscale: int
    schedule: Schedule
    family: Family = FAMILIES["sd1"]
    shift: float = 0.0
    statistics: Statistics | None = field(default=None, compare=False, repr=False)
    """Of the embeddings of pictures that an unCLIP model is told."""


_DOWNSCALE: Final = 8
MEAN: Final = "noise_augmentor.data_mean"
STD: Final = "noise_augmentor.data_std"
_SPREAD: Final = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
_WIDE: Final = 0.09
_TAKEN: Final[tuple[Literal["picture", "edges", "depth"], ...]] = ("picture", "edges", "depth")
"""Pictures that ControlNets of Stability's take, by their numbers."""


class Weights(Mapping[str, torch.Tensor]):
    """Pristine mapped tensors of one part, by the names and in the shapes of the network they go into."""

    def __init__(self, names: Names, shapes: Shapes, shelves: Sequence[Shelf]) -> None:
        self._names = names
        self._shapes = shapes
        self._shelves = {shelf.prefix + name: shelf for shelf in shelves for name in shelf.file}

    def __getitem__(self, name: str) -> torch.Tensor:
        stored = self._names[name]
        shelf = self._shelves[stored.name]
        whole = shelf.file[stored.name.removeprefix(shelf.prefix)]
        return stored.of(whole).reshape(self._shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Source:
    """An opened checkpoint file or diffusers folder at ``path``, or text encoders in files of their own, there and at ``more``,
    or a tiny autoencoder in two.

    ``wanted`` is the part that it is opened for, if for one: ModelFileError where that is not in it. Raises MissingFile or ModelFileError,
    saying what was expected and what was found.
    """

    def __init__(self, path: Path, *more: Path, wanted: Part | None = None) -> None:
        self.path = path
        if more:
            shelves = [Shelf(WeightFile(file), f"{index}/") for index, file in enumerate((path, *more))]
            self.description = _halves(shelves) or _joined(shelves)
            self._shelves: Mapping[Part, Sequence[Shelf]] = dict.fromkeys(self.description.parts, shelves)
        elif path.is_dir():
            found = components(path)
            self._shelves = shelves_of(found)
            self.description = describe_folder(path, found)
        else:
            file = GgufFile(path) if path.suffix.lower() == SUFFIX else WeightFile(path)
            self.description = describe(path.name, file.header.tensors, file.header.metadata, wanted)
            self._shelves = dict.fromkeys(self.description.parts, (Shelf(file),))
            self._read_scale(file)
            self._read_type(file)
            if self._predicts_velocity(file):
                self.description = replace(
                    self.description, schedule=replace(self.description.schedule, prediction="v_prediction")
                )
        if wanted is not None:
            self.part(wanted)

    def _read_scale(self, file: WeightFile | GgufFile) -> None:
        """A tiny autoencoder's scale and shift are numbers in the file, where it says them."""
        vae = self.description.parts.get("vae")
        if vae is None or not isinstance(vae.config, TinyVaeConfig):
            return
        found = {name.rpartition(".")[2]: float(file[name]) for name in file if name.endswith((SCALE, SHIFT))}
        if found.get(SCALE, 0) > 0:
            config = replace(vae.config, scale_factor=found[SCALE], shift=found.get(SHIFT, 0.0), is_scale_told=True)
            parts = {**self.description.parts, "vae": replace(vae, config=config)}
            self.description = replace(self.description, parts=parts)

    def _read_type(self, file: WeightFile | GgufFile) -> None:
        """What picture a ControlNet of Stability's takes is a number in the file."""
        control = self.description.parts.get("control")
        if control is None or not isinstance(control.config, TransformerControlConfig) or TYPE_MARK not in file:
            return
        number = round(float(file[TYPE_MARK]))
        if 0 <= number < len(_TAKEN):
            config = replace(control.config, takes=_TAKEN[number])
            self.description = replace(self.description, parts={"control": replace(control, config=config)})

    def _predicts_velocity(self, file: WeightFile | GgufFile) -> bool:
        """Whether this is a Stable Diffusion 2 that was trained on velocities, which its shapes do not tell.

        Its last attention's bias is spread more widely there than in models that predict the noise.
        """
        name = next((name for name in (UNET_PREFIX + _SPREAD, _SPREAD) if name in file), None)
        if self.description.family.name != "sd2" or name is None:
            return False
        return bool(file[name].float().std(correction=0) > _WIDE)

    @property
    def facts(self) -> Facts:
        """What the parts have in common, by their family."""
        family, schedule = self.description.family, self.description.schedule
        vae = self.description.parts.get("vae")
        if vae is not None and isinstance(vae.config, AnyVae):
            config = vae.config
            shift = config.shift if isinstance(config, TinyVaeConfig) else family.shift
            return Facts(
                config.latent_channels, config.scale_factor, config.downscale, schedule, family, shift, self.statistics
            )
        return Facts(family.channels, family.scale, _DOWNSCALE, schedule, family, family.shift, self.statistics)

    @property
    def statistics(self) -> Statistics | None:
        """Those that an unCLIP checkpoint keeps beside its UNet."""
        file: Mapping[str, torch.Tensor] = self._shelves["unet"][0].file if "unet" in self._shelves else {}
        if MEAN not in file or STD not in file:
            return None
        return Statistics(*(file[name].float().reshape(1, -1) for name in (MEAN, STD)))

    can_stream = True
    """Whether the networks of its parts can run with weights that come to the device only when they are needed."""
    keeps_tensors = True
    """Whether these networks leave their tensors as they are when they run."""

    def part(self, part: Part) -> PartSource:
        return self.description.part(part, self.path.name)

    def network(self, part: Part) -> nn.Module:
        """The network of ``part``, without weights."""
        return networks.build(self.part(part).config)

    def config(self, part: Part) -> PartConfig:
        return self.part(part).config

    def shapes(self, part: Part) -> Shapes:
        """Shape of every tensor of ``part`` by its name in the network, as stored: a linear layer may be a 1x1 convolution."""
        stored = self._stored_shapes(part)
        return {name: place.shape(stored[place.name]) for name, place in self.part(part).names.items()}

    def _stored_shapes(self, part: Part) -> Shapes:
        return {
            shelf.prefix + name: info.shape
            for shelf in self._shelves[part]
            for name, info in shelf.file.header.tensors.items()
        }

    def weights(self, part: Part, wanted: Shapes) -> Mapping[str, torch.Tensor]:
        """The weights of ``part`` for a network that wants tensors of the shapes ``wanted``, complete and fitting."""
        source, shelves = self.part(part), self._shelves[part]
        found = self._stored_shapes(part)
        what = f"{PARTS[part].noun} of {self.path.name}"
        if isinstance(source.config, ControlConfig) and source.config.form == "low_rank":
            check_low_rank(source.names, found, wanted, what)
            return LowRank(source.names, wanted, lambda stored: stored.of(shelves[0].file[stored.name]))
        return Weights(bind(source.names, found, wanted, what), wanted, shelves)


def _halves(shelves: Sequence[Shelf]) -> Description | None:
    """The two halves of a tiny autoencoder in a file each, together; None where one of the files is no such half."""
    halves = {half_of(shelf.file.header.tensors): shelf for shelf in shelves}
    encoder, decoder = halves.get("encoder"), halves.get("decoder")
    if encoder is None or decoder is None or len(shelves) > 2:
        return None
    names = {
        new: replace(it, name=shelf.prefix + it.name)
        for shelf, half in zip((encoder, decoder), HALVES, strict=True)
        for new, it in half_names(shelf.file.header.tensors, half).items()
    }
    tensors = {shelf.prefix + name: info for shelf in shelves for name, info in shelf.file.header.tensors.items()}
    config = tiny_config(tensors, names, {}, None)
    family: FamilyName = "sd3" if config.latent_channels == FAMILIES["sd3"].channels else "sd1"
    return Description({"vae": PartSource(config, names)}, family=FAMILIES[family])


def tiny_vae(encoder: Path, decoder: Path) -> Source:
    """A tiny autoencoder whose halves are files of their own; ModelFileError where one of them is not that half."""
    for path, half in ((encoder, HALVES[0]), (decoder, HALVES[1])):
        file = WeightFile(path)
        if half_of(file.header.tensors) != half:
            what = what_it_is(path.name, file.header)
            raise ModelFileError(f"expected the {half} of a tiny VAE in {path.name}, found {what}")
    return Source(encoder, decoder)


def _joined(shelves: Sequence[Shelf]) -> Description:
    """The text encoders of several files, together."""
    found: dict[Tower, FoundTower] = {}
    for shelf in shelves:
        name, header = shelf.file.path.name, shelf.file.header
        tower = find_tower(header.tensors, header.metadata)
        if tower is None:
            raise ModelFileError(f"expected a text encoder alone in {name}, found {what_it_is(name, header)}")
        if tower[0] in found:
            raise ModelFileError(
                f"expected text encoders of different kinds, found a second {tower[0].upper()} in {name}; "
                "choose another file for one of them"
            )
        config, names = tower[1]
        found[tower[0]] = config, {key: replace(it, name=shelf.prefix + it.name) for key, it in names.items()}
    kind: FamilyName = "sd3" if "t5" in found else "sdxl"
    return Description({"clip": PartSource(*together(kind, found))}, family=FAMILIES[kind])


class PixelSource(Source):
    """The VAE without a file and without weights."""

    def __init__(self) -> None:
        self.path = Path(PIXEL_SPACE)
        self.description = Description({"vae": PartSource(PixelConfig(), {})})
        self._shelves = {"vae": ()}


def open_source(location: str, wanted: Part | None = None) -> Source:
    """The source at ``location``, see ``ModelRef``, for the part that is ``wanted``; MissingFile when nothing is there."""
    if location == PIXEL_SPACE:
        return PixelSource()
    paths = [Path(line) for line in location.splitlines()]
    for path in paths:
        if not path.exists():
            raise MissingFile(f"expected a model at {path}, found nothing; it was moved or deleted since it was chosen")
    return Source(*paths, wanted=wanted)
