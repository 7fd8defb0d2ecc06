"""A diffusers folder, described in the same words as a checkpoint file.

Such a folder holds ``model_index.json`` and one folder for each network, with a ``config.json`` and its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from engine.errors import ModelFileError
from engine.models import Part
from nodes.diffusion.checkpoints import WeightFile
from nodes.diffusion.configs import FamilyName, Schedule, T5Config, TextConfig, Tower, TowersConfig
from nodes.diffusion.control_configs import ControlConfig
from nodes.diffusion.convert import Names, Stored, old_folder_vae_modules, rename
from nodes.diffusion.families import Description, PartSource, check_widths, control_family, control_source, tiny_source
from nodes.diffusion.family import FAMILIES, Family
from nodes.diffusion.folders import (
    Json,
    read_control,
    read_dit,
    read_json,
    read_schedule,
    read_t5,
    read_text,
    read_unet,
    read_vae,
    weight_files,
)
from nodes.diffusion.foreign import sample
from nodes.diffusion.gguf_file import GgufFile
from nodes.diffusion.text_parts import ALONE, BY_WIDTH

INDEX: Final = "model_index.json"
CLASSES: Final[Mapping[str, Part]] = {
    "UNet2DConditionModel": "unet",
    "SD3Transformer2DModel": "unet",
    "CLIPTextModel": "clip",
    "CLIPTextModelWithProjection": "clip",
    "T5EncoderModel": "clip",
    "AutoencoderKL": "vae",
    "AutoencoderTiny": "vae",
    "ControlNetModel": "control",
    "ControlNetUnionModel": "control",
    "SD3ControlNetModel": "control",
    "T2IAdapter": "control",
}
"""The networks that are known, by their classes in diffusers and transformers."""

FOLDERS: Final = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae")
_OTHER_MODELS: Final = ("prior", "image_encoder_2", "image_encoder")


@dataclass(frozen=True, slots=True)
class Shelf:
    """A file of weights, with what its names begin with among those of its part: two text encoders have the same ones."""

    file: WeightFile | GgufFile
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Component:
    """One network of a folder."""

    name: str
    kind: str
    """Its class."""
    config: Json
    shelves: tuple[Shelf, ...]

    @property
    def part(self) -> Part:
        return CLASSES[self.kind]

    def names(self) -> Names:
        """Its tensors by the names they have in the file."""
        return {name: Stored(shelf.prefix + name) for shelf in self.shelves for name in shelf.file}


def components(path: Path) -> list[Component]:
    """The networks of the diffusers folder ``path``, itself when it is one alone.

    Raises MissingFile or ModelFileError where it is incomplete or of another kind.
    """
    if not (path / INDEX).is_file():
        return [_component(path, "")]
    index = read_json(path / INDEX)
    other = next((key for key in _OTHER_MODELS if _is_there(index.get(key))), None)
    if other is not None:
        raise ModelFileError(
            f"expected a Stable Diffusion folder, found {path.name} made for {index.get('_class_name')} with a {other}"
        )
    found = [_component(path / name, name) for name in FOLDERS if _is_there(index.get(name))]
    if not found:
        raise ModelFileError(f"expected unet, vae or text_encoder in {path / INDEX}, found none of them")
    return found


def _is_there(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and entry[1] is not None


def _component(folder: Path, name: str) -> Component:
    config = read_json(folder / "config.json")
    kind = config.get("_class_name") or next(iter(config.get("architectures") or ()), "CLIPTextModel")
    if kind not in CLASSES:
        raise ModelFileError(f"expected a network of a Stable Diffusion model in {folder}, found a {kind}")
    prefix = f"{name}/" if CLASSES[kind] == "clip" else ""
    return Component(name, kind, config, tuple(Shelf(WeightFile(file), prefix) for file in weight_files(folder)))


def shelves_of(found: Sequence[Component]) -> dict[Part, tuple[Shelf, ...]]:
    """The files of every part."""
    shelves: dict[Part, tuple[Shelf, ...]] = {}
    for component in found:
        shelves[component.part] = shelves.get(component.part, ()) + component.shelves
    return shelves


def describe_folder(path: Path, found: Sequence[Component]) -> Description:
    """What the networks of the diffusers folder ``path`` are together."""
    if found[0].part == "control":
        return _control(path, found[0])
    parts: dict[Part, PartSource] = {}
    towers = dict(_tower(component) for component in found if component.part == "clip")
    kind = _family(found, towers)
    for component in found:
        if component.kind == "AutoencoderKL":
            names = {rename(name, old_folder_vae_modules()): stored for name, stored in component.names().items()}
            parts["vae"] = PartSource(read_vae(component.config), names)
        elif component.kind == "AutoencoderTiny":
            parts["vae"] = _tiny(path, component, FAMILIES[kind])
        elif component.kind == "SD3Transformer2DModel":
            parts["unet"] = PartSource(read_dit(component.config), component.names())
        elif component.kind == "UNet2DConditionModel":
            names = {rename(name, _VECTOR): stored for name, stored in component.names().items()}
            parts["unet"] = PartSource(read_unet(component.config), names)
    if towers:
        parts["clip"] = _texts(kind, towers)
    check_widths(path.name, parts)
    scheduler = path / "scheduler" / "scheduler_config.json"
    usual = Schedule(FAMILIES[kind].prediction, FAMILIES[kind].betas)
    schedule = read_schedule(read_json(scheduler)) if scheduler.is_file() else usual
    return Description(parts, schedule, FAMILIES[kind])


def _control(path: Path, component: Component) -> Description:
    """A ControlNet alone: read off its tensors, but for what these do not show."""
    tensors = {name: info for shelf in component.shelves for name, info in shelf.file.header.tensors.items()}
    source = control_source(path.name, tensors, {})
    if source is None:
        raise ModelFileError(f"expected the tensors of a {component.kind} in {path}, found {sample(tensors)}")
    if isinstance(source.config, ControlConfig):
        source = replace(source, config=read_control(source.config, component.config))
    return Description({"control": source}, family=control_family(source.config))


def _tiny(path: Path, component: Component, family: Family) -> PartSource:
    tensors = {name: info for shelf in component.shelves for name, info in shelf.file.header.tensors.items()}
    found = tiny_source(tensors, {}, family)
    if found is None:
        raise ModelFileError(f"expected the layers of TAESD in {path / component.name}, found {sample(tensors)}")
    return found


_VECTOR: Final = {
    "add_embedding.linear_1": "class_embedding.linear_1",
    "add_embedding.linear_2": "class_embedding.linear_2",
}
"""diffusers makes SDXL's vector inside of its UNet; ours is given it whole, as a class."""


def _family(found: Sequence[Component], towers: Mapping[Tower, tuple[TextConfig | T5Config, Names]]) -> FamilyName:
    kinds = {component.kind for component in found}
    unet = next((read_unet(each.config) for each in found if each.kind == "UNet2DConditionModel"), None)
    if unet is not None and unet.classes is not None:
        return "upscaler"
    if "SD3Transformer2DModel" in kinds or "t5" in towers:
        return "sd3"
    if unet is not None and unet.vector_dim is not None:
        return (
            "sdxl" if "l" in towers or (not towers and unet.context_dim != FAMILIES["refiner"].context) else "refiner"
        )
    if unet is not None and not towers:
        return "sd2" if unet.context_dim == FAMILIES["sd2"].context else "sd1"
    latent = next((each.config.get("latent_channels") for each in found if each.part == "vae"), None)
    if not towers:
        return "sd3" if latent == FAMILIES["sd3"].channels else "sd1"
    return "sdxl" if {"l", "g"} <= towers.keys() else ALONE[next(iter(towers))]


def _tower(component: Component) -> tuple[Tower, tuple[TextConfig | T5Config, Names]]:
    names = component.names()
    if component.kind == "T5EncoderModel":
        shared = {name.replace("shared.", "encoder.embed_tokens."): stored for name, stored in names.items()}
        return "t5", (read_t5(component.config), {_below("t5", name, "encoder."): it for name, it in shared.items()})
    config = read_text(component.config)
    tower = _which(component.name, config)
    if tower == "h":
        config = replace(config, cut=1)  # such folders leave the last layer out, which nobody looks at
    return tower, (config, {_below(tower, name, "text_model."): stored for name, stored in names.items()})


def _which(folder: str, config: TextConfig) -> Tower:
    """Which of CLIP's towers it is: by its width, or where that is none of theirs, by its place and activation."""
    if config.width in BY_WIDTH:
        return BY_WIDTH[config.width]
    if folder == "text_encoder_2":
        return "g"
    return "h" if config.activation == "gelu" else "l"


def _below(tower: Tower, name: str, prefix: str) -> str:
    """The name in the network of the towers."""
    if name == "text_projection.weight":
        return f"{tower}.projection.weight"
    return f"{tower}.text.{name.removeprefix(prefix)}"


def _texts(kind: FamilyName, towers: Mapping[Tower, tuple[TextConfig | T5Config, Names]]) -> PartSource:
    order = [tower for tower in FAMILIES[kind].towers if tower in towers]
    if len(order) < len(towers):
        raise ModelFileError(
            f"expected the text encoders of {FAMILIES[kind].title} ({', '.join(FAMILIES[kind].towers)}), found {', '.join(towers)}"
        )
    names = {name: stored for tower in order for name, stored in towers[tower][1].items()}
    return PartSource(TowersConfig(kind, tuple((tower, towers[tower][0]) for tower in order)), names)
