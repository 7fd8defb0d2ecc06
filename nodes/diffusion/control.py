"""Controls as they travel: a net's recipe with its picture, on an entry of conditioning. What they do in a sampling is in
``control_nets``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from engine.errors import InputError
from engine.models import ModelRef, Patch, Recipe
from nodes.diffusion import networks
from nodes.diffusion.conditioning import Conditioning
from nodes.diffusion.control_configs import UNION_TYPES, AnyControl, ControlConfig, TransformerControlConfig
from nodes.diffusion.control_fit import check_fits
from nodes.diffusion.control_weights import base_patch
from nodes.diffusion.entries import with_more, with_options
from nodes.diffusion.resize import resize
from nodes.diffusion.sources import Source, open_source

OPTION: Final = "control"
"""Option of an entry of conditioning: a list of recipes of the kind ``control``, in the order in which they were applied."""
SHARED: Final = "control_apply_to_uncond"
"""Option of an entry: whether the other side of guidance gets its controls too, where that has none."""

TYPE: Final = "control_type"
"""Setting of a net's recipe: the number of the kind of picture that a union net is given; none leaves it to the net."""
POOLED: Final = "control_pooled"
"""Setting: the net's residuals are averaged over the picture."""
_POOLED_NAMES: Final = ("_shuffle", "_shuffle_fp16")
"""How the names of the files end whose nets were trained so. Nothing in them tells."""

AUTO: Final = "auto"


def net(source: Source, ref: ModelRef, model: ModelRef | None = None) -> ModelRef:
    """The recipe ``ref`` of the net in ``source``, its tensors held against its network.

    ``model`` is the one that a difference is added to. Raises ModelFileError where the file is no whole ControlNet, InputError where a
    difference has no model or the wrong one.
    """
    config = source.part("control").config
    source.weights("control", networks.wanted_shapes(networks.build(config)))
    if isinstance(config, ControlConfig) and config.form == "difference":
        ref = ref.with_patches(_difference(source, ref, model))
    if Path(ref.location).stem.endswith(_POOLED_NAMES):
        ref = ref.with_settings(**{POOLED: True})
    return ref


def _difference(source: Source, ref: ModelRef, model: ModelRef | None) -> Patch:
    if model is None:
        raise InputError(
            f"expected a whole ControlNet in {source.path.name}, found a difference to the model it was trained on; "
            "load it with DiffControlNetLoader, which adds it to a model",
            input="control_net_name",
        )
    found, config = open_source(model.location), source.part("control").config
    assert isinstance(config, AnyControl)
    unet, family = found.part("unet").config, found.description.family
    check_fits(config, unet, family, source.path.name, "control_net_name")
    return base_patch(ref, model)


def config_of(ref: ModelRef) -> AnyControl:
    """What the net of a recipe is."""
    config = open_source(ref.location).part("control").config
    assert isinstance(config, AnyControl)
    return config


def with_type(ref: ModelRef, name: str) -> ModelRef:
    """The net told that it is given pictures of this kind, one of ``UNION_TYPES`` or ``auto``; InputError where it does not know it."""
    if name == AUTO:
        return ref.with_settings(**{TYPE: None})
    number, config = UNION_TYPES.index(name), config_of(ref)
    known = config.union_types if isinstance(config, ControlConfig) else 0
    if 0 < known <= number:
        raise InputError(
            f"expected a kind of picture that this union net knows ({', '.join(UNION_TYPES[:known])}), found {name}; choose one of these",
            input="type",
        )
    return ref.with_settings(**{TYPE: number})


def is_union(ref: ModelRef) -> bool:
    config = config_of(ref)
    return isinstance(config, ControlConfig) and config.union_types > 0


def recipe(
    ref: ModelRef,
    image: Tensor,
    strength: float,
    start: float = 0.0,
    end: float = 1.0,
    vae: ModelRef | None = None,
    mask: Tensor | None = None,
) -> Recipe:
    """The net of ``ref`` with a picture [B,H,W,C], ``strength`` times, between two parts of a run.

    Raises InputError for a picture without pixels, and for nets that see a latent where there is no VAE.
    """
    if 0 in image.shape:
        raise InputError(f"expected a picture with pixels, found one of shape {list(image.shape)}", input="image")
    needs_vae = isinstance(config_of(ref), TransformerControlConfig)
    if needs_vae and vae is None:
        raise InputError(
            "expected a VAE for this ControlNet, which sees the latent of its picture, found none; connect the model's VAE to "
            "ControlNetApplyAdvanced",
            input="vae",
        )
    return Recipe(
        "control",
        {
            "net": ref,
            "image": image,
            "strength": strength,
            "start_percent": start,
            "end_percent": end,
            "vae": vae if needs_vae else None,
            "mask": mask,
        },
    )


def masked(ref: ModelRef, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
    """For a net that sees a mask: the picture [B,H,W,C] black under ``mask`` [M,h,w], and what is kept, [M,1,h,w]; for others as it was."""
    config = config_of(ref)
    if not (isinstance(config, TransformerControlConfig) and config.mask_channels):
        return image, None
    kept = 1 - mask.reshape(-1, 1, *mask.shape[-2:]).float()
    sized = resize(kept, image.shape[2], image.shape[1], "bilinear", "center").round()
    return image * sized.movedim(1, -1), kept


def with_control(conditioning: Conditioning, control: Recipe, *, shared: bool) -> list[Any]:
    """Every entry with ``control`` beside those it has."""
    return with_options(with_more(conditioning, OPTION, control), {SHARED: shared})


def recipes(found: object) -> Sequence[Recipe]:
    """The controls of an entry. Raises InputError where something else was put there."""
    listed = list(found) if isinstance(found, Iterable) else [found]
    controls = [item for item in listed if isinstance(item, Recipe) and item.kind == "control"]
    if len(controls) == len(listed):
        return controls
    kinds = ", ".join(sorted({type(item).__name__ for item in listed}))
    raise InputError(
        f"expected controls of ControlNetApply and its kin in a prompt, found {kinds}; apply the ControlNet with one of these nodes"
    )
