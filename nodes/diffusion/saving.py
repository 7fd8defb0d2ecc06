"""Model files from recipes: safetensors in the original layout, which every loader of checkpoints reads.

What no patch changes is written as it lies in its source, bit for bit; what patches make is rounded to the dtype that the source has
for it. A file is held against the reader of checkpoints before it is given out, so that what is saved loads again as the same model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from engine.errors import InputError, ModelFileError
from engine.fileref import PIXEL_SPACE
from engine.models import ModelRef, Part
from nodes.diffusion.checkpoints import TensorInfo, Tensors
from nodes.diffusion.configs import PartConfig, Schedule, TextConfig, TinyVaeConfig, TowersConfig, UNetConfig, VaeConfig
from nodes.diffusion.convert import Names, Stored, as_stored
from nodes.diffusion.families import describe
from nodes.diffusion.layouts import UNET_PREFIX, VAE_PREFIX, original_places, t5_name
from nodes.diffusion.lora_keys import TOWERS
from nodes.diffusion.parts import PARTS
from nodes.diffusion.patches import HYPERNETWORK, Contents, contents
from nodes.diffusion.sources import MEAN, STD, open_source
from nodes.diffusion.tiny import SCALE, SHIFT
from nodes.diffusion.vae import scaling

Progress = Callable[[int, int], None]

_PREFIXES: Final[Mapping[Part, str]] = {"unet": UNET_PREFIX, "clip": "", "vae": VAE_PREFIX, "clip_vision": ""}
"""What stands before the names of a part in a checkpoint, beside what those of a text encoder begin with."""

_VAE_CONVOLUTIONS: Final = (".q.weight", ".k.weight", ".v.weight", ".proj_out.weight")
"""The attention layers of the original autoencoder, which are 1x1 convolutions there."""


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file of ``tensors``."""
    from safetensors.torch import save

    return save(dict(tensors), {"format": "pt", **(metadata or {})})


def checkpoint(refs: Iterable[ModelRef], progress: Progress) -> bytes:
    """The parts that ``refs`` make, in one file.

    Raises InputError where a recipe is more than weights, or a part cannot be said in the original layout.
    """
    tensors: dict[str, Tensor] = {}
    configs: dict[Part, PartConfig] = {}
    schedule = Schedule()
    chosen = list(refs)
    for index, ref in enumerate(chosen):

        def tell(done: int, total: int, index: int = index) -> None:
            progress(index * 1000 + done * 1000 // total, len(chosen) * 1000)

        found = _contents(ref)
        configs[ref.part] = found.config
        prefix = "" if len(chosen) == 1 and ref.part == "vae" else _PREFIXES[ref.part]
        places = original_places(found.config, found.weights)
        tensors |= {prefix + name: tensor for name, tensor in _laid_out(found, places, tell)}
        tensors |= {prefix + name: tensor for name, tensor in _scaling(ref, found.config).items()}
        if ref.part == "unet":
            source = open_source(ref.location)
            schedule = source.description.schedule
            if (told := source.statistics) is not None:
                tensors |= {MEAN: told.mean, STD: told.std}
    tensors |= _marks(schedule)
    return to_bytes(tensors, _metadata(tensors, configs, schedule))


def text_encoders(ref: ModelRef, progress: Progress) -> dict[str, bytes]:
    """A file for each text encoder of ``ref``, in the layout of transformers, by the encoder's usual name."""
    found = _contents(ref)
    assert isinstance(found.config, TowersConfig)
    files = {}
    for tower in found.config.names:
        own = [name for name in found.weights if name.startswith(f"{tower}.")]
        places = {name: Stored(_lone_name(name)) for name in own}
        files[TOWERS[tower][1]] = to_bytes(dict(_laid_out(found, places, progress)), _text_words(found.config))
    return files


def _lone_name(name: str) -> str:
    tower, _, rest = name.partition(".")
    if rest == "projection.weight":
        return "text_projection.weight"
    inner = rest.removeprefix("text.")
    return t5_name(inner) if tower == "t5" else f"text_model.{inner}"


def _contents(ref: ModelRef) -> Contents:
    _check_kinds(ref)
    return contents(ref)


def _check_kinds(ref: ModelRef) -> None:
    if ref.location == PIXEL_SPACE:
        raise InputError(f"expected a VAE of a file, found {PIXEL_SPACE}, which has no weights that could be saved")
    if any(patch.kind == HYPERNETWORK for patch in ref.patches):
        raise InputError(
            f"expected a {PARTS[ref.part].noun} that is weights alone, found one with a hypernetwork, which is layers of its own; "
            "save the model before the hypernetwork is loaded"
        )


def _laid_out(found: Contents, places: Names, progress: Progress) -> Iterator[tuple[str, Tensor]]:
    """The tensors at ``places`` by their names there."""
    together: dict[str, list[str]] = {}
    for name, place in places.items():
        together.setdefault(place.name, []).append(name)
    for index, (stored, names) in enumerate(together.items()):
        progress(index, len(together))
        tensor = as_stored((places[name], _as_in_source(found, name)) for name in names)
        if isinstance(found.config, VaeConfig) and stored.endswith(_VAE_CONVOLUTIONS) and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        yield stored, tensor.contiguous()


def _as_in_source(found: Contents, name: str) -> Tensor:
    """A tensor in the dtype that its source has for it."""
    return found.weights[name].to(found.pristine[name].dtype).cpu()


def _scaling(ref: ModelRef, config: PartConfig) -> dict[str, Tensor]:
    """The numbers by which a tiny VAE says how its latents are scaled."""
    if not isinstance(config, TinyVaeConfig):
        return {}
    scale, shift = scaling(ref, config)
    return {SCALE: torch.tensor(scale), SHIFT: torch.tensor(shift)}


def _marks(schedule: Schedule) -> dict[str, Tensor]:
    """The empty tensors by which trainers say what a UNet was trained on."""
    if schedule.prediction != "flow" and (schedule.betas, schedule.steps) != (Schedule().betas, Schedule().steps):
        raise InputError(
            f"expected a model trained on the usual noise, found betas {schedule.betas} in {schedule.steps} steps; "
            "a checkpoint cannot say that"
        )
    marks = {"v_pred": schedule.prediction == "v_prediction", "ztsnr": schedule.zero_terminal_snr}
    return {name: torch.zeros(0) for name, marked in marks.items() if marked}


def _metadata(
    tensors: Mapping[str, Tensor], configs: Mapping[Part, PartConfig], schedule: Schedule
) -> Mapping[str, str]:
    """The metadata with which ``tensors`` are read as what they are: none, or what shapes do not show."""
    outline = {name: TensorInfo(str(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors.items()}
    said = {key: json.dumps(value) for config in configs.values() for key, value in _words(config).items()}
    for metadata in ({}, said):
        if _reads_as(outline, metadata, configs, schedule):
            return metadata
    kinds = " and ".join(PARTS[part].noun for part in configs)
    raise InputError(f"expected a {kinds} that the original layout can hold, found one that is not read again as it is")


def _reads_as(
    outline: Tensors, metadata: Mapping[str, str], configs: Mapping[Part, PartConfig], schedule: Schedule
) -> bool:
    try:
        read = describe("the saved file", outline, metadata)
    except ModelFileError:
        return False
    same = {part: _bare(it.config) for part, it in read.parts.items()} == {
        part: _bare(it) for part, it in configs.items()
    }
    return same and ("unet" not in configs or read.schedule == schedule)


def _bare(config: PartConfig) -> PartConfig:
    """Without what tensors of the file say, see ``_scaling``."""
    return (
        replace(config, scale_factor=1.0, shift=0.0, is_scale_told=True)
        if isinstance(config, TinyVaeConfig)
        else config
    )


def _words(config: PartConfig) -> dict[str, dict[str, Any]]:
    """What the reader takes from metadata, by its key there."""
    if isinstance(config, UNetConfig):
        heads = {"num_heads": config.heads[0]} if len(set(config.heads)) == 1 else {}
        return {"unet": {**heads, "norm_groups": config.norm_groups}}
    if isinstance(config, VaeConfig):
        return {"vae": {"norm_groups": config.norm_groups, "scale_factor": config.scale_factor}}
    if isinstance(config, TowersConfig) and len(config.towers) == 1:
        ((_, tower),) = config.towers
        return {"text": {"heads": tower.heads, "act": tower.activation}} if isinstance(tower, TextConfig) else {}
    return {}


def _text_words(config: TowersConfig) -> Mapping[str, str]:
    return {key: json.dumps(value) for key, value in _words(config).items()}
