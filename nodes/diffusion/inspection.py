"""What a model file is, in words and numbers, for listings. Headers are read, no weights.

Whatever is found is said and nothing raised: a file that is broken, refused or of no known kind is in a folder like any other.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from engine.errors import InputError, ModelFileError
from engine.model_info import ModelInfo, PartInfo
from engine.models import Part
from nodes.diffusion.beside_configs import GligenConfig, StyleConfig
from nodes.diffusion.checkpoints import PICKLE_SUFFIXES, Header, Tensors, read_header
from nodes.diffusion.configs import (
    DiTConfig,
    PartConfig,
    PhotoMakerConfig,
    PixelConfig,
    T5Config,
    TinyVaeConfig,
    Tower,
    TowersConfig,
    UNetConfig,
    UpscalerConfig,
    VaeConfig,
    VisionConfig,
)
from nodes.diffusion.control_configs import AdapterConfig, ControlConfig, TransformerControlConfig
from nodes.diffusion.control_find import find_control
from nodes.diffusion.families import Description, PartSource, describe
from nodes.diffusion.foreign import ANOTHER, CONCATENATED, foreign_family
from nodes.diffusion.lora_family import family_of
from nodes.diffusion.lora_keys import grouped
from nodes.diffusion.parts import PARTS

TOWER_NAMES: Final[Mapping[Tower, str]] = {"l": "CLIP L", "h": "CLIP H", "g": "CLIP G", "t5": "T5"}

_NO_MODEL: Final = "no known model: "
_BELONGS: Final = re.compile(r"put it in models/(\w+)")
_HYPERNETWORK: Final = re.compile(r"\d+\.[01]\.linear\.\d+\.weight")
_TINY_ENCODER: Final = ("0.weight", "1.conv.0.weight", "14.weight")
_TINY_DECODER: Final = ("1.weight", "3.conv.0.weight", "19.weight")


_SEERS: Final[Mapping[str, str]] = {
    "annotators": "an annotator",
    "sams": "Segment Anything",
    "sam2": "Segment Anything 2",
    "facedetection": "a finder of faces",
}
"""What the models of a folder are, where their tensors alone do not say it."""


def inspect_model(path: Path) -> ModelInfo:
    """What the file or diffusers folder at ``path`` is."""
    for folder in path.parents:
        if folder.name in _SEERS and folder.parent.name == "models":
            return ModelInfo(_SEERS[folder.name], folder=folder.name)
    if path.suffix.lower() in PICKLE_SUFFIXES:
        return ModelInfo("a pickle, which is refused; make a safetensors file of it: mezzotint models convert")
    try:
        if path.is_dir():
            return _of_folder(path)
        return _tokenizer(path) if path.suffix.lower() == ".json" else _of_file(path, read_header(path))
    except InputError as error:
        return ModelInfo(_NO_MODEL + str(error))


def _tokenizer(path: Path) -> ModelInfo:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path.name} is no JSON ({error})") from error
    if not isinstance(content, dict) or "model" not in content:
        raise ModelFileError(f"{path.name} is JSON, but no tokenizer")
    return ModelInfo("a tokenizer", folder="tokenizers")


def _of_file(path: Path, header: Header) -> ModelInfo:
    is_control = find_control(header.tensors, header.metadata) is not None
    found = (None if is_control else _small(header)) or _model(path, header)
    return replace(found, tensors=len(header.tensors), dtypes=_dtypes(header.tensors))


def _dtypes(tensors: Tensors) -> Mapping[str, int]:
    return dict(Counter(info.dtype for info in tensors.values()).most_common())


def _small(header: Header) -> ModelInfo | None:
    """What is no model, but goes into or beside one."""
    tensors = header.tensors
    if any(_HYPERNETWORK.fullmatch(name) for name in tensors):
        return ModelInfo("a hypernetwork", folder="hypernetworks")
    for side, marks in (("encoder", _TINY_ENCODER), ("decoder", _TINY_DECODER)):
        if all(mark in tensors for mark in marks):
            channels = tensors[marks[-1]].shape[0] if side == "encoder" else tensors[marks[0]].shape[1]
            return ModelInfo(f"the {side} of a tiny VAE (TAESD), {channels} latent channels", folder="vae_approx")
    foreign = foreign_family(tensors)
    if foreign is None:
        return None
    phrase, _, advice = foreign.partition("; ")
    belongs = _BELONGS.search(advice)
    if belongs is None:
        return ModelInfo(_NO_MODEL + phrase)
    if belongs[1] == "loras":
        family = family_of(grouped(tensors)[0], tensors, header.metadata)
        return ModelInfo(f"a LoRA for {family}" if family else "a LoRA", family=family, folder="loras")
    return ModelInfo(phrase.partition(" (")[0], folder=belongs[1])


def _model(path: Path, header: Header) -> ModelInfo:
    from nodes.diffusion.upscalers import FACE_RESTORERS, recognised

    try:
        description = describe(path.name, header.tensors, header.metadata)
    except ModelFileError as error:
        if (upscaler := recognised(header.tensors)) in FACE_RESTORERS:
            return ModelInfo(f"a restorer of faces ({upscaler})", folder="facerestore_models")
        if upscaler is not None:
            return ModelInfo(f"an upscaler ({upscaler})", folder="upscale_models")
        _, _, found = str(error).partition(", found ")
        return ModelInfo(_NO_MODEL + (found or str(error)).removesuffix(ANOTHER))
    counts = {name: info.count for name, info in header.tensors.items()}
    return _described(path, description, counts)


def _of_folder(path: Path) -> ModelInfo:
    from nodes.diffusion.folder_parts import components, describe_folder

    found = components(path)
    headers = [(shelf.prefix, shelf.file.header) for component in found for shelf in component.shelves]
    counts = {prefix + name: info.count for prefix, header in headers for name, info in header.tensors.items()}
    dtypes: Counter[str] = Counter()
    for _, header in headers:
        dtypes.update(_dtypes(header.tensors))
    info = _described(path, describe_folder(path, found), counts)
    total = sum(len(header.tensors) for _, header in headers)
    return replace(info, tensors=total, dtypes=dict(dtypes.most_common()), folder="diffusers")


def _described(path: Path, description: Description, counts: Mapping[str, int]) -> ModelInfo:
    parts = tuple(_part(part, source, counts) for part, source in description.parts.items())
    alone = next(iter(description.parts)) if len(parts) == 1 else None
    has_network, is_control = "unet" in description.parts, "control" in description.parts
    title = description.family.title + _variant(description)
    held = ", ".join(part.name for part in parts)
    return ModelInfo(
        what=f"{title}: {held}" if has_network else _articled(parts) + (f" for {title}" if is_control else ""),
        family=title if has_network or is_control else None,
        parts=parts,
        prediction=_prediction(path, description) if has_network else None,
        folder=PARTS[alone].folder if alone else "checkpoints",
    )


def _articled(parts: Iterable[PartInfo]) -> str:
    return " and ".join(f"a {part.name}" for part in parts)


def _variant(description: Description) -> str:
    """What its UNet sees beside the latent, if anything."""
    config = description.parts["unet"].config if "unet" in description.parts else None
    extra = config.in_channels - config.out_channels if isinstance(config, UNetConfig) else 0
    return f", {CONCATENATED[extra]}" if extra in CONCATENATED else ""


def _prediction(path: Path, description: Description) -> str:
    """What the UNet predicts. Of Stable Diffusion 2 only the weights tell, so that its file is opened."""
    if description.family.name != "sd2" or path.is_dir():
        return description.schedule.prediction
    from nodes.diffusion.sources import Source

    return Source(path).description.schedule.prediction


def _part(part: Part, source: PartSource, counts: Mapping[str, int]) -> PartInfo:
    stored = {place.name for place in source.names.values()}
    summary = _summary(source.config)
    is_transformer = isinstance(source.config, DiTConfig)
    return PartInfo(
        name="transformer" if is_transformer else _name(part, source.config),
        parameters=sum(counts[name] for name in stored),
        summary=summary,
        sizes=_plain(source.config),
    )


def _name(part: Part, config: PartConfig) -> str:
    match config:
        case TowersConfig():
            return _texts_name(config)
        case AdapterConfig():
            return "T2I-Adapter"
        case ControlConfig(form="low_rank"):
            return "control-LoRA"
        case ControlConfig(form="difference"):
            return "ControlNet (diff)"
        case ControlConfig(union_types=types) if types:
            return "union ControlNet"
    return PARTS[part].noun


def _texts_name(config: TowersConfig) -> str:
    noun = PARTS["clip"].noun + ("s" if len(config.towers) > 1 else "")
    return f"{noun} ({' and '.join(TOWER_NAMES[name] for name in config.names)})"


def _plain(config: PartConfig) -> dict[str, Any]:
    if isinstance(config, TowersConfig):
        return {name: asdict(tower) for name, tower in config.towers}
    plain = asdict(config)
    if isinstance(config, UNetConfig):
        plain["widths"] = [config.model_channels * mult for mult in config.channel_mult]
    if isinstance(config, VaeConfig):
        plain["widths"] = [config.channels * mult for mult in config.channel_mult]
    return plain


def _summary(config: PartConfig) -> str:
    """Widths and layers in a line."""
    match config:
        case UNetConfig():
            down, up = (", ".join(map(_depths, levels)) for levels in (config.down_depths, config.up_depths))
            middle = "no middle" if config.mid_depth is None else f"middle {config.mid_depth}"
            widths = _row(config.model_channels * mult for mult in config.channel_mult)
            return (
                f"{widths} wide; transformer blocks down {down}, {middle}, up {up}; reads texts {config.context_dim} wide; "
                f"{config.in_channels} channels in, {config.out_channels} out"
            )
        case DiTConfig():
            return f"{config.width} wide, {config.layers} layers; reads texts {config.context_dim} wide; {config.channels} channels"
        case VaeConfig():
            widths = _row(config.channels * mult for mult in config.channel_mult)
            return f"{widths} wide, {config.latent_channels} latent channels"
        case TinyVaeConfig():
            return f"tiny: {config.channels} wide, {config.latent_channels} latent channels"
        case PixelConfig():
            return "the pictures themselves"
        case VisionConfig():
            return (
                f"{config.width} wide, {config.layers} layers; sees {config.side} pixels in patches of {config.patch}"
            )
        case ControlConfig():
            texts = "no text" if config.context_dim is None else f"texts {config.context_dim} wide"
            return f"{_row(config.widths)} wide; transformer blocks {_row(config.depths)}; reads {texts}"
        case TransformerControlConfig():
            return f"{config.width} wide, {config.layers} layers; {config.channels} channels"
        case AdapterConfig():
            return f"{_row(config.channels)} wide, pictures of {config.in_channels} channels"
        case UpscalerConfig():
            return f"{config.architecture}, {config.scale} times larger"
        case PhotoMakerConfig():
            return f"{_summary(config.vision)}; for texts {config.text_width} wide"
        case GligenConfig():
            return f"{len(config.widths)} layers for boxes, {_row(sorted(set(config.widths)))} wide; reads words {config.text_width} wide"
        case StyleConfig():
            return f"{config.layers} layers; makes {config.tokens} tokens {config.context_dim} wide of states {config.width} wide"
        case TowersConfig():
            return "; ".join(f"{TOWER_NAMES[name]} {_tower(tower)}" for name, tower in config.towers)


def _tower(tower: Any) -> str:
    whole = tower.layers if isinstance(tower, T5Config) else tower.layers + tower.cut
    return f"{tower.width} wide, {whole} layers"


def _row(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))


def _depths(level: tuple[int, ...]) -> str:
    """Of a level whose blocks are alike one number; else one for each."""
    return str(level[0]) if len(set(level)) == 1 else "-".join(map(str, level))
