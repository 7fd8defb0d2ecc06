"""Model files from recipes: safetensors in the original layout, which every loader of checkpoints reads.

What no patch changes is written as it lies in its source, bit for bit; what patches make is rounded to the dtype that the source has
for it. A file is held against the reader of checkpoints before it is given out, so that what is saved loads again as the same model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from engine.errors import InputError, ModelFileError
from engine.models import ModelRef, Part
from nodes.diffusion.checkpoints import TensorInfo, Tensors
from nodes.diffusion.configs import PartConfig, Schedule, UNetConfig, VaeConfig
from nodes.diffusion.families import PART_NAMES, TEXT_PREFIXES, UNET_PREFIX, VAE_PREFIX, describe
from nodes.diffusion.layouts import TEXT_TOWER, original_names
from nodes.diffusion.patches import HYPERNETWORK, contents
from nodes.diffusion.sources import open_source

Progress = Callable[[int, int], None]

CHECKPOINT_PREFIXES: Final[Mapping[Part, str]] = {"unet": UNET_PREFIX, "clip": TEXT_PREFIXES[0], "vae": VAE_PREFIX}
LONE_PREFIXES: Final[Mapping[Part, str]] = {"unet": UNET_PREFIX, "clip": TEXT_TOWER, "vae": ""}
"""What stands before the names of a part that is in a file of its own."""

_VAE_CONVOLUTIONS: Final = (".q.weight", ".k.weight", ".v.weight", ".proj_out.weight")
"""The attention layers of the original autoencoder, which are 1x1 convolutions there."""


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file of ``tensors``."""
    from safetensors.torch import save

    return save(dict(tensors), {"format": "pt", **(metadata or {})})


def checkpoint(refs: Iterable[ModelRef], prefixes: Mapping[Part, str], progress: Progress) -> bytes:
    """The parts that ``refs`` make, in one file.

    Raises InputError where a recipe is more than weights, or a part cannot be said in the original layout.
    """
    tensors: dict[str, Tensor] = {}
    configs: dict[Part, PartConfig] = {}
    schedule = Schedule()
    chosen = list(refs)
    for index, ref in enumerate(chosen):
        _check_kinds(ref)

        def tell(done: int, total: int, index: int = index) -> None:
            progress(index * 1000 + done * 1000 // total, len(chosen) * 1000)

        configs[ref.part], found = _part(ref, tell)
        tensors |= {prefixes[ref.part] + name: tensor for name, tensor in found.items()}
        if ref.part == "unet":
            schedule = open_source(ref.location).description.schedule
    tensors |= _marks(schedule)
    return to_bytes(tensors, _metadata(tensors, configs, schedule))


def _check_kinds(ref: ModelRef) -> None:
    if any(patch.kind == HYPERNETWORK for patch in ref.patches):
        raise InputError(
            f"expected a {PART_NAMES[ref.part]} that is weights alone, found one with a hypernetwork, which is layers of its own; "
            "save the model before the hypernetwork is loaded"
        )


def _part(ref: ModelRef, progress: Progress) -> tuple[PartConfig, dict[str, Tensor]]:
    """The tensors of one part by original names without prefix."""
    found = contents(ref)
    tensors: dict[str, Tensor] = {}
    names = original_names(found.config, found.weights)
    for index, (name, original) in enumerate(names.items()):
        progress(index, len(names))
        pristine = found.pristine[name]
        tensor = found.weights[name].to(pristine.dtype).cpu()
        if isinstance(found.config, VaeConfig) and original.endswith(_VAE_CONVOLUTIONS) and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        tensors[original] = tensor.contiguous()
    return found.config, tensors


def _marks(schedule: Schedule) -> dict[str, Tensor]:
    """The empty tensors by which trainers say what a UNet was trained on."""
    if (schedule.betas, schedule.steps) != (Schedule().betas, Schedule().steps):
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
    kinds = " and ".join(PART_NAMES[part] for part in configs)
    raise InputError(f"expected a {kinds} that the original layout can hold, found one that is not read again as it is")


def _reads_as(
    outline: Tensors, metadata: Mapping[str, str], configs: Mapping[Part, PartConfig], schedule: Schedule
) -> bool:
    try:
        read = describe("the saved file", outline, metadata)
    except ModelFileError:
        return False
    same = {part: source.config for part, source in read.parts.items()} == dict(configs)
    return same and ("unet" not in configs or read.schedule == schedule)


def _words(config: PartConfig) -> dict[str, dict[str, Any]]:
    """What the reader takes from metadata, by its key there."""
    if isinstance(config, UNetConfig):
        return {"unet": {"num_heads": config.heads, "norm_groups": config.norm_groups}}
    if isinstance(config, VaeConfig):
        return {"vae": {"norm_groups": config.norm_groups, "scale_factor": config.scale_factor}}
    return {"text": {"heads": config.heads, "act": config.activation}}
