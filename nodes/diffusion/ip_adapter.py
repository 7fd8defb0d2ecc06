"""Files of IP-Adapters (Ye et al. 2023, "IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion Models").

A file holds a projection from what CLIP sees to tokens, ``image_proj.*``, and for every cross attention of the UNet a second key and a
second value layer that read these, ``ip_adapter.<number>.to_k_ip.weight`` and ``to_v_ip``. The numbers go up in the order in which
diffusers lists attentions: on the way down, on the way up, in the middle. A UNet that diffusers saved with an adapter in it has the same
under longer names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from engine.errors import InputError, MissingFile, ModelFileError
from engine.models import ModelRef
from nodes.diffusion.checkpoints import Tensors, WeightFile
from nodes.diffusion.configs import DiTConfig, UNetConfig, VisionConfig
from nodes.diffusion.convert import some
from nodes.diffusion.instead import what_it_is
from nodes.diffusion.ip_projections import MARKS, READERS, Kind, needed, original_names, project, resampler_layers
from nodes.diffusion.lora_family import BY_WIDTH
from nodes.diffusion.sources import open_source
from nodes.diffusion.vision import EMBEDS, PENULTIMATE

_PROJECTION: Final = re.compile(r"(?:image_proj|(?:unet\.)?encoder_hid_proj\.image_projection_layers\.0)\.(.+)")
_NUMBERED: Final = re.compile(r"ip_adapter\.(\d+)\.to_([kv])_ip\.weight")
_IN_UNET: Final = re.compile(r"(?:unet\.)?((?:down|up|mid)_block.*)\.attn2\.processor\.to_([kv])_ip(?:\.0)?\.weight")
_ORDER: Final = ("down", "up", "mid")
_FACES: Final = ("to_q_lora.", "perceiver_resampler.")


class Layer(NamedTuple):
    """Where a file has the key and the value layer of one cross attention."""

    key: str
    value: str


class AdapterFile:
    """The IP-Adapter at ``path``; its weights stay mapped.

    Raises MissingFile, or ModelFileError when the file is broken or is no IP-Adapter that is known: the message says what it is.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise MissingFile(
                f"expected an IP-Adapter at {path}, found nothing; it was moved or deleted since it was chosen"
            )
        self.path = path
        self._file = WeightFile(path)
        names = {match[1]: name for name in self._file if (match := _PROJECTION.fullmatch(name))}
        self._names = {new: names[old] for new, old in original_names(names).items()}
        self.layers = tuple(_layers(self._file))
        kind = next((kind for kind, mark in MARKS.items() if mark in self._names), None)
        if any(mark in name for name in self._file for mark in _FACES) or (
            kind is None and "proj.2.weight" in self._names
        ):
            raise ModelFileError(
                f"expected an IP-Adapter that reads what CLIP sees, found one for faces (FaceID) in {path.name}, which needs a face "
                "recognition model that is not provided; choose one such as ip-adapter-plus-face_sd15"
            )
        if kind is None or not self.layers:
            raise ModelFileError(f"expected an IP-Adapter in {path.name}, found {self._what()}")
        self.kind: Kind = kind
        self._check()

    def _what(self) -> str:
        tensors = self.tensors
        if self.layers or self._names:
            return f"a part of one, or one of another kind, with {some(sorted(tensors))}"
        return what_it_is(self.path.name, self._file.header)

    def _check(self) -> None:
        wanted = needed(self.kind, resampler_layers(self._names))
        missing = [name for name in wanted if name not in self._names]
        widths = {self.tensors[name].shape[-1:] for layer in self.layers for name in layer}
        if missing or len(widths) != 1 or self.tensors[self._names[READERS[self.kind]]].shape[1:] == ():
            lacks = f"one without {some(missing)}" if missing else "layers that do not fit together"
            raise ModelFileError(f"expected a whole IP-Adapter in {self.path.name}, found {lacks}; download it again")

    @property
    def tensors(self) -> Tensors:
        return self._file.header.tensors

    @property
    def width(self) -> int:
        """Of the tokens: as wide as the text that its UNet reads."""
        return self.tensors[self.layers[0].key].shape[1]

    @property
    def widths(self) -> list[int]:
        """Outputs of the key layers, in their order: the widths of the attentions that they are for."""
        return [self.tensors[layer.key].shape[0] for layer in self.layers]

    @property
    def reads(self) -> int:
        """How many numbers CLIP must give, for a picture or for a patch of it."""
        return self.tensors[self._names[READERS[self.kind]]].shape[1]

    @property
    def sees_patches(self) -> bool:
        """Whether it reads the states of CLIP's patches, rather than the picture's projected state."""
        return self.kind != "base"

    @property
    def output(self) -> str:
        """Which of what ``vision.encode`` gives it reads."""
        return PENULTIMATE if self.sees_patches else EMBEDS

    @cached_property
    def family(self) -> str:
        """The family it is for, in words."""
        return BY_WIDTH.get(self.width, f"a UNet that reads texts {self.width} wide")

    def tokens(self, seen: Tensor, device: torch.device) -> Tensor:
        """Tokens [n,T,D] for what CLIP sees, float32 on the CPU; the arithmetic is done on ``device``. Raises InputError for what another
        CLIP sees."""
        self.check_seen(seen)
        weights = {name: self._file[stored].to(device).float() for name, stored in self._names.items()}
        return project(self.kind, weights, seen.to(device).float()).cpu()

    def check_seen(self, seen: Tensor) -> None:
        """Raise InputError for embeddings that it cannot read."""
        dims = 3 if self.sees_patches else 2
        if seen.ndim == dims and seen.shape[-1] == self.reads:
            return
        what = "states of patches" if self.sees_patches else "projected states"
        raise InputError(
            f"expected CLIP's {what} of {self.reads} numbers for {self.path.name}, found {list(seen.shape)}; encode the picture for this "
            f"adapter, with the CLIP vision model that belongs to it: {self.vision_title}",
            input="pos_embed",
        )

    @property
    def vision_title(self) -> str:
        """The CLIP vision model it was trained with, as far as its width tells."""
        titles = {1024: "ViT-H", 1280: "ViT-bigG"} if not self.sees_patches else {1280: "ViT-H", 1664: "ViT-bigG"}
        return titles.get(self.reads, f"one of {self.reads} numbers")

    def layer(self, place: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The weights [C,D] of the key and the value layer of the cross attention number ``place``."""
        key, value = (self._file[name].to(device).to(dtype) for name in self.layers[place])
        return key, value


def _layers(names: WeightFile) -> Iterator[Layer]:
    """The layers of a file, in order."""
    found: dict[tuple[int, ...], dict[str, str]] = {}
    for name in names:
        if match := _NUMBERED.fullmatch(name):
            found.setdefault((int(match[1]),), {})[match[2]] = name
        elif match := _IN_UNET.fullmatch(name):
            place = _ORDER.index(match[1].partition("_")[0]), *map(int, re.findall(r"\d+", match[1]))
            found.setdefault(place, {})[match[2]] = name
    return (Layer(pair["k"], pair["v"]) for _, pair in sorted(found.items()) if len(pair) == 2)


def open_adapter(location: str) -> AdapterFile:
    """The IP-Adapter at ``location``; see ``AdapterFile``."""
    return AdapterFile(Path(location))


def check_model(adapter: AdapterFile, model: ModelRef) -> UNetConfig:
    """The configuration of the UNet of ``model``. Raises InputError where the adapter was made for another model."""
    source = open_source(model.location)
    config: Any = source.part(model.part).config
    title = source.facts.family.title
    if isinstance(config, DiTConfig):
        raise InputError(
            f"expected a model with a UNet for the IP-Adapter {adapter.path.name}, found the transformer of {title}; "
            f"the adapter is for {adapter.family}",
            input="model",
        )
    assert isinstance(config, UNetConfig)
    if config.context_dim != adapter.width or attention_widths(config) != adapter.widths:
        raise InputError(
            f"expected an IP-Adapter for this {title} model, with {len(attention_widths(config))} layers that read {config.context_dim} "
            f"numbers, found one for {adapter.family} in {adapter.path.name}, with {len(adapter.layers)} that read {adapter.width}; "
            "choose one made for this model",
            input="ipadapter",
        )
    return config


def attention_widths(config: UNetConfig) -> list[int]:
    """The width of each cross attention of a UNet: on the way down, on the way up, in the middle."""
    levels = [config.model_channels * mult for mult in config.channel_mult]
    down = [
        width
        for width, depths in zip(levels, config.down_depths, strict=True)
        for depth in depths
        for _ in range(depth)
    ]
    up = [
        width
        for width, depths in zip(reversed(levels), config.up_depths, strict=True)
        for depth in depths
        for _ in range(depth)
    ]
    return [*down, *up, *[levels[-1]] * (config.mid_depth or 0)]


def check_vision(adapter: AdapterFile, vision: ModelRef) -> None:
    """Raise InputError where CLIP gives another number of numbers than the adapter reads."""
    config = open_source(vision.location).part("clip_vision").config
    assert isinstance(config, VisionConfig)
    found = config.width if adapter.sees_patches else config.projection
    if found != adapter.reads:
        what = "states" if adapter.sees_patches else "projected states"
        raise InputError(
            f"expected a CLIP vision model whose {what} are {adapter.reads} wide for {adapter.path.name}, found one with "
            f"{found} in {Path(vision.location).name}; load the one that belongs to the adapter: {adapter.vision_title}",
            input="clip_vision",
        )
